"""Metrics compared with loops, and with values computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.evaluation.metrics import (
    by_group,
    calibration_error,
    expected,
    level,
    mae,
    measure,
    point_metrics,
    rmse,
    taste,
    user_rmse,
)
from mlens.evaluation.score import Predictions

SCALE = (1.0, 2.0, 3.0)
BY_HAND = Predictions(np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]]), np.array([1.0, 0.5, 0.75]))
RATING = np.array([0, 2, 1])
USER = np.array([4, 4, 9])


def test_metrics_by_hand():
    measured = measure(BY_HAND, RATING, USER, SCALE)
    # Expected ratings 1.4, 2.5, 2.25 for 1, 3, 2.
    assert expected(BY_HAND, SCALE).tolist() == pytest.approx([1.4, 2.5, 2.25])
    assert measured["rmse"] == pytest.approx(math.sqrt((0.16 + 0.25 + 0.0625) / 3))
    assert measured["mae"] == pytest.approx((0.4 + 0.5 + 0.25) / 3)
    # User 4's mean error is (0.4 - 0.5) / 2, user 9's 0.25; within user 4 the errors are 0.45 and -0.45.
    assert measured["level"] == pytest.approx(math.sqrt((2 * 0.05**2 + 0.25**2) / 3))
    assert measured["taste"] == pytest.approx(math.sqrt(2 * 0.45**2 / 3))
    assert measured["user_rmse"] == pytest.approx((math.sqrt((0.16 + 0.25) / 2) + 0.25) / 2)
    # Of equally probable ratings the lower one is the argmax: 1, 2, 3.
    assert measured["accuracy"] == pytest.approx(1 / 3)
    assert measured["argmax_rmse"] == pytest.approx(math.sqrt((0 + 1 + 1) / 3))
    assert measured["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.5) + math.log(0.25)) / 3)
    assert measured["illegal_mass"] == pytest.approx(0.25)
    # Bin 7 has a correct prediction at 0.7, bin 5 two wrong ones at 0.5.
    assert measured["calibration_error"] == pytest.approx((0.3 + 1.0) / 3)


def test_a_mistake_with_probability_1_has_a_large_finite_nll():
    sure = Predictions(np.array([[1.0, 0.0, 0.0]]), np.ones(1))
    nll = measure(sure, np.array([2]), np.array([0]), SCALE)["nll"]
    assert 700 < nll < math.inf


def test_probability_1_is_in_the_last_bin():
    assert calibration_error(np.array([[1.0, 0.0], [0.95, 0.05]]), np.array([True, False])) == pytest.approx(
        abs((1 - 1.0) + (0 - 0.95)) / 2
    )


def naive_calibration(probability, correct):
    total = 0.0
    for number in range(10):
        members = [
            (max(row), right)
            for row, right in zip(probability, correct, strict=True)
            if number == min(int(max(row) * 10), 9)
        ]
        total += abs(sum(right - confidence for confidence, right in members))
    return total / len(probability)


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(2, 6))
def test_metrics_equal_loops(seed, targets, ratings):
    random = np.random.default_rng(seed)
    scale = tuple(np.arange(1, ratings + 1) / 2)
    probability = random.dirichlet(np.full(ratings, 0.5), targets)
    predictions = Predictions(probability, random.uniform(size=targets))
    rating_index, user = random.integers(0, ratings, targets), random.integers(0, 4, targets)
    measured = measure(predictions, rating_index, user, scale)
    means = [sum(p * r for p, r in zip(row, scale, strict=True)) for row in probability]
    true = [scale[i] for i in rating_index]
    errors = [a - b for a, b in zip(means, true, strict=True)]
    assert measured["rmse"] == pytest.approx(math.sqrt(sum(e * e for e in errors) / targets))
    assert measured["mae"] == pytest.approx(sum(map(abs, errors)) / targets)
    by_user = [[e for e, u in zip(errors, user, strict=True) if u == one] for one in sorted(set(user.tolist()))]
    assert measured["user_rmse"] == pytest.approx(
        sum(math.sqrt(sum(e * e for e in o) / len(o)) for o in by_user) / len(by_user)
    )
    means_of_users = [sum(o) / len(o) for o in by_user]
    squares = [len(o) * mean**2 for o, mean in zip(by_user, means_of_users, strict=True)]
    within = [(e - mean) ** 2 for o, mean in zip(by_user, means_of_users, strict=True) for e in o]
    assert measured["level"] == pytest.approx(math.sqrt(sum(squares) / targets))
    assert measured["taste"] == pytest.approx(math.sqrt(sum(within) / targets))
    correct = [max(row) == row[i] for row, i in zip(probability, rating_index, strict=True)]
    assert measured["accuracy"] == pytest.approx(sum(correct) / targets)
    assert measured["calibration_error"] == pytest.approx(naive_calibration(probability, correct))
    nll = [-math.log(row[i]) for row, i in zip(probability, rating_index, strict=True) if row[i] > 0]
    if len(nll) == targets:
        assert measured["nll"] == pytest.approx(sum(nll) / targets)


@st.composite
def point_predictions(draw):
    """Draw predicted ratings, ratings and users' ids [t]."""
    number = st.floats(-10, 10).map(lambda value: round(value, 3))
    rows = draw(st.lists(st.tuples(number, number, st.integers(-2, 5)), min_size=1, max_size=30))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@given(point_predictions())
