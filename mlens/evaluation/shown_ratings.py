"""Input of the baselines: the movie of each target and the ratings shown for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlens.data.chunked import group_blocks
from mlens.data.ragged import offsets, ranges
from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.packing.dataset import RatingDataset

# Takes a slice of t targets and returns the ratings shown for them:
# index [s]: rows of the table, concatenated over targets, each target's in time order.
# offsets [t + 1] int64: target i is shown index[offsets[i] : offsets[i + 1]].
HistoryReader = Callable[[slice], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ShownRatings:
    """t targets and the s ratings shown for them; the targets' true ratings are not included.

    target_movie: [t] movie of each target.
    movie: [s] movies of the ratings shown, concatenated over targets, each target's in time order.
    rating: [s] float64, the ratings shown, in the same order.
    offsets: [t + 1] int64; target i is shown the ratings offsets[i]:offsets[i + 1].
    """

    target_movie: np.ndarray
    movie: np.ndarray
    rating: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.target_movie)

    @cached_property
    def count(self) -> np.ndarray:
        """[t] number of ratings shown for each target."""
        return np.diff(self.offsets)

    @cached_property
    def age(self) -> np.ndarray:
        """[s] number of later ratings shown for the same target."""
        return np.repeat(self.offsets[1:], self.count) - 1 - np.arange(len(self.movie))

    def sums(self, of_rating: np.ndarray) -> np.ndarray:
        """Sum the values [s] over the ratings shown for each target: [t] float64, 0 for a target without ratings."""
        total = np.zeros(len(self))
        some = self.count > 0
        if some.any():
            total[some] = np.add.reduceat(of_rating, self.offsets[:-1][some], dtype=np.float64)
        return total


def full_history(stage: Stage) -> HistoryReader:
    """Show each target of `stage` all of its visible ratings."""

    def of(block: slice) -> tuple[np.ndarray, np.ndarray]:
        count = stage.count[block]
        return stage.visible[ranges(stage.visible_offsets[stage.user[block]], count)], offsets(count)

    return of


def strategy_history(dataset: RatingDataset) -> HistoryReader:
    """Show each target the ratings that the dataset's strategy chose for it and the budget left."""

    def of(block: slice) -> tuple[np.ndarray, np.ndarray]:
        chosen = [dataset.history(i) for i in range(block.start, block.stop)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *chosen]), offsets([len(own) for own in chosen])

    return of


def shown_blocks(table: RatingTable, stage: Stage, histories: HistoryReader) -> Iterator[ShownRatings]:
    """Yield all targets of `stage` in order, in blocks with a bounded number of visible ratings.

    The visible ratings of all targets together are many times the table.
    """
    for block in group_blocks(stage.count.astype(np.int64)):
        index, offsets = histories(block)
        rating = table.rating[index].astype(np.float64)
        yield ShownRatings(table.movie[stage.targets[block]], table.movie[index], rating, offsets)
