"""Rows by user and time, ids as places, and repeated ratings, against loops over lists."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data.order import has_repeats, index_of, time_order

blocks = st.sampled_from([1, 3, 10, 1 << 20])
# Times that are close, far apart, and too far apart for user, time and row to be one number.
times = st.sampled_from([0, 1, 2, 5, 10**9, 2**40, 2**62, 2**63 - 1])


@st.composite
def columns(draw, grouped=False):
    """user, movie, time of some ratings; every user has one."""
    users = draw(st.integers(1, 4))
    user = [*range(users), *draw(st.lists(st.integers(0, users - 1), max_size=20))]
    user = sorted(user) if grouped else draw(st.permutations(user))
    movie = draw(st.lists(st.integers(0, 2), min_size=len(user), max_size=len(user)))
    time = draw(st.lists(times, min_size=len(user), max_size=len(user)))
    return np.array(user, dtype=np.int32), np.array(movie, dtype=np.int32), np.array(time)


@given(st.booleans().flatmap(columns), blocks)
def test_rows_are_in_the_order_of_a_stable_sort_by_user_and_time(columns, block):
    user, _, time = columns
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.data.chunked.BLOCK", block)
        order = time_order(user, time)
    assert order.tolist() == sorted(range(len(user)), key=lambda row: (user[row], time[row]))


@given(columns(), blocks)
def test_a_rating_that_stands_twice_is_found(columns, block):
    user, movie, time = columns
    order = time_order(user, time)
    offsets = np.cumsum([0, *np.bincount(user)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.data.chunked.BLOCK", block)
        found = has_repeats(offsets, movie[order], time[order])
    assert found == (len(set(zip(user, movie, time, strict=True))) < len(user))


numbers = st.integers(-(2**40), 2**40)
near = st.integers(-5, 30)


@given(
    *[st.lists(near | numbers, unique=True, max_size=12), st.lists(near | numbers, max_size=12)], st.booleans(), blocks
)
def test_a_place_is_where_an_id_stands_or_minus_one(among, ids, text, block):
    dtype = pl.String if text else pl.Int64
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.data.chunked.BLOCK", block)
        found = index_of(pl.Series(ids, dtype=pl.Int64).cast(dtype), pl.Series(among, dtype=pl.Int64).cast(dtype))
    assert found.dtype == np.int32
    assert found.tolist() == [among.index(i) if i in among else -1 for i in ids]


def test_places_of_narrow_ids_among_wide_ones():
    ids, among = pl.Series([3, -7, 200], dtype=pl.Int16), pl.Series([200, 10**12, 3], dtype=pl.Int64)
    assert index_of(ids, among).tolist() == [2, -1, 0]
    assert index_of(ids, among.filter(among < 1000)).tolist() == [1, -1, 0]
