"""The best possible predictions of the made-up sample, whose truth is known, given the ratings shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from mlens.data.cache import content_key
from mlens.data.chunked import group_blocks
from mlens.data.sample import Truth
from mlens.data.sample_bayes import bayes_predictions
from mlens.data.stage import Stage
from mlens.evaluation.cached_metrics import Metrics, cached_metrics, mean_over_draws
from mlens.evaluation.metrics import point_metrics
from mlens.evaluation.shown_ratings import HistoryReader, full_history, strategy_history
from mlens.packing.dataset import RatingDataset

# Version of the cached metrics; increase it when the predictions or their metrics change.
VERSION = 1
NAME = "best_possible"


def measure_best_possible(truth: Truth, dataset: RatingDataset, draws: int = 1) -> dict[str, dict[str, float | None]]:
    """Compute the `point_metrics` of the best possible predictions on all targets of a dataset: column -> metric ->
    value, None in place of NaN.

    truth: of the sample that the dataset's table was made from.
    draws: of histories. The columns are those of `measure_baselines`, and cached as these are.
    """
    drawn = [dataset, *(dataset.with_epoch(draw) for draw in range(1, draws))]
    columns = {"full_history": [full_history(dataset.stage)], "own_history": [*map(strategy_history, drawn)]}
    return {
        column: mean_over_draws([_measured(truth, dataset.stage, read) for read in readers])[NAME]
        for column, readers in columns.items()
    }


def _measured(truth: Truth, stage: Stage, histories: HistoryReader) -> Metrics:
    """Return the metrics, from the cache if they are there."""
    blocks = list(_shown(stage, histories))

    def compute() -> dict[str, dict[str, float]]:
        predicted = [
            bayes_predictions(truth, targets, np.split(index, offsets[1:-1])).expected
            for targets, index, offsets in blocks
        ]
        return {NAME: point_metrics(np.concatenate(predicted), truth.rating[stage.targets], stage.user)}

    # The particle filter draws for all targets of a block together, so that its border is part of the key.
    digest = hashlib.blake2b(digest_size=16)
    for field in fields(truth):
        digest.update(np.ascontiguousarray(getattr(truth, field.name)).tobytes())
    for block in blocks:
        for column in block:
            digest.update(column.astype("<i8").tobytes())
    return cached_metrics(NAME, content_key(NAME, VERSION, digest.hexdigest()), compute)


def _shown(stage: Stage, histories: HistoryReader) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield blocks of targets [t]: their rows of the table, and the rows shown as `HistoryReader` returns them."""
    for block in group_blocks(stage.count.astype(np.int64)):
        yield stage.targets[block], *histories(block)
