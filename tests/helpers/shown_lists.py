"""Histories for baselines, given as lists."""

from dataclasses import dataclass

import numpy as np

from mlens.data.stage import Stage
from mlens.evaluation.shown_ratings import ShownRatings


@dataclass(frozen=True)
class FixedHistories:
    """A dataset for baselines with the given history of each target."""

    stage: Stage
    histories: list[list[int]]

    def history(self, i: int) -> np.ndarray:
        return np.array(self.histories[i], dtype=np.int64)


def last_visible(stage: Stage, count: int) -> FixedHistories:
    """Return a dataset whose histories are the last `count` visible ratings of each target."""
    return FixedHistories(stage, [stage.visible_to(i)[-count:].tolist() for i in range(len(stage))])


def shown_to(table, targets, histories) -> ShownRatings:
    """Return the ratings shown to targets.

    targets: [t] indices into the table.
    histories: for each target its shown ratings, as indices into the table.
    """
    flat = [i for history in histories for i in history]
    return ShownRatings(
        np.asarray(table.movie)[targets],
        np.asarray(table.movie)[flat],
        np.asarray(table.rating)[flat].astype(np.float64),
        np.cumsum([0, *map(len, histories)]),
    )
