"""Which ratings are training, validation and test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlens.data import draws
from mlens.data.table import RatingTable
from mlens.errors import UserError

TRAIN, VAL, TEST = 0, 1, 2
STAGES = ("train", "val", "test")
METHODS = ("temporal", "random", "user", "global_time", "leave_last")


@dataclass(frozen=True)
class Split:
    """The config node `split`.

    method: temporal (each user's last ratings), random (per user), user (whole users, cold start), global_time (one
    time cuts all users; ratings of one second stay together), leave_last (each user's last rating is test, the one
    before it validation);
    val_ratio, test_ratio: shares of the ratings (of the users with method=user); not used by leave_last;
    min_ratings: a user with fewer ratings is all training;
    eval_history: what a held-out target may see of the past: `all` (training, and validation where it is test) or
    `train`; ties: `order` (source order decides what is earlier in one second) or `strict` (a target's own second is
    hidden); max_train_targets_per_user: that many training targets a user, drawn; the rest still serve as history.
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
        if self.method not in METHODS:
            raise UserError(f"split.method must be one of {', '.join(METHODS)}, not {self.method}")
        for name in ("val_ratio", "test_ratio"):
            ratio = getattr(self, name)
            if not (math.isfinite(ratio) and 0 <= ratio < 1):
                raise UserError(f"split.{name} must be at least 0 and less than 1, not {ratio}")
        if self.val_ratio + self.test_ratio >= 1:
            total = f"{self.val_ratio} + {self.test_ratio}"
            raise UserError(f"split.val_ratio + split.test_ratio must leave training ratings: {total} is not below 1")
        if self.min_ratings < 1:
            raise UserError(f"split.min_ratings must be at least 1, not {self.min_ratings}")
        if self.eval_history not in ("all", "train"):
            raise UserError(f"split.eval_history must be all or train, not {self.eval_history}")
        if self.eval_history == "train" and self.method == "user":
            raise UserError("split.eval_history=train leaves the held-out users of split=user without any history")
        if self.ties not in ("order", "strict"):
            raise UserError(f"split.ties must be order or strict, not {self.ties}")
        if self.max_train_targets_per_user is not None and self.max_train_targets_per_user < 1:
            value = self.max_train_targets_per_user
            raise UserError(f"split.max_train_targets_per_user must be at least 1 or null, not {value}")


def held_out(ratio: float, n: int | np.ndarray) -> np.ndarray:
    """How many of n ratings a ratio holds out: 0 for ratio 0, else at least one, halves rounded up."""
    # 0.29 * 50 is a little less than 14.5 in binary, and still a half.
    counts = np.floor(ratio * np.asarray(n) + 0.5 + 1e-9).astype(np.int64)
    return np.zeros_like(counts) if ratio == 0 else np.maximum(1, counts)


def assign_roles(table: RatingTable, split: Split) -> np.ndarray:
    """[n] int8, TRAIN, VAL or TEST for each rating of the table."""
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
    """[users, 3] how many of each user's n ratings are TRAIN, VAL and TEST; test comes first where n is short."""
    one_each = split.method == "leave_last"
    n_test = np.minimum(n, 1 if one_each else held_out(split.test_ratio, n))
    n_val = np.minimum(n - n_test, 1 if one_each else held_out(split.val_ratio, n))
    counts = np.stack([n - n_val - n_test, n_val, n_test], axis=1)
    return np.where((n < split.min_ratings)[:, None], np.stack([n, 0 * n, 0 * n], axis=1), counts)


def _shuffled(roles: np.ndarray, table: RatingTable, split: Split) -> np.ndarray:
    """[n] the same roles for each user, dealt out in the order of a permutation, held out first."""
    shuffled = np.empty_like(roles)
    for u, key in enumerate(table.user_keys):
        own = slice(table.user_offsets[u], table.user_offsets[u + 1])
        order = draws.permutation(own.stop - own.start, draws.SPLIT, split.seed, key)
        shuffled[own][order] = roles[own][::-1]
    return shuffled


def _user_roles(table: RatingTable, split: Split) -> np.ndarray:
    """[users] int8: whole users are test or validation, drawn among those with enough ratings.

    Test is taken from the beginning of the drawn order and validation from its end: where the data lose or gain a user,
    at most one other user of each changes places with training.
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
    """[n] int8: two times cut the ratings of all users; ratings of one second are on one side of a cut."""
    times = np.sort(timestamp)
    val_start, test_start = _time_cuts(times, split)
    roles = np.full(len(times), TRAIN, dtype=np.int8)
    for start, role in ((val_start, VAL), (test_start, TEST)):
        if start < len(times):
            roles[timestamp >= times[start]] = role
    return roles


def _time_cuts(times: np.ndarray, split: Split) -> tuple[int, int]:
    """Where validation and test begin in `times` [n], which are sorted.

    Of all pairs of places where the time changes, the one with the fewest stages that were asked for and are empty;
    then with the smallest sum of both shares' differences from what was asked, then of test's, then with the largest
    test, then the largest validation.
    """
    n = len(times)
    n_test = int(held_out(split.test_ratio, n))
    n_val = min(int(held_out(split.val_ratio, n)), n - n_test)
    places = np.concatenate([[0], np.flatnonzero(times[1:] != times[:-1]) + 1, [n]])
    # A cut farther from what was asked than its neighbours is never better, unless these leave a stage empty.
    ends = [*places[:3].tolist(), *places[-3:].tolist()]
    best, cuts = None, (n, n)
    for test in {*ends, *_around(places, n - n_test)} if n_test else {n}:
        for val in {*ends, *_around(places, test - n_val), *_around(places, test)} if n_val else {test}:
            if val > test:
                continue
            empty = (val == 0) + (n_val > 0 and val == test) + (n_test > 0 and test == n)
            off_test, off_val = abs(n - test - n_test), abs(test - val - n_val)
            rank = (empty, off_test + off_val, off_test, test, val)
            if best is None or rank < best:
                best, cuts = rank, (val, test)
    return cuts


def _around(places: np.ndarray, wanted: int) -> list[int]:
    """The two of the ascending `places` below `wanted`, it itself where it is one, and the two above."""
    at = int(np.searchsorted(places, wanted))
    return places[max(0, at - 2) : at + 3].tolist()
