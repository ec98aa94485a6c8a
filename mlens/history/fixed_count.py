"""history=fixed_count: the most recent min(count, c) visible ratings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.errors import UserError
from mlens.history.budget import Budget
from mlens.history.window import Windows, recent_windows


@dataclass(frozen=True)
class FixedCount:
    count: int = 10

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"history.count must be at least 1, not {self.count} (history=none shows no history)")

    def select(self, table: RatingTable, stage: Stage, budget: Budget, trim: str, seed: int, epoch: int) -> Windows:
        return recent_windows(stage, budget, np.minimum(stage.count, min(self.count, len(stage.visible))), trim)
