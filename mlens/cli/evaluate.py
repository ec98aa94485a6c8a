"""mlens evaluate RUN history=…: evaluate a trained model under another strategy than that of its training."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from mlens import __version__
from mlens.errors import exit_on_interrupt, exit_on_user_error

# The metrics that are printed.
COMPARED = ("rmse", "mae", "level", "taste", "auc", "ndcg_10", "accuracy", "nll", "illegal_mass")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens evaluate",
        description="Evaluate a finished run's model with other histories: trained under one strategy, tested under "
        "another. With torchrun -m mlens evaluate each rank loads the full model. Prints the metrics next to those of "
        "the run, and writes RUN/evaluations/NAME/summary.json and predictions/; mlens compare shows the matrix.",
        epilog="example: mlens evaluate outputs/2026-01-31/12-00-00 history=fixed_count history.count=20",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "overrides", nargs="+", metavar="OVERRIDE", help="history=OPTION, history.KEY=VALUE, prompt.KEY=…"
    )
    parser.add_argument("--trust", action="store_true", help="allow RUN to run code: a class from outside mlens")
    options = parser.parse_args()
    with exit_on_interrupt(), exit_on_user_error():
        from mlens.evaluation.reevaluate import reevaluate

        summary = reevaluate(options.run, options.overrides, options.trust)
        if os.environ["RANK"] == "0":
            print_with_run(options.run, summary)
            print(summary)


def print_with_run(run: Path, summary: Path) -> None:
    """Print the metrics of an evaluation next to those of the run, and a NOTE for each sign of failure.

    run: the run's folder
    summary: the summary.json of the evaluation
    """
    from rich.console import Console
    from rich.table import Table

    from mlens.evaluation.quality import quality_warnings

    other = json.loads(summary.read_text(encoding="utf-8"))
    try:
        of_run = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        of_run = None  # the evaluation is saved already: a summary that was edited since must not make it fail
    table = Table()
    for column in ("", "the run", "this evaluation", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for stage, metrics in other["metrics"].items():
        table.add_section()
        for name in COMPARED:
            before, now = _number(of_run, "metrics", stage, name), metrics[name]
            change = None if before is None or now is None else now - before
            cells = ("" if value is None else f"{value:.4f}" for value in (before, now))
            table.add_row(f"{stage} {name}", *cells, "" if change is None else f"{change:+.4f}")
    console = Console()
    console.print(table)
    global_mean = _number(of_run, "baselines", "test", "full_history", "global_mean", "rmse")
    for line in quality_warnings(other["metrics"]["test"], global_mean):
        console.print(f"NOTE: {line}", highlight=False, soft_wrap=True)


def _number(content: Any, *keys: str) -> float | None:
    """Return the number at these nested keys; None where there is none, as in a file that was edited."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, float) else None
