"""history=random: a random subset of the visible ratings, in time order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data import draws
from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.errors import UserError
from mlens.history.budget import Budget, chosen_count, require_ratio


@dataclass(frozen=True)
class Random:
    """ratio: the share shown; draw: `per_target` (exactly k(c) of them, drawn for each target) or `per_user` (each
    rating is shown or not to all later targets of the user); redraw: `epoch` (training draws anew each epoch) or
    `once`."""

    ratio: float = 0.5
    draw: str = "per_target"
    redraw: str = "epoch"

    def __post_init__(self) -> None:
        require_ratio(self.ratio)
        if self.draw not in ("per_target", "per_user"):
            raise UserError(f"history.draw must be per_target or per_user, not {self.draw}")
        if self.redraw not in ("epoch", "once"):
            raise UserError(f"history.redraw must be epoch or once, not {self.redraw}")

    def select(
        self, table: RatingTable, stage: Stage, budget: Budget, trim: str, seed: int, epoch: int
    ) -> PerTarget | PerUser:
        if self.redraw == "once" and stage.name == "train":
            epoch = 0
        user_key = table.user_keys[stage.user]
        if self.draw == "per_target":
            movie_key = table.movie_keys[table.movie[stage.targets]]
            return PerTarget(stage, budget, self.ratio, seed, epoch, user_key, movie_key)
        return _per_user(stage, budget, self.ratio, table.user_keys, seed, epoch)


@dataclass(frozen=True)
class PerTarget:
    """The first k(c) of a permutation of the visible ratings, named by (seed, epoch, raw user, raw movie of the
    target); where they don't fit, the end of the permutation is dropped, so what is left is still a random subset.
    Drawn when asked for: nothing is stored for a target."""

    stage: Stage
    budget: Budget
    ratio: float
    seed: int
    epoch: int
    user_key: np.ndarray
    movie_key: np.ndarray

    def chosen(self, t: int) -> np.ndarray:
        return self._draw(t)[0]

    def wanted(self, targets: np.ndarray) -> np.ndarray:
        return chosen_count(self.ratio, self.stage.count[targets])

    def sections(self, targets: np.ndarray) -> np.ndarray:
        return np.array([self._draw(t)[1] for t in targets], dtype=np.int64)

    def trunks(self, targets: np.ndarray) -> np.ndarray:
        return np.full(len(targets), -1, dtype=np.int64)

    def _draw(self, t: int) -> tuple[np.ndarray, int]:
        count = int(self.stage.count[t])
        user, movie = self.user_key[t], self.movie_key[t]
        order = draws.permutation(count, draws.HISTORY, self.seed, user, self.epoch, movie)
        order = order[: chosen_count(self.ratio, count)]
        ends = np.cumsum(self.budget.lines(self.stage, t)[order])
        section = self.budget.header + ends + self.budget.number_ends[1 : len(order) + 1]
        fitting = int(np.searchsorted(section, self.budget.room[t], side="right"))
        return np.sort(order[:fitting]), int(section[fitting - 1]) if fitting else 0


@dataclass(frozen=True)
class PerUser:
    """Target t sees the visible ratings whose number u (one a rating and epoch, in `Stage.visible`'s order) is below
    cut[t], the ratio halved halvings[t] [t] int16 times: the targets of a user with one cut share one growing
    history."""

    stage: Stage
    budget: Budget
    ratio: float
    u: np.ndarray
    halvings: np.ndarray

    @property
    def cut(self) -> np.ndarray:
        """[t] float64."""
        return np.ldexp(self.ratio, -self.halvings)

    def chosen(self, t: int) -> np.ndarray:
        return np.flatnonzero(self._numbers(t) < np.ldexp(self.ratio, -self.halvings[t]))

    def wanted(self, targets: np.ndarray) -> np.ndarray:
        return np.array([np.count_nonzero(self._numbers(t) < self.ratio) for t in targets], dtype=np.int64)

    def sections(self, targets: np.ndarray) -> np.ndarray:
        sections = np.zeros(len(targets), dtype=np.int64)
        for i, t in enumerate(targets):
            lines = self.budget.lines(self.stage, t)[self.chosen(t)]
            if len(lines):
                sections[i] = self.budget.header + lines.sum() + self.budget.number_ends[len(lines)]
        return sections

    def trunks(self, targets: np.ndarray) -> np.ndarray:
        # A float64 can't be halved 2,048 times before it is 0, and then nothing is shown.
        return self.stage.user[targets].astype(np.int64) * 2048 + self.halvings[targets]

    def _numbers(self, t: int) -> np.ndarray:
        start = self.stage.visible_offsets[self.stage.user[t]]
        return self.u[start : start + self.stage.count[t]]


def _per_user(stage: Stage, budget: Budget, ratio: float, user_keys: np.ndarray, seed: int, epoch: int) -> PerUser:
    """Draw u for every user with targets, and halve a user's cut from the first target that doesn't fit onwards."""
    u = np.ones(len(stage.visible))
    halvings = np.zeros(len(stage), dtype=np.int16)
    borders = np.flatnonzero(np.diff(stage.user)) + 1
    for first, last in zip([0, *borders], [*borders, len(stage)], strict=True):
        user = stage.user[first] if last > first else None
        if user is None:
            continue
        own = slice(stage.visible_offsets[user], stage.visible_offsets[user + 1])
        u[own] = draws.uniforms(own.stop - own.start, draws.HISTORY, seed, user_keys[user], epoch)
        _halve(stage, budget, ratio, u[own], own, slice(first, last), halvings)
    return PerUser(stage, budget, ratio, u, halvings)


def _halve(
    stage: Stage, budget: Budget, ratio: float, u: np.ndarray, own: slice, user: slice, halvings: np.ndarray
) -> None:
    lines = np.diff(budget.line_ends[own.start : own.stop + 1])
    t, last = user.start, user.stop
    while t < last:
        shown = np.flatnonzero(u < np.ldexp(ratio, -halvings[t]))
        ends = np.concatenate([[0], np.cumsum(lines[shown])])
        n = np.searchsorted(shown, stage.count[t:last])
        section = np.where(n > 0, budget.header + ends[n] + budget.number_ends[n], 0)
        full = section > budget.room[t:last]
        if not full.any():
            return
        t += int(np.argmax(full))
        halvings[t:last] += 1
