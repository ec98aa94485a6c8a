"""Evaluation of stages: metrics over draws and groups, and a table of predictions with a row a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.data.split import TRAIN
from mlens.evaluation.metrics import by_group, measure, rating_columns
from mlens.evaluation.score import Predictions, Scorer, predict_together
from mlens.packing.dataset import RatingDataset, history_hash
from mlens.packing.epoch_plan import Collator

HISTORY_EDGES = (0, 1, 5, 10, 20, 50, 100)
ACTIVITY_EDGES = (0, 1, 20, 50, 100, 200, 500)
# Cold movies, without training ratings, to warm ones.
POPULARITY_EDGES = (0, 1, 5, 20)


@dataclass(frozen=True)
class EvaluationResult:
    """The result of evaluating a stage.

    metrics: as in summary.json.
    frames: predictions of each draw of histories, one row a target.
    """

    metrics: dict
    frames: tuple[pl.DataFrame, ...]

    @property
    def frame(self) -> pl.DataFrame:
        """The table of predictions/*.parquet: several draws are concatenated, with their number (from 0) in `draw`."""
        if len(self.frames) == 1:
            return self.frames[0]
        return pl.concat([frame.with_columns(draw=pl.lit(draw, pl.Int64)) for draw, frame in enumerate(self.frames)])


def evaluate(
    scorer: Scorer,
    datasets: Sequence[RatingDataset],
    collator: Collator,
    draws: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> list[EvaluationResult]:
    """Score datasets `draws` times, each time with histories drawn anew; a dataset's own histories are the first draw.

    datasets: of stages in their order; they are scored together, so that they share prefixes. Each gets a result.
    progress: called after each row with its number of targets.

    All metrics, including those of groups, are means over draws: the expected error of a prediction from one drawn
    history. With several draws, `spread` holds their standard deviation, and `averaged` the metrics of the averaged
    prediction, which takes `draws` times the work.
    """
    of_draws = [[dataset.with_epoch(draw) if draw else dataset for dataset in datasets] for draw in range(draws)]
    predicted = [predict_together(scorer, drawn, collator, progress) for drawn in of_draws]
    return [
        _result(*of_stage) for of_stage in zip(zip(*of_draws, strict=True), zip(*predicted, strict=True), strict=True)
    ]


def _result(datasets: Sequence[RatingDataset], drawn: Sequence[Predictions]) -> EvaluationResult:
    """Measure the predictions of each draw for a stage. datasets: the stage's, with the histories of each draw."""
    table, stage = datasets[0].table, datasets[0].stage
    rating_index = table.rating_index[stage.targets]
    measured = [measure(one, rating_index, stage.user, table.scale) for one in drawn]
    metrics: dict = {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}
    if len(drawn) > 1:
        metrics["spread"] = {name: float(np.std([one[name] for one in measured], ddof=1)) for name in measured[0]}
        metrics["averaged"] = measure(Predictions.averaged(drawn), rating_index, stage.user, table.scale)
    frames = tuple(_frame(shown, predictions) for shown, predictions in zip(datasets, drawn, strict=True))
    used = np.mean([frame["history_used"].to_numpy() for frame in frames], axis=0)
    metrics["by_history_length"] = by_group(*_errors(frames), used, HISTORY_EDGES)
    metrics["targets"] = len(stage)
    return EvaluationResult(metrics, frames)


def by_activity(dataset: RatingDataset, roles: np.ndarray, frames: Sequence[pl.DataFrame]) -> dict[str, dict]:
    """Return RMSE and MAE, as means over draws, of groups of targets by the number of training ratings of their user
    and of their movie.

    frames: predictions of each draw, one row a target.
    """
    table, stage, trained = dataset.table, dataset.stage, roles == TRAIN
    user_n = np.bincount(table.user[trained], minlength=len(table.users))[stage.user]
    movie_n = np.bincount(table.movie[trained], minlength=len(table.movies))[table.movie[stage.targets]]
    return {
        "by_user_activity": by_group(*_errors(frames), user_n, ACTIVITY_EDGES),
        "by_movie_popularity": by_group(*_errors(frames), movie_n, POPULARITY_EDGES),
    }


def _errors(frames: Sequence[pl.DataFrame]) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected ratings [draws, t] and the true ratings [t]."""
    return np.stack([frame["expected"].to_numpy() for frame in frames]), frames[0]["rating"].to_numpy()


def _frame(dataset: RatingDataset, predictions: Predictions) -> pl.DataFrame:
    """Return the table of predictions of one draw, one row a target."""
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
