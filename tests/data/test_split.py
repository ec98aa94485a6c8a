"""Which ratings are training, validation and test: every method against a loop over users."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mlens.data import draws
from mlens.data.split import METHODS, TEST, TRAIN, VAL, Split, assign_roles, held_out
from mlens.errors import UserError
from tests.helpers.reference import make_table, naive_count, tables, user_ratings

RATIOS = (0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.45)
settings = st.fixed_dictionaries(
    {
        "val_ratio": st.sampled_from(RATIOS),
        "test_ratio": st.sampled_from(RATIOS),
        "min_ratings": st.integers(1, 7),
        "seed": st.integers(0, 3),
    }
)


def one_user(n):
    return make_table([[(m, 3.0, m) for m in range(n)]])


def naive_last(table, n_held_out, min_ratings):
    """Roles where each user's last ratings are held out: n_held_out(n) -> (validation, test)."""
    roles = []
    for user in range(len(table.users)):
        n = len(user_ratings(table, user))
        own = []
        n_val, n_test = n_held_out(n) if n >= min_ratings else (0, 0)
        for place in range(n):
            from_end = n - place
            own.append(TEST if from_end <= n_test else VAL if from_end <= n_test + n_val else TRAIN)
        roles += own
    return roles


def sizes(roles, table, user):
    own = [roles[i] for i in user_ratings(table, user)]
    return own.count(VAL), own.count(TEST)


@given(tables(), settings)
def test_temporal_holds_out_the_last_ratings_of_each_user(table, fields):
    def counts(n):
        return naive_count(fields["val_ratio"], n), naive_count(fields["test_ratio"], n)

    roles = assign_roles(table, Split("temporal", **fields))
    assert roles.tolist() == naive_last(table, counts, fields["min_ratings"])


@given(tables(), settings)
def test_leave_last_holds_out_one_and_one_whatever_the_ratios(table, fields):
    roles = assign_roles(table, Split("leave_last", **fields))
    assert roles.tolist() == naive_last(table, lambda n: (1, 1), fields["min_ratings"])


def naive_time_roles(times, val_ratio, test_ratio):
    """Every pair of times as cuts, from `after` on test, before it from `since` on validation: the best of them."""
    n = len(times)
    n_test = naive_count(test_ratio, n)
    n_val = min(n - n_test, naive_count(val_ratio, n))
    found = []
    moments = sorted({*times, max(times) + 1})
    for after, since in product(moments, moments):
        roles = [TEST if time >= after else VAL if time >= since else TRAIN for time in times]
        train, val, test = (roles.count(role) for role in (TRAIN, VAL, TEST))
        if since > after or (val and not n_val) or (test and not n_test):
            continue
        empty = (train == 0) + (n_val > 0 and val == 0) + (n_test > 0 and test == 0)
        off = abs(val - n_val) + abs(test - n_test)
        found.append((empty, off, abs(test - n_test), -test, -val, roles))
    return min(found)[-1]


@given(tables(), settings)
def test_global_time_is_the_best_of_all_cuts(table, fields):
    best = naive_time_roles(table.timestamp.tolist(), fields["val_ratio"], fields["test_ratio"])
    expected = [
        TRAIN if len(user_ratings(table, user)) < fields["min_ratings"] else role
        for role, user in zip(best, table.user, strict=True)
    ]
    assert assign_roles(table, Split("global_time", **fields)).tolist() == expected


@given(st.lists(st.integers(1, 40), min_size=1, max_size=7), st.sampled_from(RATIOS), st.sampled_from(RATIOS))
def test_global_time_is_the_best_of_all_cuts_of_many_ratings_in_few_seconds(sizes, val_ratio, test_ratio):
    times = [second for second, n in enumerate(sizes) for _ in range(n)]
    roles = assign_roles(
        make_table([[(m, 3.0, t) for m, t in enumerate(times)]]), Split("global_time", val_ratio, test_ratio, 1)
    )
    assert roles.tolist() == naive_time_roles(times, val_ratio, test_ratio)
    asked = 1 + (val_ratio > 0) + (test_ratio > 0)
    assert len(sizes) < asked or len(set(roles.tolist())) == asked


@given(st.integers(20, 300), settings)
def test_global_time_of_distinct_times_holds_out_what_was_asked(n, fields):
    table = make_table([[(m, 3.0, 7 * m) for m in range(n)]])
    counts = naive_count(fields["val_ratio"], n), naive_count(fields["test_ratio"], n)
    expected = naive_last(table, lambda _: counts, 1)
    assert assign_roles(table, Split("global_time", **fields)).tolist() == expected


@given(tables(), settings)
def test_random_holds_out_as_many_of_each_user_as_temporal(table, fields):
    random = assign_roles(table, Split("random", **fields))
    temporal = assign_roles(table, Split("temporal", **fields))
    for user in range(len(table.users)):
        assert sizes(random, table, user) == sizes(temporal, table, user)


@given(tables(), settings)
def test_random_holds_out_the_first_of_a_users_permutation_test_before_validation(table, fields):
    roles = assign_roles(table, Split("random", **fields))
    for user, key in enumerate(table.user_keys):
        own = user_ratings(table, user)
        n_val, n_test = sizes(roles, table, user)
        drawn = draws.permutation(len(own), draws.SPLIT, fields["seed"], key)
        assert [roles[own[i]] for i in drawn] == [TEST] * n_test + [VAL] * n_val + [TRAIN] * (len(own) - n_test - n_val)


