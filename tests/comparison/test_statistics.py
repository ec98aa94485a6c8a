"""Statistics of a comparison: by hand, compared with loops and SciPy, and their invariances."""

import math
import random as python_random
from dataclasses import astuple, replace
from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm, permutation_test, t

from mlens.comparison.statistics import (
    TAILS,
    USERS,
    _resampled,
    differences,
    estimates,
    holm,
    part_differences,
    part_estimates,
)
from mlens.comparison.summed_errors import METRICS as METRICS_OF_ERRORS
from mlens.comparison.summed_errors import Errors, sum_errors
from mlens.evaluation.metrics import auc, point_metrics, taste

METRICS = pytest.mark.parametrize("metric", ["rmse", "mae"])
ALL_METRICS = pytest.mark.parametrize("metric", ["rmse", "mae", "level", "taste", "auc"])
# The two-sided 5% point of the Behrens-Fisher distribution with 6 and 6 degrees of freedom at an angle of 45 degrees:
# for the difference of two means of 7 values each with equal variances.
BEHRENS_FISHER = 2.435


def errors_of(squares, absolutes, counts, arm, run=None):
    """Make errors for RMSE and MAE alone, from sums [draws, users] over users of `counts` [users] targets."""
    sums = {"rmse": np.asarray(squares), "mae": np.asarray(absolutes)}
    return Errors(sums, dict.fromkeys(sums, np.asarray(counts)), np.asarray(arm), run)


def same_for_all_users(values, arm, users=4):
    """Make errors of runs with absolute errors values [runs] for every target: only seeds are uncertain."""
    absolutes = np.repeat(np.array(values, dtype=float)[:, None], users, axis=1)
    return errors_of(absolutes**2, absolutes, np.ones(users, dtype=int), arm)


def made_up(seed, arm, users=12, worse=0.0):
    """Make predictions, ratings, users and arms.

    Users have one to five targets; each error of the last arm is larger by `worse` stars.
    """
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), random.integers(1, 6, users))
    rating = random.integers(1, 11, len(user)) / 2
    arm = np.array(arm)
    predicted = rating + random.normal(size=len(user)) * 0.5 + random.normal(size=(len(arm), len(user))) * 0.3
    return predicted + worse * (arm == arm.max())[:, None] * np.sign(predicted - rating), rating, user, arm


# sums


