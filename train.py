"""Fine-tune a language model to predict ratings, and measure how well it does (python train.py --help)."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from mlens.engine.stop import StopRequest, stoppable
from mlens.errors import exit_on_user_error
from mlens.launch import refuse_other_launchers, register_resolvers, start

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """One run; returns its best validation RMSE, for sweepers."""
    with exit_on_user_error(), stoppable() as stop:
        refuse_other_launchers(HydraConfig.get())
        return run(config, stop)


def run(config: DictConfig, stop: StopRequest) -> float | None:
    # Imported here, so that --help and --cfg answer at once, and a wrong setting soon.
    from mlens.config import check

    settings = check(config)
    from mlens.audit.audit import audit
    from mlens.data.load import load_table
    from mlens.data.split import assign_roles
    from mlens.data.stage import make_stages
    from mlens.engine.engine import holding
    from mlens.engine.ranks import join_ranks
    from mlens.identity import identify
    from mlens.model.load import build_model, load_tokenizer
    from mlens.preflight import preflight
    from mlens.prompt.renderer import make_renderer
    from mlens.training.base import base_weights
    from mlens.training.conclude import conclude, finished
    from mlens.training.describe import describe
    from mlens.training.folder import find_folder, make_folder
    from mlens.training.journal import open_journal
    from mlens.training.loop import fit

    source, split, strategy = (instantiate(config[node]) for node in ("data", "split", "history"))
    ranks = join_ranks()
    folder = find_folder(ranks, config)
    ranks.alone(lambda: preflight(settings))
    table = ranks.first(lambda: load_table(source))
    roles = assign_roles(table, split)
    stages = make_stages(table, roles, split, settings.evaluation.max_users, settings.evaluation.seed)
    tokenizer = ranks.first(lambda: load_tokenizer(settings.model, table, settings.prompt, settings.ablation))
    identity = ranks.alone(lambda: identify(settings, table.content_hash(), lambda: tokenizer, folder.continued))
    if folder.finished:
        return ranks.alone(lambda: finished(folder, identity, config))
    renderer = make_renderer(table, settings.prompt, settings.ablation, tokenizer, identity.chat_frame)
    datasets = {
        name: instantiate(config.dataset, table, stage, strategy, renderer, settings.seed_of(name))
        for name, stage in stages.items()
    }
    collator = instantiate(config.packing)
    audited = ranks.alone(lambda: audit(datasets, roles, split))
    weights = base_weights(settings, config, renderer, stages["train"], tokenizer, ranks)
    longest, held = settings.prompt.max_tokens, holding(settings.deepspeed, settings.model.dtype, ranks)
    model = build_model(settings.model, settings.peft, tokenizer, longest, settings.seed, held, weights)
    rule = settings.trainer.update_rule()
    engine = instantiate(config.deepspeed, model, ranks, rule, settings.model.dtype, _convert_="all")
    engine.check(longest)
    made = make_folder(ranks, folder, identity, config, HydraConfig.get())
    with made, open_journal(ranks, folder, settings, config) as journal:
        describe(datasets, tokenizer, settings, folder, journal)
        training = fit(engine, datasets, collator, settings, folder, journal, stop)
        return conclude(training, roles, audited, identity, tokenizer, config, HydraConfig.get())


if __name__ == "__main__":
    start(main)