@given(tables(), settings)
def test_user_holds_out_whole_users_among_those_with_enough_ratings(table, fields):
    roles = assign_roles(table, Split("user", **fields))
    role_of_user = [{int(roles[i]) for i in user_ratings(table, user)} for user in range(len(table.users))]
    assert all(len(role) == 1 for role in role_of_user)
    big = [u for u in range(len(table.users)) if len(user_ratings(table, u)) >= fields["min_ratings"]]
    n_test = min(len(big), naive_count(fields["test_ratio"], len(big))) if big else 0
    n_val = min(len(big) - n_test, naive_count(fields["val_ratio"], len(big)))
    assert [role_of_user.count({role}) for role in (VAL, TEST)] == [n_val, n_test]
    assert all(role_of_user[u] == {TRAIN} for u in range(len(table.users)) if u not in big)


@given(tables(), st.sampled_from(METHODS), settings)
def test_a_split_is_the_same_at_every_call(table, method, fields):
    split = Split(method, **fields)
    assert np.array_equal(assign_roles(table, split), assign_roles(table, Split(method, **fields)))


@pytest.mark.parametrize(("method", "depends"), [(m, m in ("random", "user")) for m in METHODS])
def test_only_drawn_splits_depend_on_the_seed(method, depends):
    table = make_table([[(m, 3.0, m) for m in range(12)] for _ in range(30)])
    one, other = (assign_roles(table, Split(method, seed=seed)) for seed in (1, 2))
    assert (one.tolist() != other.tolist()) == depends


def test_a_random_split_of_a_user_does_not_depend_on_the_other_users():
    users = [[(m, 3.0, m) for m in range(10 + u)] for u in range(4)]
    whole = make_table(users, user_ids=["a", "b", "c", "d"])
    part = make_table(users[2:], user_ids=["c", "d"])
    split = Split("random", 0.2, 0.3)
    assert assign_roles(whole, split)[21:].tolist() == assign_roles(part, split).tolist()


@pytest.mark.parametrize("names", ["number", "text"])
def test_users_of_one_size_draw_different_random_splits(names):
    ids = list(range(1, 61)) if names == "number" else [f"u{u}" for u in range(60)]
    table = make_table([[(m, 3.0, m) for m in range(20)]] * 60, user_ids=ids)
    roles = assign_roles(table, Split("random", 0.1, 0.1)).reshape(60, 20)
    assert len({tuple(row) for row in roles.tolist()}) > 55


def test_a_random_split_holds_out_every_place_equally_often():
    table = make_table([[(m, 3.0, m) for m in range(10)]] * 3000)
    roles = assign_roles(table, Split("random", 0.1, 0.2)).reshape(3000, 10)
    for role in (VAL, TEST):
        assert chisquare((roles == role).sum(axis=0)).pvalue > 1e-4


@pytest.mark.parametrize(
    ("ratio", "n", "count"),
    [
        (0.0, 1000, 0),
        (0.1, 1, 1),
        (0.1, 14, 1),
        (0.1, 15, 2),
        (0.1, 24, 2),
        (0.1, 25, 3),
        (0.5, 5, 3),
        (0.29, 50, 15),
        (0.35, 10, 4),
        (0.001, 20, 1),
    ],
)
def test_counts_round_halves_up_and_are_at_least_one(ratio, n, count):
    assert held_out(ratio, n) == count
    assert held_out(ratio, np.array([n, n])).tolist() == [count, count]


@given(st.integers(0, 99), st.integers(1, 3000))
def test_counts_are_exact_for_ratios_in_hundredths(hundredths, n):
    assert held_out(hundredths / 100, n) == naive_count(hundredths / 100, n)


def test_a_user_below_min_ratings_is_all_training():
    for method in METHODS:
        assert assign_roles(one_user(4), Split(method)).tolist() == [TRAIN] * 4
        assert TEST in assign_roles(one_user(5), Split(method))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"method": "last"}, "split.method"),
        ({"method": "temporal", "val_ratio": -0.1}, "split.val_ratio"),
        ({"method": "temporal", "val_ratio": 1.0}, "split.val_ratio"),
        ({"method": "temporal", "test_ratio": float("nan")}, "split.test_ratio"),
        ({"method": "temporal", "test_ratio": float("inf")}, "split.test_ratio"),
        ({"method": "temporal", "val_ratio": 0.5, "test_ratio": 0.5}, "split.val_ratio"),
        ({"method": "temporal", "min_ratings": 0}, "split.min_ratings"),
        ({"method": "temporal", "eval_history": "none"}, "split.eval_history"),
        ({"method": "user", "eval_history": "train"}, "split.eval_history"),
        ({"method": "temporal", "ties": "loose"}, "split.ties"),
        ({"method": "temporal", "max_train_targets_per_user": 0}, "split.max_train_targets_per_user"),
    ],
)
def test_bad_settings_are_refused_by_name(fields, name):
    with pytest.raises(UserError, match=name):
        Split(**fields)
