"""history=none: the target sees no earlier rating."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.history.budget import Budget
from mlens.history.window import Windows, recent_windows


@dataclass(frozen=True)
class NoHistory:
    def select(self, table: RatingTable, stage: Stage, budget: Budget, trim: str, seed: int, epoch: int) -> Windows:
        return recent_windows(stage, budget, np.zeros_like(stage.count), trim)
