"""Metrics of predicted rating distributions. Pure functions of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mlens.evaluation.score import Predictions

BINS = 10
CUT_OFF = 10


def rmse(predicted: np.ndarray, rating: np.ndarray) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean((predicted - rating) ** 2)))


def mae(predicted: np.ndarray, rating: np.ndarray) -> float:
    """Return the mean absolute error."""
    return float(np.mean(np.abs(predicted - rating)))


def expected(predictions: Predictions, scale: tuple[float, ...]) -> np.ndarray:
    """Return the expected ratings [t], which RMSE and MAE are computed from."""
    return predictions.probability @ np.array(scale)


def rating_columns(predictions: Predictions, scale: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Return the columns [t] of a table of predictions: `expected`, `argmax`, and `p_0.5`, … of each legal rating."""
    most = np.array(scale)[predictions.probability.argmax(axis=1)]
    columns = {"expected": expected(predictions, scale), "argmax": most}
    return columns | {f"p_{value}": predictions.probability[:, i] for i, value in enumerate(scale)}


def calibration_error(probability: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error of the most probable rating, over ten equal-width bins of its probability
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017)."""
    confidence = probability.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, correct - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def user_rmse(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray) -> float:
    """Return the RMSE of each user's targets, averaged over users."""
    _, index = np.unique(user, return_inverse=True)
    squares = np.bincount(index, (predicted - rating) ** 2) / np.bincount(index)
    return float(np.sqrt(squares).mean())


def level(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray) -> float:
    """Return the error in users' levels: the root mean square, over targets, of the mean error of the target's user.

    RMSE² = level² + taste²: the bias and variance of errors within a user, averaged over users by their targets.

    predicted, rating, user: [t].
    """
    _, index = np.unique(user, return_inverse=True)
    return float(np.sqrt(np.mean(_mean_errors(predicted, rating, index)[index] ** 2)))


def taste(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray) -> float:
    """Return the RMSE within users: of the errors less the mean error of the target's user.

    A constant added to all predictions of a user doesn't change it. 0 for users with one target.

    predicted, rating, user: [t].
    """
    _, index = np.unique(user, return_inverse=True)
    return rmse(predicted - _mean_errors(predicted, rating, index)[index], rating)


