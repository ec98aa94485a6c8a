"""The interface of history strategies: the wishes that they return, and shared checks of their parameters.

A strategy doesn't deal with tokens, budgets, rows or prefix sharing: mlens/history/fit.py fits its wish to the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.errors import UserError

# reasons(t, indices): for each of these ratings of the list visible to target t (of those wanted), why it is wanted, as
# a few words for a person: its similarity, weight or stratum. Called by `mlens show` alone.
Reasons = Callable[[int, np.ndarray], Sequence[str]]


@dataclass(frozen=True)
class Newest:
    """A window of the newest ratings.

    count [t]: how many of its c visible ratings to show for each target, 0 to c.
    reasons: see `Reasons`; None: the strategy gives none.
    """

    count: np.ndarray
    reasons: Reasons | None = None


@dataclass(frozen=True)
class Ranked:
    """Ratings by rank.

    order(t): distinct indices into the list visible to target t (0 to c - 1, 0 the oldest), best first. It is called
        whenever a history is needed, in any process: it must be deterministic and picklable (a method or a
        `functools.partial` of one is, a nested function isn't).
    reasons: see `Reasons`; None: the strategy gives none.
    """

    order: Callable[[int], Sequence[int] | np.ndarray]
    reasons: Reasons | None = None


@dataclass(frozen=True)
class Thinned:
    """One growing history per user: for each target, its visible ratings whose level is below `keep`.

    level [v]: a number for each rating of `Stage.visible`.
    keep: the threshold, above 0.
    reasons: see `Reasons`; None: the strategy gives none.
    """

    level: np.ndarray
    keep: float
    reasons: Reasons | None = None


Wish = Newest | Ranked | Thinned

# The values of `redraw`, of strategies that draw.
REDRAWS = ("epoch", "once")


class Strategy(Protocol):
    """A history strategy: a frozen dataclass of its parameters.

    One that draws at random also has a field `redraw`, one of REDRAWS: see `redraw_of`.
    """

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Wish:
        """Return the ratings to show for the targets of `stage`, before they are fitted to the budget.

        Whatever the wish's order, a history is shown in time order.

        table: the ratings that `stage` refers to.
        stage: the targets, and the ratings visible to each.
        seed: of random draws (in validation and test: evaluation.seed).
        epoch: the second part of the seed (in validation and test: the index of the draw).
        """


@runtime_checkable
class FittedStrategy(Strategy, Protocol):
    """A strategy with what it was fitted with.

    unfitted: the strategy that was fitted.
    """

    @property
    def unfitted(self) -> FittableStrategy: ...

    def save(self, folder: Path) -> None:
        """Write what was fitted into the folder of an exported model."""


@runtime_checkable
class FittableStrategy(Protocol):
    """A strategy that is fitted before it is used: a frozen dataclass of its parameters."""

    def fit(self, table: RatingTable, trained: np.ndarray) -> FittedStrategy:
        """Fit the strategy for targets of `table` on its ratings where `trained` [n] bool, and on no others.

        The history of a training target must not depend on the target's own rating; the leak audit checks that it
        doesn't depend by the fit on any rating of the target's user.
        """

    def load(self, folder: Path, table: RatingTable) -> FittedStrategy:
        """Load what `FittedStrategy.save` wrote, for targets of another table.

        Movies and users are known by their raw ids. Raises UserError where the folder's files can't be used.
        """


def fit_strategy(strategy: Strategy | FittableStrategy, table: RatingTable, trained: np.ndarray) -> Strategy:
    """Fit the strategy if it is fittable, else return it.

    trained: [n] bool, which ratings of `table` are training ratings
    """
    return strategy.fit(table, trained) if isinstance(strategy, FittableStrategy) else strategy


def load_strategy(strategy: Strategy | FittableStrategy, folder: Path, table: RatingTable) -> Strategy:
    """Load what the strategy was fitted with if it is fittable, else return it.

    folder: of the exported model
    table: of the targets

    Raises UserError where the folder's files can't be used.
    """
    return strategy.load(folder, table) if isinstance(strategy, FittableStrategy) else strategy


def chosen_count(ratio: float, count: np.ndarray | int) -> np.ndarray:
    """Return k(c), how many of c ratings a ratio selects: 0 if c = 0, else max(1, floor(ratio·c + 1e-9))."""
    k = np.floor(ratio * np.asarray(count) + 1e-9).astype(np.int64)
    return np.where(np.asarray(count) > 0, np.maximum(1, k), 0)


def redraw_of(strategy: Strategy | FittableStrategy) -> str | None:
    """Return when training draws histories, `epoch` (anew in each) or `once`; None for a strategy without draws."""
    return getattr(strategy, "redraw", None)


def draw_epoch(redraw: str, stage: Stage, epoch: int) -> int:
    """Return the epoch that keys a draw: 0 in all epochs of training for `once`, else the epoch itself."""
    return 0 if redraw == "once" and stage.name == "train" else epoch


def require_ratio(ratio: float) -> None:
    """Raise UserError unless 0 < ratio <= 1 (also for nan)."""
    if not 0 < ratio <= 1:
        raise UserError(f"history.ratio must be above 0 and at most 1, not {ratio} (history=none shows no history)")


def require_count(count: int, name: str = "count") -> None:
    """Raise UserError unless count >= 1; name: of the parameter."""
    if count < 1:
        raise UserError(f"history.{name} must be at least 1, not {count} (history=none shows no history)")
