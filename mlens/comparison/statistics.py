"""Paired statistics of arms (strategies) that predicted the same targets of the same users, each in one or more runs.

An arm's figure is the mean over its runs (seeds) of each run's RMSE or MAE over all targets; a run that drew histories
several times has the mean over these draws of each draw's. It is uncertain twice:

- Other users would give other errors. Whole users are resampled, the same for every run, so that a difference of arms
  is paired: the bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). For few users it is too
  narrow, so its deviations are widened as a t interval is wider than a normal one (Hesterberg, "What Teachers Should
  Know About the Bootstrap", The American Statistician 69, 2015). Since few users may hold most of the targets, users
  with n targets each count as (sum n)^2 / sum n^2 users (Kish, "Survey Sampling", 1965; Carter, Schnepel and
  Steigerwald, "Asymptotic Behavior of a t-Test Robust to Cluster Heterogeneity", Review of Economics and Statistics 99,
  2017).
- Another seed would give another model. To resample S runs would be far too narrow, by sqrt((S - 1) / S) and without
  tails, so the variance v between them enters as that of a small normal sample: v (S - 1) / chi2(S - 1) in place of v,
  which makes the noise of their mean a Student t with S - 1 degrees of freedom, and that of a difference the sum of two
  (Behrens-Fisher; Fisher, "The Fiducial Argument in Statistical Inference", Annals of Eugenics 6, 1935). v contains
  how runs differ on these users by chance, and resampling users contains that again; it is taken off v's draws, down
  to zero, as in generalized intervals for variance components (Weerahandi, "Generalized Confidence Intervals", Journal
  of the American Statistical Association 88, 1993).

With one run nothing is known of an arm's other seeds: its figure is that model's, and a difference is that of these
models. Users are taken as drawn independently, seeds as normal and independent between arms. A run's draws of
histories are those of evaluation.seed, the same for all runs; they are averaged before runs are compared, so that seeds
alone make the spread between runs.

Intervals and p are themselves estimates from random resamples; how far another seed of the generator would move them
is their Monte Carlo standard error, sqrt(q (1 - q) / B) / density for a quantile q of B resamples and
sqrt(p (1 - p) / B) for p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy.stats import norm, t

# Which of the sums a metric is made of, and what makes it of their mean.
METRICS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {"rmse": (0, np.sqrt), "mae": (1, np.asarray)}
RESAMPLES = 9_999
TAILS = (0.025, 0.975)
# Resamples at a time: 10 MB an array for 20,000 users.
BATCH = 64
# How far from a tail its density is measured.
NEAR = 0.01
# With fewer users, a part of the targets is resampled by itself: a sample of all users could have none of them.
FEW = 50
# What is drawn, each from numbers of its own.
USERS, SWAPS, SEEDS = range(3)


@dataclass(frozen=True, eq=False)
class Errors:
    """What the statistics need of the predictions of all runs. Known by identity: what is drawn for one is kept.

    squares, absolutes [draws, users]: sums over each user's targets of the squared and of the absolute error, in stars
    squared and in stars, for each draw of histories of each run; counts [users]: each user's targets (0: all of them
    are in another part); arm [runs]: which arm each run belongs to, from 0 on; run [draws]: which run each draw belongs
    to, from 0 on (None: each run has one).
    """

    squares: np.ndarray
    absolutes: np.ndarray
    counts: np.ndarray
    arm: np.ndarray
    run: np.ndarray | None = None

    def __post_init__(self) -> None:
        """ValueError where shapes don't fit, an arm has no run, a run no draw, a sum isn't finite, or users with
        targets are fewer than two."""
        shape = (len(self.arm if self.run is None else self.run), len(self.counts))
        if self.squares.shape != shape or self.absolutes.shape != shape:
            raise ValueError(f"{shape[0]} draws, {shape[1]} users: sums {self.squares.shape}, {self.absolutes.shape}")
        if not len(self.arm) or set(self.arm.tolist()) != set(range(self.arms)):
            raise ValueError(f"arms are 0, 1, .. and each has a run: {self.arm.tolist()}")
        if self.run is not None and set(self.run.tolist()) != set(range(len(self.arm))):
            raise ValueError(f"runs are 0, 1, .. and each has a draw: {self.run.tolist()}")
        if (self.counts > 0).sum() < 2 or self.counts.min() < 0:
            raise ValueError(f"two users with targets at least: {len(self.counts)} users")
        if not (np.isfinite(self.squares).all() and np.isfinite(self.absolutes).all()):
            raise ValueError("an error isn't finite")

    @property
    def arms(self) -> int:
        """The number of arms."""
        return int(self.arm.max()) + 1

    @property
    def seeds(self) -> np.ndarray:
        """[arms] the number of runs of each arm."""
        return np.bincount(self.arm)

    @property
    def sums(self) -> np.ndarray:
        """[2, draws, users] squares, absolutes."""
        return np.stack([self.squares, self.absolutes])

    def over_draws(self, values: np.ndarray) -> np.ndarray:
        """The mean over each run's draws of values [.., draws, n]: [.., runs, n]."""
        if self.run is None:
            return values
        runs = range(len(self.arm))
        return np.stack([values[..., self.run == run, :].mean(axis=-2) for run in runs], axis=-2)

    def over_runs(self, values: np.ndarray) -> np.ndarray:
        """The mean over each arm's runs of values [.., runs, n]: [.., arms, n]."""
        return np.stack([values[..., self.arm == arm, :].mean(axis=-2) for arm in range(self.arms)], axis=-2)


