"""The row that a target lands in: where its tokens stand there, what each sees, and what they are to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlens.packing.dataset import RatingDataset
from mlens.packing.plan import Collator, epoch_order, plan_epoch, scoring_shapes, steps_per_epoch
from mlens.packing.row import Row
from mlens.packing.steps import Steps

# Targets of an evaluation that are dealt in seconds, whatever the strategy.
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
class Landing:
    """Where target i lands in the first epoch, or in the evaluation, when one process has all rows.

    step, steps: of the epoch, and all of it (None in evaluation); dealt: how many targets of the stage were dealt; row,
    rows: in the step (in the evaluation); tokens, trees, targets: of the row; trunk: the stretch of the row that holds
    its tree's trunk (None: the target shares nothing, its prompt is a segment of its own); branch, branches: which one
    of the tree's it is; stretches: of its tokens, with those of its true answer; labels: places of the row whose logits
    are to predict these ids; other_labels: of the row, tokens in histories that carry loss themselves.
    Numbers of steps, rows and branches count from 0.
    """

    step: int | None
    steps: int | None
    dealt: int
    row: int
    rows: int
    tokens: int
    trees: int
    targets: int
    trunk: tuple[int, int] | None
    branch: int
    branches: int
    stretches: tuple[Stretch, ...]
    labels: tuple[tuple[int, int], ...]
    other_labels: int = 0


def land_in_training(dataset: RatingDataset, collator: Collator, steps: Steps, i: int) -> Landing:
    """Plans the one step of epoch 0 that has target i, and builds the one row."""
    order = epoch_order(dataset, steps, dataset.seed, dataset.epoch)
    step = int(np.flatnonzero(order == i)[0]) // steps.targets
    planned = []
    for one in plan_epoch(dataset, collator, steps, dataset.seed, dataset.epoch, rank=0, world=1, first_step=step):
        planned.append(one.trees)
        if one.last:
            break
    weight = steps.history_loss_weight
    at, landed = _row_of(planned, i)
    row = collator.train_row([dataset.tree(tree) for tree in landed], weight)
    targets = [int(target) for tree in landed for target in tree]
    told = _landing(dataset, landed, row, score=targets.index(i), i=i)
    others, all_steps = int((row.owner == len(targets)).sum()), steps_per_epoch(len(dataset), steps.targets)
    return Landing(
        step=step, steps=all_steps, dealt=len(dataset), row=at, rows=len(planned), other_labels=others, **told
    )


def land_in_evaluation(dataset: RatingDataset, collator: Collator, i: int) -> Landing:
    """Deals the whole stage, as an evaluation does, or where it is so long that this takes minutes, the targets of one
    user alone; builds the one row that has target i."""
    stage = dataset.stage
    dealt = np.arange(len(stage)) if len(stage) <= MOST else np.flatnonzero(stage.user == stage.user[i])
    rows = collator.deal(scoring_shapes(dataset, dealt), world=1)[0]
    planned = [tuple(dealt[tree] for tree in trees) for trees in rows]
    at, landed = _row_of(planned, i)
    answers = dataset.renderer.template.answers
    row = collator.score_row([dataset.tree(tree) for tree in landed], answers)
    k = [int(target) for tree in landed for target in tree].index(i)
    true = int(dataset.table.rating_index[stage.targets[i]])
    told = _landing(dataset, landed, row, score=k * len(answers) + true, i=i)
    return Landing(step=None, steps=None, dealt=len(dealt), row=at, rows=len(planned), **told)


def _row_of(planned: Sequence[tuple[np.ndarray, ...]], i: int) -> tuple[int, tuple[np.ndarray, ...]]:
    return next((at, trees) for at, trees in enumerate(planned) if any(i in tree for tree in trees))


def _landing(dataset: RatingDataset, trees: tuple[np.ndarray, ...], row: Row, score: int, i: int) -> dict:
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
    tree = next(tree for tree in trees if i in tree)
    branch, trunk = int(np.flatnonzero(tree == i)[0]), None
    if spans[first, 0, 1] > spans[first, 0, 0]:
        trunk = (int(spans[first, 0, 0]), int(spans[first, 0, 0]) + len(dataset.tree(tree).trunk))
    return {
        "tokens": row.input_ids.shape[1],
        "trees": len(trees),
        "targets": sum(map(len, trees)),
        "trunk": trunk,
        "branch": branch,
        "branches": len(tree),
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
