"""The report on finished runs: report.html, explore.html, report.md, results.csv and pairs.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlens.comparison import digits, plots, sections
from mlens.comparison.crossed import crossed_table
from mlens.comparison.explore import explore
from mlens.comparison.finished_runs import Arm, differing_keys, find_runs, find_unfinished, make_arms, strategy_label
from mlens.comparison.markdown import markdown
from mlens.comparison.pairing import pair
from mlens.comparison.pairs import PAIR_COLUMNS, detectable, pair_rows, pair_table
from mlens.comparison.results import MARGIN, Results, answer, baseline_names, compare, difference, scope, table, verdict
from mlens.comparison.summed_errors import METRICS
from mlens.data.delimited import without_formulas
from mlens.errors import UserError
from mlens.files import atomic_write, write_text
from mlens.text import DIRECTION_MARKS, one_line

MADE_UP = "The data are made up: this says how the program works, not how people rate."
# What leads from report.html to explore.html next to it.
EXPLORE_LINK = (
    '<p><a href="explore.html">Explore</a> single ratings: what each arm was shown, and what it predicted</p>\n'
)
# Metrics of baselines that the report shows, by title.
BASELINE_COLUMNS = {
    "RMSE": "rmse",
    "level": "level",
    "taste": "taste",
    "AUC": "auc",
    "NDCG@10": "ndcg_10",
    "MAE": "mae",
}
# Metrics whose differences have a matrix, by title.
MATRICES = {"RMSE": "rmse", "taste": "taste", "AUC": "auc"}


@dataclass(frozen=True)
class Report:
    """A written report.

    html: path of report.html.
    answer: the comparison's outcome in words.
    power: the smallest difference of RMSE that the comparison can detect, in words (empty for one arm).
    table: figures of each arm, one row an arm.
    baselines: by name, the test metrics (None: not measured) of each baseline given the full history.
    notes: reasons to doubt the comparison, a line each.
    refused: why some runs are left out, a line each.
    explore: path of explore.html; None if no arm's histories can be recomputed.
    unknown: for each arm whose histories can't be recomputed, why, a line each.
    """

    html: Path
    answer: str
    power: str
    table: pl.DataFrame
    baselines: dict[str, dict[str, float | None]]
    notes: list[str]
    refused: list[str]
    explore: Path | None
    unknown: list[str]


def report(folders: Sequence[Path], output: Path, trust: bool = False) -> Report:
    """Compare the finished runs in and beneath these folders, and write report.html, explore.html, report.md,
    results.csv and pairs.csv into `output`.

    trust: allow the runs' configs to name classes from outside mlens, whose code runs for explore.html.

    Raises UserError if one of them holds no finished run, or if a run's files can't be read.
    """
    paired, refused = pair(make_arms(find_runs(folders)))
    refused = [*refused, *(one_line(f"{path}: the run has not finished") for path in find_unfinished(folders))]
    results = compare(paired)
    frame = table(results)
    content = _content(results, frame, refused)
    output.mkdir(parents=True, exist_ok=True)
    atomic_write(output / "results.csv", without_formulas(frame).write_csv)
    if results.between:
        atomic_write(output / "pairs.csv", without_formulas(pair_table(results)).write_csv)
    else:
        (output / "pairs.csv").unlink(missing_ok=True)
    write_text(output / "report.md", markdown(content))
    page, unknown = _write_exploration(results, content["title"], output / "explore.html", trust)
    write_text(output / "report.html", _html(content | {"explore": EXPLORE_LINK if page is not None else ""}))
    notes = [line for line in content["fairness"] if line.startswith("NOTE")]
    notes += [content["made_up"]] if content["made_up"] else []
    return Report(
        html=output / "report.html",
        answer=content["answer"],
        power=content["power"][0] if content["power"] else "",
        table=frame,
        baselines=_full_history(results),
        notes=notes,
        refused=refused,
        explore=page,
        unknown=unknown,
    )


def _write_exploration(results: Results, title: str, file: Path, trust: bool) -> tuple[Path | None, list[str]]:
    """Write the page to explore. Return its path, if there is one, and what can't be recomputed for it, a line each.

    The report doesn't depend on it: without what the page needs, that of an earlier report is removed.
    """
    try:
        made = explore(results, title, trust)
    except UserError as error:
        file.unlink(missing_ok=True)
        return None, [str(error)]
    write_text(file, made.html)
    return file, made.unknown


def print_report(written: Report) -> None:
    """Print the essentials of the report to stdout."""
    console = Console()
    shown = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1))
    several = _has_several_draws(written.table)
    planted = "best_possible" in written.table.columns
    titles = ["RMSE", "95% interval", *(["Bayes"] if planted else []), "level", "taste", "AUC"]
    titles += ["averaging gain"] if several else []
    trimmed = (written.table["share_trimmed"] > 0).any()
    shown.add_column("test", overflow="fold")
    for title in ("seeds", *titles, *(["trimmed"] if trimmed else [])):
        shown.add_column(title, justify="right", no_wrap=True)
    metrics = ("rmse", "level", "taste", "auc")
    for row in written.table.to_dicts():
        figures = [_number(row[name]) for name in metrics]
        figures[1:1] = [_interval(row, "rmse"), *([_number(row["best_possible"])] if planted else [])]
        gain = [_number(row["averaging_gain"])] if several else []
        share = [f"{row['share_trimmed']:.0%}"] if trimmed else []
        shown.add_row(Text(row["arm"]), str(row["seeds"]), *figures, *gain, *share)
    shown.add_section()
    shown.add_row("baselines", style="italic")
    for name, found in written.baselines.items():
        figures = [_number(found[metric]) for metric in metrics]
        shown.add_row(Text(name.replace("_", " ")), "", figures[0], "", *([""] if planted else []), *figures[1:])
    console.print(shown)
    console.print()
    refused = [f"not compared: {line}" for line in written.refused]
    missing = "histories unknown" if written.explore else "no explore.html"
    unknown = [f"{missing}: {line}" for line in written.unknown]
    pages = [str(path) for path in (written.explore, written.html) if path is not None]
    power = [written.power] if written.power else []
    for line in (written.answer, *power, *written.notes, *refused, *unknown, *pages):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _content(results: Results, frame: pl.DataFrame, refused: list[str]) -> dict[str, Any]:
    """Return the content that both HTML and Markdown show."""
    paired = results.paired
    arms = paired.arms
    labels = [arm.label for arm in arms]
    two = len(arms) == 2
    fairness = [
        *sections.failures(results),
        *sections.worse_than_chance(arms),
        *sections.fairness(arms),
        *sections.ranking(results),
        *sections.dominance(paired),
        *sections.trimming(frame),
    ]
    return {
        "title": labels[0] if len(arms) == 1 else f"{len(arms)} {_kind(arms)} compared",
        "answer": answer(results),
        "scope": scope(results),
        "made_up": MADE_UP if any(run.summary["made_up_data"] for run in paired.runs) else "",
        "fairness": fairness,
        "doubts": sum(line.startswith("NOTE") for line in fairness) + len(refused),
        "refused": refused,
        "overview": list(plots.overview(results)),
        "tables": [_table_of_arms(frame, columns) for columns in (COLUMNS, FURTHER_COLUMNS)],
        "several": _has_several_draws(frame),
        "baseline_columns": ["", *BASELINE_COLUMNS],
        "baselines": [
            [name.replace("_", " "), *(_number(found[metric]) for metric in BASELINE_COLUMNS.values())]
            for name, found in _full_history(results).items()
        ],
        "own_baseline_columns": ["", *(name.replace("_", " ") for name in baseline_names(results))],
        "own_baselines": _own_baselines(results),
        "labels": labels,
        "differences": {
            title: _matrix(results, metric)
            for title, metric in MATRICES.items()
            if len(arms) > 1 and metric in results.of_arms
        },
        "plot_of_differences": plots.of_differences(results),
        "power": detectable(results),
        "margin": MARGIN,
        "pair_columns": PAIR_COLUMNS,
        "pairs": pair_rows(results),
        "ties": [(one, other, f"{value:+.4f}") for one, other, value in sections.ties(results)],
        "crossed": crossed_table(arms),
        "plots": list(plots.details(results)),
        "apart": sections.farthest_apart(paired) if two else [],
        "config_difference": _config_difference(results) if two else [],
        "examples": sections.examples(paired),
        "worst": sections.worst(paired),
        "audits": sections.audits(arms),
        "runs": [
            {
                "name": run.name,
                "arm": arm.label,
                "seed": run.seed,
                "fingerprint": run.summary["fingerprint"],
                "command": f"python train.py {' '.join(run.summary['overrides'])}",
            }
            for arm in arms
            for run in arm.runs
        ],
        "versions": paired.runs[0].summary["versions"],
    }


def _kind(arms: Sequence[Arm]) -> str:
    """Return what the report calls the arms: strategies, if no two arms share one."""
    return "strategies" if len({strategy_label(arm.runs[0].config["history"]) for arm in arms}) == len(arms) else "arms"


# Columns of the table of arms that the report shows, by title: two tables, since one would be too wide.
COLUMNS = {
    "arm": "arm",
    "seeds": "seeds",
    "RMSE": "rmse",
    "best possible": "best_possible",
    "level": "level",
    "taste": "taste",
    "AUC": "auc",
}
FURTHER_COLUMNS = {
    "arm": "arm",
    "NDCG@10": "ndcg_10",
    "MAE": "mae",
    "averaging gain": "averaging_gain",
    "accuracy": "accuracy",
    "NLL": "nll",
    "calibration": "calibration_error",
    "trimmed": "share_trimmed",
    "ratings shown": "mean_history",
    "tokens": "training_tokens",
    "minutes": "seconds_training",
}


def _has_several_draws(frame: pl.DataFrame) -> bool:
    """Return whether an arm in the table of arms was evaluated with several draws of histories."""
    return frame["averaging_gain"].is_not_null().any()


def _interval(row: dict, name: str) -> str:
    return digits.interval(row[f"{name}_low"], row[f"{name}_high"], row[f"{name}_interval_error"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table_of_arms(frame: pl.DataFrame, columns: dict[str, str]) -> dict[str, list]:
    """Return titles and rows of these columns of the table of arms, without optional ones that no arm has."""

    def cell(row: dict, name: str) -> str:
        value = row[name]
        if value is None:
            return ""
        if name in METRICS:
            return f"{_number(value)} ({_interval(row, name)})"
        if name == "share_trimmed":
            return f"{value:.0%}"
        if name == "seconds_training":
            return f"{value / 60:.1f}"
        if name == "training_tokens":
            return f"{value / 1e6:.1f} M"
        if name == "mean_history":
            return f"{value:.1f}"
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    left_out = set() if _has_several_draws(frame) else {"averaging_gain"}
    shown = {title: name for title, name in columns.items() if name in frame.columns and name not in left_out}
    return {"columns": list(shown), "rows": [[cell(row, name) for name in shown.values()] for row in frame.to_dicts()]}


def _full_history(results: Results) -> dict[str, dict[str, float | None]]:
    """Return each baseline's test metrics given the full history, which are the same for every arm."""
    arm = results.paired.arms[results.order[0]]
    return {
        name: {
            metric: arm.mean("baselines", "test", "full_history", name, metric) for metric in BASELINE_COLUMNS.values()
        }
        for name in baseline_names(results)
    }