def test_sums_by_hand():
    predicted = np.array([[3.0, 4.0, 1.0], [3.5, 3.0, 4.0]])
    errors = sum_errors(predicted, np.array([3.0, 2.0, 2.0]), np.array([70, 5, 70]), [0, 1])
    assert errors.weights["rmse"].tolist() == errors.weights["taste"].tolist() == [1, 2]
    assert errors.sums["mae"].tolist() == [[2.0, 1.0], [1.0, 2.5]]
    assert errors.sums["rmse"].tolist() == [[4.0, 1.0], [1.0, 4.25]]
    # User 70's errors are 0 and -1, and 0.5 and 2.
    assert errors.sums["level"].tolist() == [[4.0, 0.5], [1.0, 3.125]]
    assert errors.sums["taste"].tolist() == [[0.0, 0.5], [0.0, 1.125]]
    # User 5 has no pair to order, and a single user isn't enough for an interval.
    assert set(errors.sums) == {"rmse", "mae", "level", "taste"}
    wider = sum_errors(
        np.hstack([predicted, [[2.0], [2.0]]]), np.array([3.0, 2.0, 2.0, 4.0]), np.array([70, 5, 70, 5]), [0, 1]
    )
    assert wider.sums["auc"].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert wider.weights["auc"].tolist() == [1, 1]
    assert (errors.arms, errors.seeds.tolist()) == (2, [1, 1])


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 4), st.permutations(range(10)))
def test_sums_equal_loops_and_are_independent_of_the_order_of_targets_and_of_ids(seed, targets, runs, ids):
    random = np.random.default_rng(seed)
    predicted, rating = random.normal(size=(runs, targets)), random.normal(size=targets)
    user = random.integers(0, 8, targets)
    user[:2] = 8, 9
    errors = sum_errors(predicted, rating, user, np.arange(runs))
    for number, one in enumerate(sorted(set(user.tolist()))):
        of_user = [i for i in range(targets) if user[i] == one]
        assert errors.weights["mae"][number] == len(of_user)
        for run in range(runs):
            missed = [predicted[run, i] - rating[i] for i in of_user]
            mean = sum(missed) / len(missed)
            expected = {
                "rmse": sum(e * e for e in missed),
                "mae": sum(map(abs, missed)),
                "level": len(missed) * mean**2,
                "taste": sum((e - mean) ** 2 for e in missed),
            }
            assert {name: errors.sums[name][run, number] for name in expected} == pytest.approx(expected, abs=1e-12)
    found = {name: [one.value for one in estimates(errors, name, resamples=9)] for name in errors.sums}
    whole = [point_metrics(row, rating, user) for row in predicted]
    for name, values in found.items():
        assert values == pytest.approx([of_run[name] for of_run in whole], abs=1e-12)
    order = random.permutation(targets)
    shuffled = sum_errors(predicted[:, order], rating[order], user[order], np.arange(runs))
    for name, sums in errors.sums.items():
        assert shuffled.sums[name] == pytest.approx(sums, abs=1e-12)
    renamed = sum_errors(predicted, rating, np.array([f"u{one}" for one in ids])[user], np.arange(runs))
    assert sorted(renamed.weights["rmse"].tolist()) == sorted(errors.weights["rmse"].tolist())
    for metric in errors.sums:
        assert [one.value for one in estimates(renamed, metric, resamples=9)] == pytest.approx(
            [one.value for one in estimates(errors, metric, resamples=9)]
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arm": np.array([0, 2])}, "each has a run"),
        ({"arm": np.array([1, 1])}, "each has a run"),
        ({"arm": np.array([-1, 0])}, "each has a run"),
        ({"arm": np.array([0])}, "1 draws, 3 users"),
        ({"sums": dict.fromkeys(("rmse", "mae"), np.ones((2, 2)))}, "2 draws, 3 users"),
        ({"sums": {"rmse": np.ones((2, 3))}}, "sums and weights are of some of rmse, mae, level, taste, auc"),
        ({"sums": {}, "weights": {}}, "sums and weights are of some of rmse"),
        ({"weights": dict.fromkeys(("rmse", "mae"), np.array([1, 0, 0]))}, "two users with targets"),
        ({"weights": dict.fromkeys(("rmse", "mae"), np.array([1, -1, 1]))}, "two users with targets"),
        ({"run": np.array([0, 0])}, "each has a draw"),
        ({"run": np.array([0, 1, 1])}, "3 draws, 3 users"),
        ({"sums": dict.fromkeys(("rmse", "mae"), np.array([[1, 1, 1], [1, np.nan, 1]]))}, "isn't finite: rmse"),
    ],
)
def test_invalid_errors_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(same_for_all_users([1, 2], [0, 1], users=3), **changed)


def test_one_user_no_run_other_lengths_and_other_metrics_are_refused():
    one = np.ones(2)
    with pytest.raises(ValueError, match="two users with targets"):
        sum_errors(np.ones((1, 2)), one, np.array([3, 3]), [0])
    with pytest.raises(ValueError, match="each has a run"):
        sum_errors(np.ones((0, 2)), one, np.array([3, 4]), [])
    for predicted, user, arm in (
        (np.ones((1, 3)), [1, 2], [0]),
        (np.ones((1, 2)), [1], [0]),
        (np.ones(2), [1, 2], [0]),
    ):
        with pytest.raises(ValueError, match="predicted"):
            sum_errors(predicted, one, np.array(user), arm)
    for function in (estimates, differences):
        with pytest.raises(ValueError, match="rmse, mae: accuracy"):
            function(same_for_all_users([1, 2], [0, 1]), "accuracy")


# values and intervals


def test_values_by_hand():
    # Users of 1 and 3 targets; arm 0 has two runs.
    squares = np.array([[4.0, 12.0], [0.0, 4.0], [1.0, 35.0]])
    absolutes = np.array([[2.0, 6.0], [0.0, 2.0], [1.0, 9.0]])
    errors = errors_of(squares, absolutes, [1, 3], [0, 0, 1])
    assert [one.value for one in estimates(errors, "rmse")] == [(2 + 1) / 2, 3.0]
    assert [one.value for one in estimates(errors, "mae")] == [(2 + 0.5) / 2, 2.5]
    assert differences(errors, "rmse")[0, 1].value == -1.5
    assert differences(errors, "mae")[0, 1].value == -1.25


