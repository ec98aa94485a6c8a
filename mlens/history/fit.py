"""Wishes -> histories. Only this module knows prices, budgets, trims, and which targets share a prefix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn, Protocol

import numpy as np

from mlens.data.blocks import by_blocks
from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.errors import UserError
from mlens.history.budget import Budget
from mlens.history.strategy import Newest, Ranked, Strategy, Thinned

# How many of a user's next targets are looked at at once for the next one whose prompt is full.
LOOK = 32
# A number of 53 bits that isn't 0 is below at most 54 of 1, 1/2, 1/4, …
MOST_LEVEL = 127


class Histories(Protocol):
    """The history of every target of a stage; the same answer in any process and any order of calls.

    drawn: whether a history is made anew each time it is asked for, which takes longer.
    trim_rule: how a history that doesn't fit is cut, as a sentence.
    """

    @property
    def drawn(self) -> bool: ...
    @property
    def trim_rule(self) -> str: ...

    def wanted(self, t: int) -> np.ndarray:
        """[w] what the strategy wants to show: places in the list visible to target t, ascending."""

    def shown(self, t: int) -> np.ndarray:
        """[h] what of `wanted` fits the budget, ascending (so in time order)."""

    def section_lengths(self, targets: np.ndarray) -> np.ndarray:
        """[n] tokens of each target's history section."""

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        """[n] int64: targets with equal numbers are one user's and have histories that are beginnings of one another,
        so they share one prefix. -1 shares with none."""


def fit(
    strategy: Strategy,
    table: RatingTable,
    stage: Stage,
    budget: Budget,
    trim: str,
    seed: int,
    epoch: int,
    separate: bool = False,
) -> Histories:
    """Cut what `strategy` wants for the targets of `stage` to `budget`, by the rules of each wish.

    trim: prompt.trim.
    seed, epoch: names of the random draw.
    separate: no history depends on the other targets: they don't follow one another in time, as the movies of a list
    that are to be predicted. Equal histories share their prefix.

    Raises UserError where the strategy wants what a target may not see.
    """
    wish = strategy.wish(table, stage, seed, epoch)
    histories: Histories
    if isinstance(wish, Newest):
        wanted_start = _window_starts(strategy, table, stage, wish)
        histories = _fit_newest(stage, budget, wanted_start, trim, separate)
    elif isinstance(wish, Ranked):
        histories = RankedHistories(strategy, table, stage, budget, wish.order)
    elif isinstance(wish, Thinned):
        if np.shape(wish.level) != stage.visible.shape or np.isnan(wish.level).any() or not 0 < wish.keep < math.inf:
            ratings = f"each of the {len(stage.visible)} visible ratings"
            _refuse_all(strategy, stage, f"it must give {ratings} a number as its level, and a keep above 0")
        histories = _fit_thinned(stage, budget, wish, separate)
    else:
        kinds = "Newest, Ranked or Thinned (mlens/history/strategy.py)"
        raise UserError(f"the history strategy {type(strategy).__name__} must return {kinds}, not {wish!r}")
    return _separate(stage, histories) if separate else histories


def _refuse_all(strategy: Strategy, stage: Stage, what: str) -> NoReturn:
    raise UserError(f"the history strategy {type(strategy).__name__} is wrong about the {stage.name} stage: {what}")


def _refuse(strategy: Strategy, table: RatingTable, stage: Stage, t: int, what: str) -> NoReturn:
    target = f"the {stage.name} target {table.named(stage.targets[t])}"
    raise UserError(f"the history strategy {type(strategy).__name__} is wrong about {target}: {what}")


# Newest


