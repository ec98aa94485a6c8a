"""The best possible predictions of the sample's ratings: the noise floor, and the Bayes prediction from each history.

Every RMSE here is that of an expected rating, with the movies' offsets and genres known, against the rating after
rounding and clipping. A model trained on finite data can't be expected to have a lower RMSE.

    python -m mlens.data.sample_bayes 0 0.1 0.3

takes a quarter of a minute and prints, for the default sample with the last tenth of each user as targets (1,210):

    drift  RMSE    none   all_previous  random 0.5  fixed_ratio 0.3  fixed_count 10  noise floor
    0      Bayes   1.119  0.530         0.553       0.584            0.590           0.493
    0      static  1.119  0.533         0.555       0.586            0.592           0.493
    0.1    Bayes   1.144  0.585         0.618       0.613            0.616           0.494
    0.1    static  1.144  0.631         0.649       0.622            0.623           0.494
    0.3    Bayes   1.087  0.717         0.780       0.722            0.722           0.498
    0.3    static  1.087  0.956         0.958       0.818            0.794           0.498

The static estimator shows what drift does to a model that ignores it. A posterior given more ratings is never worse, on
average, than one given some of them: with the Bayes prediction, all_previous is the best strategy at *every* drift, and
drift only devalues old ratings, so that the last ten do almost as well as all. The order reverses for an estimator that
weighs all ratings in its history equally, since old ratings then do harm. `static_rmse` is the best estimator of this
kind. What a trained model does depends on the model: a short history helps it as far as it hasn't learned to prefer
recent ratings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mlens.data.sample import SPREAD, Sample, Truth
from mlens.data.sample_filter import Filters, rating_moments

# Rounding to a grid of step h adds h²/12 to a variance (Sheppard's correction).
_ROUNDING_VARIANCE = 0.5**2 / 12
_CHUNK = 256  # targets filtered at a time: about 50 MB with the default number of particles


@dataclass(frozen=True)
class Rmse:
    """RMSE of some predictions on some targets, in rating points.

    observed: on the drawn ratings, comparable with a model's on the same targets.
    expected: the expectation over the noise of the targets' ratings, given the users' states. It is exact for given
        predictions and has less variance than `observed`: use it to compare strategies.
    standard_error: of `expected`, from the draw of the users (targets are clustered by user). Strategies share their
        users, so that the standard error of a difference between two of them is far smaller.
    monte_carlo: how much the Monte Carlo error of the predictions adds to `expected`, on average (0: they are exact).
    """

    observed: float
    expected: float
    standard_error: float
    monte_carlo: float = 0.0


@dataclass(frozen=True)
class BayesPredictions:
    """Predicted ratings.

    expected [targets]: in rating points.
    standard_error [targets]: of the Monte Carlo approximation.
    """

    expected: np.ndarray
    standard_error: np.ndarray


def noise_floor(truth: Truth, targets: np.ndarray) -> float:
    """Compute the RMSE of the conditional mean given the user's state at that time and the movie, over these targets.

    It is exact: sqrt(mean variance of the rating given its `latent_mean`). targets [targets]: rows of the table.
    """
    return float(np.sqrt(rating_moments(truth.latent_mean[targets], truth.noise)[1].mean()))


def score(truth: Truth, targets: np.ndarray, predictions: np.ndarray, monte_carlo: np.ndarray | float = 0.0) -> Rmse:
    """Compute the RMSE of predictions [targets] of the ratings in rows `targets`; `monte_carlo`: their standard errors.

    E (r - p)² = (E r - p)² + Var r for each target, given the user's state at that time.
    """
    mean, variance = rating_moments(truth.latent_mean[targets], truth.noise)
    square = (mean - predictions) ** 2 + variance
    expected = np.sqrt(square.mean())
    # Delta method: the error of the root is the error of the mean square / (2 root); users are the independent units.
    per_user = np.bincount(truth.user[targets], weights=square - square.mean())
    error = np.sqrt((per_user**2).sum()) / len(targets) / (2 * expected)
    return Rmse(
        observed=float(np.sqrt(((truth.rating[targets] - predictions) ** 2).mean())),
        expected=float(expected),
        standard_error=float(error),
        monte_carlo=float(np.mean(np.square(monte_carlo)) / (2 * expected)),
    )


def bayes_rmse(truth: Truth, targets: np.ndarray, histories: Sequence[np.ndarray], **settings: int) -> Rmse:
    """Compute the RMSE of `bayes_predictions` (same arguments): on average the lowest possible given the histories."""
    predictions = bayes_predictions(truth, targets, histories, **settings)
    return score(truth, targets, predictions.expected, predictions.standard_error)


def bayes_predictions(
    truth: Truth,
    targets: np.ndarray,
    histories: Sequence[np.ndarray],
    particles: int = 64,
    repeats: int = 4,
    seed: int = 0,
) -> BayesPredictions:
    """Compute the posterior expected rating of each target given the (rounded, clipped) ratings in its history.

    targets [targets]: rows of the table.
    histories: for each target, the rows of the same user's earlier ratings in its history, ascending (any subset, so
        any strategy).
    particles: of each filter.
    repeats: independent filters, whose mean is the prediction.
    seed: of the filters' draws.

    The prediction also knows the movies' factors, each rating's position in the user's sequence, drift, noise, and the
    distribution of the users' states. Raises ValueError where a history contains another user's rating, or isn't
    ascending and before its target.

    Given the *latent* history ratings, the state is Gaussian, and the target's expected rating is exact
    (`rating_moments`). The average over the latent history, each rating of which is only known to lie in its interval,
    is approximated by a particle filter (`mlens.data.sample_filter`), consistent in `particles` with a bias of order
    1 / particles. The standard error is over the repeats; with the defaults it is 0.004 to 0.006 rating points on
    average, which adds 0.00002 to an RMSE. Without history the prediction is exact.
    """
    histories = [np.asarray(history, dtype=np.int64) for history in histories]
    _check(truth, targets, histories)
    generator = np.random.Generator(np.random.Philox(key=seed))
    filtered = np.empty((len(targets), repeats))
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    # Longest first: at each step of a chunk, the targets whose history isn't used up yet come first.
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(targets), _CHUNK):
        chunk = order[start : start + _CHUNK]
        rows, seen = _padded([histories[i] for i in chunk])
        first = rows[:, 0] if seen.size else targets[chunk]
        filters = Filters(truth, truth.step[first], repeats, particles, generator)
        for column, active in enumerate(seen.sum(axis=0)):
            filters.observe(active, rows[:active, column])
        filtered[chunk] = filters.expected_rating(targets[chunk])
    spread = filtered.std(axis=1, ddof=1) if repeats > 1 else np.full(len(targets), np.nan)
    return BayesPredictions(filtered.mean(axis=1), np.where(lengths > 0, spread / np.sqrt(repeats), 0.0))


def static_rmse(truth: Truth, targets: np.ndarray, histories: Sequence[np.ndarray]) -> Rmse:
    """Compute the RMSE of the best estimator that weighs all history ratings equally, as if tastes didn't drift. Exact.

    Arguments and errors are those of `bayes_predictions`. The estimator is a ridge regression of the state on the
    history's ratings, with rounding treated as additional noise: state ~ N(0, SPREAD²) and rating - base = loading ·
    state + N(0, s²), then the expected rounded rating. s² is chosen on these same targets from 1, 2, 4, .. 64 times
    noise² + rounding variance: the estimator may shrink all of its history as much as is best, but not some ratings
    more than others.
    """
    histories = [np.asarray(history, dtype=np.int64) for history in histories]
    _check(truth, targets, histories)
    rows, seen = _padded(histories)
    loading = truth.loading[truth.movie[rows]] * seen[:, :, None]
    surprise = (truth.rating[rows] - truth.base[rows]) * seen
    gram = np.einsum("tld,tle->tde", loading, loading)
    moment = np.einsum("tld,tl->td", loading, surprise)
    at_target = truth.loading[truth.movie[targets]]

    def predict(variance: float) -> np.ndarray:
        covariance = np.linalg.inv(gram / variance + np.diag(SPREAD**-2.0))
        mean = np.einsum("td,tde,te->t", at_target, covariance, moment / variance)
        uncertainty = np.einsum("td,tde,te->t", at_target, covariance, at_target)
        return rating_moments(truth.base[targets] + mean, np.sqrt(uncertainty + truth.noise**2))[0]

    known = truth.noise**2 + _ROUNDING_VARIANCE
    scores = [score(truth, targets, predict(factor * known)) for factor in (1, 2, 4, 8, 16, 32, 64)]
    return min(scores, key=lambda rmse: rmse.expected)


def _check(truth: Truth, targets: np.ndarray, histories: Sequence[np.ndarray]) -> None:
    if len(targets) != len(histories):
        raise ValueError(f"{len(targets)} targets, but {len(histories)} histories")
    for target, history in zip(targets, histories, strict=True):
        if len(history) and (
            np.any(truth.user[history] != truth.user[target])
            or np.any(np.diff(history) <= 0)
            or not 0 <= history[0] <= history[-1] < target
        ):
            raise ValueError(f"the history of row {target} must be earlier rows of the same user, ascending")


def _padded(histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad the histories with row 0 to an array [targets, longest]; return it, and which entries are real."""
    lengths = np.array([len(history) for history in histories])
    seen = np.arange(lengths.max(initial=0)) < lengths[:, None]
    rows = np.zeros(seen.shape, dtype=np.int64)
    rows[seen] = np.concatenate([*histories, np.zeros(0, dtype=np.int64)])
    return rows, seen


