"""Histories that are one stretch of the most recent visible ratings, and how they are cut to the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.stage import Stage
from mlens.history.budget import Budget


@dataclass(frozen=True)
class Windows:
    """Each target t sees lines start[t] : stage.count[t] of its user's visible list; it wanted own[t] : count[t]."""

    stage: Stage
    budget: Budget
    own: np.ndarray
    start: np.ndarray

    def chosen(self, t: int) -> np.ndarray:
        return np.arange(self.start[t], self.stage.count[t])

    def wanted(self, targets: np.ndarray) -> np.ndarray:
        return self.stage.count[targets] - self.own[targets]

    def sections(self, targets: np.ndarray) -> np.ndarray:
        base = self.stage.visible_offsets[self.stage.user[targets]]
        return self.budget.section(base, self.start[targets], self.stage.count[targets])

    def trunks(self, targets: np.ndarray) -> np.ndarray:
        """Named by the place of the first shown rating in `Stage.visible`; an empty history shares with none."""
        start = self.start[targets]
        first = self.stage.visible_offsets[self.stage.user[targets]] + start
        return np.where(start < self.stage.count[targets], first, -1)


def recent_windows(stage: Stage, budget: Budget, wanted: np.ndarray, trim: str) -> Windows:
    """Show the `wanted` [t] most recent visible ratings, dropping the oldest where they don't fit.

    trim=exact drops just enough for each target. trim=strided moves a user's window in strides, so that consecutive
    targets share a start: it stays while the prompt fits and else jumps to where half of the room is free again.
    """
    own = stage.count - wanted
    base = stage.visible_offsets[stage.user]
    if trim == "exact":
        return Windows(stage, budget, own, budget.first_fitting(base, own, stage.count, budget.room))
    stride = np.zeros(len(stage), dtype=np.int64)
    borders = np.flatnonzero(np.diff(stage.user)) + 1
    for first, last in zip([0, *borders], [*borders, len(stage)], strict=True):
        _stride_user(stage, budget, own, base, slice(first, last), stride)
    return Windows(stage, budget, own, np.maximum(own, stride))


def _stride_user(
    stage: Stage, budget: Budget, own: np.ndarray, base: np.ndarray, user: slice, stride: np.ndarray
) -> None:
    """Fill `stride` for the targets `user` of one user, going from one overflow to the next."""
    t, last = user.start, user.stop
    while t < last:
        rest = slice(t, last)
        start = np.maximum(own[rest], stride[t])
        full = budget.section(base[rest], start, stage.count[rest]) > budget.room[rest]
        if not full.any():
            return
        t += int(np.argmax(full))
        stride[t:last] = _jump(budget, base[t], stage.count[t], budget.room[t], budget.stride_room[t])
        t += 1


def _jump(budget: Budget, base: int, count: int, room: int, stride_room: int) -> int:
    """The smallest start whose section takes at most `stride_room`, keeping at least the newest line if it fits."""
    start = budget.first_fitting(np.array([base]), np.array([0]), np.array([count]), np.array([stride_room]))[0]
    newest = max(count - 1, 0)
    if start == count and budget.section(base, newest, count) <= room:
        return newest
    return int(start)
