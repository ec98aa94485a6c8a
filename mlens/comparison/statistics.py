"""Paired statistics of arms (strategies) that predicted the same targets of the same users, each in one or more runs.

An arm's figure is the mean over its runs (seeds) of each run's metric over all targets. For a run with several draws
of histories, it is the mean over draws of each draw's metric. Every metric is a function of a weighted mean over users:
of their sums of squared errors (RMSE), absolute errors (MAE), squared mean errors (level) or squared errors less the
mean error (taste), weighted by the number of targets; or of their shares of correctly ordered pairs (AUC), weighted by
whether there is such a pair. There are two sources of uncertainty:

- Other users would give other errors. Users are resampled as clusters, the same users for every run, so that a
  difference of arms is paired: the cluster bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).
  For few users it is too narrow, so its deviations are widened as a t interval is wider than a normal one (Hesterberg,
  "What Teachers Should Know About the Bootstrap", The American Statistician 69, 2015). Since few users may have most of
  the targets, the degrees of freedom are those of the effective number of users, (sum n)^2 / sum n^2 for users with n
  targets each (Kish, "Survey Sampling", 1965; Carter, Schnepel and Steigerwald, "Asymptotic Behavior of a t-Test Robust
  to Cluster Heterogeneity", Review of Economics and Statistics 99, 2017). AUC counts the users with a pair.
- Another seed would give another model. Resampling S runs would be far too narrow, by sqrt((S - 1) / S) and without
  tails, so the variance v between runs enters as that of a small normal sample: v (S - 1) / chi2(S - 1) in place of v,
  which makes the noise of their mean a Student t with S - 1 degrees of freedom, and that of a difference the sum of two
  (Behrens-Fisher; Fisher, "The Fiducial Argument in Statistical Inference", Annals of Eugenics 6, 1935). v includes how
  runs differ on these users by chance, which resampling users includes again; it is subtracted from the draws of v,
  clipped at zero, as in generalized intervals for variance components (Weerahandi, "Generalized Confidence Intervals",
  Journal of the American Statistical Association 88, 1993).

With one run nothing is known about an arm's other seeds: its figure is that of one model, and a difference is one of
two models. Users are assumed to be drawn independently, seeds to be normal and independent between arms: where arms
share a base model for each seed, intervals of differences are wider than they need be. A run's draws of histories are
determined by evaluation.seed, the same for all runs; they are averaged before runs are compared, so that the spread
between runs is due to seeds only.

Two arms are equivalent within a margin if both one-sided tests of a difference beyond it reject at 5%, that is, if the
90% interval of their difference lies within the margin (Schuirmann, "A Comparison of the Two One-Sided Tests Procedure
and the Power Approach", Journal of Pharmacokinetics and Biopharmaceutics 15, 1987). A test's power is that of the same
resamples, shifted to a true difference.

Intervals and p-values are themselves estimates from random resamples. Their Monte Carlo standard error, the variation
between seeds of the generator, is sqrt(q (1 - q) / B) / density for a quantile q of B resamples and sqrt(p (1 - p) / B)
for p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy.stats import norm, t

from mlens.comparison.p_values import critical_value, holm, holm_factors, p_error, permutation_p
from mlens.comparison.summed_errors import METRICS, Errors

RESAMPLES = 9_999
TAILS = (0.025, 0.975)
# Tails of the 90% interval, as widened for few users as the 95% interval.
INNER_TAILS = (0.05, 0.95)
# Level of the tests, and the probability with which they find a detectable difference.
ALPHA, POWER = 0.05, 0.8
# Resamples computed at a time: 10 MB an array for 20,000 users.
BATCH = 64
# Distance of the quantiles between which the density at a tail is measured.
NEAR = 0.01
# With fewer users of positive weight, only these are resampled: a resample of all users could have none of them.
FEW = 50
# Names of the random streams.
USERS, SWAPS, SEEDS = range(3)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval, in stars (AUC: a share).

    value: the figure.
    low, high: ends of the interval.
    error: Monte Carlo standard error of the ends.
    """

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Difference:
    """The difference between the figures of two arms, in stars (AUC: a share), with its 95% interval and test.

    value: first arm minus second arm (negative: the first has the smaller error, or the lower AUC).
    low, high: ends of the interval.
    low_90, high_90: ends of the 90% interval, for tests of equivalence.
    p: p-value of the two-sided test of equal figures.
    p_holm: Holm-adjusted p-value over all pairs.
    seeds: whether the variation between seeds is included, so that the difference is one of strategies; otherwise it is
        one of these trained models.
    error: Monte Carlo standard error of the interval's ends.
    p_error: Monte Carlo standard error of p_holm.
    detectable: the true difference for which p is at most ALPHA with probability POWER.
    detectable_first: the same for p times the number of pairs: p_holm, if no other pair has a smaller p.
    """

    value: float
    low: float
    high: float
    low_90: float
    high_90: float
    p: float
    p_holm: float
    seeds: bool
    error: float
    p_error: float
    detectable: float
    detectable_first: float


