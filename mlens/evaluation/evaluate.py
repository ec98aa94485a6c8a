"""A stage's evaluation as it is reported: metrics over draws, groups, and a row of predictions for each target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """metrics: as summary.json holds them; frames: of each draw of histories, with one row a target."""

    metrics: dict
    frames: tuple[pl.DataFrame, ...]

    @property
    def frame(self) -> pl.DataFrame:
        """As predictions/*.parquet holds them: of several draws one after the other, `draw` counting them from 0."""
        if len(self.frames) == 1:
            return self.frames[0]
        return pl.concat([own.with_columns(draw=pl.lit(draw, pl.Int64)) for draw, own in enumerate(self.frames)])


def evaluate(
    scorer: Scorer,
    dataset: RatingDataset,
    collator: Collator,
    draws: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluated:
    """Score the dataset, whose histories are the first draw, `draws` times, each with its own drawn histories.

    The metrics, those of groups too, are the mean over draws: what a prediction from one drawn history costs. With
    several, `spread` holds their standard deviation, and `averaged` the metrics of the averaged prediction, which takes
    as many times the work.
    """
    table, stage = dataset.table, dataset.stage
    rating_index = table.rating_index[stage.targets]
    datasets = [dataset, *(dataset.at(draw) for draw in range(1, draws))]
    drawn = [predict(scorer, own, collator, progress) for own in datasets]
    measured = [measure(one, rating_index, stage.user, table.scale) for one in drawn]
    metrics: dict = {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}
    if draws > 1:
        metrics["spread"] = {name: float(np.std([one[name] for one in measured], ddof=1)) for name in measured[0]}
        metrics["averaged"] = measure(Predictions.averaged(drawn), rating_index, stage.user, table.scale)
    frames = tuple(_frame(own, one) for own, one in zip(datasets, drawn, strict=True))
    used = np.mean([frame["history_used"].to_numpy() for frame in frames], axis=0)
    metrics["by_history_length"] = by_group(*_errors(frames), used, HISTORY_EDGES)
    metrics["targets"] = len(stage)
    return Evaluated(metrics, frames)


def by_activity(dataset: RatingDataset, roles: np.ndarray, frames: Sequence[pl.DataFrame]) -> dict[str, dict]:
    """RMSE and MAE of the targets in `frames`, one for each draw, by how many training ratings their users and their
    movies have: the mean over draws."""
    table, stage, trained = dataset.table, dataset.stage, roles == TRAIN
    user_n = np.bincount(table.user[trained], minlength=len(table.users))[stage.user]
    movie_n = np.bincount(table.movie[trained], minlength=len(table.movies))[table.movie[stage.targets]]
    return {
        "by_user_activity": by_group(*_errors(frames), user_n, ACTIVITY_EDGES),
        "by_movie_popularity": by_group(*_errors(frames), movie_n, POPULARITY_EDGES),
    }


def _errors(frames: Sequence[pl.DataFrame]) -> tuple[np.ndarray, np.ndarray]:
    """[draws, t] the expected ratings, and [t] the true ones."""
    return np.stack([frame["expected"].to_numpy() for frame in frames]), frames[0]["rating"].to_numpy()


def _frame(dataset: RatingDataset, predictions: Predictions) -> pl.DataFrame:
    table, stage = dataset.table, dataset.stage
    histories = [dataset.history(i) for i in range(len(stage))]
    used = np.array([len(history) for history in histories], dtype=np.int64)
    wanted = np.array([len(dataset.wanted(i)) for i in range(len(stage))], dtype=np.int64)
    columns = {
        "user": table.users["id"].gather(stage.user),
        "movie": table.movies["id"].gather(table.movie[stage.targets]),
        "t": stage.targets - table.user_offsets[stage.user],
        "rating": np.array(table.scale)[table.rating_index[stage.targets]],
        **rating_columns(predictions, table.scale),
        "history_used": used,
        "history_dropped": wanted - used,
        "history_hash": [history_hash(history) for history in histories],
    }
    return pl.DataFrame(columns)
