"""Equivalence within a margin, and the smallest detectable difference, in simulations with known true values.

In 600 comparisons of 200 users, which have the difference that is called detectable (the median of 40 comparisons of
equal arms; Monte Carlo standard errors: 0.016 of power, 0.012 of coverage):

    seeds   detectable   power   covered by 90% intervals
        1       0.0198   0.787                      0.898
        2       0.0983   0.610                      0.978
        3       0.0377   0.768                      0.958
        5       0.0258   0.807                      0.952

With two seeds the variance between seeds is hardly known, and differs too much from one comparison to the next.
"""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.comparison.p_values import critical_value, permutation_p
from mlens.comparison.results import MARGIN, conclusion
from mlens.comparison.statistics import differences
from mlens.comparison.summed_errors import Errors

USERS, RESAMPLES = 200, 499
# Standard deviations of the difference of two arms: of its effects on users, and of those of a seed of each arm.
OF_USERS, OF_SEEDS = 0.1, 0.01


def compared(random, seeds, metric="rmse", gap=0.0, users=USERS, of_users=OF_USERS):
    """Compare two arms whose errors are normal around 1 + gap and 1. Of one seed each, they are compared as models."""
    effects = random.normal(scale=of_users / sqrt(2), size=(2, 1, users))
    if seeds > 1:
        effects = effects + random.normal(scale=OF_SEEDS / sqrt(2), size=(2, seeds, 1))
    errors = (1 + np.array([gap, 0])[:, None, None] + effects).reshape(2 * seeds, users)
    sums = {metric: errors**2 if metric == "rmse" else errors}
    of_arms = Errors(sums, {metric: np.ones(users)}, np.repeat([0, 1], seeds))
    return differences(of_arms, metric, resamples=RESAMPLES)[0, 1]


def repeated(seed, count, *arguments, **keywords):
    random = np.random.default_rng(seed)
    return [compared(random, *arguments, **keywords) for _ in range(count)]


def detectable_in(seeds, metric, count=20):
    return float(np.median([one.detectable for one in repeated(1, count, seeds, metric)]))


@pytest.mark.parametrize(("seeds", "metric"), [(1, "mae"), (3, "mae"), (5, "rmse")])
def test_a_detectable_difference_is_found_with_its_probability(seeds, metric):
    """In 150 comparisons: power 0.8 and coverage 0.9 within three Monte Carlo standard errors, 0.1 and 0.075; with
    three seeds intervals are wider."""
    detectable = detectable_in(seeds, metric)
    found = repeated(2, 150, seeds, metric, detectable)
    assert np.mean([one.p <= 0.05 and one.value > 0 for one in found]) == pytest.approx(0.8, abs=0.1)
    covered = np.mean([one.low_90 <= detectable <= one.high_90 for one in found])
    assert 0.825 <= covered <= (0.975 if seeds != 3 else 1)


@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_without_seeds_the_detectable_difference_is_that_of_a_normal_test(metric):
    """(1.96 + 0.84) standard errors, within 5%."""
    assert detectable_in(1, metric) == pytest.approx(2.8 * OF_USERS / sqrt(USERS), rel=0.05)


def test_the_first_of_several_tests_detects_larger_differences():
    random = np.random.default_rng(0)
    errors = 1 + random.normal(scale=OF_USERS / sqrt(2), size=(5, USERS))
    found = differences(Errors({"mae": errors}, {"mae": np.ones(USERS)}, np.arange(5)), "mae")
    assert len(found) == 10
    # The two-sided critical value of a normal test at 0.05 / 10 is 2.807.
    for one in found.values():
        assert one.detectable_first / one.detectable == pytest.approx((2.807 + 0.842) / 2.802, rel=0.07)


def test_equal_arms_are_equivalent_with_many_users_and_undecided_with_few():
    random = np.random.default_rng(0)
    many, few = (compared(random, 1, users=users) for users in (4_000, 40))
    assert (conclusion(many, "rmse"), conclusion(few, "rmse")) == ("equivalent", "undecided")
    assert conclusion(compared(random, 1, gap=0.1, users=4_000), "rmse") == "different"
    # The margin is one of RMSE.
    assert conclusion(many, "taste") == "undecided"


@pytest.mark.parametrize("sign", [-1, 1])
def test_arms_that_differ_by_the_margin_are_rarely_equivalent(sign):
    """At most 5%, with two Monte Carlo standard errors of 150 comparisons."""
    found = repeated(3, 150, 1, gap=sign * MARGIN, of_users=0.03)
    shown = np.mean([max(-one.low_90, one.high_90) < MARGIN for one in found])
    assert 0 < shown <= 0.05 + 2 * sqrt(0.05 * 0.95 / 150)


@given(st.lists(st.integers(-20, 20), min_size=19, max_size=60), st.sampled_from([0.05, 0.1, 0.5, 0.001]))
def test_the_critical_value_is_where_p_falls_to_alpha(null, alpha):
    null = np.array(null, dtype=float)
    critical = critical_value(null, alpha)
    for value in range(22):
        assert (permutation_p(float(value), 0.0, null) <= alpha) == (value > critical)
