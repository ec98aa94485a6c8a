"""What a run reads: its rows planned as training and evaluation will plan them, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlens.model.flops import Passes
from mlens.packing.dataset import RatingDataset
from mlens.packing.lengths import MOST
from mlens.packing.plan import (
    Collator,
    answer_lengths,
    answers_of,
    epoch_order,
    step_targets,
    steps_per_epoch,
)
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import Row
from mlens.packing.steps import Steps
from mlens.packing.tree import Shapes

Trees = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Work:
    """One epoch, or one evaluation, over all ranks. passes: what is read; whole: tokens that would be read if nothing
    were shared; rows: of each rank in a step (in an evaluation: in all); heaviest: those of the rows that may take the
    most memory; share: the part of the targets that all this was counted on."""

    passes: Passes
    whole: float
    rows: int
    heaviest: tuple[Row, ...]
    share: float


def training_work(dataset: RatingDataset, collator: Collator, steps: Steps, world: int, most: int) -> Work:
    """The first epoch, or its first `most` steps; of many, evenly spaced ones that hold some 20,000 targets."""
    order = epoch_order(dataset, steps, dataset.seed, epoch=0)
    number = max(1, min(most, steps_per_epoch(len(order), steps.targets)))
    chosen = np.unique(np.linspace(0, number - 1, min(number, max(1, MOST // steps.targets))).astype(np.int64))
    counted = _Counted()
    for step in chosen:
        targets = step_targets(order, steps, int(step))
        shapes, labels = dataset.shapes(targets), answers_of(dataset, targets)
        answer = labels - 1
        dealt = collator.deal(shapes.longer_by(answer), world)
        if steps.history_loss_weight:
            labels = labels + [dataset.history_labels(targets[[i]]) for i in range(len(targets))]
        counted.add(dealt, targets, _Shaped(shapes, answer, answer * (answer + 1) / 2, labels))

    def row(trees: Trees) -> Row:
        return collator.train_row([dataset.tree(tree) for tree in trees], steps.history_loss_weight)

    return counted.work(len(order), row)


def scoring_work(dataset: RatingDataset, collator: Collator, world: int) -> Work:
    """One evaluation; of long stages, one of evenly spaced users that have some 20,000 targets."""
    whole = len(dataset)
    users = np.unique(dataset.stage.user)
    if whole > MOST:
        kept = np.flatnonzero(np.isin(dataset.stage.user, users[:: -(-whole // MOST)]))
        stage = dataset.stage.keep(kept)
        dataset = RatingDataset(dataset.table, stage, dataset.strategy, dataset.renderer, dataset.seed)
    targets, chains, answers = np.arange(len(dataset)), answer_lengths(dataset) - 1, dataset.renderer.answers
    # Reference rows read the whole prompt for each answer.
    readings = [np.array([n]) for n in chains] if isinstance(collator, ReferenceRows) else [chains]
    shapes, ones, counted = dataset.shapes(targets), np.ones(len(targets)), _Counted()
    dealt = collator.deal(shapes.longer_by(int(chains.sum())), world)
    for own in readings:
        pairs = float((own * (own + 1)).sum() / 2)
        counted.add(dealt, targets, _Shaped(shapes, ones * own.sum(), ones * pairs, ones * (1 + own.sum())))

    def row(trees: Trees) -> Row:
        return collator.score_row([dataset.tree(tree) for tree in trees], answers)

    return counted.work(whole * len(readings), row)


@dataclass(frozen=True)
class _Shaped:
    """Targets as they are read: their prompts' shapes, and of each [n]: the tokens of the chains of answers behind it,
    the pairs within these, and how many logits it needs."""

    shapes: Shapes
    chains: np.ndarray
    pairs: np.ndarray
    logits: np.ndarray

    def passes(self, trees: Iterable[np.ndarray]) -> Passes:
        """Of a row of these trees: a trunk once, and behind it every rest and its chains."""
        tokens = pairs = logits = 0.0
        for tree in trees:
            trunk, rest, chains = self.shapes.trunk[tree], self.shapes.rest[tree], self.chains[tree]
            top = float(trunk.max())
            tokens += top + float((rest + chains).sum())
            behind = rest * trunk + rest * (rest + 1) / 2 + chains * (trunk + rest) + self.pairs[tree]
            pairs += top * (top + 1) / 2 + float(behind.sum())
            logits += float(self.logits[tree].sum())
        return Passes(tokens, pairs, logits)


@dataclass
class _Counted:
    """Sums over the rows looked at, and which of them had the most tokens, and the most logits."""

    passes: Passes = field(default_factory=Passes)
    whole: float = 0.0
    rows: int = 0
    targets: int = 0
    most: dict[str, tuple[float, Trees]] = field(default_factory=dict)

    def add(self, dealt: Sequence[Sequence[Trees]], targets: np.ndarray, shaped: _Shaped) -> None:
        self.rows = max(self.rows, len(dealt[0]))
        self.targets += len(targets)
        self.whole += float((shaped.shapes.prompts + shaped.chains).sum())
        for trees in (trees for rank in dealt for trees in rank if trees):
            passes = shaped.passes(trees)
            self.passes += passes
            for name in ("tokens", "logits"):
                size = getattr(passes, name)
                if name not in self.most or size > self.most[name][0]:
                    self.most[name] = size, tuple(targets[tree] for tree in trees)

    def work(self, targets: int, make: Callable[[Trees], Row]) -> Work:
        """Scaled to so many targets; make: a row of trees of targets."""
        scale, seen = targets / self.targets, list[Trees]()
        for _, trees in self.most.values():
            if not any(trees is other for other in seen):
                seen.append(trees)
        rows = tuple(make(trees) for trees in seen)
        return Work(self.passes.times(scale), self.whole * scale, self.rows, rows, 1 / scale)