Strategy = Callable[[np.ndarray], np.ndarray]


def _strategies(seed: int = 0) -> dict[str, Strategy]:
    """Map visible rows to shown rows, like the strategies of these names (random uses other draws)."""
    generator = np.random.Generator(np.random.Philox(key=seed))

    def k(ratio: float, count: int) -> int:
        return min(count, max(1, int(ratio * count + 1e-9)))

    return {
        "none": lambda rows: rows[:0],
        "all_previous": lambda rows: rows,
        "random 0.5": lambda rows: np.sort(generator.permutation(rows)[: k(0.5, len(rows))]),
        "fixed_ratio 0.3": lambda rows: rows[len(rows) - k(0.3, len(rows)) :],
        "fixed_count 10": lambda rows: rows[-10:],
    }


def last_tenth(truth: Truth) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the last tenth of each user's rows (rounded, at least one), and for each all earlier rows of its user."""
    length = np.bincount(truth.user)
    start = np.cumsum(length) - length
    targets = np.flatnonzero(truth.step >= (length - np.maximum(1, (0.1 * length + 0.5).astype(int)))[truth.user])
    return targets, [np.arange(start[truth.user[target]], target) for target in targets]


def compare(sample: Sample, drifts: Sequence[float]) -> Table:
    """Tabulate Bayes and static RMSE (`Rmse.expected`) of five strategies at each drift. Takes seconds per drift."""
    headers = (name.replace(" ", "\n") for name in ("drift", "RMSE", *_strategies(), "noise floor"))
    table = Table(*headers, box=box.SIMPLE, padding=(0, 1, 0, 0))
    shown: list[Rmse] = []
    for drift in drifts:
        truth = replace(sample, drift=drift).truth()
        targets, visible = last_tenth(truth)
        histories = [[choose(rows) for rows in visible] for choose in _strategies().values()]
        for name, rmse in (("Bayes", bayes_rmse), ("static", static_rmse)):
            row = [rmse(truth, targets, history) for history in histories]
            cells = [f"{one.expected:.3f}" for one in row]
            table.add_row(f"{drift:g}", name, *cells, f"{noise_floor(truth, targets):.3f}")
            shown += row
    table.caption = (
        f"{len(targets):,} targets; standard errors up to {max(one.standard_error for one in shown):.3f}; "
        f"Monte Carlo adds up to {max(one.monte_carlo for one in shown):.5f}"
    )
    return table


if __name__ == "__main__":
    Console().print(compare(Sample(), [float(word) for word in sys.argv[1:]] or [0.0, 0.1, 0.3]))