@dataclass(frozen=True)
class NewestHistories:
    """Each target t is shown places start[t] : stage.count[t]; the strategy wants wanted_start[t] : stage.count[t]."""

    stage: Stage
    budget: Budget
    wanted_start: np.ndarray
    start: np.ndarray
    trim_rule: str
    drawn: ClassVar[bool] = False

    def wanted(self, t: int) -> np.ndarray:
        return np.arange(self.wanted_start[t], self.stage.count[t])

    def shown(self, t: int) -> np.ndarray:
        return np.arange(self.start[t], self.stage.count[t])

    def section_lengths(self, targets: np.ndarray) -> np.ndarray:
        def lengths(targets: np.ndarray) -> np.ndarray:
            base = self.stage.visible_offsets[self.stage.user[targets]]
            return self.budget.section(base, self.start[targets], self.stage.count[targets])

        return by_blocks(lengths, targets)

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        """Named by the place of the first shown rating in `Stage.visible`; an empty history shares with none."""

        def groups(targets: np.ndarray) -> np.ndarray:
            start = self.start[targets]
            first = self.stage.visible_offsets[self.stage.user[targets]] + start
            return np.where(start < self.stage.count[targets], first, -1)

        return by_blocks(groups, targets)


def _window_starts(strategy: Strategy, table: RatingTable, stage: Stage, wish: Newest) -> np.ndarray:
    """[t] where the window of each target would start without a budget."""
    if np.shape(wish.count) != stage.count.shape:
        _refuse_all(strategy, stage, f"it must give each of the {len(stage)} targets a count")
    wrong = (wish.count < 0) | (wish.count > stage.count)
    if wrong.any():
        t = int(np.argmax(wrong))
        _refuse(strategy, table, stage, t, f"it wants the newest {wish.count[t]} of {stage.count[t]} visible ratings")
    return stage.count - wish.count.astype(stage.count.dtype, copy=False)


def _fit_newest(stage: Stage, budget: Budget, wanted_start: np.ndarray, trim: str, separate: bool) -> NewestHistories:
    """Drop the oldest ratings of windows that would start at wanted_start [t] where they don't fit.

    trim=exact drops just enough for each target. trim=strided moves a user's window in strides, so that consecutive
    targets share a start: it stays while the prompt fits and else jumps to where half of the room is free again.
    """
    start = np.empty_like(wanted_start)
    for block in stage.user_blocks():
        base = stage.visible_offsets[stage.user[block]]
        full = budget.section(base, wanted_start[block], stage.count[block]) > budget.room[block]
        start[block] = wanted_start[block]
        if trim == "exact":
            t = block.start + np.flatnonzero(full)
            start[t] = budget.first_fitting(base[full], wanted_start[t], stage.count[t], budget.room[t])
        elif full.any():
            sequence = np.arange(len(base)) if separate else stage.user[block]
            np.maximum(start[block], _strides(stage, budget, wanted_start, block, sequence, full), out=start[block])
    rule = "The oldest are dropped."
    if trim == "strided":
        rule = (
            "When the window is full, its start jumps ahead until half of the room is free, and stays there for the "
            "next targets: they can share the work (prompt.trim=strided)."
        )
    return NewestHistories(stage, budget, wanted_start, start, rule)


def _strides(
    stage: Stage, budget: Budget, wanted_start: np.ndarray, block: slice, sequence: np.ndarray, full: np.ndarray
) -> np.ndarray:
    """[block] where the strided window of each of these targets starts, if it doesn't want to start later.

    sequence [block]: neighbouring targets with equal numbers follow one another; full [block]: the targets whose prompt
    would be full without any stride. All sequences are gone through at once, each from one full target to its next
    one; the targets in between start where it does.
    """
    lists, stop = stage.visible_offsets[stage.user[block]], stage.count[block]
    wanted_start, room, stride_room = wanted_start[block], budget.room[block], budget.room_beside_context[block] // 2
    stride, jumped = np.zeros_like(wanted_start), np.zeros(len(wanted_start), dtype=bool)
    # Of every sequence with a full target: the next target to look at, the end of its targets, and its list's and
    # window's start.
    t = np.flatnonzero(full)
    t = t[np.append(True, sequence[t][1:] != sequence[t][:-1])]
    last = np.searchsorted(sequence, sequence[t], side="right")
    base = lists[t]
    s = np.zeros_like(wanted_start, shape=len(t))
    while len(t):
        ahead = t[:, None] + np.arange(LOOK)
        seen = np.minimum(ahead, last[:, None] - 1)
        section = budget.section(base[:, None], np.maximum(wanted_start[seen], s[:, None]), stop[seen])
        full = (section > room[seen]) & (ahead < last[:, None])
        hit = full.any(axis=1)
        at = t[hit] + full[hit].argmax(axis=1)
        s[hit] = stride[at] = _jump(budget, base[hit], stop[at], room[at], stride_room[at])
        jumped[at] = True
        t += LOOK
        t[hit] = at + 1
        more = t < last
        t, last, base, s = t[more], last[more], base[more], s[more]
    first = np.append(True, sequence[1:] != sequence[:-1])
    jump = np.maximum.accumulate(np.where(jumped | first, np.arange(len(wanted_start)), 0))
    return stride[jump]