@METRICS
def test_the_seeds_part_is_a_t_interval(metric):
    runs = [1.0, 1.1, 1.3]
    (estimate,) = estimates(same_for_all_users(runs, [0, 0, 0]), metric, resamples=100_000)
    half = t.ppf(0.975, 2) * np.std(runs, ddof=1) / math.sqrt(3)
    assert estimate.value == pytest.approx(np.mean(runs))
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.02)
    assert estimate.value - estimate.low == pytest.approx(half, rel=0.02)


@METRICS
def test_a_difference_has_the_seed_variance_of_both_arms(metric):
    spread = np.arange(7) / 100
    errors = same_for_all_users([*(1 + spread), *(1.2 + spread)], [0] * 7 + [1] * 7)
    difference = differences(errors, metric, resamples=100_000)[0, 1]
    half = BEHRENS_FISHER * math.sqrt(2 * np.var(spread, ddof=1) / 7)
    assert difference.seeds
    assert difference.value == pytest.approx(-0.2)
    assert difference.high - difference.value == pytest.approx(half, rel=0.02)
    assert difference.value - difference.low == pytest.approx(half, rel=0.02)


def test_p_with_uncertain_seeds_alone_is_that_of_the_t_distribution():
    # One arm's runs don't differ, so the difference has the t distribution of the other's mean; swaps flip signs.
    errors = same_for_all_users([1.0, 1.1, 1.3, 1.1, 1.1], [0, 0, 0, 1, 1], users=1000)
    found = differences(errors, "mae", resamples=19_999)[0, 1]
    null = np.random.default_rng(5).standard_t(2, 99_999) * np.std([1.0, 1.1, 1.3], ddof=1) / math.sqrt(3)
    assert found.p == pytest.approx(np.mean(np.abs(null) >= abs(found.value)), abs=0.01)


@METRICS
def test_variance_that_users_explain_is_not_attributed_to_seeds(metric):
    # Two runs that differ far more for each user than on average: the variance over users explains the average.
    signs = np.resize([1.0, -1.0], 100)
    absolutes = np.array([1.005 + 0.5 * signs, 0.995 - 0.5 * signs])
    by_user = errors_of(absolutes**2, absolutes, np.ones(100, dtype=int), [0, 0])
    runs = np.sqrt((absolutes**2).mean(axis=1)) if metric == "rmse" else absolutes.mean(axis=1)
    (mixed,), (seeds,) = estimates(by_user, metric), estimates(same_for_all_users(runs, [0, 0]), metric)
    assert mixed.value == pytest.approx(seeds.value)
    assert mixed.high - mixed.low < 0.7 * (seeds.high - seeds.low)


@METRICS
def test_one_run_in_either_arm_leaves_seeds_out(metric):
    found = differences(same_for_all_users([1.0, 1.0, 1.4, 1.5, 1.7], [0, 1, 1, 2, 2]), metric)
    assert {pair: one.seeds for pair, one in found.items()} == {(0, 1): False, (0, 2): False, (1, 2): True}
    for pair in ((0, 1), (0, 2)):
        assert found[pair].low == pytest.approx(found[pair].value) == pytest.approx(found[pair].high)
    assert found[1, 2].high > found[1, 2].value + 1


@ALL_METRICS
def test_users_are_resampled_as_by_scipy(metric):
    errors = sum_errors(*made_up(3, [0, 1, 1], users=30))

    def means(drawn, axis):
        return errors.sums[metric][:, drawn].sum(axis=-1) / errors.weights[metric][drawn].sum(axis=-1)

    expected = bootstrap(
        (np.arange(30),),
        means,
        vectorized=True,
        n_resamples=200,
        batch=50,
        method="percentile",
        rng=np.random.default_rng((4, USERS)),
    )
    assert _resampled(errors, 200, 4)[metric] == pytest.approx(expected.bootstrap_distribution)


