"""Baselines that LensKit fits on training ratings: biased matrix factorisation and item kNN (Ekstrand, "LensKit for
Python", CIKM 2020; the extra `lenskit`).

LensKit's fitted parameters are read, and the user is folded in on the ratings shown as LensKit would do it. LensKit's
scorers aren't used for this: they take one user at a time, and fail on movies without training ratings, which occur in
the histories of held-out targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from mlens.data.rating_table import RatingTable
from mlens.evaluation.shown_ratings import ShownRatings

# FACTORS and EPOCHS are LensKit's defaults. Regularisation, number of neighbours and their minimum were chosen on
# validation of ml-latest-small (temporal split), from 0.05 to 0.4, 20 to 80 and 1 to 8, with the full history and with
# ten ratings.
FACTORS = 50
EPOCHS = 10
FACTOR_REGULARISATION = 0.15
BIAS_DAMPING = 5.0
NEIGHBOURS = 40
LEAST_NEIGHBOURS = 5
# Maximum number of pairs of similar movies, divided equally among movies: no limit for ml-latest-small, 588 for each of
# 85,000 movies. They take 0.4 GB, and the fit makes several copies.
MOST_PAIRS = 50_000_000
SEED = 42
# Batch size of the linear solver, in targets: 20 MB.
TARGETS_AT_ONCE = 1024


def lenskit_version() -> str | None:
    """Return LensKit's version; None if it isn't installed."""
    return version("lenskit") if find_spec("lenskit") else None


@dataclass(frozen=True)
class Factors:
    """Biased matrix factorisation.

    overall: mu.
    bias: [movies] b_i, 0 for movies without training ratings.
    vectors: [movies, FACTORS] q_i, 0 for movies without training ratings.
    trained: [movies] bool, whether a movie has training ratings.
    """

    overall: float
    bias: np.ndarray
    vectors: np.ndarray
    trained: np.ndarray


@dataclass(frozen=True)
class Neighbours:
    """Item kNN.

    mean: [movies] mean of each movie's training ratings.
    similarity: [movies, movies] CSR, positive. The row of a movie holds the movies that have it among their most
        similar ones; it is empty for a movie without training ratings.
    """

    mean: np.ndarray
    similarity: sp.csr_array


def fit_factors(table: RatingTable, trained: np.ndarray) -> Factors:
    """Fit the factorisation on the ratings of `table` where `trained` [n] bool.

    It is alternating least squares on the residuals of damped biases, with lambda multiplied by the number of a user's
    or movie's ratings (Zhou et al., "Large-scale Parallel Collaborative Filtering for the Netflix Prize", AAIM 2008).
    Raises ImportError without LensKit.
    """
    from lenskit.als import BiasedMFScorer

    scorer = BiasedMFScorer(
        embedding_size=FACTORS, epochs=EPOCHS, regularization=FACTOR_REGULARISATION, damping=BIAS_DAMPING
    )
    _train(scorer, table, trained)
    movies, known = len(table.movies), scorer.items.ids()
    bias, vectors, has_ratings = np.zeros(movies), np.zeros((movies, FACTORS)), np.zeros(movies, dtype=bool)
    bias[known], vectors[known], has_ratings[known] = scorer.bias.item_biases, scorer.item_embeddings, True
    return Factors(scorer.bias.global_bias, bias, vectors, has_ratings)


def fit_neighbours(table: RatingTable, trained: np.ndarray) -> Neighbours:
    """Fit item kNN on the ratings of `table` where `trained` [n] bool.

    Similarity is the cosine of two movies' training ratings, centred on each movie's mean (Sarwar et al., "Item-based
    Collaborative Filtering Recommendation Algorithms", WWW 2001; Deshpande and Karypis, "Item-based Top-N
    Recommendation Algorithms", TOIS 22(1), 2004). Raises ImportError without LensKit.
    """
    from lenskit.knn import ItemKNNScorer

    movies = len(table.movies)
    scorer = ItemKNNScorer(max_nbrs=NEIGHBOURS, min_nbrs=LEAST_NEIGHBOURS, save_nbrs=max(1, MOST_PAIRS // movies))
    _train(scorer, table, trained)
    known = scorer.items.ids().astype(np.int32)
    mean, size = np.zeros(movies), np.zeros(movies, dtype=np.int64)
    similar = scorer.sim_matrix.to_scipy()
    mean[known], size[known] = scorer.item_means, np.diff(similar.indptr)
    starts = np.concatenate([[0], np.cumsum(size)])
    kept = sp.csr_array((similar.data, known[similar.indices], starts), shape=(movies, movies))
    # LensKit's row of a movie holds the movies similar to it, and it goes from the movies shown to the target.
    return Neighbours(mean, kept.T.tocsr())


def factor_predictions(model: Factors, shown: ShownRatings) -> np.ndarray:
    """Return the predictions mu + b_i + b_u + q_i . p_u [t], with b_u and p_u fitted on the ratings shown while the
    movies' parameters are fixed.

    b_u is the damped mean of r - mu - b_i. p_u is the ridge regression of the remaining residual on the q_i of those
    movies shown that have training ratings, with lambda multiplied by their number: half a step of the fit. Both are 0
    for a target without ratings shown.
    """
    from threadpoolctl import threadpool_limits

    rest = shown.rating - model.overall - model.bias[shown.movie]
    user_bias = shown.sums(rest) / (shown.count + BIAS_DAMPING)
    rest -= np.repeat(user_bias, shown.count)
    ridge = FACTOR_REGULARISATION * np.maximum(shown.sums(model.trained[shown.movie]), 1)
    predicted = model.overall + model.bias[shown.target_movie] + user_bias
    # Multithreading slows down products as small as these.
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, len(shown), TARGETS_AT_ONCE):
            targets = np.arange(start, min(start + TARGETS_AT_ONCE, len(shown)))
            left, right = np.empty((len(targets), FACTORS, FACTORS)), np.empty((len(targets), FACTORS, 1))
            for row, t in enumerate(targets):
                of_target = slice(shown.offsets[t], shown.offsets[t + 1])
                vectors = model.vectors[shown.movie[of_target]]
                left[row], right[row, :, 0] = vectors.T @ vectors, rest[of_target] @ vectors
            left += ridge[targets, None, None] * np.eye(FACTORS)
            users = np.linalg.solve(left, right)[:, :, 0]
            predicted[targets] += (users * model.vectors[shown.target_movie[targets]]).sum(axis=1)
    return predicted


def neighbour_predictions(model: Neighbours, shown: ShownRatings, otherwise: np.ndarray) -> np.ndarray:
    """Return the predictions [t]: the target movie's mean plus the similarity-weighted mean of r - mean over the
    NEIGHBOURS most similar movies shown.

    otherwise: [t] the prediction where fewer than LEAST_NEIGHBOURS of the movies shown are similar to the target's.
    """
    similarity, predicted = model.similarity, otherwise.copy()
    rest = shown.rating - model.mean[shown.movie]
    to_target = np.zeros(len(model.mean), dtype=similarity.dtype)
    for t, movie in enumerate(shown.target_movie):
        row = slice(similarity.indptr[movie], similarity.indptr[movie + 1])
        of_target = slice(shown.offsets[t], shown.offsets[t + 1])
        to_target[similarity.indices[row]] = similarity.data[row]
        weight = to_target[shown.movie[of_target]]
        to_target[similarity.indices[row]] = 0
        near = np.flatnonzero(weight)
        if len(near) < LEAST_NEIGHBOURS:
            continue
        if len(near) > NEIGHBOURS:
            near = near[np.argpartition(-weight[near], NEIGHBOURS - 1)[:NEIGHBOURS]]
        predicted[t] = model.mean[movie] + np.average(rest[of_target][near], weights=weight[near])
    return predicted


def _train(scorer: Any, table: RatingTable, trained: np.ndarray) -> None:
    """Train a LensKit scorer on the table's user and movie indices.

    LensKit takes one rating for each pair of user and movie, so of several ratings the latest is kept.
    """
    import pandas as pd
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    columns = {"user_id": table.user, "item_id": table.movie, "rating": table.rating}
    frame = pd.DataFrame({name: np.asarray(column)[trained] for name, column in columns.items()})
    data = from_interactions_df(frame.drop_duplicates(["user_id", "item_id"], keep="last"))
    with _threads_as_before():
        scorer.train(data, TrainingOptions(rng=SEED))


@contextmanager
def _threads_as_before() -> Iterator[None]:
    """Restore the numbers of threads that LensKit's first training sets for the process, including PyTorch's.

    The number of inter-op threads can be set only once, so it stays; LensKit's warning that it is too late is hidden.
    """
    from threadpoolctl import threadpool_limits

    threads, sharing = torch.get_num_threads(), torch.multiprocessing.get_sharing_strategy()
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "failed to set interop threads", RuntimeWarning)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.multiprocessing.set_sharing_strategy(sharing)
