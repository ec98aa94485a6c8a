"""Blockwise work on long columns: intermediate arrays stay small enough for the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 1 << 20


def int_type(maximum: int) -> type[np.signedinteger]:
    """Return int32 where numbers up to `maximum` fit, else int64."""
    return np.int32 if maximum < 2**31 else np.int64


def by_blocks(function: Callable[..., np.ndarray], *columns: np.ndarray) -> np.ndarray:
    """Return function(*columns) [n], computed in blocks; `function` must treat each of the n rows independently."""
    n = len(columns[0])
    if n <= BLOCK:
        return function(*columns)
    first = function(*(column[:BLOCK] for column in columns))
    result = np.empty(n, dtype=first.dtype)
    result[:BLOCK] = first
    for start in range(BLOCK, n, BLOCK):
        result[start : start + BLOCK] = function(*(column[start : start + BLOCK] for column in columns))
    return result


def group_blocks(sizes: np.ndarray) -> Iterator[slice]:
    """Yield slices of consecutive groups, given their sizes [g]: at most BLOCK elements each, or a single group."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        yield slice(start, stop)
        start = stop
