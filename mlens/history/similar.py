"""The strategy history=similar: the ratings of the movies most similar to the target's."""

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
class Similar:
    """The ratings of the movies that are most similar to the target's; ties go to the newer.

    Retrieval of the user's most relevant records for the prompt is that of ReLLa (Lin et al., "ReLLa:
    Retrieval-enhanced Large Language Models for Lifelong Sequential Behavior Comprehension in Recommendation", arXiv
    2308.11131) and LaMP (Salemi et al., "LaMP: When Large Language Models Meet Personalization", arXiv 2304.11406).
    Where no visible movie is similar, as for a target without training ratings under by=ratings, the newest ratings
    are shown.

    count: how many ratings.
    by: `ratings` (cosine of training ratings, see `RatingSimilarity`) or `text` (of title words and genres, see
        `TextSimilarity`).
    """

    count: int = 10
    by: str = "ratings"

    def __post_init__(self) -> None:
        require_count(self.count)
        require_by(self.by)

    def fit(self, table: RatingTable, trained: np.ndarray) -> BySimilarity:
        return BySimilarity(self, fit_similarity(self.by, table, trained))

    def load(self, folder: Path, table: RatingTable) -> BySimilarity:
        return BySimilarity(self, load_similarity(self.by, folder, table))

    @property
    def most(self) -> int:
        return self.count

    def rank(self, candidates: Candidates) -> np.ndarray:
        return candidates.most_similar()[: self.count]

    def reasons(self, candidates: Candidates, indices: np.ndarray) -> Sequence[str]:
        return [f"similarity {similarity:.3f}" for similarity in candidates.to_target[indices]]
