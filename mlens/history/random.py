"""The strategy history=random: a random subset of the visible ratings, in time order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from mlens.checks import require_choice
from mlens.data import draws
from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.strategy import Ranked, Thinned, chosen_count, require_ratio


@dataclass(frozen=True)
class Random:
    """A random subset of the visible ratings.

    ratio: the share of visible ratings, in (0, 1].
    draw: `per_target` (exactly k(c) ratings, drawn for each target) or `per_user` (each rating is shown to all later
        targets of the user or to none).
    redraw: `epoch` (training draws new subsets in each epoch) or `once`.
    """

    ratio: float = 0.5
    draw: str = "per_target"
    redraw: str = "epoch"

    def __post_init__(self) -> None:
        require_ratio(self.ratio)
        require_choice("history.draw", self.draw, ("per_target", "per_user"))
        require_choice("history.redraw", self.redraw, ("epoch", "once"))

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Ranked | Thinned:
        if self.redraw == "once" and stage.name == "train":
            epoch = 0
        if self.draw == "per_target":
            return Ranked(partial(self._order, table, stage, seed, epoch))
        level = np.ones(len(stage.visible))
        for user in np.unique(stage.user):
            start, stop = stage.visible_offsets[user : user + 2]
            level[start:stop] = draws.uniforms(stop - start, draws.HISTORY, seed, table.user_keys[user], epoch)
        return Thinned(level, self.ratio)

    def _order(self, table: RatingTable, stage: Stage, seed: int, epoch: int, t: int) -> np.ndarray:
        """Return the first k(c) of a random permutation of the ratings visible to target t.

        The permutation depends on seed, epoch, raw user id and raw movie id.
        """
        count = int(stage.count[t])
        user, movie = table.user_keys[stage.user[t]], table.movie_keys[table.movie[stage.targets[t]]]
        order = draws.permutation(count, draws.HISTORY, seed, user, epoch, movie)
        return order[: chosen_count(self.ratio, count)]
