"""What a finished run says of itself: summary.json and the table at the end."""

from __future__ import annotations

import platform
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

VERSIONS = ("mlens", "torch", "transformers", "deepspeed", "hydra-core", "numpy", "polars")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}


def print_table(title: str, metrics: dict, baselines: dict, made_up: bool) -> None:
    """The run's RMSE and MAE beside the baselines, on stdout."""
    stages = list(metrics)
    table = Table()
    table.add_column("")
    for stage in stages:
        table.add_column(f"{stage} RMSE", justify="right")
        table.add_column(f"{stage} MAE", justify="right")
    rows = {name.replace("_", " "): {s: baselines[s][name] for s in stages} for name in baselines[stages[0]]}
    rows["this model"] = {stage: metrics[stage] for stage in stages}
    for name, values in rows.items():
        cells = [f"{values[stage][metric]:.4f}" for stage in stages for metric in ("rmse", "mae")]
        table.add_row(name, *cells, style="bold" if name == "this model" else None)
    console = Console()
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    if made_up:
        console.print("The data are made up: this says how the program works, not how people rate.", soft_wrap=True)
