"""The contract of a history strategy: what it may want, and the checks of parameters that strategies share.

A strategy knows nothing of tokens, budgets, rows or sharing: mlens/history/fit.py turns its wish into histories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.errors import UserError


@dataclass(frozen=True)
class Newest:
    """A window of the newest ratings. count [t]: how many of its c visible ratings each target wants, 0 to c."""

    count: np.ndarray


@dataclass(frozen=True)
class Ranked:
    """Ratings by rank. order(t): places in the list visible to target t (0 to c - 1, 0 the oldest), the most wanted
    first, none twice. It is called when a history is needed, in any process: it must always give the same answer, and
    pickle (a method or a `functools.partial` of one does, a nested function doesn't)."""

    order: Callable[[int], Sequence[int] | np.ndarray]


@dataclass(frozen=True)
class Thinned:
    """One growing history a user. level [v]: a number for each of `Stage.visible`; every target wants those of its
    visible ratings whose level is below `keep`."""

    level: np.ndarray
    keep: float


Wish = Newest | Ranked | Thinned


class Strategy(Protocol):
    """A history strategy: a frozen dataclass of its parameters."""

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Wish:
        """Return what the targets of `stage` are to be shown as far as it fits, always in time order.

        table: the ratings that `stage` refers to.
        seed, epoch: names of the random draw (in validation and test: evaluation.seed and the number of the draw).
        """


def chosen_count(ratio: float, count: np.ndarray | int) -> np.ndarray:
    """k(c): how many of c visible ratings a ratio chooses: 0 of none, else max(1, floor(ratio·c + 1e-9))."""
    k = np.floor(ratio * np.asarray(count) + 1e-9).astype(np.int64)
    return np.where(np.asarray(count) > 0, np.maximum(1, k), 0)


def require_ratio(ratio: float) -> None:
    """Raises UserError unless 0 < ratio <= 1 (nan isn't)."""
    if not 0 < ratio <= 1:
        raise UserError(f"history.ratio must be above 0 and at most 1, not {ratio} (history=none shows no history)")


def require_count(count: int) -> None:
    """Raises UserError unless count >= 1."""
    if count < 1:
        raise UserError(f"history.count must be at least 1, not {count} (history=none shows no history)")
