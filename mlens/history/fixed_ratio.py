"""history=fixed_ratio: the most recent k(c) visible ratings."""

from __future__ import annotations

from dataclasses import dataclass

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
        return recent_windows(stage, budget, chosen_count(self.ratio, stage.count), trim)
