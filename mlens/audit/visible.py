"""The audit of what targets may see: the split, and all lists of visible ratings of every stage.

Every draw of every epoch is taken from these lists, so the result applies to all epochs. The code that made the roles
and the stages isn't used here: the rules are evaluated anew on the table's columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlens.audit.leaks import Finder
from mlens.data.chunked import group_blocks
from mlens.data.ragged import offsets
from mlens.data.rating_table import RatingTable
from mlens.data.split import STAGES, TEST, TRAIN, VAL, Split
from mlens.data.stage import Stage

# Splits in which a user's ratings are training, validation and test ratings in time order.
IN_ORDER = ("temporal", "leave_last")
# The kind of leak under each split.ties that hides ratings, and the seconds within which it hides them.
TIES = {"strict": ("same_second", 1), "day": ("same_day", 24 * 60 * 60)}


def audit_split(finder: Finder, roles: np.ndarray, split: Split) -> None:
    """Find leaks in `roles` [n] of the kinds `table`, `cold_start` and `split_order` of KINDS."""
    sizes = np.diff(finder.table.user_offsets)
    ranges = _TimeRanges(finder.table, roles, sizes >= split.min_ratings)
    for users in group_blocks(sizes):
        _audit_roles(finder, roles, split, users)
        if split.method == "global_time":
            ranges.update(users)
    ranges.report(finder)


def _audit_roles(finder: Finder, roles: np.ndarray, split: Split, users: slice) -> None:
    table = finder.table
    rows, owner = _rows(table, users)
    time, role, first = np.asarray(table.timestamp[rows]), roles[rows], rows.start
    same = owner[1:] == owner[:-1]
    wrong = (table.user[rows] != owner) | (role < TRAIN) | (role > TEST)
    wrong[1:] |= same & (time[1:] < time[:-1])
    finder.add("table", wrong, lambda i: f"the rating {finder.rating(first + i)}")
    if split.method == "user":
        # One for each user: the last index before its first rating of another role.
        change = np.flatnonzero(same & (role[1:] != role[:-1]))
        change = change[np.unique(owner[change], return_index=True)[1]]
        each = np.ones(len(change), dtype=bool)
        finder.add("cold_start", each, lambda i: _both(finder, roles, first + int(change[i])))
    if split.method in IN_ORDER:
        descends = same & (role[1:] < role[:-1])
        finder.add("split_order", descends, lambda i: _both(finder, roles, first + i))


def _rows(table: RatingTable, users: slice) -> tuple[slice, np.ndarray]:
    """Return the slice of these users' ratings, and the user of each rating."""
    offsets = table.user_offsets[users.start : users.stop + 1]
    return slice(int(offsets[0]), int(offsets[-1])), np.repeat(np.arange(users.start, users.stop), np.diff(offsets))


def _both(finder: Finder, roles: np.ndarray, rating: int) -> str:
    """Describe a rating of the table and the next one."""
    one, other = (f"{STAGES[roles[i]]} rating {finder.rating(i)}" for i in (rating, rating + 1))
    return f"the {one} precedes the {other}"


class _TimeRanges:
    """The first and the last rating in time of each role, over the users that split=global_time cuts.

    cut: [users] bool, whether the user's ratings are cut.
    """

    def __init__(self, table: RatingTable, roles: np.ndarray, cut: np.ndarray) -> None:
        self.table, self.roles, self.cut = table, roles, cut
        self.first: dict[int, tuple[int, int]] = {}
        self.last: dict[int, tuple[int, int]] = {}

    def update(self, users: slice) -> None:
        """Include the ratings of these users."""
        rows, owner = _rows(self.table, users)
        time, cut = np.asarray(self.table.timestamp[rows]), self.cut[owner]
        for role in (TRAIN, VAL, TEST):
            at = np.flatnonzero(cut & (self.roles[rows] == role))
            if len(at):
                low, high = at[np.argmin(time[at])], at[np.argmax(time[at])]
                first, last = ((int(time[i]), rows.start + int(i)) for i in (low, high))
                self.first[role] = min(self.first.get(role, first), first)
                self.last[role] = max(self.last.get(role, last), last)

    def report(self, finder: Finder) -> None:
        """Add the ratings that are not before all those of a later role to `finder`."""
        for early, late in ((TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)):
            if early in self.last and late in self.first and self.last[early][0] >= self.first[late][0]:
                (since, held_out), (_, other) = self.first[late], self.last[early]
                names = [f"{STAGES[self.roles[i]]} rating {finder.rating(i)}" for i in (held_out, other)]
                cut = np.repeat(self.cut, np.diff(self.table.user_offsets))
                after = cut & (self.roles == early) & (np.asarray(self.table.timestamp) >= since)
                finder.add("split_order", after, lambda _: "the {} isn't after the {}".format(*names))  # noqa: B023


def audit_visible(finder: Finder, stage: Stage, roles: np.ndarray, split: Split) -> int:
    """Find leaks of the kinds from `plan` to `held_out_in_evaluation` in KINDS among the targets of `stage`.

    Returns the number of checked pairs of a target and a rating that it may see.
    """
    if not _is_well_formed(finder, stage):
        return 0
    offsets, lists = finder.table.user_offsets, stage.visible_offsets
    for users in group_blocks(np.diff(offsets) + np.diff(lists)):
        _audit_users(finder, stage, roles, split, users)
    return int(stage.count.sum(dtype=np.int64))


