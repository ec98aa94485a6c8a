"""Warnings for a model that has learned nothing, shown next to its metrics in tables and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Above this probability of everything but legal ratings, the answer format hasn't been learned.
MOST_ILLEGAL = 0.5
# Below this standard deviation, all predictions count as equal.
LEAST_SPREAD = 0.01
# AUC of predictions that say nothing about which of a user's movies is rated higher.
CHANCE_AUC = 0.5


def quality_warnings(
    metrics: Mapping[str, Any], global_rmse: float | None = None, best_baseline: tuple[str, float] | None = None
) -> list[str]:
    """Return a sentence for each sign that the model's predictions mean little; none for a model that works.

    A model that puts its probability on other texts than ratings, but beats the global mean, works: the losses
    `expected` and `ordinal` compare only the ratings with one another.

    metrics: metrics of one stage, as `measure` returns them and summary.json holds them. A check whose metric is
        missing or null is skipped.
    global_rmse: RMSE of the global mean on the same targets (None: not compared).
    best_baseline: name and RMSE of the best baseline on the same targets, quoted along with the global mean.
    """
    illegal, spread, rmse = (metrics.get(name) for name in ("illegal_mass", "expected_std", "rmse"))
    found = []
    beats_mean = rmse is not None and global_rmse is not None and rmse < global_rmse
    if illegal is not None and illegal > MOST_ILLEGAL and not beats_mean:
        found.append(
            f"the model has not learned the answer format: {illegal:.1%} of its probability is on other texts than "
            "ratings; its predictions mean little, unless it was trained with trainer.loss=expected or ordinal"
        )
    if spread is not None and spread < LEAST_SPREAD:
        found.append(
            "the model predicts the same rating for everything: its predictions have a standard deviation of "
            f"{spread:.4f}"
        )
    if rmse is not None and global_rmse is not None and rmse >= global_rmse:
        line = (
            f"the model is worse than predicting the global mean (RMSE {rmse:.4f} against {global_rmse:.4f}): it has "
            "learned nothing from the data"
        )
        if best_baseline is not None:
            name, best = best_baseline
            line += f"; the best baseline, {name.replace('_', ' ')}, has {best:.4f}"
        found.append(line)
    return found
