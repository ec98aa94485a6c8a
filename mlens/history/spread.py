"""The strategy history=spread: ratings of movies that are similar to the target's and unlike each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlens.checks import require_number
from mlens.data.rating_table import RatingTable
from mlens.history.by_similarity import BySimilarity, Candidates
from mlens.history.similarity import fit_similarity, load_similarity, require_by
from mlens.history.strategy import require_count


@dataclass(frozen=True)
class Spread:
    """Ratings of movies that are similar to the target's and unlike those chosen before: maximal marginal relevance.

    The first is the most similar. Each next one has the largest

        weight * (similarity to the target) - (1 - weight) * (largest similarity to one that is chosen),

    and ties go to the newer (Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering
    Documents and Producing Summaries", SIGIR 1998). Relevance alone is a poor proxy for utility in a prompt (PURPLE,
    arXiv 2601.12078): the most similar films may all say the same.

    count: how many ratings.
    weight: of relevance, 0 to 1; at 1 it is `Similar`.
    by: `ratings` or `text`, as for `Similar`.
    """

    count: int = 10
    weight: float = 0.5
    by: str = "ratings"

    def __post_init__(self) -> None:
        require_count(self.count)
        require_number("history.weight", self.weight, at_least=0, at_most=1)
        require_by(self.by)

    def fit(self, table: RatingTable, trained: np.ndarray) -> BySimilarity:
        return BySimilarity(self, fit_similarity(self.by, table, trained))

    def load(self, folder: Path, table: RatingTable) -> BySimilarity:
        return BySimilarity(self, load_similarity(self.by, folder, table))

    @property
    def most(self) -> int:
        return self.count

    def rank(self, candidates: Candidates) -> np.ndarray:
        return self._choose(candidates)[0]

    def reasons(self, candidates: Candidates, indices: np.ndarray) -> Sequence[str]:
        order, likeness = self._choose(candidates)
        pairs = zip(order[1:].tolist(), likeness[1:], strict=True)
        of = {i: f", at most {value:.3f} to those chosen before" for i, value in pairs}
        return [f"similarity {candidates.to_target[i]:.3f}{of.get(i, '')}" for i in indices.tolist()]

    def _choose(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """Return the chosen ratings in order, and each one's largest similarity to an earlier one: two [n]."""
        to_target, chosen = candidates.to_target[::-1], candidates.most_similar()[:1].tolist()
        count = len(to_target)
        likeness, found = np.full(count, -np.inf), [-np.inf] * len(chosen)
        left = np.ones(count, dtype=bool)
        while len(chosen) < min(self.count, count):
            np.maximum(likeness, candidates.to_rating(chosen[-1])[:count][::-1], out=likeness)
            left[count - 1 - chosen[-1]] = False
            score = np.where(left, self.weight * to_target - (1 - self.weight) * likeness, -np.inf)
            best = int(score.argmax())
            chosen.append(count - 1 - best)
            found.append(likeness[best])
        return np.array(chosen, dtype=np.int64), np.array(found)
