"""Printed digits: another seed of the resampling changes a printed number by at most one unit of its last digit."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from mlens.comparison import digits
from mlens.comparison.statistics import differences, estimates, part_differences
from mlens.comparison.summed_errors import sum_errors

SEEDS = 10


def comparison(users, seeds, gap, arms=3):
    """Make errors of arms whose errors grow by `gap` from one arm to the next, for users of different number and
    difficulty of targets."""
    random = np.random.default_rng(users)
    user = np.repeat(np.arange(users), 1 + random.geometric(0.1, users))
    arm = np.repeat(np.arange(arms), seeds)
    hard = np.exp(0.4 * random.normal(size=users))[user]
    by_run = hard * (1 + gap * arm[:, None]) * random.normal(size=(len(arm), len(user)))
    return sum_errors(3 + 0.6 * hard * random.normal(size=len(user)) + 0.5 * by_run, np.full(len(user), 3.0), user, arm)


def ends_of(text):
    """Parse an interval; returns each end and the unit of its last digit."""
    return [(float(end), 10.0 ** -len(end.partition(".")[2])) for end in text.split(" to ")]


def steps_between(one, other):
    """Return the difference of two printed numbers in units of the last digit of the less precise one."""
    (a, unit_a), (b, unit_b) = one, other
    return abs(a - b) / max(unit_a, unit_b)


def p_of(text):
    """Parse a p-value; returns the number, the unit of its last digit, and whether it is an upper bound."""
    _, _, number = text.removeprefix("p ").rpartition("< ")
    return float(number), 10.0 ** -len(number.partition(".")[2]), "<" in text


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("users", "seeds", "gap"),
    [
        *((30, 1, 0.02), (150, 2, 0.2)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(600, 1, 0.02), (600, 3, 0.05), (1000, 1, 0.0)]),
    ],
)
def test_another_seed_changes_the_last_digit_by_one_at_most(users, seeds, gap):
    errors = comparison(users, seeds, gap)
    part = sum_errors_of_two(errors)
    printed = [[] for _ in range(SEEDS)]
    p_values = [[] for _ in range(SEEDS)]
    for seed in range(SEEDS):
        for metric in ("rmse", "mae"):
            found = [*estimates(errors, metric, seed=seed), *part_differences([part], metric, seed=seed)]
            pairs = differences(errors, metric, seed=seed)
            printed[seed] += [digits.interval(one.low, one.high, one.error, "+") for one in [*found, *pairs.values()]]
            p_values[seed] += [digits.p_value(one.p_holm, one.p_error) for one in pairs.values()]
    far, compared = 0, 0
    for one, other in combinations(printed, 2):
        for a, b in zip(one, other, strict=True):
            for pair in zip(ends_of(a), ends_of(b), strict=True):
                far, compared = far + (steps_between(*pair) > 1 + 1e-9), compared + 1
    assert compared > 300 and far <= 0.02 * compared
    far, compared = 0, 0
    for one, other in combinations(p_values, 2):
        for a, b in zip(one, other, strict=True):
            (p, unit, below), (q, other_unit, other_below) = p_of(a), p_of(b)
            if below or other_below:
                bound, exact = (p, q) if below else (q, p)
                differs = not (below and other_below) and exact > bound + max(unit, other_unit)
            else:
                differs = abs(p - q) > max(unit, other_unit) * (1 + 1e-9)
            far, compared = far + differs, compared + 1
    assert far <= 0.02 * compared


def sum_errors_of_two(errors):
    """Return the errors of the first two arms on the targets of every second user."""
    runs, some = np.flatnonzero(errors.arm < 2), np.arange(errors.users) % 2 == 0
    sums = {name: of_runs[runs] * some for name, of_runs in errors.sums.items() if name != "auc"}
    weights = {name: errors.weights[name] * some for name in sums}
    return replace(errors, sums=sums, weights=weights, arm=errors.arm[runs])


@pytest.mark.slow
@pytest.mark.parametrize("users", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_the_resampling_error_is_the_spread_over_seeds(users):
    errors = comparison(users, 1, 0.05)
    found = [differences(errors, "rmse", seed=seed)[0, 1] for seed in range(60)]
    spread = max(np.std([one.low for one in found]), np.std([one.high for one in found]))
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.3)
    assert np.std([one.p for one in found]) <= 1.4 * max(one.p_error for one in found)


def test_more_resamples_give_more_digits_but_at_most_four():
    errors = comparison(20, 1, 0.05)
    lengths = [
        len(digits.interval(one.low, one.high, one.error))
        for one in (estimates(errors, "rmse", resamples=count)[0] for count in (99, 9_999, 499_999))
    ]
    assert lengths[0] < lengths[1] < lengths[2]
    assert digits.interval(0.123456, 0.234567, 0.0) == "0.1235 to 0.2346"
    assert digits.interval(-123.4, 456.7, 7.0) == "-100 to 500"
    assert digits.interval(-0.0004, 0.0123, 0.0005, "+") == "+0.00 to +0.01"
    assert digits.interval(0.91, 0.93, 0.1) == "0 to 1" and digits.interval(1.0, 1.0, 0.1) == "1 to 1"


@pytest.mark.parametrize(
    ("p", "error", "printed"),
    [
        (1.0, 0.0001, "p 1.000"),
        (0.5, 0.005, "p 0.5"),
        (0.031, 0.0017, "p 0.03"),
        (0.3, 0.09, "p 0.3"),
        (0.0001, 0.0001, "p < 0.001"),
        (0.04, 0.0135, "p < 0.1"),
        (0.0045, 0.0045, "p < 0.05"),
    ],
)
def test_p_has_at_least_one_decimal_and_is_never_zero(p, error, printed):
    assert digits.p_value(p, error) == printed
