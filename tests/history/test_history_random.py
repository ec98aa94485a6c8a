"""Random histories: how many, which, how they are cut, and that a draw depends on its names alone."""

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import combinations
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from mlens.data import draws
from mlens.data.chunked import BLOCK
from mlens.data.split import Split
from mlens.errors import UserError
from mlens.history.budget import Budget
from mlens.history.decay import Decay
from mlens.history.fit import MAX_HALVINGS, fit, halvings_above
from mlens.history.random import Random
from tests.helpers.budgets import Case, assert_groups, budgets, section, with_room
from tests.helpers.reference import make_table, naive_k, stage_of
from tests.helpers.runs import checked

ratios = st.sampled_from([0.05, 0.3, 0.5, 0.8, 1.0])
user_ratios = st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.8, 0.95, 1.0])
FREE = 10**6


def select(case, strategy, seed=3, epoch=0):
    return fit(strategy, case.table, case.stage, case.budget, "exact", seed, epoch)


def roomy(table, stage, room=FREE):
    """A case whose every line and number costs one token."""
    most = int(np.diff(table.user_offsets).max())
    rooms = np.full(len(stage), room)
    budget = Budget(np.arange(len(stage.visible) + 1), np.arange(most + 1), 0, rooms, rooms)
    return Case(table, stage, budget, [1] * len(stage.visible), [1] * most)


def all_chosen(histories):
    return [histories.shown(t).tolist() for t in range(len(histories.stage))]


@pytest.mark.parametrize("name", ["all_previous", "random_100"])
@given(budgets(), st.integers(0, 2**32 - 1))
def test_arms_of_equal_tokens_leave_no_room_for_another_line(name, case, seed):
    """token_matched compares the newest with random ratings that fill the same budget."""
    settings = checked("+experiment=token_matched", f"history={name}")
    histories = fit(settings.history, case.table, case.stage, case.budget, settings.prompt.trim, seed, 0)
    longest = max(case.lines, default=0) + max(case.numbers)
    for t, shown in enumerate(all_chosen(histories)):
        if len(shown) < case.stage.count[t]:
            assert max(section(case, t, shown), case.budget.header) + longest > case.budget.room[t]


def last_targets(users, n, **ids):
    """A stage of one target a user, each of which sees n ratings."""
    table = make_table([[(m, 3.0, m) for m in range(n + 1)]] * users, **ids)
    return roomy(table, stage_of(table, Split("leave_last", min_ratings=1), "test"))


def shared_list(users, n):
    """A table of users with the same n ratings, and its test stage, in whose lists are all of them."""
    table = make_table([[(m, 3.0, m) for m in range(n)]] * users)
    return table, stage_of(table, Split("leave_last", min_ratings=1), "test")


def growing(n):
    """A stage of one user whose targets see 0, 1, 2, … ratings."""
    table = make_table([[(m, 3.0, m) for m in range(n)]])
    return roomy(table, stage_of(table, Split("leave_last"), "train"))


# per target


def permutations(case, seed, epoch):
    """The order in which each target's permutation brings its visible ratings, read off growing shares."""
    free = Case(case.table, case.stage, with_room(case.budget, FREE), case.lines, case.numbers)
    orders = []
    for t, c in enumerate(case.stage.count.tolist()):
        order = []
        for k in range(1, c + 1):
            shown = set(
                select(free, Random((k + 0.5) / c if k < c else 1.0, "per_target"), seed, epoch).shown(t).tolist()
            )
            (new,) = shown - set(order)
            order.append(new)
        orders.append(order)
    return orders


@given(budgets(), ratios, st.integers(0, 2), st.integers(0, 2))
def test_what_does_not_fit_is_dropped_from_the_end_of_the_permutation(case, ratio, seed, epoch):
    histories = select(case, Random(ratio, "per_target"), seed, epoch)
    for t, order in enumerate(permutations(case, seed, epoch)):
        kept = order[: naive_k(ratio, len(order))]
        while kept and section(case, t, sorted(kept)) > case.budget.room[t]:
            kept.pop()
        assert histories.shown(t).tolist() == sorted(kept)


@given(budgets(room=FREE), ratios)
def test_per_target_shows_exactly_k_of_c_in_time_order(case, ratio):
    histories = select(case, Random(ratio, "per_target"))
    counts = [naive_k(ratio, c) for c in case.stage.count.tolist()]
    assert [len(histories.wanted(t)) for t in range(len(counts))] == counts
    for chosen, k, c in zip(all_chosen(histories), counts, case.stage.count, strict=True):
        assert len(chosen) == k
        assert chosen == sorted(set(chosen))
        assert all(0 <= place < c for place in chosen)


