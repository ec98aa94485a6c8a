"""history=fixed_ratio: the most recent k(c) visible ratings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.history.budget import Budget, chosen_count, require_ratio
from mlens.history.window import Windows, recent_windows


@dataclass(frozen=True)
class FixedRatio:
    ratio: float = 0.3

    def __post_init__(self) -> None:
        require_ratio(self.ratio)

    def select(self, table: RatingTable, stage: Stage, budget: Budget, trim: str, seed: int, epoch: int) -> Windows:
        k = chosen_count(self.ratio, np.arange(stage.count.max(initial=0) + 1)).astype(stage.count.dtype)
        return recent_windows(stage, budget, k[stage.count], trim)
