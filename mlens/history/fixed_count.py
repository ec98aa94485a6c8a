"""The strategy history=fixed_count: the newest min(count, c) visible ratings, or up to stride - 1 more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.checks import require_number
from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.strategy import Newest, require_count


@dataclass(frozen=True)
class FixedCount:
    """The newest ratings, a fixed number of them.

    count: how many ratings.
    stride: by how many ratings the start of a user's window moves at once. The window grows from `count` to
        count + stride - 1 ratings and then drops `stride`, so that `stride` consecutive targets share its start.
    """

    count: int = 10
    stride: int = 1

    def __post_init__(self) -> None:
        require_count(self.count)
        require_number("history.stride", self.stride, at_least=1)

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Newest:
        """Return c where c < count, else count + (c - count) % stride."""
        most = len(stage.visible)  # a larger count or stride changes nothing, and may not fit the column's type
        count, stride = min(self.count, most), min(self.stride, max(1, most))
        return Newest(np.where(stage.count < count, stage.count, count + (stage.count - count) % stride))