@pytest.mark.parametrize("metric", ["taste", "auc"])
def test_intervals_of_taste_and_auc_are_those_of_scipy_on_the_predictions(metric):
    """The reference computes the metric of each user alone, and SciPy resamples their weighted mean."""
    predicted, rating, user, arm = made_up(8, [0, 1], users=60, worse=0.3)
    errors = sum_errors(predicted, rating, user, arm)
    of_users = [user == one for one in range(60)]
    if metric == "taste":
        weights = np.array([of_user.sum() for of_user in of_users])
        sums = [[taste(row[u], rating[u], user[u]) ** 2 * u.sum() for u in of_users] for row in predicted]
    else:
        shares = np.array([[auc(row[u], rating[u], user[u]) for u in of_users] for row in predicted])
        weights, sums = ~np.isnan(shares[0]), np.nan_to_num(shares)

    def figure(arm, drawn):
        mean = np.array(sums[arm])[drawn].sum(axis=-1) / weights[drawn].sum(axis=-1)
        return np.sqrt(mean) if metric == "taste" else mean

    wider = t.ppf(0.975, effective_users(weights) - 1) / norm.ppf(0.975)
    wider *= sqrt(1 / (1 - 1 / effective_users(weights)))
    compared = {
        estimates(errors, metric)[0]: lambda drawn, axis: figure(0, drawn),
        estimates(errors, metric)[1]: lambda drawn, axis: figure(1, drawn),
        differences(errors, metric)[0, 1]: lambda drawn, axis: figure(0, drawn) - figure(1, drawn),
    }
    for found, statistic in compared.items():
        interval = bootstrap(
            (np.arange(60),), statistic, vectorized=True, n_resamples=9_999, method="percentile", rng=1
        ).confidence_interval
        assert found.value == pytest.approx(statistic(np.arange(60), -1))
        ends = [found.value + wider * (end - found.value) for end in interval]
        assert [found.low, found.high] == pytest.approx(ends, abs=0.03 * (found.high - found.low))


def test_users_without_a_pair_to_order_leave_auc_unchanged():
    predicted, rating, user, arm = made_up(8, [0, 0, 1, 1], users=60, worse=0.1)
    errors = sum_errors(predicted, rating, user, arm)
    ordered = errors.weights["auc"] == 1
    assert 10 < ordered.sum() < 50  # few: the others aren't resampled
    some = ordered[user]
    alone = sum_errors(predicted[:, some], rating[some], user[some], arm)
    for one, other in zip(estimates(errors, "auc"), estimates(alone, "auc"), strict=True):
        assert astuple(one) == pytest.approx(astuple(other))
    assert astuple(differences(errors, "auc")[0, 1]) == pytest.approx(astuple(differences(alone, "auc")[0, 1]))


def test_an_arm_may_have_a_better_level_and_a_worse_taste():
    """Arm 0 knows each user's mean and nothing of films; arm 1 knows the films and nothing of users."""
    random = np.random.default_rng(5)
    user = np.repeat(np.arange(100), 12)
    of_user, of_film = random.normal(size=100)[user], 0.5 * random.normal(size=len(user))
    rating = 3 + of_user + of_film + 0.5 * random.normal(size=len(user))
    predicted = np.stack([3 + of_user + 0.3 * random.normal(size=len(user)), 3 + of_film])
    errors = sum_errors(predicted, rating, user, [0, 1])
    found = {metric: differences(errors, metric)[0, 1] for metric in METRICS_OF_ERRORS}
    assert found["rmse"].high < 0 and found["rmse"].p < 0.001  # arm 0 has the lower RMSE,
    assert found["level"].high < 0 and found["level"].p < 0.001  # since its level is better,
    assert found["taste"].low > 0 and found["taste"].p < 0.001  # although its taste is worse,
    assert found["auc"].high < 0 and found["auc"].p < 0.001  # and so is its order of films.