@dataclass(frozen=True)
class Estimate:
    """A figure, in stars, and its 95% interval. error: the Monte Carlo standard error of the interval's ends."""

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Difference:
    """An arm's figure minus another's, in stars (negative: the first is better), and its 95% interval.

    p: of the two-sided test that both err alike; p_holm: corrected for all pairs. seeds: whether all of these are about
    strategies, whatever the seed; else they are about these trained models alone. error, p_error: the Monte Carlo
    standard errors of the interval's ends and of p_holm.
    """

    value: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: bool
    error: float
    p_error: float


def sum_errors(
    predicted: np.ndarray,
    rating: np.ndarray,
    user: np.ndarray,
    arm: Sequence[int] | np.ndarray,
    run: np.ndarray | None = None,
) -> Errors:
    """The errors of predicted [draws, targets] for rating [targets], in stars; user [targets]: ids; arm [runs]: 0, 1,
    ..; run [draws]: 0, 1, .. (None: one draw each).

    The order of targets doesn't matter; users are in the order of their ids. ValueError as Errors has it, and where
    lengths differ.
    """
    draws = len(arm) if run is None else len(run)
    if predicted.shape != (draws, len(rating)) or len(user) != len(rating):
        raise ValueError(f"{draws} draws, {len(rating)} ratings, {len(user)} users: predicted {predicted.shape}")
    _, index, counts = np.unique(user, return_inverse=True, return_counts=True)
    return Errors(*user_sums(predicted, rating, index, len(counts)), counts, np.asarray(arm), run)


def user_sums(predicted: np.ndarray, rating: np.ndarray, user: np.ndarray, users: int) -> tuple[np.ndarray, np.ndarray]:
    """[draws, users] the sums over each user's targets of the squared error, and of the absolute error.

    predicted: [draws, targets], in stars.
    rating: [targets], in stars.
    user: [targets], 0 … users - 1.
    """
    squares, absolutes = np.empty((2, len(predicted), users))
    for draw, row in enumerate(predicted):
        absolute = np.abs(row - rating)
        absolutes[draw] = np.bincount(user, absolute, users)
        squares[draw] = np.bincount(user, absolute**2, users)
    return squares, absolutes


def estimates(errors: Errors, metric: str, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Estimate]:
    """Each arm's "rmse" or "mae" (another metric: ValueError). Equal arguments give equal results.

    >>> predicted, rating = np.array([[3.0, 4.0, 2.0, 2.0]]), np.array([3.0, 3.0, 2.0, 1.0])
    >>> estimates(sum_errors(predicted, rating, user=np.array([1, 1, 2, 2]), arm=[0]), "mae")
    [Estimate(value=0.5, low=0.5, high=0.5, error=0.0)]
    """
    drawn = _draw(errors, metric, resamples, seed)
    draws = drawn.users + drawn.seeds
    return [Estimate(float(value), *_interval(own)) for value, own in zip(drawn.value, draws, strict=True)]


