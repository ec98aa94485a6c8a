"""Histories that are windows of the most recent ratings, with exact and strided trims, against a loop over targets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data.chunked import BLOCK
from mlens.data.split import Split
from mlens.errors import UserError
from mlens.history.all_previous import AllPrevious
from mlens.history.budget import Budget
from mlens.history.fit import LOOKAHEAD, fit
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.strategy import chosen_count
from tests.helpers.budgets import assert_groups, budgets, section
from tests.helpers.reference import make_table, naive_k, stage_of


def strided_count(strategy):
    """Return the function from c to the length of the window, which gains a rating at a time and loses stride."""

    def wanted(c):
        length = 0
        for _ in range(c):
            length += 1
            if length == strategy.count + strategy.stride:
                length -= strategy.stride
        return length

    return wanted


ratios = st.sampled_from([0.01, 0.1, 0.29, 0.3, 0.5, 0.7, 0.9, 1.0])
# Every strategy with how many of c visible ratings it wants.
strategies = st.one_of(
    st.just((NoHistory(), lambda c: 0)),
    st.just((AllPrevious(), lambda c: c)),
    ratios.map(lambda ratio: (FixedRatio(ratio), lambda c: naive_k(ratio, c))),
    st.integers(1, 9).map(lambda count: (FixedCount(count), lambda c: min(count, c))),
    st.builds(FixedCount, st.integers(1, 5), st.integers(1, 9)).map(lambda of: (of, strided_count(of))),
)


def select(case, strategy, trim):
    return fit(strategy, case.table, case.stage, case.budget, trim, seed=0, epoch=0)


def naive_exact(case, t, wanted):
    """The most recent `wanted` lines, the oldest dropped until the section fits."""
    window = list(range(case.stage.count[t]))[case.stage.count[t] - wanted :]
    while window and section(case, t, window) > case.budget.room[t]:
        window = window[1:]
    return window


def naive_strided(case, wanted_of):
    """The strided sentence, target by target: s stays while the prompt fits, else it jumps."""
    windows, s, user = [], 0, None
    for t in range(len(case.stage)):
        if case.stage.user[t] != user:
            s, user = 0, case.stage.user[t]
        c = int(case.stage.count[t])
        own_start = c - wanted_of(c)
        if section(case, t, list(range(max(own_start, s), c))) > case.budget.room[t]:
            starts = [
                i for i in range(c + 1) if section(case, t, list(range(i, c))) <= case.budget.room_after_context[t] // 2
            ]
            s = starts[0]
            if s == c and section(case, t, [c - 1]) <= case.budget.room[t]:
                s = c - 1
        windows.append(list(range(max(own_start, s), c)))
    return windows


@given(budgets(), strategies, st.sampled_from([1, 30, BLOCK]))
def test_exact_drops_just_enough_of_the_oldest_for_each_target(case, strategy, block):
    strategy, wanted_of = strategy
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.data.chunked.BLOCK", block)
        histories = select(case, strategy, "exact")
    counts = case.stage.count.tolist()
    expected = [naive_exact(case, t, wanted_of(c)) for t, c in enumerate(counts)]
    assert [histories.shown(t).tolist() for t in range(len(counts))] == expected


@given(budgets(), strategies, st.sampled_from([1, 30, BLOCK]), st.sampled_from([1, 2, 5, LOOKAHEAD]))
def test_strided_keeps_a_users_start_until_the_prompt_is_full_and_then_halves(case, strategy, block, look):
    """However many users are cut at once, and however far each is looked ahead."""
    strategy, wanted_of = strategy
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.data.chunked.BLOCK", block)
        patched.setattr("mlens.history.fit.LOOKAHEAD", look)
        histories = select(case, strategy, "strided")
    assert [histories.shown(t).tolist() for t in range(len(case.stage))] == naive_strided(case, wanted_of)


@given(budgets(), strategies)
def test_each_strategy_wants_as_many_of_the_newest_as_its_rule_says(case, strategy):
    strategy, wanted_of = strategy
    histories = select(case, strategy, "exact")
    for t, c in enumerate(case.stage.count.tolist()):
        assert histories.wanted(t).tolist() == list(range(c - wanted_of(c), c))


@given(budgets(), strategies, st.sampled_from(["exact", "strided"]))
def test_targets_of_a_user_whose_windows_start_at_one_rating_share_a_prefix(case, strategy, trim):
    histories = select(case, strategy[0], trim)
    shown = [histories.shown(t).tolist() for t in range(len(case.stage))]
    keys = [(case.stage.user[t], places[0]) if places else None for t, places in enumerate(shown)]
    assert_groups(histories, keys)


@pytest.mark.parametrize(("count", "stride"), [(10, 1), (10, 10), (3, 4), (1, 7), (10**30, 10**30)])
def test_as_many_consecutive_targets_as_the_stride_share_a_prefix(count, stride):
    """Each target sees one rating more than the one before it; the first start serves `count` targets more."""
    table = make_table([[(m, 3.0, m) for m in range(60)]])
    stage = stage_of(table, Split("leave_last"), "train")
    prices = np.arange(61)
    budget = Budget(prices, prices, 0, np.full(len(stage), 10**6), np.full(len(stage), 10**6))
    histories = fit(FixedCount(count, stride), table, stage, budget, "exact", seed=0, epoch=0)
    groups = histories.prefix_groups(np.arange(len(stage)))
    assert stage.count.tolist() == list(range(len(stage)))
    assert groups[1:].tolist() == [max(0, c - count) // stride * stride for c in range(1, len(stage))]


@given(budgets(room=10**6))
def test_with_room_for_all_nothing_is_dropped_under_either_trim(case):
    for strategy, wanted_of in ((AllPrevious(), lambda c: c), (FixedCount(3), lambda c: min(3, c))):
        for trim in ("exact", "strided"):
            histories = select(case, strategy, trim)
            for t, c in enumerate(case.stage.count.tolist()):
                assert histories.shown(t).tolist() == list(range(c - wanted_of(c), c))


@given(budgets())
def test_a_share_of_one_is_all_previous(case):
    for trim in ("exact", "strided"):
        whole, one = select(case, AllPrevious(), trim), select(case, FixedRatio(1.0), trim)
        assert all(np.array_equal(whole.shown(t), one.shown(t)) for t in range(len(case.stage)))


@pytest.mark.parametrize(("ratio", "c", "k"), [(0.3, 0, 0), (0.3, 1, 1), (0.3, 10, 3), (0.29, 100, 29), (0.7, 10, 7)])
def test_k_of_c_is_exact_and_at_least_one(ratio, c, k):
    assert chosen_count(ratio, np.array([c])).tolist() == [k]


@given(st.integers(1, 100), st.integers(0, 3000))
def test_k_of_c_is_exact_for_ratios_in_hundredths(hundredths, c):
    assert chosen_count(hundredths / 100, np.array([c])).tolist() == [naive_k(hundredths / 100, c)]


@pytest.mark.parametrize("ratio", [0, 0.0, -0.3, 1.5, 1.0000001, float("nan"), float("inf"), float("-inf")])
def test_a_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(UserError, match=r"history\.ratio"):
        FixedRatio(ratio)


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(UserError, match=r"history\.count"):
        FixedCount(count)


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_below_one_is_refused(stride):
    with pytest.raises(UserError, match=r"history\.stride"):
        FixedCount(10, stride)
