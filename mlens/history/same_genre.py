"""The strategy history=same_genre: the newest visible ratings of films that share a genre with the target film."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.strategy import Ranked, require_count


@dataclass(frozen=True)
class SameGenre:
    """The newest ratings of films that share a genre with the target film, then the newest others.

    A film without genres shares none.

    count: how many ratings in all.
    """

    count: int = 10

    def __post_init__(self) -> None:
        require_count(self.count)

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Ranked:
        return Ranked(partial(self._order, _genre_bits(table), table, stage))

    def _order(self, genres: np.ndarray, table: RatingTable, stage: Stage, t: int) -> np.ndarray:
        target, visible = table.movie[stage.targets[t]], table.movie[stage.visible_to(t)]
        shares = (genres[visible] & genres[target]).any(axis=1)
        newest_first = np.arange(stage.count[t])[::-1]
        return newest_first[np.argsort(~shares[newest_first], kind="stable")][: self.count]


def _genre_bits(table: RatingTable) -> np.ndarray:
    """Return the genres of each movie, a bit for each genre of the table: [movies, ceil(genres / 8)] uint8."""
    listed = [{genre.strip() for genre in text.split(",")} - {""} for text in table.movies["genres"]]
    number = {genre: i for i, genre in enumerate(sorted(set().union(*listed)))}
    bits = np.zeros((len(listed), -(-len(number) // 8)), dtype=np.uint8)
    for movie, genres in enumerate(listed):
        for genre in genres:
            byte, bit = divmod(number[genre], 8)
            bits[movie, byte] |= 1 << bit
    return bits
