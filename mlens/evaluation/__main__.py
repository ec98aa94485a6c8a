"""python -m mlens.evaluation RUN history=…: a trained model under another strategy than its own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mlens import __version__
from mlens.errors import UserError, exit_on_interrupt, told_in_one_line

# What may differ from the run's own config: what is shown, never which targets are rated.
MAY_DIFFER = ("history", "prompt", "evaluation.draws", "packing")


def main(prog: str = "python -m mlens.evaluation") -> None:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Evaluate a finished run's model with other histories: trained under one strategy, tested under "
        "another. With torchrun -m mlens.evaluation each rank holds the whole model. Writes "
        "RUN/evaluations/NAME/summary.json and predictions/; a comparison shows the matrix.",
        epilog="example: python -m mlens.evaluation outputs/2026-01-31/12-00-00 history=fixed_count history.count=20",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "overrides", nargs="+", metavar="OVERRIDE", help="history=OPTION, history.KEY=VALUE, prompt.KEY=…"
    )
    parser.add_argument("--trust", action="store_true", help="let RUN run code: a class from outside of mlens")
    options = parser.parse_args()
    with exit_on_interrupt(), told_in_one_line():
        summary = evaluate_under(options.run, options.overrides, options.trust)
        if os.environ["RANK"] == "0":
            print(summary)


def evaluate_under(run: Path, overrides: list[str], trust: bool = False) -> Path:
    """Evaluate the model of the finished `run` on its validation and test targets under these overrides of its config;
    returns the summary that was written.

    Raises UserError where the run isn't finished, an override asks for other targets, there is such an evaluation, or,
    unless `trust` allows it, the run would run code of its own.
    """
    from hydra.utils import instantiate

    from mlens.compose import run_config
    from mlens.config import check
    from mlens.engine.engine import uses_bf16_parameters
    from mlens.engine.ranks import join_ranks
    from mlens.evaluation.alone import load_alone
    from mlens.evaluation.evaluate import by_activity, evaluate
    from mlens.files import atomic_write, ensure_folder, refuse_links, write_json
    from mlens.identity import read_identity
    from mlens.inside import open_inside
    from mlens.packing.audit import audit

    config = run_config(run, overrides, MAY_DIFFER, trust)
    settings = check(config)
    ranks = join_ranks()
    folder = run / "evaluations" / ",".join(overrides).replace("/", "_")
    refuse_links(folder.parent, folder, folder / "predictions")
    if ranks.first(lambda: (folder / "summary.json").exists()):
        raise UserError(f"{folder} holds this evaluation already: remove it to do it again")
    identity = ranks.alone(lambda: read_identity(run))
    frame, digest = (None, None) if identity is None else (identity.chat_frame, identity.model)
    inside = ranks.first(lambda: open_inside(config, run / "model", frame))
    datasets = {name: inside.dataset(name) for name in inside.stages if name != "train"}
    audited = ranks.alone(lambda: audit(datasets, inside.roles, settings.split))
    dtype = settings.model.dtype
    bf16 = uses_bf16_parameters(dtype, settings.deepspeed.zero_optimization.stage)
    scorer = load_alone(settings, run / "model", inside.tokenizer, dtype, bf16, digest, ranks)
    collator, metrics = instantiate(config.packing), {}
    for name, dataset in datasets.items():
        evaluated = evaluate(scorer, dataset, collator, settings.evaluation.draws)
        metrics[name] = evaluated.metrics | by_activity(dataset, inside.roles, evaluated.frames)
        if ranks.main:
            for made in (folder.parent, folder, folder / "predictions"):
                ensure_folder(made)
            atomic_write(folder / "predictions" / f"{name}.parquet", evaluated.frame.write_parquet)
    if ranks.main:
        from omegaconf import OmegaConf

        history = OmegaConf.to_container(config.history, resolve=True)
        write_json(
            folder / "summary.json", {"overrides": overrides, "history": history, "metrics": metrics, "audit": audited}
        )
    return folder / "summary.json"


if __name__ == "__main__":
    main()
