"""Histories of baselines' targets, given as lists."""

from dataclasses import dataclass

import numpy as np

from mlens.data.stage import Stage
from mlens.evaluation.shown_ratings import ShownRatings


@dataclass(frozen=True)
class Listed:
    """What baselines ask of a dataset."""

    stage: Stage
    histories: list[list[int]]

    def history(self, i: int) -> np.ndarray:
        return np.array(self.histories[i], dtype=np.int64)


def last(stage: Stage, count: int) -> Listed:
    """The last `count` ratings visible to each target."""
    return Listed(stage, [stage.visible_to(i)[-count:].tolist() for i in range(len(stage))])


def shown_to(table, targets, histories) -> ShownRatings:
    """targets [t]; histories: for each of them, its ratings shown. Indices into the table."""
    flat = [i for history in histories for i in history]
    return ShownRatings(
        np.asarray(table.movie)[targets],
        np.asarray(table.movie)[flat],
        np.asarray(table.rating)[flat].astype(np.float64),
        np.cumsum([0, *map(len, histories)]),
    )