def _mean_errors(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Return the mean error of each user, [users]; `user` [t] has the targets' users as indices, each at least once."""
    return np.bincount(user, predicted - rating) / np.bincount(user)


def auc(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray) -> float:
    """Return the share of correctly ordered pairs of a user's targets with different ratings, averaged over users.

    Pairs with equal predictions count half. For ratings of two values this is the area under the ROC curve, for more
    the concordance index (Harrell et al., "Evaluating the Yield of Medical Tests", JAMA 247(18), 1982). Users without
    such a pair are left out; NaN if no user has one.

    predicted, rating, user: [t].
    """
    _, index = np.unique(user, return_inverse=True)
    shares = ordered_shares(predicted, rating, index)
    some = ~np.isnan(shares)
    return float(shares[some].mean()) if some.any() else float("nan")


def ordered_shares(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Return the share of correctly ordered pairs that `auc` averages, [users]; NaN for users without such a pair.

    predicted, rating: [t].
    user: [t] index of the target's user; each user has a target.
    """
    values, value = np.unique(rating, return_inverse=True)
    order = np.lexsort((predicted, user))
    user, value, predicted = user[order], value[order], predicted[order]
    users, tied = _starts(user), _starts(user, predicted)
    first, first_tied = users[user], np.repeat(tied[:-1], np.diff(tied))
    behind_tied = np.repeat(tied[1:], np.diff(tied))
    n = np.diff(users).astype(np.float64)
    right, pairs = np.zeros(len(n)), n**2
    for one in range(len(values)):
        # before[i]: number of targets with this rating before position i.
        before = np.concatenate([[0], np.cumsum(value == one)])
        lower = before[first_tied] - before[first] + (before[behind_tied] - before[first_tied]) / 2
        right += np.bincount(user, np.where(value > one, lower, 0), minlength=len(n))
        pairs -= np.bincount(user, value == one, minlength=len(n)) ** 2
    shares = np.full(len(n), np.nan)
    np.divide(right, pairs / 2, out=shares, where=pairs > 0)
    return shares


def ndcg(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray, cut_off: int = CUT_OFF) -> float:
    """Return the normalised discounted cumulative gain at rank `cut_off` of each user's targets ordered by `predicted`,
    averaged over users; NaN if `ndcg_shares` has none.

    predicted, rating, user: [t]; ratings should not be negative.
    """
    shares = ndcg_shares(predicted, rating, np.unique(user, return_inverse=True)[1], cut_off)
    some = ~np.isnan(shares)
    return float(shares[some].mean()) if some.any() else float("nan")


def ndcg_shares(predicted: np.ndarray, rating: np.ndarray, index: np.ndarray, cut_off: int = CUT_OFF) -> np.ndarray:
    """Return the normalised discounted cumulative gain that `ndcg` averages, [users].

    It is the sum of rating / log2(1 + rank), divided by that of the ideal order (Järvelin and Kekäläinen, "Cumulated
    Gain-based Evaluation of IR Techniques", TOIS 20(4), 2002; the gain is the rating itself). Tied predictions get the
    mean over all their orders, so the order of the targets doesn't matter (McSherry and Najork, "Computing Information
    Retrieval Performance Measures Efficiently in the Presence of Tied Scores", ECIR 2008). It is NaN for users with one
    target, and for those whose ideal order gains nothing (all ratings 0).

    predicted, rating: [t].
    index: [t] index of the target's user; each user has a target.
    """
    users = _starts(np.sort(index))
    rank = np.arange(len(index)) - np.repeat(users[:-1], np.diff(users)) + 1
    discount = np.where(rank <= cut_off, 1 / np.log2(1 + rank), 0)
    of_user = np.repeat(np.arange(len(users) - 1), np.diff(users))
    best = np.bincount(of_user, rating[np.lexsort((-rating, index))] * discount)
    order = np.lexsort((-predicted, index))
    tied = _starts(of_user, predicted[order])
    size = np.diff(tied)
    gain = np.repeat(np.add.reduceat(rating[order], tied[:-1], dtype=np.float64) / size, size)
    some = (np.diff(users) > 1) & (best > 0)
    shares = np.full(len(some), np.nan)
    np.divide(np.bincount(of_user, gain * discount), best, out=shares, where=some)
    return shares


def _starts(*columns: np.ndarray) -> np.ndarray:
    """Return the starts of runs of equal values in all columns [n], followed by n: [runs + 1]."""
    new = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.concatenate([[0], np.flatnonzero(new) + 1, [len(columns[0])]])


def point_metrics(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray) -> dict[str, float]:
    """Compute the metrics of predicted ratings, of a model or of a baseline.

    predicted, rating, user: [t].

    Returned, by name (NaN is null in summary.json):
    rmse, mae: errors.
    level, taste: the two parts of RMSE, between and within users.
    auc, ndcg_10: ranking of each user's targets; NaN if no user has targets to order.
    """
    return {
        "rmse": rmse(predicted, rating),
        "mae": mae(predicted, rating),
        "level": level(predicted, rating, user),
        "taste": taste(predicted, rating, user),
        "auc": auc(predicted, rating, user),
        "ndcg_10": ndcg(predicted, rating, user),
    }


def measure(
    predictions: Predictions, rating_index: np.ndarray, user: np.ndarray, scale: tuple[float, ...]
) -> dict[str, float]:
    """Compute all headline metrics.

    rating_index: [t] index of the true rating in `scale`.
    user: [t] the target's user.

    Returned, by name (NaN is null in summary.json):
    rmse, mae, level, taste, auc, ndcg_10: of the expected rating, as `point_metrics` returns them.
    user_rmse: of the expected rating.
    accuracy, argmax_rmse: of the most probable rating.
    calibration_error: of the most probable rating's probability.
    nll: negative log-likelihood of the true rating among the legal ones, in nats.
    expected_std: standard deviation over targets of the expected rating; NaN for a single target.
    illegal_mass: mean probability of everything that isn't a legal rating.
    """
    values = np.array(scale)
    rating, predicted = values[rating_index], expected(predictions, scale)
    most = predictions.probability.argmax(axis=1)
    true = predictions.probability[np.arange(len(rating)), rating_index]
    return point_metrics(predicted, rating, user) | {
        "accuracy": float(np.mean(most == rating_index)),
        "argmax_rmse": rmse(values[most], rating),
        "nll": float(-np.log(np.maximum(true, np.finfo(float).tiny)).mean()),
        "calibration_error": calibration_error(predictions.probability, most == rating_index),
        "expected_std": float(np.std(predicted)) if len(predicted) > 1 else float("nan"),
        "illegal_mass": float(1 - predictions.legal.mean()),
        "user_rmse": user_rmse(predicted, rating, user),
    }


def by_group(
    predicted: np.ndarray, rating: np.ndarray, value: np.ndarray, edges: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """Return RMSE and MAE, as means over draws, of the targets in each group; empty groups are left out.

    predicted: [draws, t] expected ratings.
    rating: [t] true ratings.
    value: [t] the number that a target is grouped by.
    edges: lower edges of the groups; a group ends below the next edge.

    >>> by_group(np.array([[3.0, 4.0]]), np.array([3.0, 3.0]), np.array([0, 7]), (0, 1, 5))
    {'0': {'targets': 1, 'rmse': 0.0, 'mae': 0.0}, '5+': {'targets': 1, 'rmse': 1.0, 'mae': 1.0}}
    """
    group = np.searchsorted(edges, value, side="right") - 1
    groups = {}
    for number, low in enumerate(edges):
        of_group = group == number
        if of_group.any():
            if number + 1 == len(edges):
                name = f"{low}+"
            else:
                high = edges[number + 1] - 1
                name = str(low) if high == low else f"{low}-{high}"
            means = {
                metric.__name__: float(np.mean([metric(draw[of_group], rating[of_group]) for draw in predicted]))
                for metric in (rmse, mae)
            }
            groups[name] = {"targets": int(of_group.sum()), **means}
    return groups
