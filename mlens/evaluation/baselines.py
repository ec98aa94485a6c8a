"""Baselines without a language model: fitted on the training ratings, given the ratings shown for each target."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlens.data.cache import content_key
from mlens.data.rating_table import RatingTable
from mlens.data.split import TRAIN
from mlens.data.stage import Stage
from mlens.evaluation.biases import Biases, fit_biases, recent_user_bias, user_bias, user_mean
from mlens.evaluation.cached_metrics import Metrics, cached_metrics, mean_over_draws
from mlens.evaluation.lenskit_models import (
    Factors,
    Neighbours,
    factor_predictions,
    fit_factors,
    fit_neighbours,
    lenskit_version,
    neighbour_predictions,
)
from mlens.evaluation.metrics import point_metrics
from mlens.evaluation.shown_ratings import HistoryReader, ShownRatings, full_history, shown_blocks, strategy_history
from mlens.packing.dataset import RatingDataset

# Version of the cached metrics; increase it when the predictions of any baseline or its metrics change.
VERSION = 3
# Baselines that see nothing of the user.
WITHOUT_HISTORY = ("global_mean", "movie_mean")


@dataclass(frozen=True)
class Fitted:
    """All fitted baselines.

    scale: legal ratings, ascending.
    biases: global mean and biases of movies.
    factors: matrix factorisation (None: LensKit isn't installed).
    neighbours: item kNN (None: LensKit isn't installed).
    """

    scale: tuple[float, ...]
    biases: Biases
    factors: Factors | None
    neighbours: Neighbours | None


def fit(table: RatingTable, roles: np.ndarray) -> Fitted:
    """Fit all baselines on the training ratings under `roles` [n] (at least one), and on nothing else."""
    trained = roles == TRAIN
    biases = fit_biases(table, trained)
    if lenskit_version() is None:
        return Fitted(table.scale, biases, None, None)
    return Fitted(table.scale, biases, fit_factors(table, trained), fit_neighbours(table, trained))


def predictions(fitted: Fitted, shown: ShownRatings) -> dict[str, np.ndarray]:
    """Return the predictions [t] of each baseline by name, clipped to the scale."""
    biases = fitted.biases
    movie = biases.overall + biases.movie[shown.target_movie]
    static = movie + user_bias(biases, shown)
    predicted = {
        "global_mean": np.full(len(shown), biases.overall),
        "movie_mean": biases.movie_mean[shown.target_movie],
        "user_mean_so_far": user_mean(biases, shown),
        "biases": static,
        "recent_biases": movie + recent_user_bias(biases, shown),
    }
    if fitted.factors is not None:
        predicted["factors"] = factor_predictions(fitted.factors, shown)
    if fitted.neighbours is not None:
        predicted["item_knn"] = neighbour_predictions(fitted.neighbours, shown, otherwise=static)
    return {name: np.clip(values, fitted.scale[0], fitted.scale[-1]) for name, values in predicted.items()}


def measure_baselines(
    table: RatingTable, roles: np.ndarray, datasets: dict[str, RatingDataset], draws: int = 1
) -> dict[str, dict[str, Metrics]]:
    """Compute the `point_metrics` of each baseline on all targets of each dataset: stage -> column -> baseline ->
    metric -> value, None in place of NaN.

    The column `full_history` gives each target all of its visible ratings. The column `own_history` gives it what the
    dataset's strategy chose and the budget left, as the mean over `draws` draws; the datasets' histories are the first
    draw. Metrics computed before with the same training ratings, targets and histories are read from the cache, so the
    first column is computed once for all jobs of a sweep.
    """
    fitted = functools.cache(lambda: fit(table, roles))
    measured = {}
    for name, dataset in datasets.items():
        drawn = [dataset, *(dataset.with_epoch(draw) for draw in range(1, draws))]
        columns = {"full_history": [full_history(dataset.stage)], "own_history": [*map(strategy_history, drawn)]}
        measured[name] = {
            column: mean_over_draws([_measured(table, roles, dataset.stage, read, fitted) for read in readers])
            for column, readers in columns.items()
        }
    return measured


def _measured(
    table: RatingTable, roles: np.ndarray, stage: Stage, histories: HistoryReader, fitted: Callable[[], Fitted]
) -> Metrics:
    """Return the metrics of each baseline, from the cache if they are there."""

    def compute() -> dict[str, dict[str, float]]:
        blocks = [predictions(fitted(), shown) for shown in shown_blocks(table, stage, histories)]
        rating = np.asarray(table.rating)[stage.targets]
        found = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        return {name: point_metrics(predicted, rating, stage.user) for name, predicted in found.items()}

    return cached_metrics("baselines", _key(table, roles, stage, histories), compute)


def _key(table: RatingTable, roles: np.ndarray, stage: Stage, histories: HistoryReader) -> str:
    """Return the cache key: a digest of all that the baselines' metrics depend on."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.packbits(roles == TRAIN).tobytes())
    digest.update(stage.targets.astype("<i8").tobytes())
    for shown in shown_blocks(table, stage, histories):
        for column in (shown.offsets, shown.movie.astype("<i8"), shown.rating):
            digest.update(column.tobytes())
    return content_key("baselines", VERSION, lenskit_version(), table.content_hash(), digest.hexdigest())
