"""Fits the histories that strategies want to the token budget. Only this module knows trims and prefix groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn, Protocol

import numpy as np

from mlens.data.chunked import by_blocks
from mlens.data.ragged import offsets, ranges
from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.errors import UserError
from mlens.history.budget import Budget
from mlens.history.strategy import Newest, Ranked, Strategy, Thinned

# How many of a user's next targets are searched at once for the next one whose prompt is full.
LOOKAHEAD = 32
# The number of halvings that counts as infinite. A nonzero fraction of 53 bits is below at most 54 of 1, 1/2, 1/4, …
MAX_HALVINGS = 127


class Histories(Protocol):
    """The histories of all targets of a stage. Results don't depend on the process or the order of calls.

    drawn: whether a history is recomputed on each call, which is slower.
    trim_rule: how a history that doesn't fit is cut, as a sentence.
    """

    @property
    def drawn(self) -> bool: ...
    @property
    def trim_rule(self) -> str: ...

    def wanted(self, t: int) -> np.ndarray:
        """Return the ratings that the strategy wants to show, as ascending indices into t's visible list: [w]."""

    def shown(self, t: int) -> np.ndarray:
        """Return the part of `wanted` that fits the budget, ascending (so in time order): [h]."""

    def section_lengths(self, targets: np.ndarray) -> np.ndarray:
        """Return the tokens of each target's history section: [n]."""

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        """Return each target's prefix group: [n] int64, -1 for none.

        The targets of a group are one user's, and of any two of their histories one is a prefix of the other.
        """


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
    """Fit what `strategy` wants for the targets of `stage` to `budget`, by the rule of each kind of wish.

    trim: prompt.trim.
    seed: of the random draw.
    epoch: the second part of the draw's seed.
    separate: whether each history is independent of the other targets, since these don't follow one another in time
        (as when the movies of a list are predicted). Equal histories share their prefix.

    Raises UserError where the strategy wants ratings that aren't visible to a target.
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
            _refuse_stage(strategy, stage, f"it must give {ratings} a number as its level, and a keep above 0")
        histories = _fit_thinned(stage, budget, wish, separate)
    else:
        kinds = "Newest, Ranked or Thinned (mlens/history/strategy.py)"
        raise UserError(f"the history strategy {type(strategy).__name__} must return {kinds}, not {wish!r}")
    return _group_equal_histories(stage, histories) if separate else histories


def _refuse_stage(strategy: Strategy, stage: Stage, what: str) -> NoReturn:
    raise UserError(f"the history strategy {type(strategy).__name__} is wrong about the {stage.name} stage: {what}")


def _refuse_target(strategy: Strategy, table: RatingTable, stage: Stage, t: int, what: str) -> NoReturn:
    target = f"the {stage.name} target ({table.named(stage.targets[t])})"
    raise UserError(f"the history strategy {type(strategy).__name__} is wrong about {target}: {what}")


# Newest


@dataclass(frozen=True)
class NewestHistories:
    """Windows of the newest ratings, as slices of each target's visible list.

    wanted_start [t]: the strategy wants wanted_start[t] : stage.count[t].
    start [t]: start[t] : stage.count[t] is shown.
    """

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
        """Return the index of the first shown rating in `Stage.visible`; an empty history is in no group."""

        def groups(targets: np.ndarray) -> np.ndarray:
            start = self.start[targets]
            first = self.stage.visible_offsets[self.stage.user[targets]] + start
            return np.where(start < self.stage.count[targets], first, -1)

        return by_blocks(groups, targets)


def _window_starts(strategy: Strategy, table: RatingTable, stage: Stage, wish: Newest) -> np.ndarray:
    """Return where the window of each target would start without a budget: [t]."""
    if np.shape(wish.count) != stage.count.shape:
        _refuse_stage(strategy, stage, f"it must give each of the {len(stage)} targets a count")
    wrong = (wish.count < 0) | (wish.count > stage.count)
    if wrong.any():
        t = int(np.argmax(wrong))
        what = f"it wants the newest {wish.count[t]} of {stage.count[t]} visible ratings"
        _refuse_target(strategy, table, stage, t, what)
    return stage.count - wish.count.astype(stage.count.dtype, copy=False)


def _fit_newest(stage: Stage, budget: Budget, wanted_start: np.ndarray, trim: str, separate: bool) -> NewestHistories:
    """Drop the oldest ratings of the windows that don't fit, which would start at wanted_start [t].

    trim=exact drops just enough for each target. trim=strided moves the start of a user's window in strides, so that
    consecutive targets share it: the start stays while the prompt fits, and else jumps to where half of the room is
    free again.
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
            strided = _strided_starts(stage, budget, wanted_start, block, sequence, full)
            np.maximum(start[block], strided, out=start[block])
    rule = "The oldest are dropped."
    if trim == "strided":
        rule = (
            "When the window is full, its start jumps ahead until half of the room is free, and stays there for the "
            "next targets: they can share the work (prompt.trim=strided)."
        )
    return NewestHistories(stage, budget, wanted_start, start, rule)


