"""The strategy history=fixed_ratio: the newest k(c) visible ratings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.strategy import Newest, chosen_count, require_ratio


@dataclass(frozen=True)
class FixedRatio:
    """The newest ratings, a fixed share of the visible ones.

    ratio: the share, in (0, 1].
    """

    ratio: float = 0.3

    def __post_init__(self) -> None:
        require_ratio(self.ratio)

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Newest:
        k = chosen_count(self.ratio, np.arange(stage.count.max(initial=0) + 1)).astype(stage.count.dtype)
        return Newest(k[stage.count])
