"""Work on long columns in blocks: the arrays in between stay small, and in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 1 << 20


def int_type(most: int) -> type[np.signedinteger]:
    """int32 where numbers up to `most` fit into it, else int64."""
    return np.int32 if most < 2**31 else np.int64


def by_blocks(of: Callable[..., np.ndarray], *columns: np.ndarray) -> np.ndarray:
    """of(*columns) [n], for an `of` that looks at each of the n rows alone."""
    n = len(columns[0])
    if n <= BLOCK:
        return of(*columns)
    first = of(*(column[:BLOCK] for column in columns))
    result = np.empty(n, dtype=first.dtype)
    result[:BLOCK] = first
    for start in range(BLOCK, n, BLOCK):
        result[start : start + BLOCK] = of(*(column[start : start + BLOCK] for column in columns))
    return result


def group_blocks(sizes: np.ndarray) -> Iterator[slice]:
    """Stretches of the groups of these sizes [g], in order; each has at most BLOCK elements in all, or is one group."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        yield slice(start, stop)
        start = stop
