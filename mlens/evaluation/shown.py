"""What a baseline is told of each target: its movie, and the ratings that are shown for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlens.data.blocks import group_blocks
from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.packing.dataset import RatingDataset

# Of a stretch of t targets: index [s], the ratings shown as indices into the table, one target after the other, each
# target's in time order; and offsets [t + 1] int64, where each target's begin.
Histories = Callable[[slice], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Shown:
    """t targets and the ratings that are shown for them; the targets' own ratings are not here.

    target_movie [t]: the movie of each target; movie [s], rating [s] float64: of the ratings shown, one target after
    the other, each target's in time order; offsets [t + 1] int64: target i is shown offsets[i]:offsets[i + 1].
    """

    target_movie: np.ndarray
    movie: np.ndarray
    rating: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.target_movie)

    @cached_property
    def count(self) -> np.ndarray:
        """[t] how many ratings each target is shown."""
        return np.diff(self.offsets)

    @cached_property
    def age(self) -> np.ndarray:
        """[s] how many ratings shown for the same target came after this one."""
        return np.repeat(self.offsets[1:], self.count) - 1 - np.arange(len(self.movie))

    def sums(self, of_rating: np.ndarray) -> np.ndarray:
        """[t] float64: the sum of these values [s] over the ratings shown for each target, 0 where there are none."""
        total = np.zeros(len(self))
        some = self.count > 0
        if some.any():
            total[some] = np.add.reduceat(of_rating, self.offsets[:-1][some], dtype=np.float64)
        return total


def full_history(stage: Stage) -> Histories:
    """All that each target of `stage` may see."""

    def of(block: slice) -> tuple[np.ndarray, np.ndarray]:
        count = stage.count[block]
        offsets = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
        starts = stage.visible_offsets[stage.user[block]] - offsets[:-1]
        return stage.visible[np.repeat(starts, count) + np.arange(offsets[-1])], offsets

    return of


def own_history(dataset: RatingDataset) -> Histories:
    """What the dataset's strategy chose for each of its targets and its budget left of that."""

    def of(block: slice) -> tuple[np.ndarray, np.ndarray]:
        chosen = [dataset.history(i) for i in range(block.start, block.stop)]
        offsets = np.cumsum([0, *map(len, chosen)], dtype=np.int64)
        return np.concatenate([np.zeros(0, dtype=np.int64), *chosen]), offsets

    return of


def shown_blocks(table: RatingTable, stage: Stage, histories: Histories) -> Iterator[Shown]:
    """All targets of `stage` in order, in stretches whose visible ratings are of bounded number: in full, they are many
    times the table."""
    for block in group_blocks(stage.count.astype(np.int64)):
        index, offsets = histories(block)
        rating = table.rating[index].astype(np.float64)
        yield Shown(table.movie[stage.targets[block]], table.movie[index], rating, offsets)