@given(budgets())
def test_thirty_percent_is_a_subset_of_fifty_percent(case):
    free = Case(case.table, case.stage, with_room(case.budget, FREE), case.lines, case.numbers)
    smaller, larger = (all_chosen(select(free, Random(ratio, "per_target"))) for ratio in (0.3, 0.5))
    assert all(set(s) <= set(x) for s, x in zip(smaller, larger, strict=True))


def test_per_target_is_uniform_over_subsets_for_many_users():
    shown = Counter(tuple(chosen) for chosen in all_chosen(select(last_targets(6000, 5), Random(0.4, "per_target"))))
    assert chisquare([shown[subset] for subset in combinations(range(5), 2)]).pvalue > 1e-4


def test_per_target_is_uniform_over_subsets_for_many_epochs():
    case = last_targets(1, 5)
    shown = Counter(tuple(select(case, Random(0.4, "per_target"), epoch=epoch).shown(0)) for epoch in range(6000))
    assert chisquare([shown[subset] for subset in combinations(range(5), 2)]).pvalue > 1e-4


def test_per_target_is_uniform_over_subsets_for_many_targets_of_one_user():
    orders = [draws.permutation(4, draws.HISTORY, 1, 7, 0, movie) for movie in range(9600)]
    shown = Counter(tuple(order.tolist()) for order in orders)
    assert len(shown) == 24
    assert chisquare(list(shown.values())).pvalue > 1e-4


def test_draws_of_neighbouring_seeds_epochs_users_and_movies_are_independent():
    words = {
        axis: [draws.uniforms(1, draws.HISTORY, **{"seed": 0, axis: i})[0] for i in range(4000)]
        for axis in ("seed", "user", "epoch", "movie")
    }
    for numbers in words.values():
        cells = np.histogram2d(numbers[:-1:2], numbers[1::2], bins=4, range=[[0, 1], [0, 1]])[0]
        assert chisquare(cells.ravel()).pvalue > 1e-4
    assert len({tuple(numbers[1:]) for numbers in words.values()}) == 4


@pytest.mark.parametrize("axis", ["purpose", "seed", "user", "epoch", "movie"])
def test_draws_of_neighbouring_names_share_no_numbers(axis):
    """Also not shifted: a counter that counts words and names in one place would repeat them."""
    names = {"purpose": draws.HISTORY, "seed": 0}
    words = [draws.words(100, **(names | {axis: i})).tolist() for i in range(50)]
    assert len({word for own in words for word in own}) == 50 * 100


@given(budgets(), ratios, st.randoms(use_true_random=False))
def test_per_target_depends_neither_on_the_order_of_calls_nor_on_the_other_targets(case, ratio, order):
    expected = all_chosen(select(case, Random(ratio, "per_target")))
    calls = list(range(len(case.stage)))
    order.shuffle(calls)
    histories = select(case, Random(ratio, "per_target"))
    assert [histories.shown(t).tolist() for t in calls] == [expected[t] for t in calls]
    kept = np.array(sorted(calls[: len(calls) // 2]), dtype=np.int64)
    rooms = {"room": case.budget.room[kept], "room_after_context": case.budget.room_after_context[kept]}
    part = Case(case.table, case.stage.keep(kept), Budget(**{**vars(case.budget), **rooms}), case.lines, case.numbers)
    assert all_chosen(select(part, Random(ratio, "per_target"))) == [expected[t] for t in kept]


def test_a_draw_is_keyed_by_raw_ids_and_not_by_places_in_the_table():
    rows = [(m, 3.0, m) for m in range(20)]
    titles = [f"Movie {m}" for m in range(20)]
    whole = make_table([rows, rows, rows], titles=titles, user_ids=["x", "y", "z"])
    alone = make_table([rows], titles=titles, user_ids=["z"])
    of_whole, of_alone = (
        all_chosen(select(roomy(t, stage_of(t, Split("leave_last"), "train")), Random(0.5, "per_target")))
        for t in (whole, alone)
    )
    assert of_whole[-18:] == of_alone
    assert of_whole[:18] != of_whole[18:36]


@given(st.lists(st.tuples(*[st.integers(0, 2**63)] * 2, *[st.integers(0, 9)] * 2, st.integers(0, 200)), max_size=5))
def test_a_draw_is_the_stream_of_a_generator_that_was_made_for_it(names):
    for seed, user, epoch, movie, n in names:
        key, counter = np.array([seed, user], np.uint64), np.array([0, draws.HISTORY, epoch, movie], np.uint64)
        expected = np.random.Philox(key=key, counter=counter).random_raw(n)
        assert draws.words(n, draws.HISTORY, seed, user, epoch, movie).tolist() == expected.tolist()


def test_threads_that_draw_at_once_draw_what_each_draws_alone():
    names = [(n % 7 + 1, draws.HISTORY, 0, n) for n in range(3000)]
    expected = [draws.words(*name).tolist() for name in names]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda name: draws.words(*name).tolist(), names)) == expected


def some_draws():
    case = last_targets(4, 30, user_ids=list("abcd"))
    strategies = Random(0.5, "per_target"), Random(0.5, "per_user"), Decay(5)
    return [all_chosen(select(case, strategy, 5, 2)) for strategy in strategies]


@pytest.mark.slow
def test_a_draw_is_the_same_in_a_process_with_another_hash_seed():
    program = "from test_history_random import some_draws; print(some_draws())"
    env = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True, text=True)
    assert run.stdout == f"{some_draws()}\n"


