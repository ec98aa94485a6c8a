"""Runs trained under one strategy and tested under another, from evaluations saved by `mlens evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from mlens.comparison.finished_runs import Arm, strategy_label
from mlens.comparison.run_files import EVALUATION
from mlens.schema import read_json


def crossed_table(arms: Sequence[Arm]) -> dict[str, list] | None:
    """Return the table of test RMSE (mean over seeds) of each arm under its strategy and under other ones.

    `columns` holds the strategies, `rows` the cells. None if no run was evaluated under another strategy.
    """
    found: dict[str, dict[str, list[float]]] = {arm.label: {} for arm in arms}
    for arm in arms:
        for run in arm.runs:
            found[arm.label].setdefault(arm.label, []).append(run.summary["metrics"]["test"]["rmse"])
            for file in sorted((run.folder / "evaluations").glob("*/summary.json")):
                other = read_json(file, EVALUATION)
                found[arm.label].setdefault(strategy_label(other["history"]), []).append(
                    other["metrics"]["test"]["rmse"]
                )
    columns = list(dict.fromkeys(column for cells in found.values() for column in cells))
    if all(len(cells) == 1 for cells in found.values()):
        return None
    rows = [
        [label, *(f"{sum(cells[c]) / len(cells[c]):.4f}" if c in cells else "" for c in columns)]
        for label, cells in found.items()
    ]
    return {"columns": columns, "rows": rows}
