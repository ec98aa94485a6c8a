"""What the strategies that select by the similarity of movies have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.similarity import CELLS, Similarity, save_similarity
from mlens.history.strategy import FittableStrategy, Ranked

# The targets of a user that are ranked at once.
TARGETS_AT_ONCE = 256


@dataclass(frozen=True)
class Candidates:
    """The c ratings visible to a target, oldest first.

    to_target [c]: the similarity of each rating's movie to the target's.
    to_rating: to_rating(i)[:c] is the similarity of each rating's movie to that of rating i.
    """

    to_target: np.ndarray
    to_rating: Callable[[int], np.ndarray]

    def most_similar(self) -> np.ndarray:
        """Return all ratings, the most similar to the target first, of ties the newer first: [c]."""
        newest_first = np.arange(len(self.to_target))[::-1]
        return newest_first[np.argsort(-self.to_target[newest_first], kind="stable")]


class SimilarityRule(FittableStrategy, Protocol):
    """A strategy that selects by similarity: a frozen dataclass of its parameters."""

    @property
    def most(self) -> int:
        """The largest number of ratings that it selects."""

    def rank(self, candidates: Candidates) -> np.ndarray:
        """Return the ratings to show, the most wanted first, as indices of the candidates."""

    def reasons(self, candidates: Candidates, indices: np.ndarray) -> Sequence[str]:
        """Return why each of these ranked ratings is wanted, as text: [n]."""


@dataclass(frozen=True)
class BySimilarity:
    """A strategy with the similarity that was fitted for it."""

    unfitted: SimilarityRule
    similarity: Similarity

    def wish(self, table: RatingTable, stage: Stage, seed: int, epoch: int) -> Ranked:
        orders = SimilarityOrders(self.unfitted, self.similarity, table, stage)
        return Ranked(orders.order, orders.reasons)

    def save(self, folder: Path) -> None:
        save_similarity(self.similarity, folder)


@dataclass(frozen=True, eq=False)
class SimilarityOrders:
    """The ranked ratings of the targets of a stage.

    Similarities are computed for all targets of a user at once, and forgotten; the ranked ratings are kept.
    """

    rule: SimilarityRule
    similarity: Similarity
    table: RatingTable
    stage: Stage

    @cached_property
    def _ranked(self) -> np.ndarray:
        """The ranked ratings of each target as indices + 1, 0 where there are fewer: [t, most] int32.

        Zeros, so that the system provides memory for those users alone whose targets are ranked.
        """
        longest = int(self.stage.count.max(initial=0))
        return np.zeros((len(self.stage), min(self.rule.most, longest)), dtype=np.int32)

    @cached_property
    def _done(self) -> np.ndarray:
        """Whether each target is ranked: [t] bool."""
        return np.zeros(len(self.stage), dtype=bool)

    def order(self, t: int) -> np.ndarray:
        if not self._done[t]:
            user = self.stage.user
            of_user = np.searchsorted(user, user[t] + np.arange(2, dtype=user.dtype))
            first = of_user[0] + (t - of_user[0]) // TARGETS_AT_ONCE * TARGETS_AT_ONCE
            targets = np.arange(first, min(first + TARGETS_AT_ONCE, of_user[1]))
            for i, candidates in zip(targets, self._candidates(targets), strict=True):
                order = self.rule.rank(candidates)
                self._ranked[i, : len(order)] = order + 1
            self._done[targets] = True
        row = self._ranked[t]
        return row[row > 0].astype(np.int64) - 1

    def reasons(self, t: int, indices: np.ndarray) -> Sequence[str]:
        (candidates,) = self._candidates(np.array([t]))
        return self.rule.reasons(candidates, indices)

    def _candidates(self, targets: np.ndarray) -> Iterator[Candidates]:
        """Yield the candidates of each of these targets of one user."""
        stage, user = self.stage, int(self.stage.user[targets[0]])
        longest = int(stage.count[targets].max())
        start = stage.visible_offsets[user]
        visible = np.asarray(self.table.movie[stage.visible[start : start + longest]])
        between = partial(self.similarity.between, user)
        to_target = between(np.asarray(self.table.movie[stage.targets[targets]]), visible)
        kept = max(1, CELLS // max(1, TARGETS_AT_ONCE * longest))

        @lru_cache(kept)
        def rows(block: int) -> np.ndarray:
            return between(visible[block * TARGETS_AT_ONCE : (block + 1) * TARGETS_AT_ONCE], visible)

        def to_rating(i: int) -> np.ndarray:
            return rows(i // TARGETS_AT_ONCE)[i % TARGETS_AT_ONCE]

        for row, count in zip(to_target, stage.count[targets], strict=True):
            yield Candidates(row[:count], to_rating)
