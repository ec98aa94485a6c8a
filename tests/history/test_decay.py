"""The strategy history=decay: its probabilities, its extremes, and that a draw depends on its names alone."""

from collections import Counter
from itertools import permutations
from math import exp

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import chisquare
from test_history_random import last_targets

from mlens.data.split import Split
from mlens.errors import UserError
from mlens.history.decay import Decay
from mlens.history.fit import fit
from mlens.history.fixed_count import FixedCount
from tests.helpers.budgets import assert_fits, assert_groups, budgets, section
from tests.helpers.reference import make_table, stage_of


def orders(strategy, table, stage, seed=1, epoch=0):
    """The ratings that each target's draw brings, in its order."""
    order = strategy.wish(table, stage, seed, epoch).order
    return [tuple(int(i) for i in order(t)) for t in range(len(stage))]


def naive_probabilities(c, count, tau):
    """The probability of each ordered draw: one rating after the other, by its share of the weight that is left."""
    weights = [exp(-(c - 1 - i) / tau) for i in range(c)]
    found = {}
    for order in permutations(range(c), min(count, c)):
        probability, left = 1.0, sum(weights)
        for i in order:
            probability *= weights[i] / left
            left -= weights[i]
        found[order] = probability
    return found


@pytest.mark.parametrize(("c", "count", "tau"), [(4, 2, 1.5), (4, 3, 3.0), (3, 5, 2.0), (5, 1, 2.0), (5, 2, 1e9)])
def test_ordered_draws_are_as_frequent_as_in_successive_sampling(c, count, tau):
    case = last_targets(3000, c)
    shown = Counter(orders(Decay(count, tau), case.table, case.stage))
    expected = naive_probabilities(c, count, tau)
    assert set(shown) <= set(expected)
    counts = [shown[order] for order in expected]
    assert chisquare(counts, [3000 * probability for probability in expected.values()]).pvalue > 1e-4


@given(budgets(), st.integers(1, 6), st.sampled_from([1e-3, 1e-10, 1e-300, 5e-324]))
def test_a_tiny_tau_is_fixed_count(case, count, tau):
    place = case.table, case.stage, case.budget, "exact", 0, 0
    decay, newest = fit(Decay(count, tau), *place), fit(FixedCount(count), *place)
    for t in range(len(case.stage)):
        assert decay.shown(t).tolist() == newest.shown(t).tolist()


@given(st.integers(1, 5), st.floats(1e-3, 1e300))
@example(3, 5e-324)
def test_at_great_ages_no_weight_is_lost(count, tau):
    """Even where exp(-age / tau) is 0 for most ratings, `count` of them are drawn, the older ones more seldom."""
    case = last_targets(2, 3000)
    for order in orders(Decay(count, tau), case.table, case.stage):
        assert len(set(order)) == count
        assert tau > 1 or min(order) > 2900


@given(budgets(), st.integers(1, 6), st.sampled_from([0.5, 3.0, 20.0]))
def test_what_does_not_fit_is_dropped_from_the_end_of_the_draw(case, count, tau):
    histories = fit(Decay(count, tau), case.table, case.stage, case.budget, "exact", 3, 0)
    for t, order in enumerate(orders(Decay(count, tau), case.table, case.stage, 3)):
        kept = list(order)
        assert len(set(kept)) == len(kept) == min(count, case.stage.count[t])
        while kept and section(case, t, sorted(kept)) > case.budget.room[t]:
            kept.pop()
        assert histories.shown(t).tolist() == sorted(kept)
    assert_fits(case, histories)
    assert_groups(histories, [None] * len(case.stage))


def test_a_draw_is_keyed_by_raw_ids_and_the_target_and_not_by_places_in_the_table():
    rows = [(m, 3.0, m) for m in range(20)]
    titles = [f"Movie {m}" for m in range(20)]
    joined = make_table([rows, rows], titles=titles, user_ids=["x", "z"])
    alone = make_table([rows], titles=titles, user_ids=["z"])
    of_joined, of_alone = (
        orders(Decay(5), table, stage_of(table, Split("leave_last"), "train")) for table in (joined, alone)
    )
    assert of_joined[18:] == of_alone != of_joined[:18]


@pytest.mark.parametrize("redraw", ["epoch", "once"])
@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_training_draws_each_epoch_unless_once_and_evaluation_always(redraw, stage):
    table = make_table([[(m, 3.0, m) for m in range(60)]])
    first, again, next_epoch = (
        orders(Decay(5, redraw=redraw), table, stage_of(table, Split("temporal", 0.3, 0.3), stage), epoch=e)
        for e in (0, 0, 1)
    )
    assert first == again
    assert (first == next_epoch) == (redraw == "once" and stage == "train")


@pytest.mark.parametrize("tau", [0, -1.0, float("inf"), float("nan")])
def test_a_tau_that_is_not_above_0_and_finite_is_refused(tau):
    with pytest.raises(UserError, match=r"history\.tau"):
        Decay(10, tau)


@pytest.mark.parametrize(("fields", "name"), [({"count": 0}, "count"), ({"redraw": "step"}, "redraw")])
def test_a_wrong_count_or_redraw_is_refused(fields, name):
    with pytest.raises(UserError, match=rf"history\.{name}"):
        Decay(**fields)


def test_another_seed_draws_another_history():
    case = last_targets(3, 40)
    one, other = (orders(Decay(), case.table, case.stage, seed) for seed in (1, 2))
    assert all(np.setdiff1d(a, b).size for a, b in zip(one, other, strict=True))


def test_a_rating_is_wanted_by_its_age_and_weight():
    table = make_table([[(movie, 3.0, movie) for movie in range(6)]])
    stage = stage_of(table, Split("temporal"), "train")
    t = int(stage.count.argmax())
    newest, count = int(stage.count[t]) - 1, 10
    reasons = Decay(count, 2.0).wish(table, stage, 1, 0).reasons(t, np.array([newest, newest - 2]))
    assert reasons == ["age 0, weight 1.000", f"age 2, weight {exp(-1):.3f}"]
