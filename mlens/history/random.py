"""The strategy history=random: a random subset of the visible ratings, in time order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from mlens.checks import require_choice
from mlens.data import draws
from mlens.data.ragged import offsets, ranges
from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.strategy import REDRAWS, Ranked, Thinned, chosen_count, draw_epoch, require_ratio


@dataclass(frozen=True)
class Random:
    """A random subset of the visible ratings.

    ratio: the share of visible ratings, in (0, 1].
    draw: `per_target` (exactly k(c) ratings, drawn for each target) or `per_user` (one stratified draw for all targets
        of the user: each rating is shown to all later targets or to none).
    redraw: `epoch` (training draws new subsets in each epoch) or `once`.
    """

    ratio: float = 0.5
    draw: str = "per_user"
    redraw: str = "epoch"

    def __post_init__(self) -> None:
        require_ratio(self.ratio)
        require_choice("history.draw", self.draw, ("per_target", "per_user"))
        require_choice("history.redraw", self.redraw, REDRAWS)

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Ranked | Thinned:
        epoch = draw_epoch(self.redraw, stage, epoch)
        if self.draw == "per_target":
            return Ranked(partial(self._order, table, stage, seed, epoch))
        level = np.ones(len(stage.visible))
        for block in stage.user_blocks():
            users = np.unique(stage.user[block])
            starts, n = stage.visible_offsets[users], np.diff(stage.visible_offsets)[users]
            words = draws.items(n, draws.HISTORY, seed, table.user_keys[users], epoch)
            level[ranges(starts, n)] = self._levels(draws.as_uniforms(words), n)
        return Thinned(level, self.ratio, partial(self._reasons, stage, level))

    def _reasons(self, stage: Stage, level: np.ndarray, t: int, indices: np.ndarray) -> list[str]:
        start = stage.visible_offsets[stage.user[t]]
        stratum = np.cumsum(level[start : start + stage.count[t]] < self.ratio)
        return [f"drawn from stratum {k}" for k in stratum[indices].tolist()]

    def _order(self, table: RatingTable, stage: Stage, seed: int, epoch: int, t: int) -> np.ndarray:
        """Return the first k(c) of a random permutation of the ratings visible to target t.

        The permutation depends on seed, epoch, raw user id and raw movie id.
        """
        count = int(stage.count[t])
        user, movie = table.user_keys[stage.user[t]], table.movie_keys[table.movie[stage.targets[t]]]
        order = draws.permutation(count, draws.HISTORY, seed, user, epoch, movie)
        return order[: chosen_count(self.ratio, count)]

    def _levels(self, uniform: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Return levels of which those of drawn ratings are below the ratio, for lists of n ratings: [sum of n].

        uniform [sum of n]: a uniform number for each rating.

        A list is cut into strata of 1/ratio ratings, and one rating is drawn in each. A rating at a border belongs to
        both strata in proportion; it is never drawn twice. So of the first c ratings of a list floor(ratio·c) or
        ceil(ratio·c) are drawn, and each with probability `ratio`. (This is Deville's systematic sampling: Chauvet, "On
        a characterization of ordered pivotal sampling", Bernoulli 2012.) There is one exception, for which no history
        is empty: the first stratum's draw is its first rating, and its others are never drawn.

        The level of the k-th drawn rating of a list is ratio · 0.b₀b₁b₂…, where b₀ is the last binary digit of k (from
        0). So a ratio halved h times keeps the first drawn rating and every 2^h-th after it.
        """
        start = np.repeat(offsets(n)[:-1], n)
        index = np.arange(len(start))
        c = index - start
        # The number drawn of the first c ratings is k(c) or one more. The latter has probability p before rating c,
        # and q after it.
        k, k_after = chosen_count(self.ratio, c), chosen_count(self.ratio, c + 1)
        p, q = self.ratio * c - k, self.ratio * (c + 1) - k_after
        p, q = np.where(p > 1e-9, p, 0), np.where(q > 1e-9, q, 0)
        # One more becomes true where a stratum's rating is drawn early, and false where a stratum ends and the next one
        # doesn't draw the rating at the border. It keeps its value elsewhere.
        border = k_after > k
        changes = np.where(border, uniform * p >= q, uniform * (1 - p) < q - p)
        last_change = np.maximum.accumulate(np.where(changes, index, 0))
        more_after = ~border[last_change]
        more = np.append(False, more_after[:-1]) & (c > 0)
        drawn = k_after + more_after > k + more
        rank = np.cumsum(drawn) - 1
        rank -= rank[start]
        return np.where(drawn, self.ratio * _reversed_fraction(rank), 1.0)


def _reversed_fraction(n: np.ndarray) -> np.ndarray:
    """Return the binary fraction 0.b₀b₁b₂… of each n = …b₂b₁b₀: [n] float64 (the sequence of van der Corput)."""
    fraction = np.zeros(len(n))
    for bit in range(int(n.max(initial=0)).bit_length()):
        fraction += (n >> bit & 1) * 2.0 ** -(bit + 1)
    return fraction