def test_level_and_taste_are_the_two_parts_of_rmse(columns):
    whole, between, within = rmse(*columns[:2]), level(*columns), taste(*columns)
    assert whole**2 == pytest.approx(between**2 + within**2, rel=1e-12, abs=1e-12)


@given(point_predictions(), st.floats(-5, 5))
def test_another_level_of_a_user_changes_level_alone(columns, shift):
    predicted, rating, user = columns
    one, other = point_metrics(*columns), point_metrics(predicted + shift * (user == user[0]), rating, user)
    assert other["taste"] == pytest.approx(one["taste"], abs=1e-12)
    level_only = np.bincount(user + 2, rating - predicted)[user + 2] / np.bincount(user + 2)[user + 2]
    assert level(predicted + level_only, rating, user) == pytest.approx(0, abs=1e-12)


def test_taste_is_zero_for_users_of_one_target_and_level_for_one_user_of_opposite_errors():
    assert taste(np.array([1.0, 4.0]), np.array([3.0, 3.0]), np.array([7, 3])) == 0.0
    assert level(np.array([1.0, 5.0]), np.array([3.0, 3.0]), np.array([7, 7])) == 0.0


def test_perfect_predictions():
    perfect = Predictions(np.eye(3)[RATING], np.ones(3))
    measured = measure(perfect, RATING, USER, SCALE)
    assert [measured.pop(name) for name in ("accuracy", "auc", "ndcg_10")] == [1.0, 1.0, 1.0]
    assert measured.pop("expected_std") == np.std(np.array(SCALE)[RATING])
    assert set(measured.values()) == {0.0}


def test_groups_are_half_open_intervals():
    value = np.array([0, 1, 4, 5, 9, 10, 99])
    rating = np.zeros(7)
    predicted = np.array([1.0, 2.0, 4.0, 1.0, 1.0, 3.0, 3.0])
    groups = by_group(predicted[None], rating, value, (0, 1, 5, 10))
    assert {name: group["targets"] for name, group in groups.items()} == {"0": 1, "1-4": 2, "5-9": 2, "10+": 2}
    assert groups["1-4"] == {"targets": 2, "rmse": pytest.approx(math.sqrt(10)), "mae": pytest.approx(3.0)}
    assert groups["10+"]["rmse"] == 3.0


def test_an_empty_group_is_left_out():
    assert list(by_group(np.ones((1, 2)), np.ones(2), np.array([0, 6]), (0, 1, 5))) == ["0", "5+"]


def test_rmse_and_mae_of_one_error():
    assert rmse(np.array([3.0]), np.array([5.0])) == mae(np.array([3.0]), np.array([5.0])) == 2.0
    assert user_rmse(np.array([3.0, 1.0]), np.array([5.0, 1.0]), np.array([7, 8])) == 1.0