def _own_baselines(results: Results) -> list[list[str]]:
    """Return a row of the baselines' RMSE given what an arm shows, for each arm that shows less than all."""
    names, rows = baseline_names(results), []
    for number in results.order:
        arm = results.paired.arms[number]
        full, own = (
            [_number(arm.mean("baselines", "test", column, name, "rmse")) for name in names]
            for column in ("full_history", "own_history")
        )
        if own != full:
            rows.append([f"what {arm.label} shows", *own])
    return rows


def _matrix(results: Results, metric: str) -> list[dict]:
    arms = results.paired.arms
    rows = []
    for i, arm in enumerate(arms):
        cells: list[dict[str, Any]] = []
        for j in range(len(arms)):
            if i == j:
                cells.append({"value": ""})
                continue
            found = difference(results, metric, i, j)
            cells.append(
                {
                    "value": f"{found.value:+.4f}",
                    "interval": digits.interval(found.low, found.high, found.error, "+"),
                    "p": digits.p_value(found.p_holm, found.p_error),
                    "verdict": verdict(found, metric),
                }
            )
        rows.append({"label": arm.label, "cells": cells})
    return rows


def _config_difference(results: Results) -> list[str]:
    one, other = (arm.runs[0] for arm in results.paired.arms)
    return [f"{key}: {one.shown(key)} / {other.shown(key)}" for key in differing_keys([one, other])]


def _html(content: dict[str, Any]) -> str:
    from jinja2 import Environment

    # Titles and everything else from the data are escaped as text, except for the plots, which escape their text.
    template = files("mlens.comparison").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True).from_string(template).render(content)
    # The model reads the marks unchanged.
    return DIRECTION_MARKS.sub(lambda mark: f"&lt;U+{ord(mark[0]):04X}&gt;", page)
