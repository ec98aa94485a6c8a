"""What a strategy decides for all targets of a stage."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.history.budget import Budget


class Selection(Protocol):
    """The chosen history of every target of a stage; the same answer in any process and any order of calls."""

    def chosen(self, t: int) -> np.ndarray:
        """[h] places in the list visible to target t, ascending (so in time order)."""

    def wanted(self, targets: np.ndarray) -> np.ndarray:
        """[n] how many ratings the strategy wanted to show before the budget cut."""

    def sections(self, targets: np.ndarray) -> np.ndarray:
        """[n] tokens of each target's history section."""

    def trunks(self, targets: np.ndarray) -> np.ndarray:
        """[n] int64: targets of one user with equal numbers have histories that are beginnings of one another, so they
        can share one trunk; different users never have equal numbers. -1 shares with none."""


class Strategy(Protocol):
    """A history strategy: a frozen dataclass of its parameters."""

    def select(self, table: RatingTable, stage: Stage, budget: Budget, trim: str, seed: int, epoch: int) -> Selection:
        """Choose for every target of `stage`, within `budget`. `trim` is prompt.trim; `seed` and `epoch` name the
        random draw (validation and test give evaluation.seed and the number of the draw)."""
