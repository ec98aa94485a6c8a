"""The split of ratings into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.checks import require_choice, require_number
from mlens.data import draws
from mlens.data.chunked import by_blocks
from mlens.data.dates import DAY
from mlens.data.rating_table import RatingTable
from mlens.errors import UserError

TRAIN, VAL, TEST = 0, 1, 2
STAGES = ("train", "val", "test")
METHODS = ("temporal", "random", "user", "global_time", "leave_last")


@dataclass(frozen=True)
class Split:
    """The config node `split`.

    method: temporal (hold out each user's last ratings), random (random ratings of each user), user (all ratings of
        random users: cold start), global_time (cut all users at one time; ratings of one second stay together), or
        leave_last (each user's last rating is test, the one before it validation).
    val_ratio: share of the ratings (of the users with method=user) held out for validation; not used by leave_last.
    test_ratio: the same for test.
    min_ratings: all ratings of a user with fewer ratings are training.
    eval_history: the earlier ratings visible to a held-out target: `all` (training, and for a test target also
        validation) or `train`.
    ties: what hides a user's ratings from one another. `order`: nothing, within a second source order is time order;
        `strict`: the same second; `day`: the same day (UTC).
    max_train_targets_per_user: draw at most that many training targets per user; the rest still serve as history.
    seed: of all draws of the split.
    """

    method: str
    val_ratio: float = 0.1
    test_ratio: float = 0.1
    min_ratings: int = 5
    eval_history: str = "all"
    ties: str = "order"
    max_train_targets_per_user: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        require_choice("split.method", self.method, METHODS)
        for name in ("val_ratio", "test_ratio"):
            ratio = getattr(self, name)
            require_number(f"split.{name}", ratio, at_least=0, below=1)
        if self.val_ratio + self.test_ratio >= 1:
            total = f"{self.val_ratio} + {self.test_ratio}"
            raise UserError(f"split.val_ratio + split.test_ratio must leave training ratings: {total} is not below 1")
        require_number("split.min_ratings", self.min_ratings, at_least=1)
        require_choice("split.eval_history", self.eval_history, ("all", "train"))
        if self.eval_history == "train" and self.method == "user":
            raise UserError("split.eval_history=train leaves the held-out users of split=user without any history")
        require_choice("split.ties", self.ties, ("order", "strict", "day"))
        require_number("split.max_train_targets_per_user", self.max_train_targets_per_user, at_least=1, null=True)


def tie_times(timestamp: np.ndarray, split: Split) -> np.ndarray:
    """Return times [n] that are equal where a user's ratings tie under split.ties: days since 1970, or seconds."""
    return by_blocks(lambda time: time // DAY, timestamp) if split.ties == "day" else timestamp


def held_out(ratio: float, n: int | np.ndarray) -> np.ndarray:
    """Return how many of n ratings a ratio holds out: 0 for ratio 0, else at least one, halves rounded up."""
    # In binary, 0.29 * 50 is slightly less than 14.5, but must count as a half.
    counts = np.floor(ratio * np.asarray(n) + 0.5 + 1e-9).astype(np.int64)
    return np.zeros_like(counts) if ratio == 0 else np.maximum(1, counts)


def assign_roles(table: RatingTable, split: Split) -> np.ndarray:
    """Assign TRAIN, VAL or TEST to each rating of the table: [n] int8."""
    n = np.diff(table.user_offsets)
    if split.method == "user":
        return np.repeat(_user_roles(table, split), n)
    if split.method == "global_time":
        roles = _time_roles(table.timestamp, split)
        roles[np.repeat(n < split.min_ratings, n)] = TRAIN
        return roles
    counts = _role_counts(split, n)
    roles = np.repeat(np.tile(np.arange(3, dtype=np.int8), len(n)), counts.ravel())
    return roles if split.method != "random" else _shuffled(roles, table, split)


def _role_counts(split: Split, n: np.ndarray) -> np.ndarray:
    """Count the TRAIN, VAL and TEST ratings of each user: [users, 3]. Test takes precedence where n is small."""
    one_each = split.method == "leave_last"
    n_test = np.minimum(n, 1 if one_each else held_out(split.test_ratio, n))
    n_val = np.minimum(n - n_test, 1 if one_each else held_out(split.val_ratio, n))
    counts = np.stack([n - n_val - n_test, n_val, n_test], axis=1)
    return np.where((n < split.min_ratings)[:, None], np.stack([n, 0 * n, 0 * n], axis=1), counts)


def _shuffled(roles: np.ndarray, table: RatingTable, split: Split) -> np.ndarray:
    """Permute each user's roles, assigning the held-out ones first: [n] int8."""
    shuffled = np.empty_like(roles)
    for u, key in enumerate(table.user_keys):
        user_rows = slice(table.user_offsets[u], table.user_offsets[u + 1])
        order = draws.permutation(user_rows.stop - user_rows.start, draws.SPLIT, split.seed, key)
        shuffled[user_rows][order] = roles[user_rows][::-1]
    return shuffled


def _user_roles(table: RatingTable, split: Split) -> np.ndarray:
    """Draw test and validation users among those with enough ratings: [users] int8.

    Test is taken from the beginning of the drawn order and validation from its end: when the data lose or gain a user,
    at most one other user of each is exchanged with training.
    """
    n_user = np.diff(table.user_offsets)
    eligible = np.flatnonzero(n_user >= split.min_ratings)
    words = draws.each(draws.SPLIT, split.seed, table.user_keys[eligible])
    drawn, n = eligible[np.argsort(words, kind="stable")], len(eligible)
    n_test = min(n, int(held_out(split.test_ratio, n)))
    n_val = min(n - n_test, int(held_out(split.val_ratio, n)))
    roles = np.full(len(n_user), TRAIN, dtype=np.int8)
    roles[drawn[:n_test]] = TEST
    roles[drawn[n - n_val :]] = VAL
    return roles


def _time_roles(timestamp: np.ndarray, split: Split) -> np.ndarray:
    """Cut the ratings of all users at two times, keeping ratings of one second together: [n] int8."""
    times = np.sort(timestamp)
    val_start, test_start = _time_cuts(times, split)
    roles = np.full(len(times), TRAIN, dtype=np.int8)
    for start, role in ((val_start, VAL), (test_start, TEST)):
        if start < len(times):
            roles[timestamp >= times[start]] = role
    return roles


def _time_cuts(times: np.ndarray, split: Split) -> tuple[int, int]:
    """Return the start indices of validation and test in the sorted `times` [n].

    Among all pairs of indices where the time changes, minimise the number of requested but empty stages; then the sum
    of both stages' deviations from the requested sizes; then test's deviation; then prefer the largest test, and then
    the largest validation.
    """
    n = len(times)
    n_test = int(held_out(split.test_ratio, n))
    n_val = min(int(held_out(split.val_ratio, n)), n - n_test)
    candidates = np.concatenate([[0], np.flatnonzero(times[1:] != times[:-1]) + 1, [n]])
    # A cut farther from the requested one than its neighbours is never better, unless these leave a stage empty.
    ends = [*candidates[:3].tolist(), *candidates[-3:].tolist()]
    best, cuts = None, (n, n)
    for test in {*ends, *_around(candidates, n - n_test)} if n_test else {n}:
        for val in {*ends, *_around(candidates, test - n_val), *_around(candidates, test)} if n_val else {test}:
            if val > test:
                continue
            empty = (val == 0) + (n_val > 0 and val == test) + (n_test > 0 and test == n)
            off_test, off_val = abs(n - test - n_test), abs(test - val - n_val)
            rank = (empty, off_test + off_val, off_test, test, val)
            if best is None or rank < best:
                best, cuts = rank, (val, test)
    return cuts


def _around(candidates: np.ndarray, index: int) -> list[int]:
    """Return the two of the ascending `candidates` below `index`, `index` itself if it is one, and the two above."""
    at = int(np.searchsorted(candidates, index))
    return candidates[max(0, at - 2) : at + 3].tolist()