def _jump(budget: Budget, base: np.ndarray, stop: np.ndarray, room: np.ndarray, stride_room: np.ndarray) -> np.ndarray:
    """The smallest start whose section takes at most `stride_room`, keeping at least the newest line if it fits."""
    start = budget.first_fitting(base, np.zeros_like(stop), stop, stride_room)
    newest = np.maximum(stop - 1, 0)
    return np.where((start == stop) & (budget.section(base, newest, stop) <= room), newest, start)


# Ranked


@dataclass(frozen=True)
class RankedHistories:
    """Each target is shown the first of order(t) that fit: the least wanted are dropped. Nothing is stored for a
    target."""

    strategy: Strategy
    table: RatingTable
    stage: Stage
    budget: Budget
    order: Callable[[int], Sequence[int] | np.ndarray]
    drawn: ClassVar[bool] = True
    trim_rule: ClassVar[str] = "The least wanted are dropped: of a random history, those drawn last."

    def wanted(self, t: int) -> np.ndarray:
        return np.sort(self._order(t))

    def shown(self, t: int) -> np.ndarray:
        order = self._order(t)
        return np.sort(order[: self._fitting(t, order)[0]])

    def section_lengths(self, targets: np.ndarray) -> np.ndarray:
        return np.array([self._fitting(t, self._order(t))[1] for t in targets], dtype=np.int64)

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        return np.full(len(targets), -1, dtype=np.int64)

    def _order(self, t: int) -> np.ndarray:
        places, count = np.asarray(self.order(t), dtype=np.int64), self.stage.count[t]
        ascending = np.sort(places)
        if len(places) and (ascending[0] < 0 or ascending[-1] >= count or (ascending[1:] == ascending[:-1]).any()):
            what = f"it wants {places.tolist()}, which aren't different places from 0 to {count - 1}"
            _refuse(self.strategy, self.table, self.stage, t, what)
        return places

    def _fitting(self, t: int, order: np.ndarray) -> tuple[int, int]:
        """How many of `order` fit, and the tokens of their section."""
        ends = np.cumsum(self.budget.lines(self.stage, t)[order])
        section = self.budget.header + ends + self.budget.number_ends[1 : len(order) + 1]
        fitting = int(np.searchsorted(section, self.budget.room[t], side="right"))
        return fitting, int(section[fitting - 1]) if fitting else 0


# Thinned