def estimates(errors: Errors, metric: str, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Estimate]:
    """Estimate each arm's `metric`, one of METRICS (one that `errors` lacks: ValueError). Equal arguments give equal
    results.

    >>> from mlens.comparison.summed_errors import sum_errors
    >>> predicted, rating = np.array([[3.0, 4.0, 2.0, 2.0]]), np.array([3.0, 3.0, 2.0, 1.0])
    >>> estimates(sum_errors(predicted, rating, user=np.array([1, 1, 2, 2]), arm=[0]), "mae")
    [Estimate(value=0.5, low=0.5, high=0.5, error=0.0)]
    """
    sampled = _sampling_distributions(errors, metric, resamples, seed)
    draws = sampled.users + sampled.seeds
    return [Estimate(float(value), *_interval(of_arm)) for value, of_arm in zip(sampled.value, draws, strict=True)]


def differences(
    errors: Errors, metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[tuple[int, int], Difference]:
    """Estimate the difference of arms i and j in `metric`, one of METRICS (one that `errors` lacks: ValueError), under
    (i, j), for all i < j.

    p is the share of a null distribution, including the observed difference, that is at least as far from 0 (Phipson
    and Smyth, "Permutation P-values Should Never Be Zero", Statistical Applications in Genetics and Molecular Biology
    9, 2010). Its statistic is the difference in the weighted mean (rmse: in mean squared error). The null distribution
    swaps the two arms at random within each user, all seeds together, and adds the seeds' noise. It doesn't need
    symmetric differences of users if there are many users (Romano, "On the Behavior of Randomization Tests Without a
    Group Invariance Assumption", Journal of the American Statistical Association 85, 1990). Equal arguments give equal
    results.
    """
    sampled = _sampling_distributions(errors, metric, resamples, seed)
    pairs = list(combinations(range(errors.arms), 2))
    found = {}
    for i, j in pairs:
        draws, null = sampled.users[i] - sampled.users[j], sampled.swapped[i] - sampled.swapped[j]
        seeds = bool(min(errors.seeds[i], errors.seeds[j]) > 1)
        if seeds:
            draws = draws + sampled.seeds[i] - sampled.seeds[j]
            null = null + sampled.mean_seeds[i] - sampled.mean_seeds[j]
        low, high, error = _interval(draws)
        low_90, high_90 = np.quantile(draws, INNER_TAILS).tolist()
        p = permutation_p(sampled.mean[i], sampled.mean[j], null)
        middle = (sampled.mean[i] + sampled.mean[j]) / 2
        levels = (ALPHA, ALPHA / len(pairs))
        detectable, first = (_detectable(draws, null, level, METRICS[metric], middle) for level in levels)
        found[i, j] = Difference(
            value=float(sampled.value[i] - sampled.value[j]),
            low=low,
            high=high,
            low_90=low_90,
            high_90=high_90,
            p=p,
            p_holm=p,
            seeds=seeds,
            error=error,
            p_error=p_error(p, resamples),
            detectable=detectable,
            detectable_first=first,
        )
    p_values = [one.p for one in found.values()]
    adjusted = zip(found.items(), holm(p_values), holm_factors(p_values), strict=True)
    return {
        pair: replace(one, p_holm=p_holm, p_error=times * p_error(p, resamples))
        for (pair, one), p_holm, (p, times) in adjusted
    }


def _detectable(
    draws: np.ndarray, null: np.ndarray, alpha: float, figure: Callable[[np.ndarray], np.ndarray], middle: float
) -> float:
    """Return the true difference that a test at level `alpha` finds with probability POWER, with its sign.

    If the observed differences are shifted so that their true value is d, resamples of them deviate from d as `draws`
    do from the observed value. The test finds those that exceed the critical value under `null`.

    draws: [resamples] the difference over resamples.
    null: [resamples] the difference of the weighted means under the null distribution.
    figure: the function from the weighted mean to the metric.
    middle: mean of the two weighted means.
    """
    critical = critical_value(null, alpha)
    ends = np.array([max(middle - critical / 2, 0), middle + critical / 2])
    low, high = np.quantile(draws, (1 - POWER, POWER))
    return float(np.diff(figure(ends))[0] + (high - low) / 2)


def part_estimates(
    parts: Sequence[Errors], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[list[Estimate]]:
    """Estimate each arm's figure on each part of the targets: [parts][arms].

    parts: errors of the same arms over the same users, as in part_differences.
    """
    return [
        [Estimate(float(one), *_interval(of_arm)) for one, of_arm in zip(value, by_users + by_seeds, strict=True)]
        for value, by_users, by_seeds in _part_figures(parts, metric, resamples, seed)
    ]


def part_differences(
    parts: Sequence[Errors], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """Estimate, for each part of the targets, the figure of its first arm minus that of its second.

    parts: errors of two arms each, over the same users; a user may have no targets in a part. Parts are resampled
        together, including users without targets, except for parts of few users.
    """
    found = []
    for part, (value, by_users, by_seeds) in zip(parts, _part_figures(parts, metric, resamples, seed), strict=True):
        draws = by_users[0] - by_users[1]
        if min(part.seeds) > 1:
            draws = draws + by_seeds[0] - by_seeds[1]
        found.append(Estimate(float(value[0] - value[1]), *_interval(draws)))
    return found


def _part_figures(
    parts: Sequence[Errors], metric: str, resamples: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return `value`, `users` and `seeds` as in `_SamplingDistributions` for each part."""
    dense = [_with_many_users(part, metric) for part in parts]
    found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for users in sorted({part.users for part in dense}):
        members = [i for i, part in enumerate(dense) if part.users == users]
        totals = [np.concatenate([dense[i].sums[metric], dense[i].weights[metric][None]]) for i in members]
        drawn, ends = _resample(np.concatenate(totals), resamples, seed), np.cumsum([len(total) for total in totals])
        for i, of_part in zip(members, np.split(drawn, ends[:-1]), strict=True):
            random = np.random.default_rng((seed, SEEDS))
            found[i] = _figures(dense[i], metric, of_part[:-1] / of_part[-1], random)[:3]
    return [found[i] for i in range(len(parts))]


def _with_many_users(errors: Errors, metric: str) -> Errors:
    """Return the errors without the users that have no weight in `metric`, and of this metric alone, if few have one;
    otherwise the errors as they are."""
    some = errors.weights[metric] > 0
    if some.all() or some.sum() >= FEW:
        return errors
    sums, weights = errors.sums[metric][:, some], errors.weights[metric][some]
    return Errors({metric: sums}, {metric: weights}, errors.arm, errors.run)


@dataclass(frozen=True)
class _SamplingDistributions:
    """Estimates of a metric and their sampling distributions.

    value: [arms] the metric.
    users: [arms, resamples] its values over resampled users.
    seeds: [arms, resamples] noise of the metric due to seeds.
    mean: [arms] the weighted mean that the metric is computed from.
    swapped: [arms, resamples] the weighted mean under the null distribution.
    mean_seeds: [arms, resamples] noise of the weighted mean due to seeds.
    """

    value: np.ndarray
    users: np.ndarray
    seeds: np.ndarray
    mean: np.ndarray
    swapped: np.ndarray
    mean_seeds: np.ndarray


def _sampling_distributions(errors: Errors, metric: str, resamples: int, seed: int) -> _SamplingDistributions:
    if metric not in errors.sums:
        raise ValueError(f"a metric is one of {', '.join(errors.sums)}: {metric}")
    errors = _with_many_users(errors, metric)
    drawn = _resampled(errors, resamples, seed)[metric]
    random = np.random.default_rng((seed, SEEDS))
    value, users, seeds, mean = _figures(errors, metric, drawn, random)
    return _SamplingDistributions(
        value=value,
        users=users,
        seeds=seeds,
        mean=errors.over_runs(mean)[:, 0],
        swapped=_swapped(errors, resamples, seed)[metric],
        mean_seeds=_seed_noise(errors, mean[:, 0], errors.over_draws(drawn), random),
    )


def _figures(
    errors: Errors, metric: str, drawn: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `value`, `users` and `seeds` as in `_SamplingDistributions`, and each run's weighted mean [runs, 1].

    drawn: [draws, resamples] weighted means over resampled users.
    random: generator of the seeds' noise.
    """
    figure, weights = METRICS[metric], errors.weights[metric]
    mean = (errors.sums[metric].sum(axis=1) / weights.sum())[:, None]
    of_runs, drawn_of_runs = errors.over_draws(figure(mean)), errors.over_draws(figure(drawn))
    value = errors.over_runs(of_runs)
    users = value + _widening(weights) * (errors.over_runs(drawn_of_runs) - value)
    seeds = _seed_noise(errors, of_runs[:, 0], drawn_of_runs, random)
    return value[:, 0], users, seeds, errors.over_draws(mean)


@lru_cache(maxsize=1)
def _resampled(errors: Errors, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Return each draw's weighted means over resampled users, by metric: [draws, resamples]."""
    totals = [np.concatenate([errors.sums[metric], errors.weights[metric][None]]) for metric in errors.sums]
    drawn = np.split(_resample(np.concatenate(totals), resamples, seed), len(totals))
    with np.errstate(invalid="ignore"):  # no user of a metric of few: `_with_many_users` resamples these alone
        return {metric: of_metric[:-1] / of_metric[-1] for metric, of_metric in zip(errors.sums, drawn, strict=True)}


def _resample(totals: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sum totals [k, users] over resampled users, the same users for all k: [k, resamples].

    scipy.stats.bootstrap draws the same and takes twice the time.
    """
    random = np.random.default_rng((seed, USERS))
    users = totals.shape[1]
    drawn = []
    for size in _batches(resamples):
        # One bincount for all resamples of a batch: the users of resample i are numbered from i * users.
        places = random.integers(users, size=(size, users)) + users * np.arange(size)[:, None]
        times = np.bincount(places.ravel(), minlength=size * users).reshape(size, users)
        drawn.append(totals @ times.T.astype(float))
    return np.concatenate(drawn, axis=1)


@lru_cache(maxsize=1)
def _swapped(errors: Errors, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Return each arm's weighted means with random signs of users, by metric: [arms, resamples].

    The difference of two arms is that of arms swapped within the users of sign -1. scipy.stats.permutation_test takes
    about forty times as long for a single pair.
    """
    random = np.random.default_rng((seed, SWAPS))
    means = [
        errors.over_runs(errors.over_draws(sums)) / errors.weights[metric].sum() for metric, sums in errors.sums.items()
    ]
    mean, drawn = np.concatenate(means), []
    for size in _batches(resamples):
        signs = 2.0 * random.integers(2, size=(size, errors.users), dtype=np.int8) - 1
        drawn.append(mean @ signs.T)
    return dict(zip(errors.sums, np.split(np.concatenate(drawn, axis=1), len(means)), strict=True))


def _seed_noise(errors: Errors, values: np.ndarray, drawn: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw the noise due to seeds of the mean over an arm's runs: [arms, resamples], 0 for a single run.

    values: [runs] the value of each run.
    drawn: [runs, resamples] the values over resampled users.
    """
    noise = np.zeros((errors.arms, drawn.shape[1]))
    for arm, seeds in enumerate(errors.seeds):
        if seeds < 2:
            continue
        runs = errors.arm == arm
        freedom = seeds - 1
        between = values[runs].var(ddof=1) * freedom / random.chisquare(freedom, drawn.shape[1])
        # Variance between the runs of an arm due to the choice of users.
        by_users = (drawn[runs] - drawn[runs].mean(axis=0)).var(axis=1).sum() / freedom
        variance = np.maximum(between - by_users, 0) / seeds
        noise[arm] = np.sqrt(variance) * random.standard_normal(drawn.shape[1])
    return noise


def _widening(weights: np.ndarray) -> float:
    """Return the factor that widens the bootstrap's deviations, for users of these weights [users]."""
    # The quantile of t soon becomes infinite below one degree of freedom.
    effective = max(2.0, weights.sum() ** 2 / (weights**2).sum())
    return float(t.ppf(TAILS[1], effective - 1) / norm.ppf(TAILS[1]) * np.sqrt(effective / (effective - 1)))


def _interval(draws: np.ndarray) -> tuple[float, float, float]:
    """Return the ends of the interval of draws [resamples], and the larger of their Monte Carlo standard errors."""
    low, high, *around = np.quantile(draws, [*TAILS, *(tail + side for tail in TAILS for side in (-NEAR, NEAR))])
    width = max(around[1] - around[0], around[3] - around[2])
    return float(low), float(high), float(np.sqrt(TAILS[0] * TAILS[1] / len(draws)) * width / (2 * NEAR))


def _batches(resamples: int) -> Iterator[int]:
    """Yield the sizes of batches of resamples."""
    for start in range(0, resamples, BATCH):
        yield min(BATCH, resamples - start)
