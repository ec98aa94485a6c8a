"""The errors of runs, summed over the targets of each user: all that the statistics of arms need of the predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlens.evaluation.metrics import ordered_shares

# The function from a metric's weighted mean over users to the metric.
METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rmse": np.sqrt,
    "mae": np.asarray,
    "level": np.sqrt,
    "taste": np.sqrt,
    "auc": np.asarray,
}


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of all runs, summed over each user's targets. Hashed by identity: resamples are cached for each object.

    A draw is one draw of histories of one run. A metric is computed from its weighted mean: the sum of `sums` over
    users, divided by the sum of `weights`.

    sums: by metric, [draws, users] sums over each user's targets: squared or absolute errors, in stars (squared), or
        the share of correctly ordered pairs.
    weights: by metric, [users] number of the user's targets (0: all are in another part), or 1 for a user with a pair
        to order and 0 for others.
    arm: [runs] index of each run's arm, from 0.
    run: [draws] index of each draw's run, from 0 (None: each run has one draw).
    """

    sums: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    arm: np.ndarray
    run: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if metrics or shapes don't match, an arm has no run, a run has no draw, a sum isn't finite,
        or fewer than two users have a positive weight."""
        if not self.sums or self.sums.keys() != self.weights.keys() or not self.sums.keys() <= METRICS.keys():
            raise ValueError(f"sums and weights are of some of {', '.join(METRICS)}: {[*self.sums]}, {[*self.weights]}")
        shape = (len(self.arm if self.run is None else self.run), self.users)
        for metric, sums in self.sums.items():
            weights = self.weights[metric]
            if sums.shape != shape or weights.shape != shape[1:]:
                raise ValueError(f"{shape[0]} draws, {shape[1]} users: {metric} {sums.shape}, {weights.shape}")
            if (weights > 0).sum() < 2 or weights.min() < 0:
                raise ValueError(f"two users with targets at least: {len(weights)} users")
            if not np.isfinite(sums).all():
                raise ValueError(f"an error isn't finite: {metric}")
        if not len(self.arm) or set(self.arm.tolist()) != set(range(self.arms)):
            raise ValueError(f"arms are 0, 1, .. and each has a run: {self.arm.tolist()}")
        if self.run is not None and set(self.run.tolist()) != set(range(len(self.arm))):
            raise ValueError(f"runs are 0, 1, .. and each has a draw: {self.run.tolist()}")

    @property
    def users(self) -> int:
        """The number of users."""
        return len(next(iter(self.weights.values())))

    @property
    def arms(self) -> int:
        """The number of arms."""
        return int(self.arm.max()) + 1

    @property
    def seeds(self) -> np.ndarray:
        """[arms] the number of runs of each arm."""
        return np.bincount(self.arm)

    def over_draws(self, values: np.ndarray) -> np.ndarray:
        """Average values [.., draws, n] over the draws of each run: [.., runs, n]."""
        if self.run is None:
            return values
        runs = range(len(self.arm))
        return np.stack([values[..., self.run == run, :].mean(axis=-2) for run in runs], axis=-2)

    def over_runs(self, values: np.ndarray) -> np.ndarray:
        """Average values [.., runs, n] over the runs of each arm: [.., arms, n]."""
        return np.stack([values[..., self.arm == arm, :].mean(axis=-2) for arm in range(self.arms)], axis=-2)


def sum_errors(
    predicted: np.ndarray,
    rating: np.ndarray,
    user: np.ndarray,
    arm: Sequence[int] | np.ndarray,
    run: np.ndarray | None = None,
) -> Errors:
    """Sum the errors of predictions over users, for all metrics. The order of targets doesn't matter; users are ordered
    by id. AUC is left out if fewer than two users have targets to order.

    predicted: [draws, targets] predicted ratings, in stars.
    rating: [targets] true ratings, in stars.
    user: [targets] ids of users.
    arm: [runs] index of each run's arm, from 0.
    run: [draws] index of each draw's run, from 0 (None: each run has one draw).

    Raises ValueError as Errors does, and if lengths differ.
    """
    draws = len(arm) if run is None else len(run)
    if predicted.shape != (draws, len(rating)) or len(user) != len(rating):
        raise ValueError(f"{draws} draws, {len(rating)} ratings, {len(user)} users: predicted {predicted.shape}")
    _, index, counts = np.unique(user, return_inverse=True, return_counts=True)
    sums = {metric: np.empty((draws, len(counts))) for metric in METRICS}
    for draw, row in enumerate(predicted):
        error = row - rating
        mean = np.bincount(index, error) / counts
        sums["rmse"][draw] = np.bincount(index, error**2)
        sums["mae"][draw] = np.bincount(index, np.abs(error))
        sums["level"][draw] = counts * mean**2
        sums["taste"][draw] = np.bincount(index, (error - mean[index]) ** 2)
        sums["auc"][draw] = ordered_shares(row, rating, index)
    shares = sums.pop("auc")
    weights = dict.fromkeys(sums, counts)
    ordered = ~np.isnan(shares).all(axis=0)
    if ordered.sum() > 1:
        sums["auc"], weights["auc"] = np.where(ordered, shares, 0), np.where(ordered, 1, 0)
    return Errors(sums, weights, np.asarray(arm), run)
