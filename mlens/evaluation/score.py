"""The probability of every legal rating, for every target of a dataset, by all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from mlens.engine.ranks import Ranks
from mlens.packing.dataset import RatingDataset
from mlens.packing.plan import Collator, plan_scoring
from mlens.packing.row import Row


class Scorer(Protocol):
    """What scores rows: the engine, or a model alone."""

    @property
    def ranks(self) -> Ranks: ...
    def train(self, training: bool = True) -> None: ...
    def score(self, row: Row) -> torch.Tensor:
        """[row.scores] float32 on the CPU: the log-probabilities that the row asks for."""


@dataclass(frozen=True)
class Predictions:
    """For each target of a stage: probability [t, scale] of each legal rating, normalised over them, and legal [t],
    the mass that the model gives them together."""

    probability: np.ndarray
    legal: np.ndarray

    @classmethod
    def averaged(cls, drawn: Sequence[Predictions]) -> Predictions:
        """The mean of several draws' predictions."""
        return cls(np.mean([one.probability for one in drawn], axis=0), np.mean([one.legal for one in drawn], axis=0))


def predict(
    scorer: Scorer, dataset: RatingDataset, collator: Collator, progress: Callable[[int], None] = lambda _: None
) -> Predictions:
    """Score the dataset; every rank gets the whole result. `progress` is told of each row's targets."""
    ranks, answers = scorer.ranks, dataset.renderer.answers
    scores = torch.zeros(len(dataset), len(answers), dtype=torch.float64)
    scorer.train(False)
    for trees in plan_scoring(dataset, collator, ranks.rank, ranks.world):
        row = collator.score_row([dataset.tree(tree) for tree in trees], answers)
        targets = np.concatenate([np.zeros(0, dtype=np.int64), *trees])
        scores[torch.from_numpy(targets)] = scorer.score(row).double().view(len(targets), len(answers))
        progress(len(targets))
    scorer.train(True)
    # Every target was scored by one rank; the others hold zeros.
    scores = ranks.sum(scores.to(ranks.device)).cpu()
    return Predictions(scores.softmax(dim=1).numpy(), scores.logsumexp(dim=1).exp().numpy())
