"""The row of a target: where its tokens lie, which tokens each of them sees, and the labels they predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import (
    Collator,
    epoch_order,
    plan_epoch,
    scoring_shapes,
    steps_per_epoch,
    train_row_builder,
)
from mlens.packing.row import Row
from mlens.packing.steps import Steps

# Maximum number of evaluation targets that are packed: takes seconds with any strategy.
MAX_PACKED = 20_000


@dataclass(frozen=True)
class TokenRange:
    """Consecutive tokens of a row with consecutive positions that see the same ranges.

    first, stop: indices into the row.
    position: position of the first token.
    sees: (start, stop) of each range of the row that all of them see.
    causal_start: each token also sees the tokens from this index up to itself.
    """

    first: int
    stop: int
    position: int
    sees: tuple[tuple[int, int], ...]
    causal_start: int


@dataclass(frozen=True)
class RowPlacement:
    """Where a target's tokens lie in the first epoch or in the evaluation, with all rows in one process.

    step: number of the step, from 0 (None in evaluation).
    steps: of the epoch (None in evaluation).
    packed: number of targets of the stage that were packed.
    row: number of the row, from 0.
    rows: of the step, or of the evaluation.
    tokens: of the row.
    groups: prefix groups of the row.
    targets: of the row.
    prefix: (start, stop) of the group's prefix in the row; None if the target shares none.
    suffix: number of the target's suffix in its group, from 0.
    suffixes: of the group.
    token_ranges: the target's tokens, including those of its true answer.
    labels: (index into the row, token id that its logits predict) of each label.
    other_labels: number of labels in the row's histories (history loss).
    """

    step: int | None
    steps: int | None
    packed: int
    row: int
    rows: int
    tokens: int
    groups: int
    targets: int
    prefix: tuple[int, int] | None
    suffix: int
    suffixes: int
    token_ranges: tuple[TokenRange, ...]
    labels: tuple[tuple[int, int], ...]
    other_labels: int = 0


def place_in_training(dataset: RatingDataset, collator: Collator, steps: Steps, i: int) -> RowPlacement:
    """Locate target i in training: plan its step of epoch 0, and build its row."""
    order = epoch_order(dataset, steps, dataset.seed, dataset.epoch)
    step = int(np.flatnonzero(order == i)[0]) // steps.targets
    planned = []
    for one in plan_epoch(dataset, collator, steps, dataset.seed, dataset.epoch, rank=0, world=1, first_step=step):
        planned.append(one.groups)
        if one.last:
            break
    at, groups = _row_of(planned, i)
    row = train_row_builder(dataset, collator, steps)([dataset.prefix_group(group) for group in groups])
    targets = [int(target) for group in groups for target in group]
    score, answers = targets.index(i), len(targets)
    if row.rating_loss is not None:
        scale = len(row.rating_loss.ratings)
        score, answers = score * scale + int(row.rating_loss.truth[score]), answers * scale
    placement = _placement(dataset, groups, row, score, i)
    others, all_steps = int((row.owner == answers).sum()), steps_per_epoch(len(dataset), steps.targets)
    return RowPlacement(
        step=step, steps=all_steps, packed=len(dataset), row=at, rows=len(planned), other_labels=others, **placement
    )


def place_in_evaluation(dataset: RatingDataset, collator: Collator, i: int) -> RowPlacement:
    """Locate target i in the evaluation: pack its stage, and build its row.

    Of a stage with more than MAX_PACKED targets only those of the target's user are packed.
    """
    stage = dataset.stage
    packed = np.arange(len(stage)) if len(stage) <= MAX_PACKED else np.flatnonzero(stage.user == stage.user[i])
    rows = collator.pack(scoring_shapes(dataset, packed), world=1)[0]
    planned = [tuple(packed[group] for group in groups) for groups in rows]
    at, groups = _row_of(planned, i)
    answers = dataset.renderer.template.answers
    row = collator.score_row([dataset.prefix_group(group) for group in groups], answers)
    k = [int(target) for group in groups for target in group].index(i)
    true = int(dataset.table.rating_index[stage.targets[i]])
    placement = _placement(dataset, groups, row, score=k * len(answers) + true, i=i)
    return RowPlacement(step=None, steps=None, packed=len(packed), row=at, rows=len(planned), **placement)


def _row_of(planned: Sequence[tuple[np.ndarray, ...]], i: int) -> tuple[int, tuple[np.ndarray, ...]]:
    """Return number and prefix groups of the row with target i."""
    return next((at, groups) for at, groups in enumerate(planned) if any(i in group for group in groups))


def _placement(dataset: RatingDataset, groups: tuple[np.ndarray, ...], row: Row, score: int, i: int) -> dict:
    """Return the fields of target i's RowPlacement that follow from its row.

    score: number of the row's score that is the target's true answer.
    """
    of_score = (row.owner == score).nonzero()[:, 0]
    sequence, slot = np.divmod(row.slot[of_score].numpy(), len(row.keep))
    label_indices = row.keep.numpy()[slot]
    if row.spans is None:  # padded sequences, one for each answer
        indices = np.arange(label_indices[-1] + 1)
        spans = np.zeros((len(indices), 3, 2), dtype=np.int64)
        spans[:, 2, 1] = indices + 1
        first = 0
    else:
        spans = row.spans.numpy()
        first = int(spans[label_indices[0], 2, 0])
    tokens = np.union1d(np.arange(first, label_indices[0] + 1), label_indices)
    group = next(group for group in groups if i in group)
    suffix, prefix = int(np.flatnonzero(group == i)[0]), None
    if spans[first, 0, 1] > spans[first, 0, 0]:
        prefix = (int(spans[first, 0, 0]), int(spans[first, 0, 0]) + len(dataset.prefix_group(group).prefix))
    return {
        "tokens": row.input_ids.shape[1],
        "groups": len(groups),
        "targets": sum(map(len, groups)),
        "prefix": prefix,
        "suffix": suffix,
        "suffixes": len(group),
        "token_ranges": make_token_ranges(spans, row.position_ids[int(sequence[0])].numpy(), tokens),
        "labels": tuple(zip(label_indices.tolist(), row.label[of_score].tolist(), strict=True)),
    }


def make_token_ranges(spans: np.ndarray, positions: np.ndarray, tokens: np.ndarray) -> tuple[TokenRange, ...]:
    """Group tokens of a row into as few ranges as possible.

    spans: [n, s, 2] of the row's n tokens.
    positions: [n] of the row's tokens.
    tokens: indices into the row, ascending.
    """
    causal_start, at = spans[tokens, 2, 0], positions[tokens]
    seen = np.delete(spans[tokens], 2, axis=1)
    same = (seen[1:] == seen[:-1]).all(axis=(1, 2)) & (causal_start[1:] == causal_start[:-1])
    consecutive = (np.diff(tokens) == 1) & (np.diff(at) == 1)
    firsts = np.append(0, np.flatnonzero(~(same & consecutive)) + 1)
    stops = np.append(firsts[1:], len(tokens))
    return tuple(
        TokenRange(
            first=int(tokens[a]),
            stop=int(tokens[b - 1]) + 1,
            position=int(at[a]),
            sees=tuple((int(start), int(stop)) for start, stop in seen[a] if stop > start),
            causal_start=int(causal_start[a]),
        )
        for a, b in zip(firsts, stops, strict=True)
    )
