"""Distributed scoring: the probability of every legal rating, for every target of one dataset or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from mlens.engine.ranks import Ranks
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import Collator, Targets, plan_scoring
from mlens.packing.joined import JoinedDatasets
from mlens.packing.row import Row


class Scorer(Protocol):
    """Interface of what scores rows: the engine, or a model without one."""

    @property
    def ranks(self) -> Ranks: ...
    def train(self, training: bool = True) -> None: ...
    def score(self, row: Row) -> torch.Tensor:
        """Return the row's log-probabilities: [row.scores], float32, on the CPU."""


@dataclass(frozen=True)
class Predictions:
    """Predicted distributions of the targets of a stage.

    probability: [t, scale] probability of each legal rating, normalised over the legal ratings.
    legal: [t] total probability that the model gives to the legal ratings.
    """

    probability: np.ndarray
    legal: np.ndarray

    @classmethod
    def averaged(cls, drawn: Sequence[Predictions]) -> Predictions:
        """Return the mean of the predictions of several draws."""
        return cls(np.mean([one.probability for one in drawn], axis=0), np.mean([one.legal for one in drawn], axis=0))


def predict(
    scorer: Scorer, dataset: Targets, collator: Collator, progress: Callable[[int], None] = lambda _: None
) -> Predictions:
    """Score all targets of a dataset; every rank gets the full result.

    progress: called after each row with its number of targets.
    """
    ranks, answers = scorer.ranks, dataset.renderer.template.answers
    scores = torch.zeros(len(dataset), len(answers), dtype=torch.float64)
    scorer.train(False)
    for groups in plan_scoring(dataset, collator, ranks.rank, ranks.world):
        row = collator.score_row([dataset.prefix_group(group) for group in groups], answers)
        targets = np.concatenate([np.zeros(0, dtype=np.int64), *groups])
        scores[torch.from_numpy(targets)] = scorer.score(row).double().view(len(targets), len(answers))
        progress(len(targets))
    scorer.train(True)
    # Each target was scored by one rank; the other ranks have zeros.
    scores = ranks.sum(scores.to(ranks.device)).cpu()
    return Predictions(scores.softmax(dim=1).numpy(), scores.logsumexp(dim=1).exp().numpy())


def predict_together(
    scorer: Scorer,
    datasets: Sequence[RatingDataset],
    collator: Collator,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Predictions]:
    """Score all targets of several datasets, which share prefixes: less work than one dataset after the other.

    progress: called after each row with its number of targets.
    """
    all_of_them = predict(scorer, JoinedDatasets(tuple(datasets)), collator, progress)
    cuts = np.cumsum([len(dataset) for dataset in datasets])[:-1]
    parts = zip(np.split(all_of_them.probability, cuts), np.split(all_of_them.legal, cuts), strict=True)
    return [Predictions(*part) for part in parts]
