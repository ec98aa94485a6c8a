"""Fine-tune a language model to predict ratings, and evaluate it (python train.py --help)."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from mlens.engine.stop import StopRequest, stoppable
from mlens.errors import exit_on_user_error
from mlens.launch import register_resolvers, start

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Train and evaluate one model; returns its best validation RMSE, for sweepers."""
    with exit_on_user_error(), stoppable() as stop:
        return run(config, stop)


def run(config: DictConfig, stop: StopRequest) -> float | None:
    # Imported here, so that --help and --cfg are fast, and an invalid setting is refused early.
    from mlens.config import check_config

    settings = check_config(config)
    from mlens.audit.audit import audit
    from mlens.engine.ranks import join_ranks
    from mlens.pipeline import build_inputs
    from mlens.preflight import preflight
    from mlens.training.base_model import base_weights
    from mlens.training.describe import describe_run
    from mlens.training.finish import finish_run, report_finished
    from mlens.training.folder import find_folder, make_folder
    from mlens.training.journal import open_journal
    from mlens.training.loop import fit

    ranks = join_ranks()
    folder = find_folder(ranks, settings)
    ranks.on_main(lambda: preflight(settings))
    inputs = build_inputs(settings, ranks, folder.resumed_from)
    if folder.finished:
        return ranks.on_main(lambda: report_finished(folder, inputs))
    table, strategy, renderer = inputs.table, inputs.strategy, inputs.renderer
    datasets = {
        name: instantiate(config.dataset, table, stage, strategy, renderer, settings.seed_of(name))
        for name, stage in inputs.stages.items()
    }
    collator = instantiate(config.packing)
    audited = ranks.on_main(lambda: audit(datasets, inputs.roles, settings.split))
    model = inputs.model(ranks, base_weights(inputs, ranks))
    rule = settings.trainer.optimizer_settings()
    engine = instantiate(config.deepspeed, model, ranks, rule, settings.model.dtype, _convert_="all")
    engine.check(settings.prompt.max_tokens)
    made = make_folder(ranks, folder, inputs, HydraConfig.get())
    with made, open_journal(ranks, folder, settings) as journal:
        describe_run(datasets, inputs.tokenizer, settings, folder, journal)
        training = fit(engine, datasets, collator, settings, folder, journal, stop)
        return finish_run(training, inputs, audited, HydraConfig.get())


if __name__ == "__main__":
    start(main)