@METRICS
@pytest.mark.parametrize(
    ("counts", "effective"), [([1] * 10, 10), ([2, 2, 2, 6, 6], 324 / 84), ([9, 9], 2), ([1, 1, 10_000_000], 2)]
)
def test_intervals_are_wider_than_percentiles_as_t_is_than_normal(metric, counts, effective):
    random = np.random.default_rng(2)
    absolutes = random.uniform(0.2, 2, (2, len(counts))) * counts
    errors = errors_of(absolutes**2 / counts, absolutes, counts, [0, 1])
    draws = METRICS_OF_ERRORS[metric](_resampled(errors, 9_999, 0)[metric])
    wider = t.ppf(0.975, effective - 1) / 1.959964 * math.sqrt(effective / (effective - 1))
    both = [*estimates(errors, metric), differences(errors, metric)[0, 1]]
    for found, resampled in zip(both, [*draws, draws[0] - draws[1]], strict=True):
        low, high = np.quantile(resampled, TAILS)
        assert [found.low, found.high] == pytest.approx(
            [found.value + wider * (low - found.value), found.value + wider * (high - found.value)]
        )


def naive(errors, metric, resamples):
    """Compute by loops the intervals of arm 0 and of arm 0 minus arm 1, and p of the difference; one run per arm."""
    random = python_random.Random(8)
    users, counts = errors.users, errors.weights[metric].tolist()
    sums = errors.sums[metric].tolist()

    def figure(arm, drawn):
        mean = sum(sums[arm][u] for u in drawn) / sum(counts[u] for u in drawn)
        return mean if metric in ("mae", "auc") else math.sqrt(mean)

    observed = [figure(arm, range(users)) for arm in (0, 1)]
    effective = sum(counts) ** 2 / sum(n * n for n in counts)
    wider = t.ppf(0.975, effective - 1) / 1.959964 * math.sqrt(effective / (effective - 1))
    single, paired, far = [], [], 0
    gaps = [a - b for a, b in zip(*sums, strict=True)]
    for _ in range(resamples):
        drawn = random.choices(range(users), k=users)
        single.append(observed[0] + wider * (figure(0, drawn) - observed[0]))
        paired.append(
            observed[0] - observed[1] + wider * (figure(0, drawn) - figure(1, drawn) - observed[0] + observed[1])
        )
        far += abs(sum(random.choice((-1, 1)) * gap for gap in gaps)) >= abs(sum(gaps)) - 1e-9
    return np.quantile(single, TAILS), np.quantile(paired, TAILS), (1 + far) / (1 + resamples)


@ALL_METRICS
def test_one_run_an_arm_equals_loops(metric):
    errors = sum_errors(*made_up(6, [0, 1], users=25, worse=0.05))
    single, paired, p = naive(errors, metric, 4000)
    estimate, difference = estimates(errors, metric)[0], differences(errors, metric)[0, 1]
    assert [estimate.low, estimate.high] == pytest.approx(single, abs=0.03 * (single[1] - single[0]))
    assert [difference.low, difference.high] == pytest.approx(paired, abs=0.03 * (paired[1] - paired[0]))
    assert 0.01 < p < 0.99
    assert difference.p == pytest.approx(p, abs=0.03)


# draws of histories, parts of the targets


def with_draws(errors, draws, spread):
    """Replace each run's errors by those of `draws` draws with the same mean."""
    random = np.random.default_rng(3)
    runs = range(len(errors.arm))
    factor = 1 + spread * random.normal(size=(draws, *errors.sums["rmse"].shape))
    factor += 1 - factor.mean(axis=0)
    sums = {
        name: np.concatenate([of_runs[run] * factor[:, run] for run in runs]) for name, of_runs in errors.sums.items()
    }
    return replace(errors, sums=sums, run=np.repeat(runs, draws))


def test_the_mae_over_draws_is_that_of_the_mean_errors():
    plain = sum_errors(*made_up(3, [0, 0, 1, 1], users=30))
    drawn = with_draws(plain, 3, spread=0.1)
    for one, other in zip(estimates(drawn, "mae"), estimates(plain, "mae"), strict=True):
        assert astuple(one) == pytest.approx(astuple(other))
    one, other = differences(drawn, "mae")[0, 1], differences(plain, "mae")[0, 1]
    assert astuple(one) == pytest.approx(astuple(other))


