"""Plans the steps of an epoch and the rows of each rank, from nothing but seed, epoch and token counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from mlens.data import draws
from mlens.data.chunked import by_blocks, int_type
from mlens.data.ragged import ranges
from mlens.packing.answer_chains import answer_chains
from mlens.packing.dataset import RatingDataset
from mlens.packing.prefix_group import PrefixGroup, Shapes
from mlens.packing.row import RatingLoss, Row
from mlens.packing.steps import Steps
from mlens.prompt.renderer import Renderer


@dataclass(frozen=True)
class PlannedRow:
    """One row of one rank.

    step: of the epoch, from 0.
    groups: the prefix groups, each an array of indices into the dataset; may be empty.
    last: whether it is the last row of the step.
    labels: the number of the step's labels, over all ranks: of its label tokens, each counted by its weight, or with a
        loss over ratings of its targets.
    step_targets: the number of targets of the step, over all ranks.
    """

    step: int
    groups: tuple[np.ndarray, ...]
    last: bool
    labels: float
    step_targets: int

    @property
    def targets(self) -> list[int]:
        return [int(target) for group in self.groups for target in group]


class Collator(Protocol):
    """Packs prefix groups into rows: a choice of conf/packing/."""

    def pack(self, shapes: Shapes, world: int) -> list[list[tuple[np.ndarray, ...]]]: ...
    def train_row(self, groups: Sequence[PrefixGroup], history_loss_weight: float = 0.0) -> Row: ...
    def score_row(self, groups: Sequence[PrefixGroup], answers: Sequence[np.ndarray]) -> Row: ...


class Targets(Protocol):
    """Interface of targets that can be scored: those of a dataset, or of several joined."""

    @property
    def renderer(self) -> Renderer: ...
    def __len__(self) -> int: ...
    def shapes(self, targets: np.ndarray, answer_tokens: int = 0) -> Shapes: ...
    def prefix_group(self, targets: np.ndarray) -> PrefixGroup: ...


def steps_per_epoch(targets: int, targets_per_step: int) -> int:
    return -(-targets // targets_per_step)


def epoch_order(dataset: RatingDataset, steps: Steps, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch visits its targets, the same for every world size: [targets].

    Consecutive targets of a user that share a prefix stay together in pieces of at most `steps.targets` /
    `steps.pieces` targets. The pieces are permuted by random numbers that don't depend on the other users. So the order
    follows from the histories, not from the packing.
    """
    index = int_type(len(dataset))
    first = _pieces(_runs(dataset), len(dataset), _longest_piece(steps))
    length = np.diff(first, append=index(len(dataset)))
    order = draws.order_of_items(dataset.stage.user[first], dataset.table.user_keys, draws.ORDER, seed, epoch)
    first, length = first[order], length[order]
    return ranges(first, length)


def targets_together(dataset: RatingDataset, steps: Steps) -> tuple[float, float]:
    """Return how many targets share a history in a step, and how many could in larger pieces: means over targets."""
    runs = _runs(dataset)
    pieces = _pieces(runs, len(dataset), _longest_piece(steps))
    together, possible = (
        float((np.diff(start, append=len(dataset)) ** 2.0).sum() / len(dataset)) for start in (pieces, runs)
    )
    return together, possible


