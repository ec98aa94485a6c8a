"""data.min_user_ratings and data.min_item_ratings: the k-core, against dropping one user or item at a time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data.k_core import k_core_rows
from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.sample import Sample
from mlens.data.sources import load_table
from mlens.errors import UserError

SMALL = Sample(users=60, movies=40, ratings_per_user=10)
BOTH = replace(SMALL, min_user_ratings=7, min_item_ratings=8)


def one_at_a_time(ratings, least):
    """The rows that are left once no user and no item has too few: drop the first that has, look again."""
    rows = list(range(len(ratings)))
    while True:
        for side in (0, 1):
            of = [ratings[row][side] for row in rows]
            few = next((one for one in of if of.count(one) < least[side]), None)
            if few is not None:
                rows = [row for row in rows if ratings[row][side] != few]
                break
        else:
            return rows


numbers = st.integers(0, 7)


@given(st.lists(st.tuples(numbers, numbers), max_size=40), st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_it_is_what_dropping_one_at_a_time_leaves(ratings, least):
    user, item = np.array(ratings, dtype=np.int64).reshape(-1, 2).T
    assert k_core_rows(user, item, *least).tolist() == one_at_a_time(ratings, least)


def test_a_chain_of_users_and_items_falls_to_the_last():
    user = np.repeat(np.arange(50), 2)
    item = np.stack([np.arange(50), np.arange(1, 51)], axis=1).ravel()
    assert not len(k_core_rows(user, item, 2, 2))
    closed = np.append(user, 50), np.append(item, 0)
    assert not len(k_core_rows(*closed, 2, 2))
    ring = np.append(user, [50, 50]), np.append(item, [50, 0])
    assert len(k_core_rows(*ring, 2, 2)) == 102


def test_the_table_is_the_k_core_and_says_what_was_dropped():
    everything, table = load_table(SMALL), load_table(BOTH)
    assert np.diff(table.user_offsets).min() >= 7
    assert np.bincount(table.movie, minlength=len(table.movies)).min() >= 8
    assert 0 < len(table) < len(everything) and set(table.users["id"]) < set(everything.users["id"])
    dropped = (
        f"data.min_user_ratings=7, data.min_item_ratings=8: dropped {60 - len(table.users)} of 60 users, "
        f"{everything.movies['id'].len() - len(table.movies)} of 40 rated items and "
        f"{len(everything) - len(table)} of {len(everything)} ratings"
    )
    assert table.notes == (dropped,) and everything.notes == ()


def test_one_limit_alone():
    users = load_table(replace(SMALL, min_user_ratings=9))
    assert np.diff(users.user_offsets).min() >= 9
    assert np.bincount(users.movie).min() < 9
    items = load_table(replace(SMALL, min_item_ratings=8))
    assert np.bincount(items.movie).min() >= 8


def test_every_limit_is_another_table():
    limits = [{}, {"min_user_ratings": 1}, {"min_item_ratings": 1}, {"min_user_ratings": 7}, {"min_item_ratings": 7}]
    assert len({load_table(replace(SMALL, **fields)).path for fields in limits}) == len(limits)


def test_users_are_drawn_from_the_core():
    table, some = load_table(BOTH), load_table(replace(BOTH, max_users=3))
    assert len(some.users) == 3 and set(some.users["id"]) < set(table.users["id"])
    assert some.notes == table.notes


def test_the_truth_of_a_core_lines_up_with_it():
    table, truth = load_table(BOTH), BOTH.truth()
    for column in ("user", "movie", "rating"):
        assert np.array_equal(getattr(table, column), getattr(truth, column))
    assert len(truth.loading) == len(truth.movie_offset) == len(table.movies)
    assert (np.diff(truth.step)[np.diff(truth.user) == 0] > 0).all()


def test_nothing_left(write, refusal):
    ratings = "userId,movieId,rating,timestamp\n1,10,4.0,5\n2,10,3.0,5\n"
    folder = write({"ratings.csv": ratings, "movies.csv": "movieId,title,genres\n10,Heat (1995),Drama\n"})
    source = MovieLensCsv("ml-25m", path=str(folder), min_user_ratings=2, min_item_ratings=2)
    rule = "data.min_user_ratings=2, data.min_item_ratings=2 leave no ratings. Lower them"
    assert refusal(source) == f"{folder / 'ratings.csv'}: {rule}"


@pytest.mark.parametrize("field", ["min_user_ratings", "min_item_ratings"])
def test_a_limit_is_at_least_one(field):
    with pytest.raises(UserError, match=rf"^data\.{field} must be at least 1 or null, not 0$"):
        MovieLensCsv("ml-25m", **{field: 0})