def test_the_rmse_over_draws_is_the_mean_over_draws_in_every_resample():
    errors = with_draws(sum_errors(*made_up(3, [0, 1], users=30)), 3, spread=0.3)
    counts = errors.weights["rmse"]
    of_draws = [sqrt(squares.sum() / counts.sum()) for squares in errors.sums["rmse"]]
    resampled = np.sqrt(_resampled(errors, 9_999, 0)["rmse"])
    wider = t.ppf(0.975, effective_users(counts) - 1) / norm.ppf(0.975)
    wider *= sqrt(1 / (1 - 1 / effective_users(counts)))
    for arm, found in enumerate(estimates(errors, "rmse")):
        of_arm = slice(3 * arm, 3 * arm + 3)
        assert found.value == pytest.approx(np.mean(of_draws[of_arm]))
        ends = np.quantile(resampled[of_arm].mean(axis=0), TAILS)
        assert [found.low, found.high] == pytest.approx(found.value + wider * (ends - found.value))


def of_users(errors, change):
    """Apply `change` to the users' sums [draws, users] and weights [users] of RMSE and MAE."""
    sums, weights = ({name: change(of[name]) for name in ("rmse", "mae")} for of in (errors.sums, errors.weights))
    return replace(errors, sums=sums, weights=weights)


def effective_users(counts):
    return counts.sum() ** 2 / (counts**2).sum()


@METRICS
def test_variance_over_draws_is_not_attributed_to_seeds(metric):
    """The draws of an arm's runs differ widely, but their means over draws are equal, so nothing is uncertain."""
    absolutes = np.repeat(np.array([[0.5], [1.5], [1.5], [0.5]]), 4, axis=1)
    errors = errors_of(absolutes**2, absolutes, np.ones(4, dtype=int), [0, 0], np.array([0, 0, 1, 1]))
    (found,) = estimates(errors, metric)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


@METRICS
def test_parts_are_compared_like_separate_data(metric):
    errors = sum_errors(*made_up(3, [0, 0, 1, 1], users=400, worse=0.05))
    random, parts = np.random.default_rng(0), []
    for share in (0.9, 0.5, 0.02):
        some = random.random(400) < share
        parts.append(of_users(errors, lambda values, some=some: values * some))
    of_arms = part_estimates(parts, metric)
    for part, found, estimated in zip(parts, part_differences(parts, metric), of_arms, strict=True):
        some = part.weights[metric] > 0
        separate = of_users(part, lambda values, some=some: values[..., some])
        of_difference = found, differences(separate, metric)[0, 1]
        for one, expected in (of_difference, *zip(estimated, estimates(separate, metric), strict=True)):
            assert one.value == pytest.approx(expected.value)
            if some.sum() < 50:  # resampled separately
                assert astuple(one)[1:] == pytest.approx((expected.low, expected.high, expected.error))
            else:
                width = expected.high - expected.low
                assert [one.low, one.high] == pytest.approx([expected.low, expected.high], abs=0.06 * width)


# p


@METRICS
@pytest.mark.parametrize(("third", "share"), [(0.125, 2 / 8), (-0.125, 4 / 8)])
def test_p_by_hand(metric, third, share):
    # With differences 0.5, 0.25 and 0.125 only no swap and all swaps give an absolute sum of 0.875; with -0.125 the
    # sum of 0.625 is reached whenever the first two have the same sign.
    sums = np.array([[1.0, 1.0, 1.0], [1.5, 1.25, 1 + third]])
    errors = errors_of(sums, sums, [1, 2, 3], [0, 1])
    assert differences(errors, metric, resamples=19_999)[0, 1].p == pytest.approx(share, abs=0.01)


@ALL_METRICS
def test_p_equals_scipys_exact_test(metric):
    errors = sum_errors(*made_up(9, [0, 0, 1, 2], users=11))
    sums = errors.sums[metric]
    # The last two arms have one run each.
    exact = permutation_test((sums[2] - sums[3],), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert differences(errors, metric, resamples=50_000)[1, 2].p == pytest.approx(exact, abs=0.01)


def test_p_is_never_zero_and_falls_with_the_difference():
    found = [
        differences(sum_errors(*made_up(1, [0, 1], users=60, worse=worse)), "rmse")[0, 1].p
        for worse in (0.0, 0.01, 1.0)
    ]
    assert found[0] > found[1] > found[2] == 1 / 10_000


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p):
    order = sorted(range(len(p)), key=p.__getitem__)
    expected, largest = {}, 0.0
    for rank, i in enumerate(order):
        largest = max(largest, (len(p) - rank) * p[i])
        expected[i] = min(1.0, largest)
    assert holm(p) == pytest.approx([expected[i] for i in range(len(p))])