def _strided_starts(
    stage: Stage, budget: Budget, wanted_start: np.ndarray, block: slice, sequence: np.ndarray, full: np.ndarray
) -> np.ndarray:
    """Return the start of the strided window of each target of `block`, unless its wanted start is later: [block].

    sequence [block]: equal numbers mark runs of targets that follow one another.
    full [block]: the targets whose prompt would be full without any stride.

    All sequences are processed in parallel, each from one full target to its next; targets in between keep the start.
    """
    lists, stop = stage.visible_offsets[stage.user[block]], stage.count[block]
    wanted_start, room, stride_room = wanted_start[block], budget.room[block], budget.room_after_context[block] // 2
    stride, is_jump = np.zeros_like(wanted_start), np.zeros(len(wanted_start), dtype=bool)
    # For every sequence with a full target: the next target to inspect (t), the end of its targets (last), and the
    # start of its list (base) and of its window (s).
    t = np.flatnonzero(full)
    t = t[np.append(True, sequence[t][1:] != sequence[t][:-1])]
    last = np.searchsorted(sequence, sequence[t], side="right")
    base = lists[t]
    s = np.zeros_like(wanted_start, shape=len(t))
    while len(t):
        ahead = t[:, None] + np.arange(LOOKAHEAD)
        clipped = np.minimum(ahead, last[:, None] - 1)
        section = budget.section(base[:, None], np.maximum(wanted_start[clipped], s[:, None]), stop[clipped])
        full = (section > room[clipped]) & (ahead < last[:, None])
        hit = full.any(axis=1)
        at = t[hit] + full[hit].argmax(axis=1)
        s[hit] = stride[at] = _next_start(budget, base[hit], stop[at], room[at], stride_room[at])
        is_jump[at] = True
        t += LOOKAHEAD
        t[hit] = at + 1
        more = t < last
        t, last, base, s = t[more], last[more], base[more], s[more]
    first = np.append(True, sequence[1:] != sequence[:-1])
    jump = np.maximum.accumulate(np.where(is_jump | first, np.arange(len(wanted_start)), 0))
    return stride[jump]


def _next_start(
    budget: Budget, base: np.ndarray, stop: np.ndarray, room: np.ndarray, stride_room: np.ndarray
) -> np.ndarray:
    """Return the smallest start whose section fits in `stride_room`, keeping at least the newest line if it fits."""
    start = budget.first_fitting(base, np.zeros_like(stop), stop, stride_room)
    newest = np.maximum(stop - 1, 0)
    return np.where((start == stop) & (budget.section(base, newest, stop) <= room), newest, start)


# Ranked


@dataclass(frozen=True)
class RankedHistories:
    """The first ratings of order(t) that fit, for each target t: the lowest-ranked are dropped. Nothing is stored."""

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
        return np.sort(order[: self._fitting_count(t, order)[0]])

    def section_lengths(self, targets: np.ndarray) -> np.ndarray:
        return np.array([self._fitting_count(t, self._order(t))[1] for t in targets], dtype=np.int64)

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        return np.full(len(targets), -1, dtype=np.int64)

    def _order(self, t: int) -> np.ndarray:
        indices, count = np.asarray(self.order(t), dtype=np.int64), self.stage.count[t]
        ascending = np.sort(indices)
        if len(indices) and (ascending[0] < 0 or ascending[-1] >= count or (ascending[1:] == ascending[:-1]).any()):
            what = f"it wants {indices.tolist()}, which aren't distinct indices from 0 to {count - 1}"
            _refuse_target(self.strategy, self.table, self.stage, t, what)
        return indices

    def _fitting_count(self, t: int, order: np.ndarray) -> tuple[int, int]:
        """Return how many of `order` fit, and the tokens of their section."""
        ends = np.cumsum(self.budget.lines(self.stage, t)[order])
        section = self.budget.header + ends + self.budget.number_ends[1 : len(order) + 1]
        fitting = int(np.searchsorted(section, self.budget.room[t], side="right"))
        return fitting, int(section[fitting - 1]) if fitting else 0