# per user


def naive_draw(ratio, uniforms):
    """The ratings that are drawn from a list, one after the other, with exact fractions.

    Of the first c ratings floor(ratio·c) or ceil(ratio·c) are drawn (at least one). The probability of ceil is what
    ratio·c exceeds floor by.
    """
    ratio = Fraction(str(ratio))
    drawn = []
    for c, u in enumerate(uniforms):
        before, after = ratio * c, ratio * (c + 1)
        if c == 0:
            drawn.append(c)
        elif after <= 1:
            continue
        elif before < 1:  # the end of the first stratum
            if u < after - 1:
                drawn.append(c)
        elif floor(before) == floor(after):
            if len(drawn) == floor(before) and u < ratio / (1 - before % 1):
                drawn.append(c)
        elif len(drawn) == floor(before) or u < (after % 1) / (before % 1):
            drawn.append(c)
    return drawn


def naive_per_user(case, ratio, seed, epoch):
    """chosen and halvings of each target: the ratio is halved while the prompt doesn't fit, and stays so.

    Each halving leaves every other of the drawn ratings, the first always (until there is no room for it alone).
    """
    chosen, halvings, user, times = [], [], None, 0
    for t in range(len(case.stage)):
        if case.stage.user[t] != user:
            user, times = case.stage.user[t], 0
        key = case.table.user_keys[user]
        drawn = naive_draw(ratio, draws.uniforms(int(case.stage.count[t]), draws.HISTORY, seed, key, epoch).tolist())

        def kept(drawn=drawn):
            return drawn[:: 2**times] if times < MAX_HALVINGS else []  # noqa: B023

        while section(case, t, kept()) > case.budget.room[t]:
            times += 1
        chosen.append(kept())
        halvings.append(times)
    return chosen, halvings


@given(budgets(), user_ratios, st.integers(0, 3), st.integers(0, 2), st.sampled_from([1, 30, BLOCK]))
def test_per_user_draws_one_list_whose_ratio_halves_and_stays_halved(case, ratio, seed, epoch, block):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.data.chunked.BLOCK", block)
        histories = select(case, Random(ratio, "per_user"), seed, epoch)
    chosen, halvings = naive_per_user(case, ratio, seed, epoch)
    assert all_chosen(histories) == chosen
    assert histories.halvings.tolist() == halvings
    assert_groups(histories, list(zip(case.stage.user, halvings, strict=True)))
    free = Case(case.table, case.stage, with_room(case.budget, FREE), case.lines, case.numbers)
    wanted = all_chosen(select(free, Random(ratio, "per_user"), seed, epoch))
    assert [histories.wanted(t).tolist() for t in range(len(case.stage))] == wanted


@given(st.integers(1, 100), st.integers(0, 9))
def test_per_user_shows_floor_or_ceil_of_the_ratio_at_every_count_and_each_halving_half(hundredths, seed):
    strategy, ratio = Random(hundredths / 100, "per_user"), Fraction(hundredths, 100)
    case = growing(400)
    wish = strategy.wish(case.table, case.stage, seed, 0)
    drawn = np.cumsum(wish.level < wish.keep).tolist()
    for c, shown in enumerate(drawn, 1):
        assert max(1, floor(ratio * c)) <= shown <= ceil(ratio * c)
        for times in (1, 2, 5):
            assert (wish.level[:c] < wish.keep / 2**times).sum() == ceil(shown / 2**times)
    words = draws.uniforms(len(wish.level), draws.HISTORY, seed, case.table.user_keys[0])
    assert np.flatnonzero(wish.level < wish.keep).tolist() == naive_draw(hundredths / 100, words.tolist())


def test_per_user_names_the_stratum_of_each_rating():
    table, stage = shared_list(3, 20)
    wish = Random(0.25, "per_user").wish(table, stage, 1, 0)
    t = len(stage) - 1
    drawn = select(roomy(table, stage), Random(0.25, "per_user"), seed=1).wanted(t)
    assert wish.reasons(t, drawn) == [f"drawn from stratum {i // 4 + 1}" for i in drawn]


