"""Which targets make which step, and which rows of it a rank gets: from (seed, epoch) and lengths alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from mlens.data import draws
from mlens.packing.dataset import RatingDataset, Sample
from mlens.packing.row import Row


@dataclass(frozen=True)
class PlannedRow:
    """One row of one rank. step: counts from 0 within the epoch; targets [s]: indices into the dataset, maybe none;
    last: the step's last row; labels: answer tokens of the whole step, over all ranks; step_targets: its targets."""

    step: int
    targets: np.ndarray
    last: bool
    labels: int
    step_targets: int


class Collator(Protocol):
    """How samples become rows: a choice of conf/packing/."""

    def deal(self, lengths: np.ndarray, world: int) -> list[list[np.ndarray]]: ...
    def train_row(self, samples: list[Sample]) -> Row: ...
    def score_row(self, samples: list[Sample], answers: list[np.ndarray]) -> Row: ...


def steps_per_epoch(targets: int, targets_per_step: int) -> int:
    return -(-targets // targets_per_step)


def epoch_order(targets: int, seed: int, epoch: int) -> np.ndarray:
    """[targets] the order in which an epoch visits its targets; equal for every world size."""
    return draws.permutation(targets, draws.ORDER, seed, epoch=epoch)


def plan_epoch(
    dataset: RatingDataset,
    collator: Collator,
    targets_per_step: int,
    seed: int,
    epoch: int,
    rank: int,
    world: int,
    first_step: int = 0,
) -> Iterator[PlannedRow]:
    """The rows of `rank` in an epoch, from step `first_step` on (a resumed run begins inside an epoch).

    Steps are planned one by one, so random histories are drawn when their step comes.
    """
    order = epoch_order(len(dataset), seed, epoch)
    for step in range(first_step, steps_per_epoch(len(order), targets_per_step)):
        targets = order[step * targets_per_step : (step + 1) * targets_per_step]
        answers = answer_lengths(dataset)[dataset.table.rating_index[dataset.stage.targets[targets]]]
        # A row reads a prompt and its answer without the end token.
        rows = collator.deal(dataset.prompt_lengths(targets) + answers - 1, world)[rank]
        for i, row in enumerate(rows):
            yield PlannedRow(step, targets[row], i == len(rows) - 1, int(answers.sum()), len(targets))


def answer_lengths(dataset: RatingDataset) -> np.ndarray:
    """[scale] tokens of every legal answer, with its end token."""
    return np.array([len(answer) for answer in dataset.renderer.answers])


def plan_scoring(dataset: RatingDataset, collator: Collator, rank: int, world: int) -> list[np.ndarray]:
    """The rows of `rank` that together with the other ranks' score every target of the dataset once."""
    chains = int((answer_lengths(dataset) - 1).sum())
    lengths = dataset.prompt_lengths(np.arange(len(dataset))) + chains
    return collator.deal(lengths, world)[rank]


class RowLoader(Dataset):
    """A map from a planned row to it and its tensors, for torch's DataLoader with batch_size=None."""

    def __init__(self, dataset: RatingDataset, make_row: Callable[[list[Sample]], Row]) -> None:
        self.dataset, self.make_row = dataset, make_row

    def __getitem__(self, planned: PlannedRow) -> tuple[PlannedRow, Row]:
        return planned, self.make_row([self.dataset[int(i)] for i in planned.targets])
