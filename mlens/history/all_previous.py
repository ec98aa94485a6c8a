"""history=all_previous: all c visible ratings."""

from __future__ import annotations

from dataclasses import dataclass

from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.history.budget import Budget
from mlens.history.window import Windows, recent_windows


@dataclass(frozen=True)
class AllPrevious:
    def select(self, table: RatingTable, stage: Stage, budget: Budget, trim: str, seed: int, epoch: int) -> Windows:
        return recent_windows(stage, budget, stage.count, trim)
