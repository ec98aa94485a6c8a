"""Finding a target by the ids of the data; errors list what exists."""

import numpy as np
import pytest

from mlens.data.split import Split, assign_roles
from mlens.data.stage import make_stages
from mlens.errors import UserError
from mlens.show.find import TargetQuery, explain_role, find_target
from tests.helpers.reference import make_table

TEN = [(m, 3.0, 100 + m) for m in range(10)]
THREE = [(m, 3.0, 100 + m) for m in range(3)]
AGAIN = [(0, 3.0, 0), (1, 3.0, 1), (0, 4.0, 2), (2, 3.0, 3), (3, 3.0, 4)]


def found(query, split=Split("temporal"), users=(TEN, THREE, AGAIN), max_users=None, **ids):  # noqa: B008
    table = make_table([list(user) for user in users], **ids)
    roles = assign_roles(table, split)
    stages = make_stages(table, roles, split, max_users)
    name, i = find_target(table, roles, split, stages, query, max_users)
    return name, int(stages[name].targets[i])


@pytest.mark.parametrize(
    ("query", "stage", "rating"),
    [
        (TargetQuery("1"), "test", 9),
        (TargetQuery("1", stage="val"), "val", 8),
        (TargetQuery("1", stage="train"), "train", 7),
        (TargetQuery("1", t=8), "val", 8),
        (TargetQuery("1", t=0), "train", 0),
        (TargetQuery("1", t=9, stage="test"), "test", 9),
        (TargetQuery("1", movie="15"), "train", 5),
        (TargetQuery("2"), "train", 12),
        (TargetQuery("3", movie="11"), "train", 14),
    ],
)
def test_a_rating_is_found_by_t_movie_or_stage(query, stage, rating):
    assert found(query) == (stage, rating)


def test_ids_may_be_text():
    ids = {"user_ids": ["ann", "bob", "c=d"], "movie_ids": [f"m{m}" for m in range(10)]}
    assert found(TargetQuery("c=d", movie="m1"), **ids) == ("train", 14)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (TargetQuery("9"), "user=9 isn't in the data, which have 3 users: 1, 2, 3, …"),
        (TargetQuery("1", t=10), "t=10: user 1 has 10 ratings, t=0–7 train, t=8 val, t=9 test"),
        (TargetQuery("1", t=3, stage="val"), "t=3 of user 1 is a train rating: t=0–7 train, t=8 val, t=9 test"),
        (TargetQuery("1", stage="dev"), "stage=dev: the stages are train, val, test"),
        (TargetQuery("1", movie="99"), "movie=99 isn't in the data, which have 10 movies: 10, 11, 12, 13, 14, 15, …"),
        (TargetQuery("2", movie="19"), "user 2 has not rated movie 19, Movie J9 (1989)"),
        (TargetQuery("3", movie="10"), "user 3 has rated movie 10, Movie A0 (1980), 2 times: give t=0 or t=2"),
        (TargetQuery("2", stage="test"), "user 2 has no test target: t=0–2 train"),
        (TargetQuery("1", t=1, movie="11"), "give t or movie, not both"),
    ],
)
def test_a_query_without_a_target_is_refused_and_the_error_lists_what_exists(query, message):
    with pytest.raises(UserError) as caught:
        found(query)
    assert str(caught.value) == message


def test_the_error_says_why_a_rating_is_no_target():
    few = Split("temporal", max_train_targets_per_user=2)
    drawn = [t for t in range(8) if _is_target(TargetQuery("1", t=t), few)]
    assert len(drawn) == 2
    with pytest.raises(UserError, match="max_train_targets_per_user=2 drew others of this user"):
        found(TargetQuery("1", t=next(t for t in range(8) if t not in drawn)), few)
    kept = [user for user in ("1", "3") if _is_target(TargetQuery(user, stage="test"), Split("temporal"), 1)]
    (left_out,) = {"1", "3"} - set(kept)
    for query in (TargetQuery(left_out, t=9 if left_out == "1" else 4), TargetQuery(left_out, stage="test")):
        with pytest.raises(UserError) as refused:
            found(query, max_users=1)
        assert str(refused.value) == (
            f"user {left_out} isn't among the evaluated users: evaluation.max_users=1 took a sample. Look at a user of "
            f"the sample ({kept[0]}), at a training rating (stage=train), or, without RUN, set "
            "evaluation.max_users=null"
        )
    with pytest.raises(UserError, match="user 2 has no test target: t=0–2 train"):
        found(TargetQuery("2", stage="test"), max_users=1)


def _is_target(query, split, max_users=None):
    try:
        found(query, split, max_users=max_users)
    except UserError:
        return False
    return True


@pytest.mark.parametrize(
    ("split", "user", "message"),
    [
        (Split("temporal"), 0, "the user's 10 ratings in time order are cut into 8 training, 1 validation, 1 test"),
        (Split("temporal"), 1, "the user has 3 ratings, fewer than split.min_ratings=5: all are training"),
        (Split("leave_last"), 0, "the user's last rating is test, the one before it validation: 8 training, 1 val"),
        (Split("random", seed=7), 0, "drawn: 8 training, 1 validation, 1 test of the user's 10 ratings (split=random"),
        (Split("user", min_ratings=1), 0, "ratings of a drawn user are"),
    ],
)
def test_explain_role(split, user, message):
    table = make_table([TEN, THREE, AGAIN])
    roles = assign_roles(table, split)
    for rating in range(table.user_offsets[user], table.user_offsets[user + 1]):
        assert message in explain_role(table, roles, split, rating)


def test_explain_role_gives_the_times_of_a_split_by_global_time():
    table = make_table([[(m, 3.0, 86_400 * m) for m in range(10)]])
    split = Split("global_time", val_ratio=0.2, test_ratio=0.1)
    roles = assign_roles(table, split)
    assert np.array_equal(roles, [0] * 7 + [1, 1, 2])
    message = "training, val from 1970-01-08 00:00:00 on, test from 1970-01-10 00:00:00 on (split=global_time)"
    assert message in explain_role(table, roles, split, 0)