def differences(
    errors: Errors, metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[tuple[int, int], Difference]:
    """The difference in "rmse" or "mae" (another metric: ValueError) of arms i and j under (i, j), for all i < j.

    p is the share of a null distribution, the observed difference counted in, that is at least as far from 0 (Phipson
    and Smyth, "Permutation P-values Should Never Be Zero", Statistical Applications in Genetics and Molecular Biology
    9, 2010). Its statistic is the difference in mean squared error (mae: mean absolute error). The null distribution
    swaps the two arms at random within each user, all seeds together, and adds the seeds' noise. Users' differences
    needn't be symmetric for it if users are many (Romano, "On the Behavior of Randomization Tests Without a Group
    Invariance Assumption", Journal of the American Statistical Association 85, 1990). Equal arguments give equal
    results.
    """
    drawn = _draw(errors, metric, resamples, seed)
    pairs = list(combinations(range(errors.arms), 2))
    both = [bool(min(errors.seeds[i], errors.seeds[j]) > 1) for i, j in pairs]
    value = [float(drawn.value[i] - drawn.value[j]) for i, j in pairs]
    interval, p = [], []
    for (i, j), seeds in zip(pairs, both, strict=True):
        draws, null = drawn.users[i] - drawn.users[j], drawn.swapped[i] - drawn.swapped[j]
        if seeds:
            draws = draws + drawn.seeds[i] - drawn.seeds[j]
            null = null + drawn.mean_seeds[i] - drawn.mean_seeds[j]
        interval.append(_interval(draws))
        p.append(_p(drawn.mean[i], drawn.mean[j], null))
    p_errors = [times * _p_error(one, resamples) for one, times in _deciding(p)]
    rows = zip(value, interval, p, holm(p), both, p_errors, strict=True)
    return {
        pair: Difference(value, low, high, p, p_holm, seeds, error, p_error)
        for pair, (value, (low, high, error), p, p_holm, seeds, p_error) in zip(pairs, rows, strict=True)
    }


def part_differences(
    parts: Sequence[Errors], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """Of each part of the targets, the figure of its first arm minus that of its second.

    parts: errors of two arms each, over the same users, of which some may have no targets in a part. They are resampled
    together, users without targets too, but for parts of few users.
    """
    number, figure = METRICS[metric]
    dense = [part if (part.counts > 0).sum() >= FEW else _without_empty(part) for part in parts]
    found: dict[int, Estimate] = {}
    for users in sorted({len(part.counts) for part in dense}):
        members = [i for i, part in enumerate(dense) if len(part.counts) == users]
        totals = [np.concatenate([dense[i].sums[number], dense[i].counts[None]]) for i in members]
        drawn, ends = _resample(np.concatenate(totals), resamples, seed), np.cumsum([len(own) for own in totals])
        for i, own in zip(members, np.split(drawn, ends[:-1]), strict=True):
            random = np.random.default_rng((seed, SEEDS))
            value, by_users, by_seeds, _ = _figures(dense[i], number, figure, own[:-1] / own[-1], random)
            draws = by_users[0] - by_users[1]
            if min(dense[i].seeds) > 1:
                draws = draws + by_seeds[0] - by_seeds[1]
            found[i] = Estimate(float(value[0] - value[1]), *_interval(draws))
    return [found[i] for i in range(len(parts))]


def _without_empty(part: Errors) -> Errors:
    some = part.counts > 0
    return Errors(part.squares[:, some], part.absolutes[:, some], part.counts[some], part.arm, part.run)


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for being several, so that one below a level by chance is no likelier than the level.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.25, 0.0625, 0.5])
    [0.5, 0.1875, 0.5]
    """
    return [min(1.0, one * times) for one, times in _deciding(p)]


def _deciding(p: Sequence[float]) -> list[tuple[float, int]]:
    """For each p, which of them decides on the corrected one, and how many times that one it is (at most 1)."""
    order, times = np.argsort(p), np.arange(len(p), 0, -1)
    product = np.sort(p) * times
    new = product == np.maximum.accumulate(product)
    deciding = np.empty(len(p), dtype=np.int64)
    deciding[order] = np.maximum.accumulate(np.where(new, np.arange(len(p)), 0))
    return [(float(p[order[rank]]), int(times[rank])) for rank in deciding]


@dataclass(frozen=True)
class _Drawn:
    """value [arms]: the metric; users, seeds [arms, resamples]: its values for other users, and what other seeds would
    add. mean [arms]: the mean error that it is made of; swapped, mean_seeds [arms, resamples]: the same of its null."""

    value: np.ndarray
    users: np.ndarray
    seeds: np.ndarray
    mean: np.ndarray
    swapped: np.ndarray
    mean_seeds: np.ndarray


def _draw(errors: Errors, metric: str, resamples: int, seed: int) -> _Drawn:
    if metric not in METRICS:
        raise ValueError(f"a metric is one of {', '.join(METRICS)}: {metric}")
    number, figure = METRICS[metric]
    drawn = _resampled(errors, resamples, seed)[number]
    random = np.random.default_rng((seed, SEEDS))
    value, users, seeds, mean = _figures(errors, number, figure, drawn, random)
    return _Drawn(
        value=value,
        users=users,
        seeds=seeds,
        mean=errors.over_runs(mean)[:, 0],
        swapped=_swapped(errors, resamples, seed)[number],
        mean_seeds=_seed_noise(errors, mean[:, 0], errors.over_draws(drawn), random),
    )


def _figures(
    errors: Errors,
    number: int,
    figure: Callable[[np.ndarray], np.ndarray],
    drawn: np.ndarray,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """value, users and seeds as `_Drawn` has them, and each run's mean error [runs, 1]; of drawn [draws, resamples],
    the mean errors over resampled users."""
    mean = (errors.sums[number].sum(axis=1) / errors.counts.sum())[:, None]
    of_runs, drawn_of_runs = errors.over_draws(figure(mean)), errors.over_draws(figure(drawn))
    value = errors.over_runs(of_runs)
    users = value + _widening(errors.counts) * (errors.over_runs(drawn_of_runs) - value)
    seeds = _seed_noise(errors, of_runs[:, 0], drawn_of_runs, random)
    return value[:, 0], users, seeds, errors.over_draws(mean)


@lru_cache(maxsize=1)
def _resampled(errors: Errors, resamples: int, seed: int) -> np.ndarray:
    """[2, draws, resamples] each draw's mean squared and mean absolute error over resampled users."""
    total = _resample(np.concatenate([*errors.sums, errors.counts[None]]), resamples, seed)
    return (total[:-1] / total[-1]).reshape(2, -1, resamples)


