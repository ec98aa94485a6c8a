"""The targets of a stage and what each may see, against a loop over each user's ratings."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mlens.data.split import METHODS, STAGES, TRAIN, VAL, Split, assign_roles
from mlens.data.stage import make_stage, make_stages, sample_users
from mlens.errors import UserError
from tests.helpers.reference import dated, make_table, naive_day, naive_visible, stage_of, tables, user_ratings


@st.composite
def splits(draw):
    method = draw(st.sampled_from(METHODS))
    return Split(
        method,
        val_ratio=draw(st.sampled_from([0.0, 0.1, 0.3])),
        test_ratio=draw(st.sampled_from([0.0, 0.1, 0.4])),
        min_ratings=draw(st.integers(1, 5)),
        eval_history="all" if method == "user" else draw(st.sampled_from(["all", "train"])),
        ties=draw(st.sampled_from(["order", "strict", "day"])),
        seed=draw(st.integers(0, 2)),
    )


def shown(stage):
    return {int(target): stage.visible_to(t).tolist() for t, target in enumerate(stage.targets)}


@given(st.one_of(tables(), tables().map(dated)), splits())
def test_every_target_sees_exactly_what_the_split_lets_it_see_in_order(table, split):
    roles = assign_roles(table, split)
    for role, name in enumerate(STAGES):
        targets = [i for i in range(len(table)) if roles[i] == role]
        expected = {i: naive_visible(table, roles, i, split.eval_history, split.ties) for i in targets}
        stage = make_stage(table, roles, split, name)
        assert shown(stage) == expected
        assert stage.targets.tolist() == targets
        assert stage.user.tolist() == [table.user[i] for i in targets]


@given(tables(), splits())
def test_no_held_out_rating_reaches_training_and_no_test_rating_reaches_validation(table, split):
    roles = assign_roles(table, split)
    for target, history in shown(make_stage(table, roles, split, "train")).items():
        assert all(roles[i] == TRAIN and i < target for i in history)
    for target, history in shown(make_stage(table, roles, split, "val")).items():
        assert all(roles[i] in (TRAIN, VAL) and i < target for i in history)


@given(tables(), splits(), st.integers(1, 6))
def test_capped_training_targets_see_what_they_would_see_without_the_cap(table, split, most):
    capped = Split(**{**vars(split), "max_train_targets_per_user": most})
    whole, part = (shown(stage_of(table, s, "train")) for s in (split, capped))
    assert part.items() <= whole.items()
    for user in range(len(table.users)):
        own = user_ratings(table, user)
        assert len(part.keys() & own) == min(most, len(whole.keys() & own))
    assert list(part) == sorted(part)


def test_the_cap_leaves_held_out_targets_alone():
    table = make_table([[(m, 3.0, m) for m in range(40)]])
    split = Split("temporal", 0.2, 0.3, max_train_targets_per_user=2)
    assert [len(stage_of(table, split, name)) for name in STAGES] == [2, 8, 12]


def test_the_cap_draws_by_the_splits_seed_and_each_user_alone():
    table = make_table([[(m, 3.0, m) for m in range(50)]] * 40)
    draws = {}
    for seed in (1, 2):
        stage = stage_of(table, Split("leave_last", max_train_targets_per_user=3, seed=seed), "train")
        draws[seed] = stage.targets.reshape(40, 3) % 50
    assert draws[1].tolist() != draws[2].tolist()
    assert len({tuple(row) for row in draws[1].tolist()}) > 35
    alone = make_table([[(m, 3.0, m) for m in range(50)]], user_ids=[7])
    stage = stage_of(alone, Split("leave_last", max_train_targets_per_user=3, seed=1), "train")
    assert stage.targets.tolist() == draws[1][6].tolist()


def test_strict_ties_hide_the_targets_own_second():
    table = make_table([[(0, 3.0, 1), (1, 3.0, 2), (2, 3.0, 2), (3, 3.0, 2), (4, 3.0, 3)]])
    order, strict = (
        shown(stage_of(table, Split("temporal", 0, 0.4, ties=ties), "test")) for ties in ("order", "strict")
    )
    assert order == {3: [0, 1, 2], 4: [0, 1, 2, 3]}
    assert strict == {3: [0], 4: [0, 1, 2, 3]}


def test_ties_of_a_day_hide_the_targets_own_day_in_utc():
    midnight = 86_400 * 11_000
    times = [-86_401, -1, 0, 3600, 86_399, 86_400]
    table = make_table([[(m, 3.0, midnight + time) for m, time in enumerate(times)]])
    test = stage_of(table, Split("temporal", 0, 0.6, ties="day"), "test")
    assert shown(test) == {2: [0, 1], 3: [0, 1], 4: [0, 1], 5: [0, 1, 2, 3, 4]}


def test_the_same_second_of_another_user_is_no_tie():
    table = make_table([[(0, 3.0, 5)], [(1, 3.0, 5), (2, 3.0, 6)]])
    stage = stage_of(table, Split("temporal", 0, 0, ties="strict"), "train")
    assert shown(stage) == {0: [], 1: [], 2: [1]}


def test_eval_history_train_hides_all_held_out_ratings():
    table = make_table([[(m, 3.0, m) for m in range(10)]])
    split = Split("temporal", 0.2, 0.2, eval_history="train")
    assert shown(stage_of(table, split, "test")) == {8: [0, 1, 2, 3, 4, 5], 9: [0, 1, 2, 3, 4, 5]}


def test_cold_start_users_see_their_own_earlier_held_out_ratings():
    table = make_table([[(m, 3.0, m) for m in range(6)]] * 10)
    stage = stage_of(table, Split("user", 0, 0.1), "test")
    assert [stage.visible_to(t).tolist() for t in range(6)] == [stage.targets[:t].tolist() for t in range(6)]


def test_sampled_users_change_nothing_for_the_targets_that_stay():
    table = make_table([[(m, 3.0, m) for m in range(10 + u)] for u in range(12)])
    stage = stage_of(table, Split("temporal"), "test")
    sampled = sample_users(table, stage, 5, seed=3)
    assert shown(sampled).items() <= shown(stage).items()
    assert shown(sample_users(table, stage, 5, seed=3)) == shown(sampled)
    assert len({tuple(sample_users(table, stage, 5, seed).targets) for seed in range(8)}) > 1
    assert shown(sample_users(table, stage, None, 3)) == shown(stage) == shown(sample_users(table, stage, 12, 3))


@given(st.lists(st.sampled_from([5, 7, 8, 20, 33, 40]), min_size=2, max_size=40), st.data())
def test_sampled_users_are_of_all_degrees_of_activity_in_proportion(activity, data):
    most, seed = data.draw(st.integers(1, len(activity) - 1)), data.draw(st.integers(0, 9))
    table = make_table([[(m, 3.0, m) for m in range(n)] for n in activity])
    stage = stage_of(table, Split("temporal"), "test")
    drawn = set(sample_users(table, stage, most, seed).user.tolist())
    assert len(drawn) == most
    assert set(sample_users(table, stage, most - 1, seed).user.tolist()) < drawn if most > 1 else True
    shares = []
    for least in (4, 8, 16, 32):
        own = {u for u, n in enumerate(activity) if least <= n < 2 * least}
        if own:
            shares.append(((len(own & drawn) - 1) / len(own), (len(own & drawn) + 1) / len(own)))
    # There is a share of which every stratum's number is within one.
    assert max(low for low, _ in shares) <= min(high for _, high in shares)


def test_all_users_are_sampled_equally_often():
    table = make_table([[(m, 3.0, m) for m in range(5 + u)] for u in range(40)])
    stage = stage_of(table, Split("temporal"), "test")
    times = np.zeros(40)
    for seed in range(1500):
        times[np.unique(sample_users(table, stage, 10, seed).user)] += 1
    assert chisquare(times).pvalue > 1e-4


def test_validation_and_test_are_of_the_same_sampled_users():
    table = make_table([[(m, 3.0, m) for m in range(10 + u // 3)] for u in range(30)])
    split = Split("temporal")
    stages = make_stages(table, assign_roles(table, split), split, max_eval_users=7, eval_seed=5)
    assert np.unique(stages["val"].user).tolist() == np.unique(stages["test"].user).tolist()


SIX = [(m, 3.0, m) for m in range(6)]
TWO = SIX[:2]
ONE_SECOND = [(m, 3.0, 5) for m in range(9)]


@pytest.mark.parametrize(
    ("users", "split", "message"),
    [
        (
            [TWO] * 9,
            Split("temporal"),
            "split=temporal leaves no test rating among 18 ratings of 9 users (0 of them with at least "
            "split.min_ratings=5). Set split.val_ratio=0 split.min_ratings=2, or split=user split.min_ratings=2",
        ),
        (
            [ONE_SECOND] * 3,
            Split("global_time"),
            "split=global_time leaves no test rating among 27 ratings of 3 users (3 of them with at least "
            "split.min_ratings=5; ratings of one second stay together). Set split=temporal",
        ),
        (
            [SIX],
            Split("user"),
            "split=user leaves no train rating among 6 ratings of 1 user (1 of them with at least "
            "split.min_ratings=5). Set split=temporal",
        ),
        (
            [SIX[:1]],
            Split("leave_last"),
            "split=leave_last leaves no test rating among 1 rating of 1 user (0 of them with at least "
            "split.min_ratings=5). No other split does: take more data",
        ),
        (
            [ONE_SECOND],
            Split("random", ties="strict"),
            "split.ties=strict leaves every history empty: all ratings of each user have the same timestamp. "
            "Set split.ties=order",
        ),
        (
            [[(m, 3.0, 900_000_000 + m) for m in range(6)]],
            Split("temporal", ties="day"),
            "split.ties=day leaves every history empty: all ratings of each user have the same day. "
            "Set split.ties=order",
        ),
        (
            [SIX],
            Split("temporal", ties="day"),
            "split.ties=day: the data have no dates: their times are line numbers, or other numbers than seconds "
            "since 1970 (the largest is 5). Set split.ties=order",
        ),
    ],
)
def test_what_cannot_be_split_is_refused_with_advice(users, split, message):
    table = make_table(users)
    with pytest.raises(UserError) as caught:
        make_stages(table, assign_roles(table, split), split)
    assert str(caught.value) == message


USERS = {
    "two ratings each": [TWO] * 9,
    "two users of two": [TWO] * 2,
    "one rating each": [SIX[:1]] * 9,
    "one rating": [SIX[:1]],
    "one second": [ONE_SECOND] * 3,
    "one second, two ratings each": [ONE_SECOND[:2]] * 9,
    "one user": [SIX],
    "two users": [SIX] * 2,
    "one active user": [SIX, SIX[:1]],
    # The only second between the last and the first is that of a user with too few ratings.
    "a second of few": [SIX[:1] + ONE_SECOND, [(0, 3.0, 3)]],
}
SPLITS = [
    Split(method, **fields)
    for method in METHODS
    for fields in (
        *({}, {"val_ratio": 0}, {"test_ratio": 0}, {"val_ratio": 0.45, "test_ratio": 0.5}, {"min_ratings": 1}),
        {"val_ratio": 0.95, "test_ratio": 0},
        *({"min_ratings": 9}, {"ties": "strict"}, {"ties": "day"}, {"eval_history": "train"}),
    )
    if fields.get("eval_history") != "train" or method != "user"
]


@pytest.mark.parametrize("name", USERS)
def test_advice_on_what_to_set_works(name):
    """Each that is given; and where none is, there is no split with these ratings."""
    table = make_table(USERS[name])
    refused = 0
    for split in SPLITS:
        try:
            make_stages(table, assign_roles(table, split), split)
        except UserError as error:
            _, _, advice = str(error).partition(". Set ")
            refused += 1
            for changes in advice.split(", or ") if advice else []:
                changed = set_fields(split, changes)
                assert list(make_stages(table, assign_roles(table, changed), changed))
            assert advice or name == "one rating", str(error)
    assert refused


def set_fields(split, changes):
    """The split after these overrides of a command line."""
    fields = dict(override.removeprefix("split.").split("=") for override in changes.split())
    fields = {"method" if name == "split" else name: value for name, value in fields.items()}
    known = {field.name: field.type for field in dataclasses.fields(Split)}
    kinds = {"float": float, "int": int, "str": str}
    return dataclasses.replace(split, **{name: kinds[known[name]](value) for name, value in fields.items()})


def test_few_ratings_may_be_enough():
    table = make_table([SIX[:1], SIX[:3]])
    split = Split("leave_last", min_ratings=1)
    assert list(make_stages(table, assign_roles(table, split), split)) == list(STAGES)


@given(st.one_of(tables(), tables().map(dated)), splits(), st.sampled_from([None, 1, 2]))
def test_every_stage_that_was_asked_for_has_targets_or_is_refused(table, split, most):
    roles = assign_roles(table, split)
    wanted = ["train", "val", "test"] if split.method == "leave_last" or split.val_ratio else ["train", "test"]
    missing = [name for name in ("train", "test", "val") if name in wanted and STAGES.index(name) not in roles]
    if missing:
        with pytest.raises(UserError, match=f"leaves no {missing[0]} rating"):
            make_stages(table, roles, split, most)
    elif split.ties == "day" and max(table.timestamp) < 10**8:
        with pytest.raises(UserError, match=r"split\.ties=day: the data have no dates"):
            make_stages(table, roles, split, most)
    elif split.ties != "order" and len(table) > len(table.users) and not several_times(table, split):
        with pytest.raises(UserError, match=rf"split\.ties={split.ties} leaves every history empty"):
            make_stages(table, roles, split, most)
    else:
        stages = make_stages(table, roles, split, most)
        assert list(stages) == wanted and all(len(stage) for stage in stages.values())


def several_times(table, split):
    """Whether a user has ratings in several seconds, or on several days with split.ties=day."""

    def time(rating):
        return naive_day(table, rating) if split.ties == "day" else table.timestamp[rating]

    return any(len({time(i) for i in user_ratings(table, user)}) > 1 for user in range(len(table.users)))
