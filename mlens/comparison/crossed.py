"""Runs trained under one strategy and tested under another, from evaluations saved by `mlens evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mlens.comparison.finished_runs import Arm, Run, strategy_label
from mlens.comparison.run_files import EVALUATION
from mlens.schema import read_json


@dataclass(frozen=True)
class Tested:
    """What a model was tested under, as its column.

    history: the config node of the strategy, as JSON with sorted keys.
    others: the overrides of other nodes.
    """

    history: str
    others: tuple[str, ...]


def crossed_table(arms: Sequence[Arm]) -> dict[str, list] | None:
    """Return the table of test RMSE (mean over seeds) of each arm under its strategy and under other ones.

    `columns` holds the strategies, each with the settings that distinguish it from the others of its name, `rows` the
    cells. None if no run was evaluated under another strategy.
    """
    found: dict[str, list[dict[Tested, float]]] = {arm.label: [_evaluated(run) for run in arm.runs] for arm in arms}
    columns = list(dict.fromkeys(column for runs in found.values() for run in runs for column in run))
    if all(len(run) == 1 for runs in found.values() for run in runs):
        return None
    rows = [[label, *(_cell(column, runs) for column in columns)] for label, runs in found.items()]
    return {"columns": _labels(columns), "rows": rows}


def _evaluated(run: Run) -> dict[Tested, float]:
    """Return the test RMSE of a run under what it was trained with, and under what it was evaluated with since."""
    found = {_tested(run.config["history"], ()): run.summary["metrics"]["test"]["rmse"]}
    for file in sorted((run.folder / "evaluations").glob("*/summary.json")):
        other = read_json(file, EVALUATION)
        found.setdefault(_tested(other["history"], other["overrides"]), other["metrics"]["test"]["rmse"])
    return found


def _tested(history: dict, overrides: Sequence[str]) -> Tested:
    others = tuple(one for one in overrides if not one.lstrip("+~").startswith(("history=", "history.")))
    return Tested(json.dumps(history, sort_keys=True, default=repr), others)


def _cell(column: Tested, runs: Sequence[dict[Tested, float]]) -> str:
    values = [run[column] for run in runs if column in run]
    if not values:
        return ""
    some = "" if len(values) == len(runs) else f" ({len(values)} of {len(runs)} seeds)"
    return f"{sum(values) / len(values):.4f}{some}"


def _labels(columns: Sequence[Tested]) -> list[str]:
    """Return a distinct label for each column."""
    labels = []
    histories = [json.loads(column.history) for column in columns]
    for column, history in zip(columns, histories, strict=True):
        name = strategy_label(history)
        alike = [other for other in histories if strategy_label(other) == name]
        differing = [key for key in history if any(other.get(key) != history[key] for other in alike)]
        labels.append(" ".join([name, *(f"{key}={history[key]}" for key in differing), *column.others]))
    return labels
