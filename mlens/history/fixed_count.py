"""The strategy history=fixed_count: the newest min(count, c) visible ratings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.strategy import Newest, require_count


@dataclass(frozen=True)
class FixedCount:
    """The newest ratings, a fixed number of them.

    count: how many ratings.
    """

    count: int = 10

    def __post_init__(self) -> None:
        require_count(self.count)

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Newest:
        return Newest(np.minimum(stage.count, min(self.count, len(stage.visible))))
