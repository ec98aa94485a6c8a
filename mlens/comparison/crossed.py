"""Trained under one strategy, tested under another: what `mlens evaluate` left in runs' folders."""

from __future__ import annotations

from collections.abc import Sequence

from mlens.comparison.forms import EVALUATION, read_json
from mlens.comparison.runs import Arm, strategy_label


def crossed_table(arms: Sequence[Arm]) -> dict[str, list] | None:
    """Test RMSE (a mean over seeds) of each arm under its own strategy and under those that its runs were evaluated
    with: `columns`, the strategies, and `rows` of cells. None where no run was evaluated under another."""
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
