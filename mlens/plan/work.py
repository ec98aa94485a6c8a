"""Tokens that a run reads: its rows are planned as in training and evaluation, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mlens.model.flops import Passes
from mlens.packing.answer_chains import answer_chains
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import (
    Collator,
    epoch_order,
    scoring_shapes,
    step_targets,
    steps_per_epoch,
    target_answer_lengths,
    train_row_builder,
)
from mlens.packing.lengths import MAX_MEASURED
from mlens.packing.prefix_group import Shapes
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import Row
from mlens.packing.steps import Steps

Groups = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Work:
    """Work of one epoch or one evaluation, over all ranks.

    passes: tokens, attended pairs and logits that are computed.
    unshared_tokens: tokens that would be read without sharing prefixes.
    rows: maximum number of rows of a rank in a step (in an evaluation: in total).
    heaviest: the rows that may take the most memory.
    share: fraction of the targets that were counted.
    """

    passes: Passes
    unshared_tokens: float
    rows: int
    heaviest: tuple[Row, ...]
    share: float


def training_work(dataset: RatingDataset, collator: Collator, steps: Steps, world: int, most: int) -> Work:
    """Count the first epoch, or its first `most` steps; of many steps, evenly spaced ones with about 20,000 targets."""
    order = epoch_order(dataset, steps, dataset.seed, epoch=0)
    number = max(1, min(most, steps_per_epoch(len(order), steps.targets)))
    chosen = np.unique(np.linspace(0, number - 1, min(number, max(1, MAX_MEASURED // steps.targets))).astype(np.int64))
    counter = _WorkCounter()
    for step in chosen:
        targets = step_targets(order, steps, int(step))
        if steps.loss != "ce":
            _add_scoring(counter, dataset, collator, world, targets)
            continue
        shapes, labels = dataset.shapes(targets), target_answer_lengths(dataset, targets)
        answer = labels - 1
        by_rank = collator.pack(replace(shapes, suffix=shapes.suffix + answer), world)
        if steps.history_loss_weight:
            labels = labels + [dataset.history_labels(targets[[i]]) for i in range(len(targets))]
        counter.add(by_rank, targets, _TargetShapes(shapes, answer, answer * (answer + 1) / 2, labels))

    build = train_row_builder(dataset, collator, steps)

    def row(groups: Groups) -> Row:
        return build([dataset.prefix_group(group) for group in groups])

    return counter.work(len(order), row)


def scoring_work(dataset: RatingDataset, collator: Collator, world: int) -> Work:
    """Count one evaluation; of a long stage, only evenly spaced users with about 20,000 targets."""
    total = len(dataset)
    users = np.unique(dataset.stage.user)
    if total > MAX_MEASURED:
        kept = np.flatnonzero(np.isin(dataset.stage.user, users[:: -(-total // MAX_MEASURED)]))
        stage = dataset.stage.keep(kept)
        dataset = RatingDataset(dataset.table, stage, dataset.strategy, dataset.renderer, dataset.seed)
    targets, answers, counter = np.arange(len(dataset)), dataset.renderer.template.answers, _WorkCounter()
    _add_scoring(counter, dataset, collator, world, targets)

    def row(groups: Groups) -> Row:
        return collator.score_row([dataset.prefix_group(group) for group in groups], answers)

    return counter.work(total, row)


def _add_scoring(
    counter: _WorkCounter, dataset: RatingDataset, collator: Collator, world: int, targets: np.ndarray
) -> None:
    """Add rows that score every legal answer after these targets."""
    shapes, answers, ones = dataset.shapes(targets), dataset.renderer.template.answers, np.ones(len(targets))
    # Reference rows read the full prompt for each answer.
    readings = [[answer] for answer in answers] if isinstance(collator, ReferenceRows) else [answers]
    by_rank = collator.pack(scoring_shapes(dataset, targets), world)
    chains = [answer_chains(read) for read in readings]
    sizes = (_TargetShapes(shapes, ones * one.tokens, ones * one.pairs, ones * (1 + one.tokens)) for one in chains)
    counter.add(by_rank, targets, *sizes)


@dataclass(frozen=True)
class _TargetShapes:
    """Sizes of n targets.

    shapes: sizes of their prompts.
    chains: [n] tokens of the answer chains after the prompt.
    pairs: [n] pairs of tokens within the chains of which one attends to the other.
    logits: [n] number of logit vectors.
    """

    shapes: Shapes
    chains: np.ndarray
    pairs: np.ndarray
    logits: np.ndarray

    def passes(self, groups: Iterable[np.ndarray]) -> Passes:
        """Return the passes of a row of these groups: each prefix once, then every suffix with its chains."""
        tokens = pairs = logits = 0.0
        for group in groups:
            prefix, suffix, chains = self.shapes.prefix[group], self.shapes.suffix[group], self.chains[group]
            top = float(prefix.max())
            tokens += top + float((suffix + chains).sum())
            behind = suffix * prefix + suffix * (suffix + 1) / 2 + chains * (prefix + suffix) + self.pairs[group]
            pairs += top * (top + 1) / 2 + float(behind.sum())
            logits += float(self.logits[group].sum())
        return Passes(tokens, pairs, logits, rows=1)


@dataclass
class _WorkCounter:
    """Sums over the counted rows.

    passes: tokens, pairs and logits.
    unshared_tokens: tokens without sharing.
    rows: maximum number of rows of the first rank in a step.
    targets: number of counted targets.
    most: the row with the most tokens and the one with the most logits: that number and its targets.
    """

    passes: Passes = field(default_factory=Passes)
    unshared_tokens: float = 0.0
    rows: int = 0
    targets: int = 0
    most: dict[str, tuple[float, Groups]] = field(default_factory=dict)

    def add(self, by_rank: Sequence[Sequence[Groups]], targets: np.ndarray, *readings: _TargetShapes) -> None:
        """Add the rows of one step, or of an evaluation; each row is read once or several times."""
        self.rows = max(self.rows, len(by_rank[0]))
        self.targets += len(targets)
        for sizes in readings:
            self.unshared_tokens += float((sizes.shapes.prompts + sizes.chains).sum())
            for groups in (groups for rank in by_rank for groups in rank if groups):
                passes = sizes.passes(groups)
                self.passes += passes
                for name in ("tokens", "logits"):
                    size = getattr(passes, name)
                    if name not in self.most or size > self.most[name][0]:
                        self.most[name] = size, tuple(targets[group] for group in groups)

    def work(self, targets: int, make: Callable[[Groups], Row]) -> Work:
        """Return the work, scaled to this number of targets.

        make: builds the row of these groups of targets.
        """
        scale, seen = targets / self.targets, list[Groups]()
        for _, groups in self.most.values():
            if not any(groups is other for other in seen):
                seen.append(groups)
        rows = tuple(make(groups) for groups in seen)
        return Work(self.passes.times(scale), self.unshared_tokens * scale, self.rows, rows, 1 / scale)
