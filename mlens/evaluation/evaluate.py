"""A stage's evaluation as it is reported: metrics over draws, groups, and a row of predictions for each target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.data.split import TRAIN
from mlens.evaluation.metrics import by_group, measure, rating_columns
from mlens.evaluation.score import Predictions, Scorer, predict
from mlens.packing.dataset import RatingDataset, history_hash
from mlens.packing.plan import Collator

HISTORY_EDGES = (0, 1, 5, 10, 20, 50, 100)
ACTIVITY_EDGES = (0, 1, 20, 50, 100, 200, 500)
POPULARITY_EDGES = (0, 1, 5, 20, 100)


@dataclass(frozen=True)
class Evaluated:
    """metrics: as summary.json holds them; frame: one row a target, as predictions/*.parquet holds them."""

    metrics: dict
    frame: pl.DataFrame


def evaluate(
    scorer: Scorer,
    dataset: RatingDataset,
    collator: Collator,
    draws: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluated:
    """Score the dataset `draws` times, each with its own drawn histories.

    The metrics are the mean over draws; with several, `spread` holds their standard deviation and `averaged` the
    metrics of the averaged prediction. Groups and the frame are of the averaged prediction; the frame's history columns
    are of the first draw.
    """
    table, stage = dataset.table, dataset.stage
    rating_index = table.rating_index[stage.targets]
    drawn = [predict(scorer, dataset.at(draw), collator, progress) for draw in range(draws)]
    measured = [measure(one, rating_index, stage.user, table.scale) for one in drawn]
    metrics: dict = {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}
    averaged = Predictions.averaged(drawn)
    if draws > 1:
        metrics["spread"] = {name: float(np.std([one[name] for one in measured], ddof=1)) for name in measured[0]}
        metrics["averaged"] = measure(averaged, rating_index, stage.user, table.scale)
    frame = _frame(dataset, averaged)
    predicted, rating = frame["expected"].to_numpy(), frame["rating"].to_numpy()
    metrics["by_history_length"] = by_group(predicted, rating, frame["history_used"].to_numpy(), HISTORY_EDGES)
    metrics["targets"] = len(stage)
    return Evaluated(metrics, frame)


def by_activity(dataset: RatingDataset, roles: np.ndarray, frame: pl.DataFrame) -> dict[str, dict]:
    """RMSE and MAE of the targets in `frame` by how many training ratings their users and their movies have."""
    table, stage, trained = dataset.table, dataset.stage, roles == TRAIN
    user_n = np.bincount(table.user[trained], minlength=len(table.users))[stage.user]
    movie_n = np.bincount(table.movie[trained], minlength=len(table.movies))[table.movie[stage.targets]]
    errors = frame["expected"].to_numpy(), frame["rating"].to_numpy()
    return {
        "by_user_activity": by_group(*errors, user_n, ACTIVITY_EDGES),
        "by_movie_popularity": by_group(*errors, movie_n, POPULARITY_EDGES),
    }


def _frame(dataset: RatingDataset, predictions: Predictions) -> pl.DataFrame:
    table, stage = dataset.table, dataset.stage
    histories = [dataset.history(i) for i in range(len(stage))]
    used = np.array([len(history) for history in histories], dtype=np.int64)
    columns = {
        "user": table.users["id"].gather(stage.user),
        "movie": table.movies["id"].gather(table.movie[stage.targets]),
        "t": stage.targets - table.user_offsets[stage.user],
        "rating": np.array(table.scale)[table.rating_index[stage.targets]],
        **rating_columns(predictions, table.scale),
        "history_used": used,
        "history_dropped": dataset.selection.wanted(np.arange(len(stage))) - used,
        "history_hash": [history_hash(history) for history in histories],
    }
    return pl.DataFrame(columns)