@dataclass(frozen=True)
class ThinnedHistories:
    """One growing history for all targets of a user, until it is full: target t is shown the visible ratings whose
    level is below `keep` halved halvings[t] times.

    below [v] int8, in `Stage.visible`'s order: how many of keep, keep/2, keep/4, … a rating's level is below;
    halvings [t] int8; section [t]: the tokens of each target's history section.
    """

    stage: Stage
    below: np.ndarray
    halvings: np.ndarray
    section: np.ndarray
    drawn: ClassVar[bool] = False
    trim_rule: ClassVar[str] = "The share is halved until the rest fits, and stays so for this user's later targets."

    def wanted(self, t: int) -> np.ndarray:
        return self._below_halved(t, 0)

    def shown(self, t: int) -> np.ndarray:
        return self._below_halved(t, self.halvings[t])

    def section_lengths(self, targets: np.ndarray) -> np.ndarray:
        return self.section[targets]

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        return self.stage.user[targets].astype(np.int64) * (MOST_LEVEL + 1) + self.halvings[targets]

    def _below_halved(self, t: int, times: int) -> np.ndarray:
        start = self.stage.visible_offsets[self.stage.user[t]]
        return np.flatnonzero(self.below[start : start + self.stage.count[t]] > times)


def _fit_thinned(stage: Stage, budget: Budget, wish: Thinned, separate: bool) -> ThinnedHistories:
    """Halve a user's `keep` from the first target that doesn't fit onwards."""
    below = np.zeros(len(stage.visible), dtype=np.int8)
    halvings = np.zeros(len(stage), dtype=np.int8)
    section = np.zeros(len(stage), dtype=budget.line_ends.dtype)
    for block in stage.user_blocks():
        users, user = np.unique(stage.user[block], return_inverse=True)
        n = stage.visible_offsets[users + 1] - stage.visible_offsets[users]
        # The lists of these users, joined: target t of the block sees base[t] : stop[t] of them.
        ends = np.cumsum(n)
        places = np.arange(n.sum()) + np.repeat(stage.visible_offsets[users + 1] - ends, n)
        shares = below[places] = halvings_above(wish.level[places], wish.keep)
        lines = budget.line_ends[places + 1] - budget.line_ends[places]
        base = (ends - n)[user]
        stop = base + stage.count[block]
        t, times = np.arange(block.start, block.stop), 0
        sequence = np.arange(len(t)) if separate else user
        while len(t):
            halvings[t] = times
            shown = shares > times
            shown_ends, costs = (np.concatenate([[0], np.cumsum(part)]) for part in (shown, lines * shown))
            k = shown_ends[stop] - shown_ends[base]
            section[t] = np.where(k > 0, budget.header + costs[stop] - costs[base] + budget.number_ends[k], 0)
            # Of each sequence, the targets from the first that is full on.
            full = section[t] > budget.room[t]
            later = np.maximum.accumulate(np.where(full, sequence, -1)) == sequence
            t, sequence, base, stop, times = t[later], sequence[later], base[later], stop[later], times + 1
    return ThinnedHistories(stage, below, halvings, section)


def halvings_above(level: np.ndarray, keep: float) -> np.ndarray:
    """[n] int8: how many of keep, keep/2, keep/4, … each level is below, MOST_LEVEL for levels up to 0."""
    fraction, exponent = np.frexp(level)
    keep_fraction, keep_exponent = math.frexp(keep)
    above = keep_exponent - exponent + (fraction < keep_fraction)
    return np.where(level > 0, np.clip(above, 0, MOST_LEVEL), MOST_LEVEL).astype(np.int8)


# Separate targets


@dataclass(frozen=True)
class SeparateHistories:
    """The same histories; group [t]: targets with equal numbers have equal histories of one user."""

    histories: Histories
    group: np.ndarray

    @property
    def drawn(self) -> bool:
        return self.histories.drawn

    @property
    def trim_rule(self) -> str:
        return self.histories.trim_rule

    def wanted(self, t: int) -> np.ndarray:
        return self.histories.wanted(t)

    def shown(self, t: int) -> np.ndarray:
        return self.histories.shown(t)

    def section_lengths(self, targets: np.ndarray) -> np.ndarray:
        return self.histories.section_lengths(targets)

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        return self.group[targets]


def _separate(stage: Stage, histories: Histories) -> SeparateHistories:
    known: dict[tuple[int, bytes], int] = {}
    keys = ((int(user), histories.shown(t).tobytes()) for t, user in enumerate(stage.user))
    return SeparateHistories(histories, np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64))
