"""The strategy history=recent_similar: the newest ratings, and those of the movies most similar to the target's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.history.by_similarity import BySimilarity, Candidates
from mlens.history.similarity import fit_similarity, load_similarity, require_by
from mlens.history.strategy import require_count


@dataclass(frozen=True)
class RecentSimilar:
    """The newest ratings, and of the others those of the movies that are most similar to the target's.

    It joins current taste with relevance, of which ReLLa (arXiv 2308.11131) and LaMP (arXiv 2304.11406) show the
    latter alone. The newest are wanted most: where the budget is short, the least similar of the others are dropped
    first.

    recent: how many of the newest.
    similar: how many of the others; ties go to the newer.
    by: `ratings` or `text`, as for `Similar`.
    """

    recent: int = 5
    similar: int = 5
    by: str = "ratings"

    def __post_init__(self) -> None:
        require_count(self.recent, "recent")
        require_count(self.similar, "similar")
        require_by(self.by)

    def fit(self, table: RatingTable, trained: np.ndarray) -> BySimilarity:
        return BySimilarity(self, fit_similarity(self.by, table, trained))

    def load(self, folder: Path, table: RatingTable) -> BySimilarity:
        return BySimilarity(self, load_similarity(self.by, folder, table))

    @property
    def most(self) -> int:
        return self.recent + self.similar

    def rank(self, candidates: Candidates) -> np.ndarray:
        count, order = len(candidates.to_target), candidates.most_similar()
        others = order[order < count - self.recent]
        return np.concatenate([np.arange(count)[::-1][: self.recent], others[: self.similar]])

    def reasons(self, candidates: Candidates, indices: np.ndarray) -> Sequence[str]:
        newest = len(candidates.to_target) - self.recent
        pairs = zip(indices, candidates.to_target[indices], strict=True)
        return [f"one of the newest {self.recent}" if i >= newest else f"similarity {value:.3f}" for i, value in pairs]
