"""What needs no model: means, fitted on training ratings, given each target's visible history."""

from __future__ import annotations

import numpy as np

from mlens.data.split import TRAIN
from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.evaluation.metrics import mae, rmse

# A mean counts as if so many ratings of the global mean had been added: few ratings say little.
DAMPING = 5


def mean_predictions(table: RatingTable, roles: np.ndarray, stage: Stage) -> dict[str, np.ndarray]:
    """[t] predictions for each target: the global mean and the movie's mean over training ratings, and the mean of the
    user's ratings visible to the target. Movie and user means are damped towards the global one."""
    trained = roles == TRAIN
    overall = float(table.rating[trained].mean())
    movies = len(table.movies)
    movie_sum = np.bincount(table.movie[trained], table.rating[trained], minlength=movies)
    movie_n = np.bincount(table.movie[trained], minlength=movies)
    movie_mean = (movie_sum + DAMPING * overall) / (movie_n + DAMPING)
    ends = np.concatenate([[0], np.cumsum(table.rating[stage.visible], dtype=np.float64)])
    start = stage.visible_offsets[stage.user]
    user_sum = ends[start + stage.count] - ends[start]
    return {
        "global_mean": np.full(len(stage), overall),
        "movie_mean": movie_mean[table.movie[stage.targets]],
        "user_mean_so_far": (user_sum + DAMPING * overall) / (stage.count + DAMPING),
    }


def measure_baselines(table: RatingTable, roles: np.ndarray, stage: Stage) -> dict[str, dict[str, float]]:
    """RMSE and MAE of each baseline on the targets of `stage`."""
    rating = np.asarray(table.rating)[stage.targets]
    predictions = mean_predictions(table, roles, stage)
    return {name: {"rmse": rmse(p, rating), "mae": mae(p, rating)} for name, p in predictions.items()}
