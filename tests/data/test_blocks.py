"""Columns in blocks: the same as whole, and blocks of whole groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data.chunked import by_blocks, group_blocks, int_type


@pytest.fixture(params=[1, 3, 10])
def block(request, monkeypatch):
    monkeypatch.setattr("mlens.data.chunked.BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("n", [0, 1, 3, 4, 29, 30])
def test_a_column_by_blocks_is_the_column_at_once(n, block):
    longest = 0

    def of(a, b):
        nonlocal longest
        longest = max(longest, len(a))
        return (a * b).astype(np.int16)

    result = by_blocks(of, np.arange(n), np.arange(n) + 1)
    assert result.dtype == np.int16
    assert result.tolist() == [i * (i + 1) for i in range(n)]
    assert longest <= block


@given(st.lists(st.integers(0, 12)), st.integers(1, 20))
def test_blocks_of_groups_hold_as_many_whole_groups_as_fit_and_at_least_one(sizes, block):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.data.chunked.BLOCK", block)
        blocks = [list(range(len(sizes)))[part] for part in group_blocks(np.array(sizes, dtype=np.int64))]
    assert [g for own in blocks for g in own] == list(range(len(sizes)))
    for own in blocks:
        total = sum(sizes[g] for g in own)
        assert len(own) == 1 or total <= block
        assert own[-1] + 1 == len(sizes) or total + sizes[own[-1] + 1] > block


@pytest.mark.parametrize("n", [0, 2**31 - 1, 2**31, 2**40])
def test_int_type_holds_its_most(n):
    assert np.array([n]).astype(int_type(n)).tolist() == [n]
    assert int_type(0) == np.int32