def test_p_holm_is_over_the_pairs_of_one_metric():
    found = differences(sum_errors(*made_up(4, [0, 1, 1, 2, 2, 3], users=40, worse=0.1)), "mae")
    assert list(found) == [(i, j) for i, j in product(range(4), repeat=2) if i < j]
    assert [one.p_holm for one in found.values()] == holm([one.p for one in found.values()])


# invariances


@METRICS
@pytest.mark.parametrize("arm", [[0, 1], [0, 0, 1, 1], [0, 0, 0, 1, 1, 1]])
def test_identical_arms_dont_differ(metric, arm):
    predicted, rating, user, _ = made_up(7, [0] * (len(arm) // 2))
    difference = differences(sum_errors(np.tile(predicted, (2, 1)), rating, user, arm), metric)[0, 1]
    assert (difference.value, difference.p, difference.p_holm) == (0.0, 1.0, 1.0)
    assert difference.low <= 0 <= difference.high
    assert (difference.low == difference.high) == (len(arm) == 2)


@ALL_METRICS
def test_repeated_runs_of_one_model_add_no_seed_variance(metric):
    predicted, rating, user, _ = made_up(7, [0, 1])
    once = differences(sum_errors(predicted, rating, user, [0, 1]), metric)[0, 1]
    thrice = differences(sum_errors(np.repeat(predicted, 3, axis=0), rating, user, [0, 0, 0, 1, 1, 1]), metric)[0, 1]
    assert astuple(thrice)[:7] == pytest.approx(astuple(once)[:7])


@ALL_METRICS
@given(st.integers(0, 2**32))
@settings(max_examples=8)
def test_swapping_arms_negates(metric, seed):
    predicted, rating, user, arm = made_up(seed, [0, 1])
    one = differences(sum_errors(predicted, rating, user, arm), metric, resamples=199)[0, 1]
    other = differences(sum_errors(predicted, rating, user, 1 - arm), metric, resamples=199)[0, 1]
    assert [other.value, other.low, other.high] == pytest.approx([-one.value, -one.high, -one.low], abs=1e-9)
    assert other.p == one.p


@pytest.mark.sampled(2)
@ALL_METRICS
@given(st.integers(0, 2**32), st.permutations(range(6)))
@settings(max_examples=8)
def test_the_order_of_runs_doesnt_matter(metric, seed, order):
    predicted, rating, user, arm = made_up(seed, [0, 0, 0, 1, 1, 2])
    first = sum_errors(predicted, rating, user, arm)
    other = sum_errors(predicted[order], rating, user, arm[order])
    for one, again in zip(
        estimates(first, metric, resamples=199), estimates(other, metric, resamples=199), strict=True
    ):
        assert astuple(again) == pytest.approx(astuple(one), abs=1e-9)
    found, again = differences(first, metric, resamples=199), differences(other, metric, resamples=199)
    for pair, one in found.items():
        assert astuple(again[pair]) == pytest.approx(astuple(one), abs=1e-9)


@METRICS
def test_the_order_of_users_changes_results_only_by_resampling_error(metric):
    first = sum_errors(*made_up(5, [0, 0, 1, 1], users=50, worse=0.05))
    order = np.random.default_rng(0).permutation(50)
    other = of_users(first, lambda values: values[..., order])
    one, again = (differences(errors, metric, resamples=40_000)[0, 1] for errors in (first, other))
    assert again.value == pytest.approx(one.value)
    assert [again.low, again.high, again.p] == pytest.approx([one.low, one.high, one.p], rel=0.15)


def test_results_are_reproducible_and_depend_on_the_seed():
    given_errors = made_up(2, [0, 0, 1])
    first, again = sum_errors(*given_errors), sum_errors(*given_errors)
    for function in (estimates, differences):
        results = function(first, "rmse", resamples=99), function(first, "mae", resamples=99)
        assert results == (function(again, "rmse", resamples=99), function(again, "mae", resamples=99))
        assert results[0] != results[1]
        assert results[0] != function(first, "rmse", resamples=99, seed=1)
        assert results[0] == function(first, "rmse", resamples=99)
        assert results[0] != function(first, "rmse", resamples=98)
