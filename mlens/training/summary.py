"""Report a finished run: the package versions of summary.json, and the table at the end."""

from __future__ import annotations

import platform
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from mlens.evaluation.baselines import WITHOUT_HISTORY
from mlens.evaluation.lenskit_models import lenskit_version
from mlens.evaluation.quality import quality_warnings

VERSIONS = ("mlens", "torch", "transformers", "deepspeed", "hydra-core", "numpy", "polars")
HEADINGS = {"full_history": "given the whole history", "own_history": "given this run's history"}
AVERAGING = "Means over draws of histories; gain: by how much the RMSE of the averaged predictions is lower."
WITHOUT_LENSKIT = "For the matrix factorisation and item kNN baselines: pip install -e '.[lenskit]'"


def versions() -> dict[str, str]:
    """Return the versions of Python and the main packages, and of LensKit where it is installed."""
    found = {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
    lenskit = lenskit_version()
    return found if lenskit is None else found | {"lenskit": lenskit}


def print_table(title: str, metrics: dict, baselines: dict, made_up: bool) -> None:
    """Print the RMSE and MAE of the run and of the baselines on stdout.

    title: a line above the table
    metrics: of the model, by stage
    baselines: as `measure_baselines` returns them
    made_up: whether the data are made up (data=sample)

    Baselines given the run's history are left out where that is the full history. With several draws, all values are
    means over the draws, and a column says by how much the RMSE of the averaged predictions is lower. A NOTE below the
    table names each sign that the model has learned nothing on the last stage, or else that it doesn't beat the best
    baseline.
    """
    stages = list(metrics)
    several = any("averaged" in metrics[stage] for stage in stages)
    table = Table()
    table.add_column("")
    for stage in stages:
        for figure in ("RMSE", "MAE", *(["gain"] if several else [])):
            table.add_column(f"{stage} {figure}", justify="right")

    def add(name: str, errors: dict, style: str | None = None) -> None:
        cells = []
        for stage in stages:
            cells += [f"{errors[stage][metric]:.4f}" for metric in ("rmse", "mae")]
            if several:
                of = errors[stage]
                cells.append(f"{of['rmse'] - of['averaged']['rmse']:.4f}" if "averaged" in of else "")
        table.add_row(name.replace("_", " "), *cells, style=style)

    columns = {column: {stage: baselines[stage][column] for stage in stages} for column in HEADINGS}
    full = columns["full_history"]
    for name in WITHOUT_HISTORY:
        add(name, {stage: full[stage][name] for stage in stages})
    for column, errors in columns.items():
        if column == "full_history" or errors != full:
            table.add_section()
            table.add_row(HEADINGS[column], style="italic")
            for name in errors[stages[0]]:
                if name not in WITHOUT_HISTORY:
                    add(name, {stage: errors[stage][name] for stage in stages})
    table.add_section()
    add("this model", metrics, style="bold")
    console = Console()
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for line in _notes(metrics[stages[-1]], baselines[stages[-1]]["full_history"], stages[-1]):
        console.print(f"NOTE: {line}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    if several:
        console.print(AVERAGING, markup=False, highlight=False, soft_wrap=True)
    if lenskit_version() is None:
        console.print(WITHOUT_LENSKIT, markup=False, highlight=False, soft_wrap=True)
    if made_up:
        console.print("The data are made up: this shows how the program works, not how people rate.", soft_wrap=True)


def _notes(metrics: dict, baselines: dict, stage: str) -> list[str]:
    """List signs of failure in the metrics of a stage, compared with the baselines that see the full history."""
    name, errors = min(baselines.items(), key=lambda item: item[1]["rmse"])
    best = name, errors["rmse"]
    found = quality_warnings(metrics, baselines["global_mean"]["rmse"], best)
    if not found and metrics["rmse"] >= best[1]:
        ours = f"RMSE {metrics['rmse']:.4f} against {best[1]:.4f}"
        found = [f"the model doesn't beat {name.replace('_', ' ')} on {stage} ({ours})"]
    return found