# Thinned


@dataclass(frozen=True)
class ThinnedHistories:
    """One growing history for all targets of a user, until it is full.

    Target t is shown the visible ratings whose level is below `keep` halved halvings[t] times.

    below [v] int8: how many of keep, keep/2, keep/4, … the level of each rating of `Stage.visible` is below.
    halvings [t] int8: how often `keep` was halved for each target.
    section [t]: the tokens of each target's history section.
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
        return self.stage.user[targets].astype(np.int64) * (MAX_HALVINGS + 1) + self.halvings[targets]

    def _below_halved(self, t: int, times: int) -> np.ndarray:
        start = self.stage.visible_offsets[self.stage.user[t]]
        return np.flatnonzero(self.below[start : start + self.stage.count[t]] > times)


def _fit_thinned(stage: Stage, budget: Budget, wish: Thinned, separate: bool) -> ThinnedHistories:
    """Halve a user's `keep` from the first target on that doesn't fit, repeatedly."""
    below = np.zeros(len(stage.visible), dtype=np.int8)
    halvings = np.zeros(len(stage), dtype=np.int8)
    section = np.zeros(len(stage), dtype=budget.line_ends.dtype)
    for block in stage.user_blocks():
        users, user = np.unique(stage.user[block], return_inverse=True)
        n = stage.visible_offsets[users + 1] - stage.visible_offsets[users]
        # The lists of these users, concatenated: base[t] : stop[t] of them is visible to target t of the block.
        indices = ranges(stage.visible_offsets[users], n)
        shares = below[indices] = halvings_above(wish.level[indices], wish.keep)
        lines = budget.line_ends[indices + 1] - budget.line_ends[indices]
        base = offsets(n)[user]
        stop = base + stage.count[block]
        t, times = np.arange(block.start, block.stop), 0
        sequence = np.arange(len(t)) if separate else user
        while len(t):
            halvings[t] = times
            shown = shares > times
            shown_ends, costs = offsets(shown), offsets(lines * shown)
            k = shown_ends[stop] - shown_ends[base]
            section[t] = np.where(k > 0, budget.header + costs[stop] - costs[base] + budget.number_ends[k], 0)
            # The targets of each sequence from its first full one on.
            full = section[t] > budget.room[t]
            later = np.maximum.accumulate(np.where(full, sequence, -1)) == sequence
            t, sequence, base, stop, times = t[later], sequence[later], base[later], stop[later], times + 1
    return ThinnedHistories(stage, below, halvings, section)


def halvings_above(level: np.ndarray, keep: float) -> np.ndarray:
    """Return how many of keep, keep/2, keep/4, … each level is below, MAX_HALVINGS for levels up to 0: [n] int8."""
    fraction, exponent = np.frexp(level)
    keep_fraction, keep_exponent = math.frexp(keep)
    above = keep_exponent - exponent + (fraction < keep_fraction)
    return np.where(level > 0, np.clip(above, 0, MAX_HALVINGS), MAX_HALVINGS).astype(np.int8)


# Separate targets


@dataclass(frozen=True)
class SeparateHistories:
    """Histories whose prefix groups are the targets of a user with equal histories.

    histories: the histories.
    group [t]: the group of each target.
    """

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


def _group_equal_histories(stage: Stage, histories: Histories) -> SeparateHistories:
    known: dict[tuple[int, bytes], int] = {}
    keys = ((int(user), histories.shown(t).tobytes()) for t, user in enumerate(stage.user))
    return SeparateHistories(histories, np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64))
