"""The strategy history=decay: a random subset of the visible ratings in which recent ratings are more likely."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from mlens.checks import require_choice, require_number
from mlens.data import draws
from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.strategy import REDRAWS, Ranked, draw_epoch, require_count


@dataclass(frozen=True)
class Decay:
    """Ratings drawn without replacement, weighted by exp(-age / tau).

    The age of a visible rating is the number of newer ones. A tau near 0 is fixed_count, a large one draws uniformly.

    count: how many ratings.
    tau: the decay of the weight, in ratings: at this age it is 1/e of the newest rating's.
    redraw: `epoch` (training draws new subsets in each epoch) or `once`.
    """

    count: int = 10
    tau: float = 20.0
    redraw: str = "epoch"

    def __post_init__(self) -> None:
        require_count(self.count)
        require_number("history.tau", self.tau, above=0)
        require_choice("history.redraw", self.redraw, REDRAWS)

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Ranked:
        order = partial(self._order, table, stage, seed, draw_epoch(self.redraw, stage, epoch))
        return Ranked(order, partial(self._reasons, stage))

    def _order(self, table: RatingTable, stage: Stage, seed: int, epoch: int, t: int) -> np.ndarray:
        """Return the ratings drawn for target t, in the order of the draw.

        The draw depends on seed, epoch, raw user id and raw movie id.

        Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (Information Processing Letters 2006): the
        items with the smallest E / weight, with E from the exponential distribution, are a draw without replacement.
        Here its logarithm is compared, log E + age / tau, which no age underflows. Equal keys (a tau so small that
        age / tau overflows) go to the newer rating.
        """
        count = int(stage.count[t])
        user, movie = table.user_keys[stage.user[t]], table.movie_keys[table.movie[stage.targets[t]]]
        uniform = draws.uniforms(count, draws.HISTORY, seed, user, epoch, movie) + 2.0**-54  # in (0, 1)
        with np.errstate(over="ignore"):
            keys = np.log(-np.log(uniform)) + np.arange(count) / self.tau
        age = np.argsort(keys, kind="stable")[: self.count]
        return count - 1 - age

    def _reasons(self, stage: Stage, t: int, indices: np.ndarray) -> list[str]:
        ages = stage.count[t] - 1 - indices
        return [f"age {age}, weight {np.exp(-age / self.tau):.3f}" for age in ages.tolist()]