def _is_well_formed(finder: Finder, stage: Stage) -> bool:
    """Whether the columns of `stage` are lists of users, and targets in order."""
    n, targets, lists = len(finder.table), stage.targets, stage.visible_offsets
    columns = len(stage.user) == len(stage.count) == len(targets)
    borders = len(lists) == len(finder.table.users) + 1 and lists[0] == 0 and lists[-1] == len(stage.visible)
    if not columns or not borders or (lists[1:] < lists[:-1]).any():
        finder.add("plan", np.ones(1, dtype=bool), lambda _: f"the lists of what {stage.name} targets may see")
        return False
    wrong = (targets < 0) | (targets >= n)
    wrong[1:] |= targets[1:] <= targets[:-1]
    finder.add("plan", wrong, lambda i: finder.target(stage.name, targets[i]))
    return not wrong.any()


@dataclass(frozen=True)
class _Lists:
    """The lists of some users' visible ratings, concatenated.

    rows: [p] the ratings, as indices into these users' ratings (another user's rating as the list owner's first).
    foreign: [p] bool, whether the rating is another user's.
    role: [p] role of each rating, TRAIN if it is foreign.
    newest: [p] running maximum of `rows` in each list.
    index: [rows] position of each rating in the lists, -1 if it is in none.
    """

    rows: np.ndarray
    foreign: np.ndarray
    role: np.ndarray
    newest: np.ndarray
    index: np.ndarray


def _lists(table: RatingTable, stage: Stage, roles: np.ndarray, users: slice) -> _Lists:
    """Return the lists of these users' visible ratings."""
    offsets, lists = table.user_offsets, stage.visible_offsets
    first_row, last_row = int(offsets[users.start]), int(offsets[users.stop])
    lengths = np.diff(lists[users.start : users.stop + 1])
    seen = stage.visible[lists[users.start] : lists[users.stop]]
    first, stop = (np.repeat(offsets[at], lengths) for at in (users, slice(users.start + 1, users.stop + 1)))
    foreign = (seen < first) | (seen >= stop)
    rows = np.minimum(np.where(foreign, first, seen), max(first_row, last_row - 1)) - first_row
    # Users are in order, so the running maximum over all lists is that of each list.
    newest = np.maximum.accumulate(rows)
    index = np.full(last_row - first_row, -1)
    native = np.flatnonzero(~foreign)[::-1]
    index[rows[native]] = native
    role = np.where(foreign, np.int8(TRAIN), roles[first_row:last_row][rows])
    return _Lists(rows, foreign, role, newest, index)


def _hidden(role: np.ndarray, stage: str, split: Split) -> dict[str, np.ndarray]:
    """Return by kind [p] bool: which ratings of these roles [p] a stage must not show."""
    held_out = role != TRAIN
    if stage == "train":
        return {"held_out_in_training": held_out}
    test = role == TEST if stage == "val" else np.zeros(len(role), dtype=bool)
    only_training = held_out & (split.eval_history == "train")
    return {"test_in_validation": test, "held_out_in_evaluation": only_training & ~test}


def _audit_users(finder: Finder, stage: Stage, roles: np.ndarray, split: Split, users: slice) -> None:
    table, lists = finder.table, stage.visible_offsets
    rows, owner = _rows(table, users)
    ends = np.searchsorted(stage.targets, np.array([rows.start, rows.stop], dtype=stage.targets.dtype))
    t = slice(int(ends[0]), int(ends[1]))
    if t.start == t.stop:
        return
    role = STAGES.index(stage.name)
    visible = _lists(table, stage, roles, users)
    targets, first_index = stage.targets[t], int(lists[users.start])
    local = targets - rows.start
    user = owner[local]
    count, same_user = stage.count[t].astype(np.int64), stage.user[t] == user
    valid = same_user & (count >= 0) & (count <= np.diff(lists)[user])
    begin = lists[user] - first_index
    # Nothing else can be checked for the others.
    end = begin + np.where(valid, count, 0)

    def target(i: int) -> str:
        return finder.target(stage.name, targets[i])

    def sees(i: int, index: int) -> str:
        return finder.sees(stage.name, targets[i], roles, stage.visible[first_index + index])

    def sees_first(marked: np.ndarray) -> Callable[[int], str]:
        return lambda i: sees(i, int(begin[i] + np.argmax(marked[begin[i] : end[i]])))

    finder.add("other_stage", roles[targets] != role, lambda i: f"{target(i)} is a {STAGES[roles[targets[i]]]} rating")
    finder.add("another_user", ~same_user, lambda i: f"{target(i)} sees the list of another user")
    finder.add(
        "plan",
        same_user & ~valid,
        lambda i: f"{target(i)} sees {count[i]} ratings of {np.diff(lists)[user[i]]} that its stage shows",
    )
    finder.add("another_user", _any(visible.foreign, begin, end), sees_first(visible.foreign))
    for kind, hidden in _hidden(visible.role, stage.name, split).items():
        finder.add(kind, _any(hidden, begin, end), sees_first(hidden))
    some = end > begin
    newest = np.where(some, visible.newest[np.maximum(end, 1) - 1] if len(visible.newest) else 0, -1)
    index = visible.index[local]
    itself = (index >= begin) & (index < end)
    finder.add("itself", itself, lambda i: sees(i, int(index[i])))

    def newest_seen(i: int) -> str:
        return sees(i, int(begin[i] + np.argmax(visible.rows[begin[i] : end[i]])))

    finder.add("later", newest > local, newest_seen)
    if split.ties in TIES:
        kind, seconds = TIES[split.ties]
        time = np.asarray(table.timestamp[rows]) // seconds
        tied = some & (newest < local) & (time[np.maximum(newest, 0)] == time[local])
        finder.add(kind, tied, newest_seen)


def _any(marked: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return [t] bool: whether any of marked[begin:end] is true."""
    if not marked.any():
        return np.zeros(len(begin), dtype=bool)
    before = offsets(marked)
    return before[end] > before[begin]
