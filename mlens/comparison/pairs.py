"""The pairs of arms: their table in the report, pairs.csv, and the difference that the comparison can detect."""

from __future__ import annotations

import numpy as np
import polars as pl

from mlens.comparison import digits
from mlens.comparison.results import MARGIN, Results, conclusion
from mlens.comparison.statistics import ALPHA, POWER, Difference, Estimate

# Columns of the report's table.
PAIR_COLUMNS = (
    "arms",
    "RMSE",
    "90% interval",
    "difference of MAE",
    "identical histories",
    "neither trimmed: targets",
    "difference of RMSE",
    "both trimmed: targets",
    "difference of RMSE",
)


def pair_rows(results: Results) -> list[list[str]]:
    """Return the rows of the report's table, with the columns PAIR_COLUMNS."""

    def cell(found: Difference | Estimate | None) -> str:
        if found is None:
            return ""
        return f"{found.value:+.4f} ({digits.interval(found.low, found.high, found.error, '+')})"

    arms, rows = results.paired.arms, []
    for (i, j), between in results.between.items():
        rmse = between.differences["rmse"]
        concluded = conclusion(rmse, "rmse")
        rows.append(
            [
                f"{arms[i].label} - {arms[j].label}",
                f"equivalent within {MARGIN}" if concluded == "equivalent" else concluded,
                digits.interval(rmse.low_90, rmse.high_90, rmse.error, "+"),
                cell(between.differences["mae"]),
                f"{between.same_history:.0%}",
                f"{between.untrimmed_targets:,}",
                cell(between.untrimmed),
                f"{between.trimmed_targets:,}",
                cell(between.trimmed),
            ]
        )
    return rows


def pair_table(results: Results) -> pl.DataFrame:
    """Return the table of pairs of arms, one row a pair and metric: the fields of Difference, and the conclusion."""
    arms = results.paired.arms
    return pl.DataFrame(
        [
            {"first": arms[i].label, "second": arms[j].label, "metric": metric}
            | vars(found)
            | {"conclusion": conclusion(found, metric)}
            for (i, j), between in results.between.items()
            for metric, found in between.differences.items()
        ]
    )


def detectable(results: Results) -> list[str]:
    """Return sentences on the smallest differences of RMSE that the comparison can detect, the first of them the
    essential one; none for a single arm."""
    found = [between.differences["rmse"] for between in results.between.values()]
    if not found:
        return []
    single, first = ([getattr(one, name) for one in found] for name in ("detectable", "detectable_first"))
    tested = f"{POWER:.0%} power, one test at {ALPHA:.0%}"
    sentences = [f"Smallest detectable difference of RMSE: {np.median(single):.2g} ({tested})."]
    if len(found) > 1:
        sentences.append(
            f"This is the median of {len(found)} pairs, {min(single):.2g} to {max(single):.2g}; at {ALPHA:.0%} / "
            f"{len(found)}, as in the first of Holm's tests, it is {np.median(first):.2g}."
        )
    return sentences