def _resample(totals: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[k, resamples] the sums over resampled users of totals [k, users]: the same users for all k.

    scipy.stats.bootstrap draws the same and takes twice the time.
    """
    random = np.random.default_rng((seed, USERS))
    users = totals.shape[1]
    drawn = []
    for size in _batches(resamples):
        # All resamples of a batch in one count: the users of resample i are numbered from i * users on.
        places = random.integers(users, size=(size, users)) + users * np.arange(size)[:, None]
        times = np.bincount(places.ravel(), minlength=size * users).reshape(size, users)
        drawn.append(totals @ times.T.astype(float))
    return np.concatenate(drawn, axis=1)


@lru_cache(maxsize=1)
def _swapped(errors: Errors, resamples: int, seed: int) -> np.ndarray:
    """[2, arms, resamples] each arm's mean squared and mean absolute error with random signs of users.

    The difference of two arms in it is their difference once they were swapped within the users of sign -1.
    scipy.stats.permutation_test takes some forty times as long for a single pair.
    """
    random = np.random.default_rng((seed, SWAPS))
    mean = errors.over_runs(errors.over_draws(errors.sums)).reshape(-1, len(errors.counts)) / errors.counts.sum()
    drawn = []
    for size in _batches(resamples):
        signs = 2.0 * random.integers(2, size=(size, len(errors.counts)), dtype=np.int8) - 1
        drawn.append(mean @ signs.T)
    return np.concatenate(drawn, axis=1).reshape(2, errors.arms, resamples)


def _seed_noise(errors: Errors, values: np.ndarray, drawn: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[arms, resamples] what other seeds would add to the mean over an arm's runs of values [runs]; 0 for a single run.

    drawn [runs, resamples]: the values over resampled users.
    """
    noise = np.zeros((errors.arms, drawn.shape[1]))
    for arm, seeds in enumerate(errors.seeds):
        if seeds < 2:
            continue
        own = errors.arm == arm
        freedom = seeds - 1
        between = values[own].var(ddof=1) * freedom / random.chisquare(freedom, drawn.shape[1])
        # How far runs of one arm come apart by the choice of users alone.
        by_users = (drawn[own] - drawn[own].mean(axis=0)).var(axis=1).sum() / freedom
        variance = np.maximum(between - by_users, 0) / seeds
        noise[arm] = np.sqrt(variance) * random.standard_normal(drawn.shape[1])
    return noise


def _widening(counts: np.ndarray) -> float:
    """By what the bootstrap's deviations are multiplied, for users of counts [users] targets."""
    # A t of less than one degree of freedom would soon be infinite.
    effective = max(2.0, counts.sum() ** 2 / (counts**2).sum())
    return float(t.ppf(TAILS[1], effective - 1) / norm.ppf(TAILS[1]) * np.sqrt(effective / (effective - 1)))


def _interval(draws: np.ndarray) -> tuple[float, float, float]:
    """The interval of draws [resamples], and the larger Monte Carlo standard error of its ends."""
    low, high, *around = np.quantile(draws, [*TAILS, *(tail + side for tail in TAILS for side in (-NEAR, NEAR))])
    width = max(around[1] - around[0], around[3] - around[2])
    return float(low), float(high), float(np.sqrt(TAILS[0] * TAILS[1] / len(draws)) * width / (2 * NEAR))


def _p(one: float, other: float, null: np.ndarray) -> float:
    # Swaps that give the observed difference again must count, though summed in another order.
    far = np.abs(null) >= abs(one - other) - 1e-12 * (one + other)
    return (1 + int(far.sum())) / (1 + len(null))


def _p_error(p: float, resamples: int) -> float:
    """The Monte Carlo standard error of p; of 0 and 1, as of the values next to them."""
    inside = min(max(p, 1 / (1 + resamples)), resamples / (1 + resamples))
    return float(np.sqrt(inside * (1 - inside) / resamples))


def _batches(resamples: int) -> Iterator[int]:
    for start in range(0, resamples, BATCH):
        yield min(BATCH, resamples - start)