def test_per_user_with_a_ratio_of_one_shows_all():
    case = growing(70)
    assert all_chosen(select(case, Random(1.0, "per_user"))) == [list(range(c)) for c in case.stage.count.tolist()]


@pytest.mark.parametrize("ratio", [0.9, 0.7, 0.5, 0.3, 0.15])
def test_per_user_shows_each_rating_after_the_first_stratum_with_the_probability_of_the_ratio(ratio):
    users, n = 4000, 30
    wish = Random(ratio, "per_user").wish(*shared_list(users, n), 1, 0)
    shown = (wish.level < wish.keep).reshape(users, n).sum(axis=0)
    first = floor(1 / ratio)  # the ratings of the first stratum
    assert shown[0] == users and not shown[1:first].any()
    part = ratio * (first + 1) - 1  # of the rating at the border that belongs to the second stratum
    for rating, probability in [(first, part), *((i, ratio) for i in range(first + 1, n))]:
        if probability > 0:
            assert binomtest(int(shown[rating]), users, probability).pvalue > 1e-5


def test_per_user_draws_independently_in_strata_of_complete_ratings():
    wish = Random(0.5, "per_user").wish(*shared_list(4000, 6), 1, 0)
    shown = Counter(map(tuple, (wish.level < wish.keep).reshape(-1, 6)[:, 2:].tolist()))
    pairs = ((True, False), (False, True))
    assert chisquare([shown[one + other] for one in pairs for other in pairs]).pvalue > 1e-4
    assert sum(shown.values()) == 4000 == sum(shown[one + other] for one in pairs for other in pairs)


bits = st.one_of(st.integers(0, 2**53 - 1), st.integers(0, 53).map(lambda k: 2**53 - 1 >> k))


@given(bits, st.one_of(ratios, st.floats(1e-20, 1)))
@example(2**52, 0.5)
@example(2**50, 0.5)
@example(0, 0.5)
def test_a_level_counts_the_halved_ratios_that_a_number_is_below(n, ratio):
    u = n * 2.0**-53
    level = 0
    while level < MAX_HALVINGS and u < ratio / 2**level:
        level += 1
    assert halvings_above(np.array([u]), ratio).tolist() == [level]


@given(budgets(), ratios)
def test_per_target_histories_share_no_prefix(case, ratio):
    assert_groups(select(case, Random(ratio, "per_target")), [None] * len(case.stage))


@given(budgets(room=FREE), ratios)
def test_per_user_histories_only_grow(case, ratio):
    chosen = all_chosen(select(case, Random(ratio, "per_user")))
    for t in range(1, len(chosen)):
        if case.stage.user[t] == case.stage.user[t - 1]:
            assert chosen[t][: len(chosen[t - 1])] == chosen[t - 1]
            assert all(place >= case.stage.count[t - 1] for place in chosen[t][len(chosen[t - 1]) :])


# epochs and seeds


@pytest.mark.parametrize("draw", ["per_target", "per_user"])
@pytest.mark.parametrize("redraw", ["epoch", "once"])
@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_training_draws_each_epoch_unless_once_and_evaluation_always(draw, redraw, stage):
    table = make_table([[(m, 3.0, m) for m in range(60)]])
    case = roomy(table, stage_of(table, Split("temporal", 0.3, 0.3), stage))
    first, again, next_epoch = (all_chosen(select(case, Random(0.5, draw, redraw), epoch=e)) for e in (0, 0, 1))
    assert first == again
    assert (first == next_epoch) == (redraw == "once" and stage == "train")


@pytest.mark.parametrize("draw", ["per_target", "per_user"])
def test_another_seed_draws_another_history(draw):
    case = last_targets(3, 40)
    one, other = (all_chosen(select(case, Random(0.5, draw), seed)) for seed in (1, 2))
    assert all(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("ratio", [0, -0.5, 1.5, float("nan"), float("inf")])
def test_a_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(UserError, match=r"history\.ratio"):
        Random(ratio, "per_target")


@pytest.mark.parametrize(("fields", "name"), [({"draw": "per_row"}, "draw"), ({"redraw": "step"}, "redraw")])
def test_an_unknown_way_to_draw_is_refused(fields, name):
    with pytest.raises(UserError, match=rf"history\.{name}"):
        Random(**fields)


def test_histories_of_evaluation_do_not_depend_on_the_runs_seed():
    """Runs that are compared train under several seeds and see the same histories in evaluation."""
    seeds = {}
    for seed, evaluation in ((1, 5), (2, 5), (1, 6)):
        settings = checked(f"seed={seed}", f"evaluation.seed={evaluation}")
        seeds[seed, evaluation] = [settings.seed_of(stage) for stage in ("train", "val", "test")]
    assert seeds == {(1, 5): [1, 5, 5], (2, 5): [2, 5, 5], (1, 6): [1, 6, 6]}
