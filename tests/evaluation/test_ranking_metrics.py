"""AUC and NDCG@10: by hand, and compared with loops over pairs and orders and with scikit-learn."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.evaluation.metrics import auc, measure, ndcg
from mlens.evaluation.score import Predictions


def columns(*rows):
    """Transpose rows of (user, predicted, rating) to predicted, rating, user."""
    user, predicted, rating = (np.array(column) for column in zip(*rows, strict=True))
    return predicted, rating, user


@st.composite
def targets(draw, most=25, users=4):
    """Draw targets with few distinct values, so that many are tied, and users in any order."""
    row = st.tuples(
        st.integers(0, users - 1), st.integers(0, 5).map(lambda i: i / 4), st.sampled_from([0.5, 3, 3.5, 5])
    )
    return columns(*draw(st.lists(row, min_size=1, max_size=most)))


def users_of(predicted, rating, user):
    return [(predicted[user == one], rating[user == one]) for one in sorted(set(user.tolist()))]


def mean(values):
    return sum(values) / len(values) if values else math.nan


def naive_auc(predicted, rating):
    right = pairs = 0
    for p, r in zip(predicted, rating, strict=True):
        for q, s in zip(predicted, rating, strict=True):
            if r < s:
                pairs += 1
                right += 1 if p < q else 0.5 if p == q else 0
    return right / pairs if pairs else None


def gain(ratings):
    return sum(r / math.log2(1 + rank) for rank, r in enumerate(ratings[:10], 1))


def test_auc_by_hand():
    # User 1: of the pairs 1-3, 1-5, 3-5 one is wrong, one tied. User 2's ratings are all the same, user 3 has one.
    rows = [(1, 2.0, 1.0), (1, 1.0, 3.0), (1, 2.0, 5.0), (2, 1.0, 4.0), (2, 3.0, 4.0), (3, 1.0, 5.0)]
    assert auc(*columns(*rows)) == pytest.approx(1.5 / 3)
    assert auc(*columns(*rows, (3, 0.0, 4.0))) == pytest.approx((1.5 / 3 + 1) / 2)
    assert math.isnan(auc(*columns(*rows[3:])))


def test_ndcg_by_hand():
    rows = [(1, 4.0, 2.0), (1, 3.0, 5.0), (2, 1.0, 4.0)]
    one = (2 + 5 / math.log2(3)) / (5 + 2 / math.log2(3))
    assert ndcg(*columns(*rows)) == pytest.approx(one)
    # The mean over both orders of user 2's tied predictions.
    two = ((4 + 1 / math.log2(3)) + (1 + 4 / math.log2(3))) / 2 / (4 + 1 / math.log2(3))
    assert ndcg(*columns(*rows, (2, 1.0, 1.0))) == pytest.approx((one + two) / 2)
    assert math.isnan(ndcg(*columns(rows[0], rows[2])))


def test_rank_11_gains_nothing():
    rows = [(0, -rank, 1.0) for rank in range(10)] + [(0, -10, 5.0)]
    assert ndcg(*columns(*rows)) == pytest.approx(gain([1.0] * 10) / gain([5.0] + [1.0] * 9))


def test_users_without_any_gain_are_left_out():
    rows = [(0, 1.0, 0.0), (0, 2.0, 0.0), (1, 1.0, 1.0), (1, 2.0, 2.0)]
    assert ndcg(*columns(*rows)) == 1.0
    assert math.isnan(ndcg(*columns(*rows[:2])))


@given(targets())
def test_auc_equals_a_loop_over_pairs(given):
    values = [value for one in users_of(*given) if (value := naive_auc(*one)) is not None]
    assert auc(*given) == pytest.approx(mean(values), nan_ok=True)


@given(targets(most=6, users=2))
def test_ndcg_is_the_mean_over_all_orders_of_ties(given):
    shares = []
    for predicted, rating in users_of(*given):
        if len(predicted) > 1:
            orders = [o for o in permutations(range(len(rating))) if (np.diff(predicted[list(o)]) <= 0).all()]
            shares.append(mean([gain(rating[list(o)]) for o in orders]) / gain(sorted(rating, reverse=True)))
    assert ndcg(*given) == pytest.approx(mean(shares), nan_ok=True)


@given(targets(), st.randoms())
def test_the_order_of_targets_does_not_matter(given, random):
    order = list(range(len(given[0])))
    random.shuffle(order)
    shuffled = [column[order] for column in given]
    for metric in (auc, ndcg):
        assert metric(*shuffled) == pytest.approx(metric(*given), nan_ok=True)


@given(targets(most=60))
def test_scikit_learn_agrees(given):
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    several = [one for one in users_of(*given) if len(one[0]) > 1]
    expected = [sklearn.ndcg_score([rating], [predicted], k=10) for predicted, rating in several]
    assert ndcg(*given) == pytest.approx(mean(expected), nan_ok=True)
    predicted, rating, user = given
    liked = (rating > 3).astype(float)
    mixed = [(p, r) for p, r in users_of(predicted, liked, user) if len(set(r)) == 2]
    areas = [sklearn.roc_auc_score(r, p) for p, r in mixed]
    assert auc(predicted, liked, user) == pytest.approx(mean(areas), nan_ok=True)


def test_ranking_metrics_use_the_expected_rating():
    probability = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    predictions = Predictions(probability, np.ones(3))
    measured = measure(predictions, np.array([1, 0, 2]), np.array([5, 5, 5]), (1.0, 2.0, 3.0))
    assert measured["auc"] == pytest.approx(2 / 3)
    assert measured["ndcg_10"] == pytest.approx(gain([3, 1, 2]) / gain([3, 2, 1]))
    separate_users = measure(predictions, np.array([1, 0, 2]), np.array([5, 6, 7]), (1.0, 2.0, 3.0))
    assert math.isnan(separate_users["auc"]) and math.isnan(separate_users["ndcg_10"])
