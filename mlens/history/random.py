"""history=random: a random subset of the visible ratings, in time order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlens.data import draws
from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.errors import UserError
from mlens.history.budget import Budget, chosen_count, require_ratio

# A number of 53 bits that isn't 0 is below at most 54 of 1, 1/2, 1/4, …
MOST_LEVEL = 127


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
        if self.draw == "per_target":
            return PerTarget(table, stage, budget, self.ratio, seed, epoch)
        return _per_user(stage, budget, self.ratio, table.user_keys, seed, epoch)


@dataclass(frozen=True)
class PerTarget:
    """The first k(c) of a permutation of the visible ratings, named by (seed, epoch, raw user, raw movie of the
    target); where they don't fit, the end of the permutation is dropped, so what is left is still a random subset.
    Drawn when asked for: nothing is stored for a target."""

    table: RatingTable
    stage: Stage
    budget: Budget
    ratio: float
    seed: int
    epoch: int

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
        user = self.table.user_keys[self.stage.user[t]]
        movie = self.table.movie_keys[self.table.movie[self.stage.targets[t]]]
        order = draws.permutation(count, draws.HISTORY, self.seed, user, self.epoch, movie)
        order = order[: chosen_count(self.ratio, count)]
        ends = np.cumsum(self.budget.lines(self.stage, t)[order])
        section = self.budget.header + ends + self.budget.number_ends[1 : len(order) + 1]
        fitting = int(np.searchsorted(section, self.budget.room[t], side="right"))
        return np.sort(order[:fitting]), int(section[fitting - 1]) if fitting else 0


@dataclass(frozen=True)
class PerUser:
    """One growing history for all targets of a user, until it is full: each rating has a number u, and target t sees
    the visible ratings whose u is below the ratio halved halvings[t] times.

    level [v] int8, in `Stage.visible`'s order: how many of ratio, ratio/2, ratio/4, … a rating's u is below;
    halvings [t] int8; unbound, section [t]: how many ratings target t would see without a budget, and the tokens of its
    history section.
    """

    stage: Stage
    level: np.ndarray
    halvings: np.ndarray
    unbound: np.ndarray
    section: np.ndarray

    def chosen(self, t: int) -> np.ndarray:
        start = self.stage.visible_offsets[self.stage.user[t]]
        return np.flatnonzero(self.level[start : start + self.stage.count[t]] > self.halvings[t])

    def wanted(self, targets: np.ndarray) -> np.ndarray:
        return self.unbound[targets]

    def sections(self, targets: np.ndarray) -> np.ndarray:
        return self.section[targets]

    def trunks(self, targets: np.ndarray) -> np.ndarray:
        return self.stage.user[targets].astype(np.int64) * (MOST_LEVEL + 1) + self.halvings[targets]


def _per_user(stage: Stage, budget: Budget, ratio: float, user_keys: np.ndarray, seed: int, epoch: int) -> PerUser:
    """Draw u for every user with targets, and halve a user's cut from the first target that doesn't fit onwards."""
    level = np.zeros(len(stage.visible), dtype=np.int8)
    halvings = np.zeros(len(stage), dtype=np.int8)
    unbound = np.zeros_like(stage.count)
    section = np.zeros(len(stage), dtype=budget.line_ends.dtype)
    for block in stage.user_blocks():
        users, user = np.unique(stage.user[block], return_inverse=True)
        n = stage.visible_offsets[users + 1] - stage.visible_offsets[users]
        names = zip(n, user_keys[users], strict=True)
        u = np.concatenate([draws.uniforms(own, draws.HISTORY, seed, key, epoch) for own, key in names])
        # The lists of these users, joined: target t of the block sees base[t] : stop[t] of them.
        ends = np.cumsum(n)
        places = np.arange(len(u)) + np.repeat(stage.visible_offsets[users + 1] - ends, n)
        levels = level[places] = halving_levels(u, ratio)
        lines = budget.line_ends[places + 1] - budget.line_ends[places]
        base = (ends - n)[user]
        stop = base + stage.count[block]
        t, times = np.arange(block.start, block.stop), 0
        while len(t):
            shown = levels > times
            shown_ends, costs = (np.concatenate([[0], np.cumsum(part)]) for part in (shown, lines * shown))
            k = shown_ends[stop] - shown_ends[base]
            section[t] = np.where(k > 0, budget.header + costs[stop] - costs[base] + budget.number_ends[k], 0)
            if times == 0:
                unbound[t] = k
            # Of each user, the targets from the first that is full on.
            full = section[t] > budget.room[t]
            later = np.maximum.accumulate(np.where(full, user, -1)) == user
            t, user, base, stop, times = t[later], user[later], base[later], stop[later], times + 1
            halvings[t] = times
    return PerUser(stage, level, halvings, unbound, section)


def halving_levels(u: np.ndarray, ratio: float) -> np.ndarray:
    """[n] int8: how many of ratio, ratio/2, ratio/4, … each u in [0, 1) is below, MOST_LEVEL for 0."""
    fraction, exponent = np.frexp(u)
    ratio_fraction, ratio_exponent = math.frexp(ratio)
    level = ratio_exponent - exponent + (fraction < ratio_fraction)
    return np.where(u > 0, np.clip(level, 0, MOST_LEVEL), MOST_LEVEL).astype(np.int8)
