"""The row that holds a target: where its tokens stand there, what each sees, and what they are to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlens.packing.dataset import RatingDataset
from mlens.packing.plan import Collator, epoch_order, plan_epoch, scoring_shapes, steps_per_epoch
from mlens.packing.row import Row
from mlens.packing.steps import Steps

# Targets of an evaluation that are packed in seconds, whatever the strategy.
MOST = 20_000


@dataclass(frozen=True)
class Stretch:
    """Neighbouring tokens first:stop of a row that see alike: all of `sees`, stretches of the row, and besides the
    tokens from `own` up to themselves. position: of the first; the others count on from there."""

    first: int
    stop: int
    position: int
    sees: tuple[tuple[int, int], ...]
    own: int


@dataclass(frozen=True)
class RowPlacement:
    """Where a target lies in the first epoch, or in the evaluation, when one process has all rows.

    step, steps: its number, and how many the epoch has (None in evaluation).
    packed: how many targets of the stage were packed.
    row, rows: its number, and how many the step (the evaluation) has.
    tokens, groups, targets: how many the row has.
    prefix: the stretch of the row that holds the prefix of its group (None: it shares nothing).
    suffix, suffixes: its number in its group, and how many the group has.
    stretches: its tokens, with those of its true answer.
    labels: places of the row, and the ids that their logits are to predict.
    other_labels: how many tokens in the row's histories carry loss themselves.
    Steps, rows and suffixes are numbered from 0.
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
    stretches: tuple[Stretch, ...]
    labels: tuple[tuple[int, int], ...]
    other_labels: int = 0


def place_in_training(dataset: RatingDataset, collator: Collator, steps: Steps, i: int) -> RowPlacement:
    """Plans the one step of epoch 0 that has target i, and builds the one row."""
    order = epoch_order(dataset, steps, dataset.seed, dataset.epoch)
    step = int(np.flatnonzero(order == i)[0]) // steps.targets
    planned = []
    for one in plan_epoch(dataset, collator, steps, dataset.seed, dataset.epoch, rank=0, world=1, first_step=step):
        planned.append(one.groups)
        if one.last:
            break
    weight = steps.history_loss_weight
    at, groups = _row_of(planned, i)
    row = collator.train_row([dataset.prefix_group(group) for group in groups], weight)
    targets = [int(target) for group in groups for target in group]
    told = _placement(dataset, groups, row, score=targets.index(i), i=i)
    others, all_steps = int((row.owner == len(targets)).sum()), steps_per_epoch(len(dataset), steps.targets)
    return RowPlacement(
        step=step, steps=all_steps, packed=len(dataset), row=at, rows=len(planned), other_labels=others, **told
    )


def place_in_evaluation(dataset: RatingDataset, collator: Collator, i: int) -> RowPlacement:
    """Packs the whole stage, as an evaluation does, or where it is so long that this takes minutes, the targets of one
    user alone; builds the one row that has target i."""
    stage = dataset.stage
    packed = np.arange(len(stage)) if len(stage) <= MOST else np.flatnonzero(stage.user == stage.user[i])
    rows = collator.pack(scoring_shapes(dataset, packed), world=1)[0]
    planned = [tuple(packed[group] for group in groups) for groups in rows]
    at, groups = _row_of(planned, i)
    answers = dataset.renderer.template.answers
    row = collator.score_row([dataset.prefix_group(group) for group in groups], answers)
    k = [int(target) for group in groups for target in group].index(i)
    true = int(dataset.table.rating_index[stage.targets[i]])
    told = _placement(dataset, groups, row, score=k * len(answers) + true, i=i)
    return RowPlacement(step=None, steps=None, packed=len(packed), row=at, rows=len(planned), **told)


def _row_of(planned: Sequence[tuple[np.ndarray, ...]], i: int) -> tuple[int, tuple[np.ndarray, ...]]:
    return next((at, groups) for at, groups in enumerate(planned) if any(i in group for group in groups))


def _placement(dataset: RatingDataset, groups: tuple[np.ndarray, ...], row: Row, score: int, i: int) -> dict:
    """What a row says of target i, whose true answer is its score number `score`."""
    mine = (row.owner == score).nonzero()[:, 0]
    sequence, slot = np.divmod(row.slot[mine].numpy(), len(row.keep))
    places = row.keep.numpy()[slot]
    if row.spans is None:  # ordinary sequences, of which this answer has one
        own = np.arange(places[-1] + 1)
        spans = np.zeros((len(own), 3, 2), dtype=np.int64)
        spans[:, 2, 1] = own + 1
        first = 0
    else:
        spans = row.spans.numpy()
        first = int(spans[places[0], 2, 0])
    tokens = np.union1d(np.arange(first, places[0] + 1), places)
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
        "stretches": stretches_of(spans, row.position_ids[int(sequence[0])].numpy(), tokens),
        "labels": tuple(zip(places.tolist(), row.label[mine].tolist(), strict=True)),
    }


def stretches_of(spans: np.ndarray, positions: np.ndarray, tokens: np.ndarray) -> tuple[Stretch, ...]:
    """These `tokens` (places of a row, ascending), with what they see by the row's `spans` [tokens, 3, 2], in as few
    stretches as possible."""
    seen, at = spans[tokens], positions[tokens]
    same = (seen[1:, :2] == seen[:-1, :2]).all(axis=(1, 2)) & (seen[1:, 2, 0] == seen[:-1, 2, 0])
    on = (np.diff(tokens) == 1) & (np.diff(at) == 1)
    firsts = np.append(0, np.flatnonzero(~(same & on)) + 1)
    stops = np.append(firsts[1:], len(tokens))
    return tuple(
        Stretch(
            first=int(tokens[a]),
            stop=int(tokens[b - 1]) + 1,
            position=int(at[a]),
            sees=tuple((int(start), int(stop)) for start, stop in seen[a, :2] if stop > start),
            own=int(seen[a, 2, 0]),
        )
        for a, b in zip(firsts, stops, strict=True)
    )
