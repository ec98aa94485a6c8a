"""Stages (training, validation, test): their targets, and the earlier ratings visible to each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlens.data import draws
from mlens.data.chunked import group_blocks, int_type
from mlens.data.rating_table import RatingTable
from mlens.data.split import STAGES, TRAIN, Split, tie_times
from mlens.data.split_advice import check_stages, required_roles


@dataclass(frozen=True)
class Stage:
    """The targets of one stage. The ratings visible to a target are the first `count` of its user's visible list.

    name: train, val or test.
    targets [t]: the ratings to predict, as indices into the table, ascending.
    user [t]: the user of each target.
    visible [v]: all ratings visible to targets of this stage, as indices into the table, ascending: the users' lists,
        concatenated.
    visible_offsets [users + 1] int64: the start of each user's list in `visible`.
    count [t]: c, the number of ratings visible to each target:
        visible[visible_offsets[user] : visible_offsets[user] + count].

    The long columns are int32 where the table has fewer than 2**31 ratings, else int64.
    """

    name: str
    targets: np.ndarray
    user: np.ndarray
    visible: np.ndarray
    visible_offsets: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def previous_count(self) -> np.ndarray:
        """The count of the previous target of the same user (0 for a user's first target): [t].

        Ratings from this index on are visible to target t, but not to the previous one.
        """
        first = np.zeros_like(self.count)
        same = self.user[1:] == self.user[:-1]
        first[1:][same] = self.count[:-1][same]
        return first

    def visible_to(self, t: int) -> np.ndarray:
        """Return the ratings visible to target t, as indices into the table: [c]."""
        start = self.visible_offsets[self.user[t]]
        return self.visible[start : start + self.count[t]]

    def user_blocks(self) -> Iterator[slice]:
        """Yield slices of consecutive targets: all targets of some users, with a bounded number of targets and visible
        ratings.
        """
        if len(self) == 0:
            return
        bounds = np.concatenate([[0], np.flatnonzero(self.user[1:] != self.user[:-1]) + 1, [len(self)]])
        lists = np.diff(self.visible_offsets)[self.user[bounds[:-1]]]
        for users in group_blocks(np.diff(bounds) + lists):
            yield slice(int(bounds[users.start]), int(bounds[users.stop]))

    def keep(self, chosen: np.ndarray) -> Stage:
        """Return the stage with only these targets (indices into `targets`, ascending)."""
        return Stage(
            self.name,
            self.targets[chosen],
            self.user[chosen],
            self.visible,
            self.visible_offsets,
            self.count[chosen],
        )


def make_stage(table: RatingTable, roles: np.ndarray, split: Split, name: str) -> Stage:
    """Make the stage `name` of the table under `roles` [n].

    Training ratings are visible to training targets, training and validation ratings to validation targets, all ratings
    to test targets; with split.eval_history=train, only training ratings are visible to any target.
    """
    role = STAGES.index(name)
    shown = TRAIN if split.eval_history == "train" else role
    allowed = roles <= shown
    index = int_type(len(table))
    before = np.zeros(len(table) + 1, dtype=index)
    np.cumsum(allowed, out=before[1:])
    visible_offsets = before[table.user_offsets].astype(np.int64)
    visible = np.flatnonzero(allowed).astype(index)
    targets = visible if role == TRAIN else np.flatnonzero(roles == role).astype(index)
    if role == TRAIN and split.max_train_targets_per_user is not None:
        targets = _draw_targets(table, targets, split)
    seen_until = targets if split.ties == "order" else _first_of_tie(table, split)[targets]
    user = np.asarray(table.user)[targets]
    count = before[seen_until]
    count -= visible_offsets.astype(index)[user]
    return Stage(name, targets, user, visible, visible_offsets, count)


def make_stages(
    table: RatingTable, roles: np.ndarray, split: Split, max_eval_users: int | None = None, eval_seed: int = 0
) -> dict[str, Stage]:
    """Make the stages that have targets: train and test, and val unless the split holds out nothing for it.

    max_eval_users: validation and test have at most this many users each (None: all), stratified by activity.
    eval_seed: draws these users.

    Raises UserError as `check_stages` does.
    """
    check_stages(table, roles, split)
    stages = {}
    for role in required_roles(split):
        stage = make_stage(table, roles, split, STAGES[role])
        if role != TRAIN:
            stage = sample_users(table, stage, max_eval_users, eval_seed)
        stages[stage.name] = stage
    return stages


def sample_users(table: RatingTable, stage: Stage, max_users: int | None, seed: int) -> Stage:
    """Keep the targets of `max_users` of the stage's users, drawn by `seed` (None: keep all).

    The sample is stratified by the number of ratings: users with 1, 2-3, 4-7, 8-15, … are represented in proportion, to
    within one, and all users are drawn with the same probability. Within a stratum of n users, the user of rank r in
    drawn order has the score (r + v) / n, where v in [0, 1) is drawn for the stratum; the smallest scores are taken. So
    a larger sample contains a smaller one, and when the data lose or gain a user, at most one other user is replaced.
    """
    users = np.unique(stage.user)
    if max_users is None or max_users >= len(users):
        return stage
    stratum = np.frexp(np.diff(table.user_offsets)[users])[1]
    order = np.lexsort((draws.each(draws.EVAL_USERS, seed, table.user_keys[users]), stratum))
    strata, starts, sizes = np.unique(stratum[order], return_index=True, return_counts=True)
    drawn = [draws.uniforms(1, draws.EVAL_USERS, seed, epoch=1, movie=number)[0] for number in strata]
    rank = np.arange(len(users)) - np.repeat(starts, sizes)
    score = (rank + np.repeat(drawn, sizes)) / np.repeat(sizes, sizes)
    kept = users[order[np.argsort(score, kind="stable")[:max_users]]]
    return stage.keep(np.flatnonzero(np.isin(stage.user, kept)))


def _first_of_tie(table: RatingTable, split: Split) -> np.ndarray:
    """Return the first rating of the same user in the same second or day (split.ties), for each rating: [n]."""
    first = np.arange(len(table), dtype=int_type(len(table)))
    time = tie_times(table.timestamp, split)
    same = (time[1:] == time[:-1]) & (table.user[1:] == table.user[:-1])
    first[1:][same] = 0
    return np.maximum.accumulate(first, out=first)


def _draw_targets(table: RatingTable, targets: np.ndarray, split: Split) -> np.ndarray:
    """Draw at most max_train_targets_per_user of each user's training targets; ascending."""
    most = split.max_train_targets_per_user
    starts = np.searchsorted(targets, table.user_offsets)
    kept = []
    for u, key in enumerate(table.user_keys):
        user_targets = targets[starts[u] : starts[u + 1]]
        order = draws.permutation(len(user_targets), draws.TRAIN_TARGETS, split.seed, key)
        kept.append(user_targets[np.sort(order[:most])])
    return np.concatenate(kept)
