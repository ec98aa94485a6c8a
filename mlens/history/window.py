"""Histories that are one stretch of the most recent visible ratings, and how they are cut to the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.blocks import by_blocks
from mlens.data.stage import Stage
from mlens.history.budget import Budget

# How many of a user's next targets are looked at at once for the next one whose prompt is full.
LOOK = 32


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
        def sections(targets: np.ndarray) -> np.ndarray:
            base = self.stage.visible_offsets[self.stage.user[targets]]
            return self.budget.section(base, self.start[targets], self.stage.count[targets])

        return by_blocks(sections, targets)

    def trunks(self, targets: np.ndarray) -> np.ndarray:
        """Named by the place of the first shown rating in `Stage.visible`; an empty history shares with none."""

        def trunks(targets: np.ndarray) -> np.ndarray:
            start = self.start[targets]
            first = self.stage.visible_offsets[self.stage.user[targets]] + start
            return np.where(start < self.stage.count[targets], first, -1)

        return by_blocks(trunks, targets)


def recent_windows(stage: Stage, budget: Budget, wanted: np.ndarray, trim: str) -> Windows:
    """Show the `wanted` [t] most recent visible ratings, dropping the oldest where they don't fit.

    trim=exact drops just enough for each target. trim=strided moves a user's window in strides, so that consecutive
    targets share a start: it stays while the prompt fits and else jumps to where half of the room is free again.
    """
    own = stage.count - wanted
    start = np.empty_like(own)
    for block in stage.user_blocks():
        base = stage.visible_offsets[stage.user[block]]
        full = budget.section(base, own[block], stage.count[block]) > budget.room[block]
        start[block] = own[block]
        if trim == "exact":
            t = block.start + np.flatnonzero(full)
            start[t] = budget.first_fitting(base[full], own[t], stage.count[t], budget.room[t])
        elif full.any():
            np.maximum(start[block], _strides(stage, budget, own, block, full), out=start[block])
    return Windows(stage, budget, own, start)


def _strides(stage: Stage, budget: Budget, own: np.ndarray, block: slice, full: np.ndarray) -> np.ndarray:
    """[block] where the strided window of each target of these users starts, if it doesn't want to start later.

    full [block]: the targets whose prompt would be full without any stride. All users are gone through at once, each
    from one full target to its next one; the targets in between start where it does.
    """
    user, stop = stage.user[block], stage.count[block]
    own, room, stride_room = own[block], budget.room[block], budget.room_beside_context[block] // 2
    stride, jumped = np.zeros_like(own), np.zeros(len(own), dtype=bool)
    # Of every user with a full target: the next target to look at, the end of its targets, and its list's and window's
    # start.
    t = np.flatnonzero(full)
    t = t[np.append(True, user[t][1:] != user[t][:-1])]
    last = np.searchsorted(user, user[t], side="right")
    base = stage.visible_offsets[user[t]]
    s = np.zeros_like(own, shape=len(t))
    while len(t):
        ahead = t[:, None] + np.arange(LOOK)
        seen = np.minimum(ahead, last[:, None] - 1)
        section = budget.section(base[:, None], np.maximum(own[seen], s[:, None]), stop[seen])
        full = (section > room[seen]) & (ahead < last[:, None])
        hit = full.any(axis=1)
        at = t[hit] + full[hit].argmax(axis=1)
        s[hit] = stride[at] = _jump(budget, base[hit], stop[at], room[at], stride_room[at])
        jumped[at] = True
        t += LOOK
        t[hit] = at + 1
        more = t < last
        t, last, base, s = t[more], last[more], base[more], s[more]
    first = np.append(True, user[1:] != user[:-1])
    jump = np.maximum.accumulate(np.where(jumped | first, np.arange(len(own)), 0))
    return stride[jump]


def _jump(budget: Budget, base: np.ndarray, stop: np.ndarray, room: np.ndarray, stride_room: np.ndarray) -> np.ndarray:
    """The smallest start whose section takes at most `stride_room`, keeping at least the newest line if it fits."""
    start = budget.first_fitting(base, np.zeros_like(stop), stop, stride_room)
    newest = np.maximum(stop - 1, 0)
    return np.where((start == stop) & (budget.section(base, newest, stop) <= room), newest, start)