def _longest_piece(steps: Steps) -> int:
    return max(1, steps.targets // steps.pieces)


def _runs(dataset: RatingDataset) -> np.ndarray:
    """Return the start of each run of consecutive targets that share a prefix: [runs]."""
    numbers = dataset.prefix_groups(np.arange(len(dataset), dtype=int_type(len(dataset))))
    new = np.ones(len(numbers), dtype=bool)
    new[1:] = (numbers[1:] != numbers[:-1]) | (numbers[1:] < 0)
    return np.flatnonzero(new).astype(int_type(len(numbers)))


def _pieces(start: np.ndarray, targets: int, limit: int) -> np.ndarray:
    """Cut each run into the fewest pieces of at most `limit` targets, of about equal size.

    start [runs]: where each run starts.

    Returns where each piece starts: [pieces].
    """
    index = start.dtype.type
    size = np.diff(start, append=index(targets))
    pieces = -(-size // limit)
    run = np.repeat(np.arange(len(start), dtype=index), pieces)
    part = ranges(np.zeros_like(start), pieces)
    return by_blocks(
        lambda run, part: start[run] - (-part.astype(np.int64) * size[run] // pieces[run]).astype(index), run, part
    )


def plan_epoch(
    dataset: RatingDataset,
    collator: Collator,
    steps: Steps,
    seed: int,
    epoch: int,
    rank: int,
    world: int,
    first_step: int = 0,
) -> Iterator[PlannedRow]:
    """Yield the rows of `rank` in an epoch, from step `first_step` on (a resumed run starts inside an epoch).

    Steps are planned one at a time, so random histories are drawn only when their step is planned.
    """
    order = epoch_order(dataset, steps, seed, epoch)
    for step in range(first_step, steps_per_epoch(len(order), steps.targets)):
        targets = step_targets(order, steps, step)
        if steps.loss == "ce":
            answers = target_answer_lengths(dataset, targets)
            # The end token of an answer is only predicted.
            shapes, labels = dataset.shapes(targets, answer_tokens=answers - 1), float(answers.sum())
            if steps.history_loss_weight:
                labels += steps.history_loss_weight * dataset.history_labels(targets)
        else:
            shapes, labels = scoring_shapes(dataset, targets), float(len(targets))
        rows = collator.pack(shapes, world)[rank]
        for i, row in enumerate(rows):
            yield PlannedRow(step, tuple(targets[group] for group in row), i == len(rows) - 1, labels, len(targets))


def step_targets(order: np.ndarray, steps: Steps, step: int) -> np.ndarray:
    """Return the targets of one step of an epoch in this `order`: [targets], ascending."""
    return np.sort(order[step * steps.targets : (step + 1) * steps.targets])


def target_answer_lengths(dataset: RatingDataset, targets: np.ndarray) -> np.ndarray:
    """Return the tokens of each target's answer, with the end token: [n]."""
    return answer_lengths(dataset)[dataset.table.rating_index[dataset.stage.targets[targets]]]


def answer_lengths(dataset: RatingDataset) -> np.ndarray:
    """Return the tokens of every legal answer, with the end token: [scale]."""
    return np.array([len(answer) for answer in dataset.renderer.template.answers])


def plan_scoring(dataset: Targets, collator: Collator, rank: int, world: int) -> list[tuple[np.ndarray, ...]]:
    """Return the rows in which `rank` scores its share of the targets, each a tuple of prefix groups."""
    return collator.pack(scoring_shapes(dataset, np.arange(len(dataset))), world)[rank]


def scoring_shapes(dataset: Targets, targets: np.ndarray) -> Shapes:
    """Return the shapes of these targets in scoring: a prompt, and the chains of every legal answer."""
    return dataset.shapes(targets, answer_tokens=answer_chains(dataset.renderer.template.answers).tokens)


def train_row_builder(dataset: RatingDataset, collator: Collator, steps: Steps) -> Callable[[list[PrefixGroup]], Row]:
    """Return a function that builds the training row of prefix groups of the dataset. It can be pickled."""
    if steps.loss == "ce":
        return partial(collator.train_row, history_loss_weight=steps.history_loss_weight)
    answers, scale = dataset.renderer.template.answers, dataset.table.scale
    loss = RatingLoss(steps.loss, torch.tensor(scale), torch.zeros(0, dtype=torch.int64), steps.expected_loss_weight)
    return partial(rating_row, collator, answers, loss)


def rating_row(
    collator: Collator, answers: Sequence[np.ndarray], loss: RatingLoss, groups: Sequence[PrefixGroup]
) -> Row:
    """Build a row that scores every legal answer of the groups' targets, with `loss` for their true answers.

    loss: with any `truth`.
    """
    index = {answer.tobytes(): i for i, answer in enumerate(answers)}
    truth = [index[suffix.answer.tobytes()] for group in groups for suffix in group.suffixes]
    row = collator.score_row(groups, answers)
    return replace(row, rating_loss=replace(loss, truth=torch.tensor(truth, dtype=torch.int64)))


class RowLoader(Dataset):
    """A dataset that maps a planned row to itself and its tensors, for torch's DataLoader with batch_size=None."""

    def __init__(self, dataset: RatingDataset, make_row: Callable[[list[PrefixGroup]], Row]) -> None:
        self.dataset, self.make_row = dataset, make_row

    def __getitem__(self, planned: PlannedRow) -> tuple[PlannedRow, Row]:
        return planned, self.make_row([self.dataset.prefix_group(group) for group in planned.groups])
