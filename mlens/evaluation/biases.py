"""Baselines of means and biases: the movies' from training ratings, the user's from the ratings shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.evaluation.shown_ratings import ShownRatings

# Pseudo-count of global-mean ratings added to each mean: few ratings say little.
DAMPING = 5.0
# L2 regularisation (lambda) of a movie's bias, of a user's bias, and of a user's bias from recent ratings, whose
# weights sum to at most about 10. Chosen on validation of ml-latest-small (temporal split) from 1 to 10, 1 to 15 and
# 0.5 to 3; RMSE is flat around them.
MOVIE_REGULARISATION = 4.0
USER_REGULARISATION = 3.0
RECENT_REGULARISATION = 1.0
# The age, in ratings, at which a shown rating's weight is 1/e.
RECENCY = 10.0
# The fit ends when no movie's bias moves by more than this: far below the fourth decimal of RMSE.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Biases:
    """The global mean, and means and biases of movies. A movie without training ratings has mean mu and bias 0.

    overall: mu, the mean training rating.
    movie_mean: [movies] mean of each movie's training ratings, damped towards mu.
    movie: [movies] bias b_i of each movie.
    """

    overall: float
    movie_mean: np.ndarray
    movie: np.ndarray


def fit_biases(table: RatingTable, trained: np.ndarray) -> Biases:
    """Fit on the ratings of `table` where `trained` [n] bool (at least one).

    The movies' biases are those of the minimum over all b_i and b_u of
    sum (r_ui - mu - b_i - b_u)^2 + MOVIE_REGULARISATION sum b_i^2 + USER_REGULARISATION sum b_u^2
    (Koren, "Factorization Meets the Neighborhood", KDD 2008, section 2.1; Koren, Bell and Volinsky, "Matrix
    Factorization Techniques for Recommender Systems", IEEE Computer 42(8), 2009), found by solving for all users and
    for all movies in turn. The training users' biases are used in the fit only.
    """
    movie, user = np.asarray(table.movie)[trained], np.asarray(table.user)[trained]
    rating = np.asarray(table.rating)[trained].astype(np.float64)
    overall = float(rating.mean())
    rest = rating - overall
    movies, users = len(table.movies), len(table.users)
    movie_n, user_n = np.bincount(movie, minlength=movies), np.bincount(user, minlength=users)
    movie_mean = overall + np.bincount(movie, rest, minlength=movies) / (movie_n + DAMPING)
    bias, moved = np.zeros(movies), np.inf
    while moved > TOLERANCE:
        of_user = np.bincount(user, rest - bias[movie], minlength=users) / (user_n + USER_REGULARISATION)
        new = np.bincount(movie, rest - of_user[user], minlength=movies) / (movie_n + MOVIE_REGULARISATION)
        bias, moved = new, float(np.abs(new - bias).max())
    return Biases(overall, movie_mean, bias)


def user_mean(model: Biases, shown: ShownRatings) -> np.ndarray:
    """Return the mean [t] of the ratings shown, damped towards the global mean."""
    return (shown.sums(shown.rating) + DAMPING * model.overall) / (shown.count + DAMPING)


def user_bias(model: Biases, shown: ShownRatings) -> np.ndarray:
    """Return the user's bias b_u [t], fitted on the ratings shown: sum (r_ui - mu - b_i) / (their number + lambda).

    It minimises the objective of `fit_biases` with the movies' biases fixed. A prediction is mu + b_i + b_u.
    """
    return shown.sums(_residual(model, shown)) / (shown.count + USER_REGULARISATION)


def recent_user_bias(model: Biases, shown: ShownRatings) -> np.ndarray:
    """Return the user's recency-weighted bias [t]: sum w (r_ui - mu - b_i) / (sum w + lambda), w = exp(-age / RECENCY).

    A rating's age is the number of shown ratings after it. The weight is that of Ding and Li, "Time Weight
    Collaborative Filtering", CIKM 2005, with age counted in ratings.
    """
    weight = np.exp(-shown.age / RECENCY)
    return shown.sums(weight * _residual(model, shown)) / (shown.sums(weight) + RECENT_REGULARISATION)


def _residual(model: Biases, shown: ShownRatings) -> np.ndarray:
    """Return the residual r_ui - mu - b_i [s] of each shown rating."""
    return shown.rating - model.overall - model.movie[shown.movie]
