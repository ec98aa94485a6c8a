"""Lists of different lengths in one array, list after list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def offsets(lengths: Sequence[int] | np.ndarray, dtype: type[np.number] = np.int64) -> np.ndarray:
    """[n + 1] where each of n lists begins, and where the last one ends.

    >>> offsets([2, 0, 3])
    array([0, 2, 2, 5])
    """
    ends = np.zeros(len(lengths) + 1, dtype=dtype)
    np.cumsum(lengths, out=ends[1:])
    return ends


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, … of each of n lists, joined.

    >>> ranges(np.array([7, 0, 3]), np.array([2, 0, 1]))
    array([7, 8, 3])
    """
    ends = np.cumsum(lengths, dtype=starts.dtype)
    before = ends - lengths
    return np.repeat(starts - before, lengths) + np.arange(ends[-1] if len(ends) else 0, dtype=starts.dtype)
