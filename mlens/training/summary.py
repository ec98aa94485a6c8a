"""Report a finished run: the package versions of summary.json, and the table at the end."""

from __future__ import annotations

import platform
from importlib.metadata import version

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mlens.evaluation.baselines import WITHOUT_HISTORY
from mlens.evaluation.lenskit_models import lenskit_version
from mlens.evaluation.quality import CHANCE_AUC, quality_warnings

VERSIONS = ("mlens", "torch", "transformers", "deepspeed", "hydra-core", "numpy", "polars")
# Metrics of the last stage beside RMSE, by title.
TITLES = {"level": "level", "taste": "taste", "AUC": "auc", "NDCG@10": "ndcg_10", "MAE": "mae"}
HEADINGS = {"full_history": "full history", "own_history": "this run's history"}
AVERAGING = "Means over draws of histories; gain: by how much the RMSE of the averaged predictions is lower."
WITHOUT_LENSKIT = "For the matrix factorisation and item kNN baselines: pip install -e '.[lenskit]'"


def versions() -> dict[str, str]:
    """Return the versions of Python and the main packages, and of LensKit where it is installed."""
    found = {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
    lenskit = lenskit_version()
    return found if lenskit is None else found | {"lenskit": lenskit}


def print_table(title: str, metrics: dict, baselines: dict, best_possible: dict, made_up: bool) -> None:
    """Print the metrics of the run and of the baselines on the last stage, and their RMSE on the others, on stdout.

    title: a line above the table
    metrics: of the model, by stage
    baselines: as `measure_baselines` returns them
    best_possible: of the made-up sample, by stage, as `measure_best_possible` returns them; empty for other data
    made_up: whether the data are made up (data=sample)

    Baselines given the run's history are left out where that is the full history. With several draws, all values are
    means over the draws, and a column says by how much the RMSE of the averaged predictions is lower. A NOTE below the
    table names each sign that the model has learned nothing on the last stage, or else that it doesn't beat the best
    baseline, or that it ranks a user's movies worse than the movie mean, or than chance.
    """
    *others, last = metrics
    several = "averaged" in metrics[last]
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("")
    for heading in (*(f"{stage}\nRMSE" for stage in others), f"{last}\nRMSE", *TITLES, *(["gain"] if several else [])):
        table.add_column(heading, justify="right")

    def add(name: str, found: dict, style: str | None = None) -> None:
        of = found[last]
        values = [*(found[stage]["rmse"] for stage in others), *(of[metric] for metric in ("rmse", *TITLES.values()))]
        if several:
            values.append(of["rmse"] - of["averaged"]["rmse"] if "averaged" in of else None)
        cells = ["" if value is None or value != value else f"{value:.4f}" for value in values]
        table.add_row(name.replace("_", " "), *cells, style=style)

    columns = {column: {stage: baselines[stage][column] for stage in metrics} for column in HEADINGS}
    full = columns["full_history"]
    for name in WITHOUT_HISTORY:
        add(name, {stage: full[stage][name] for stage in metrics})
    for column, errors in columns.items():
        if column == "full_history" or errors != full:
            table.add_section()
            table.add_row(HEADINGS[column], style="italic")
            for name in errors[last]:
                if name not in WITHOUT_HISTORY:
                    add(name, {stage: errors[stage][name] for stage in metrics})
            if best_possible:
                add("best possible", {stage: best_possible[stage][column] for stage in metrics})
    table.add_section()
    add("this model", metrics, style="bold")
    console = Console()
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for line in _notes(metrics[last], baselines[last]["full_history"], last):
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
    if found:
        return found
    if metrics["rmse"] >= best[1]:
        ours = f"RMSE {metrics['rmse']:.4f} against {best[1]:.4f}"
        found.append(f"the model doesn't beat {name.replace('_', ' ')} on {stage} ({ours})")
    ours, theirs = metrics["auc"], baselines["movie_mean"]["auc"]
    if ours is not None and ours < CHANCE_AUC:
        found.append(
            f"the model says next to nothing about movies: on {stage} it ranks a user's movies worse than chance (AUC "
            f"{ours:.4f}; chance is {CHANCE_AUC}). Train it longer, or with another seed"
        )
    elif theirs is not None and ours < theirs:
        found.append(
            f"the model ranks a user's movies worse than the movie mean on {stage} (AUC {ours:.4f} against "
            f"{theirs:.4f}): compare its level and taste"
        )
    return found
