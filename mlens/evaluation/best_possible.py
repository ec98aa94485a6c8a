"""The best possible predictions of the made-up sample, whose truth is known, given the ratings shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlens.data.chunked import group_blocks
from mlens.data.sample import Truth
from mlens.data.sample_bayes import bayes_predictions
from mlens.data.stage import Stage
from mlens.evaluation.metrics import point_metrics
from mlens.evaluation.shown_ratings import HistoryReader, full_history, strategy_history
from mlens.packing.dataset import RatingDataset


def measure_best_possible(truth: Truth, dataset: RatingDataset, draws: int = 1) -> dict[str, dict[str, float]]:
    """Compute the `point_metrics` of the best possible predictions on all targets of a dataset: column -> metric ->
    value.

    truth: of the sample that the dataset's table was made from.
    draws: of histories. The columns are those of `measure_baselines`.
    """
    drawn = [dataset, *(dataset.with_epoch(draw) for draw in range(1, draws))]
    own = [_measured(truth, dataset.stage, strategy_history(one)) for one in drawn]
    means = {metric: float(np.mean([one[metric] for one in own])) for metric in own[0]}
    return {"full_history": _measured(truth, dataset.stage, full_history(dataset.stage)), "own_history": means}


def _measured(truth: Truth, stage: Stage, histories: HistoryReader) -> dict[str, float]:
    predicted: list[np.ndarray] = []
    for block in group_blocks(stage.count.astype(np.int64)):
        index, offsets = histories(block)
        shown: Sequence[np.ndarray] = np.split(index, offsets[1:-1])
        predicted.append(bayes_predictions(truth, stage.targets[block], shown).expected)
    return point_metrics(np.concatenate(predicted), truth.rating[stage.targets], stage.user)
