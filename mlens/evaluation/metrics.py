"""Metrics of predicted rating distributions. Pure functions of arrays."""

from __future__ import annotations

import numpy as np

from mlens.evaluation.score import Predictions

BINS = 10


def rmse(predicted: np.ndarray, rating: np.ndarray) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((predicted - rating) ** 2)))


def mae(predicted: np.ndarray, rating: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(predicted - rating)))


def expected(predictions: Predictions, scale: tuple[float, ...]) -> np.ndarray:
    """[t] the expected rating: the prediction that RMSE is about."""
    return predictions.probability @ np.array(scale)


def calibration_error(probability: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error of the most probable rating, over ten equal bins of its probability
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017)."""
    confidence = probability.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, correct - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def user_rmse(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray) -> float:
    """The mean over users of each user's own RMSE."""
    _, index = np.unique(user, return_inverse=True)
    squares = np.bincount(index, (predicted - rating) ** 2) / np.bincount(index)
    return float(np.sqrt(squares).mean())


def measure(
    predictions: Predictions, rating_index: np.ndarray, user: np.ndarray, scale: tuple[float, ...]
) -> dict[str, float]:
    """All headline metrics. rating_index [t]: the true rating's place in `scale`; user [t].

    rmse, mae, user_rmse are of the expected rating; accuracy, argmax_rmse of the most probable one; nll (nats) of the
    true rating among the legal ones; illegal_mass is what the model gives to anything that isn't a legal rating.
    """
    values = np.array(scale)
    rating, predicted = values[rating_index], expected(predictions, scale)
    most = predictions.probability.argmax(axis=1)
    true = predictions.probability[np.arange(len(rating)), rating_index]
    return {
        "rmse": rmse(predicted, rating),
        "mae": mae(predicted, rating),
        "accuracy": float(np.mean(most == rating_index)),
        "argmax_rmse": rmse(values[most], rating),
        "nll": float(-np.log(np.maximum(true, np.finfo(float).tiny)).mean()),
        "calibration_error": calibration_error(predictions.probability, most == rating_index),
        "illegal_mass": float(1 - predictions.legal.mean()),
        "user_rmse": user_rmse(predicted, rating, user),
    }


def by_group(
    predicted: np.ndarray, rating: np.ndarray, value: np.ndarray, edges: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """RMSE and MAE of the targets whose `value` [t] lies from one edge up to below the next; empty groups are left out.

    >>> by_group(np.array([3.0, 4.0]), np.array([3.0, 3.0]), np.array([0, 7]), (0, 1, 5))
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
            errors = predicted[of_group], rating[of_group]
            groups[name] = {"targets": int(of_group.sum()), "rmse": rmse(*errors), "mae": mae(*errors)}
    return groups
