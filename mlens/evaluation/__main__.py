"""python -m mlens.evaluation RUN history=…: a trained model under another strategy than its own."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from mlens import __version__
from mlens.errors import UserError, exit_on_interrupt, exit_on_user_error

# What may differ from the run's own config: what is shown, never which targets are rated.
MAY_DIFFER = ("history", "prompt", "evaluation.draws", "packing")
# The metrics that are printed beside the run's own.
COMPARED = ("rmse", "mae", "accuracy", "nll", "auc", "ndcg_10", "illegal_mass")


def main(prog: str = "python -m mlens.evaluation") -> None:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Evaluate a finished run's model with other histories: trained under one strategy, tested under "
        "another. With torchrun -m mlens.evaluation each rank holds the whole model. Prints the metrics beside the "
        "run's own, and writes RUN/evaluations/NAME/summary.json and predictions/; a comparison shows the matrix.",
        epilog="example: python -m mlens.evaluation outputs/2026-01-31/12-00-00 history=fixed_count history.count=20",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "overrides", nargs="+", metavar="OVERRIDE", help="history=OPTION, history.KEY=VALUE, prompt.KEY=…"
    )
    parser.add_argument("--trust", action="store_true", help="let RUN run code: a class from outside of mlens")
    options = parser.parse_args()
    with exit_on_interrupt(), exit_on_user_error():
        summary = evaluate_under(options.run, options.overrides, options.trust)
        if os.environ["RANK"] == "0":
            print_beside_run(options.run, summary)
            print(summary)


def evaluate_under(run: Path, overrides: list[str], trust: bool = False) -> Path:
    """Evaluate the model of the finished `run` on its validation and test targets under these overrides of its config;
    returns the summary that was written.

    Raises UserError where the run isn't finished, an override asks for other targets, there is such an evaluation, or,
    unless `trust` allows it, the run would run code of its own.
    """
    from mlens.audit.audit import audit
    from mlens.compose import run_config
    from mlens.config import check
    from mlens.engine.engine import uses_bf16_parameters
    from mlens.engine.ranks import join_ranks
    from mlens.evaluation.alone import load_alone
    from mlens.evaluation.evaluate import by_activity, evaluate
    from mlens.files import atomic_write, ensure_folder, refuse_links, write_json
    from mlens.identity import read_identity
    from mlens.pipeline import open_inputs

    settings = check(run_config(run, overrides, MAY_DIFFER, trust))
    ranks = join_ranks()
    folder = run / "evaluations" / ",".join(overrides).replace("/", "_")
    refuse_links(folder.parent, folder, folder / "predictions")
    if ranks.first(lambda: (folder / "summary.json").exists()):
        raise UserError(f"{folder} holds this evaluation already: remove it to do it again")
    identity = ranks.alone(lambda: read_identity(run))
    inputs = open_inputs(settings, ranks, run / "model", identity)
    datasets = {name: inputs.dataset(name) for name in inputs.stages if name != "train"}
    audited = ranks.alone(lambda: audit(datasets, inputs.roles, settings.split))
    dtype = settings.model.dtype
    bf16 = uses_bf16_parameters(dtype, settings.deepspeed.zero_optimization.stage)
    scorer = load_alone(
        settings, run / "model", inputs.tokenizer, dtype, bf16, None if identity is None else identity.model, ranks
    )
    collator = settings.packing
    evaluated = {
        name: evaluate(scorer, dataset, collator, settings.evaluation.draws) for name, dataset in datasets.items()
    }
    if ranks.main:
        for made in (folder.parent, folder, folder / "predictions"):
            ensure_folder(made)
        for name, stage in evaluated.items():
            atomic_write(folder / "predictions" / f"{name}.parquet", stage.frame.write_parquet)
        metrics = {
            name: stage.metrics | by_activity(datasets[name], inputs.roles, stage.frames)
            for name, stage in evaluated.items()
        }
        write_json(
            folder / "summary.json",
            {"overrides": overrides, "history": settings.config["history"], "metrics": metrics, "audit": audited},
        )
    return folder / "summary.json"


def print_beside_run(run: Path, summary: Path) -> None:
    """Print the metrics in the `summary` of an evaluation beside those of the run itself, and what they are a sign
    of."""
    from rich.console import Console
    from rich.table import Table

    from mlens.evaluation.quality import warnings_of

    other = json.loads(summary.read_text(encoding="utf-8"))
    try:
        own = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        own = None  # the evaluation is made and saved: the run's file, edited since, must not end it
    table = Table()
    for column in ("", "the run", "this evaluation", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for stage, metrics in other["metrics"].items():
        table.add_section()
        for name in COMPARED:
            before, now = _number(own, "metrics", stage, name), metrics[name]
            change = None if before is None or now is None else now - before
            cells = ("" if value is None else f"{value:.4f}" for value in (before, now))
            table.add_row(f"{stage} {name}", *cells, "" if change is None else f"{change:+.4f}")
    console = Console()
    console.print(table)
    global_mean = _number(own, "baselines", "test", "full_history", "global_mean", "rmse")
    for line in warnings_of(other["metrics"]["test"], global_mean):
        console.print(f"NOTE: {line}", highlight=False, soft_wrap=True)


def _number(content: Any, *keys: str) -> float | None:
    """The number that stands under these keys; None where there is none, as in a file that was edited."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, float) else None


if __name__ == "__main__":
    main()
