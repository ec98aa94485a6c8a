"""Index lookup of ids, and the sort of ratings by user and time."""

from __future__ import annotations

import numpy as np
import polars as pl

from mlens.data.chunked import by_blocks, group_blocks, int_type


def index_of(ids: pl.Series, among: pl.Series) -> np.ndarray:
    """Return the index of each id in the distinct ids `among`, or -1: [n] int32."""
    if among.dtype.is_integer() and len(among) and len(ids):
        known, wanted = among.to_numpy(), ids.to_numpy()
        least, most = int(min(known.min(), wanted.min())), int(max(known.max(), wanted.max()))
        if most - least < 16 * len(known) + 1000:  # small enough for a lookup table
            index = np.full(most - least + 1, -1, dtype=np.int32)
            index[known - least] = np.arange(len(known))
            return by_blocks(lambda ids: index[ids - least], wanted)
    frame = pl.DataFrame({"id": ids.cast(among.dtype)})
    numbered = pl.DataFrame({"id": among}).with_columns(index=pl.int_range(pl.len(), dtype=pl.Int32))
    return frame.join(numbered, on="id", how="left", maintain_order="left")["index"].fill_null(-1).to_numpy()


def time_order(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return the stable sort order of rows by (user, time): [n]. Each of the users 0, 1, … must have a row.

    This is much faster than a sort by several keys: files are usually grouped by user, and within a block of users,
    user, time and row are packed into one 64-bit number, which needs no stable sort.
    """
    order = np.empty(len(user), dtype=int_type(len(user)))
    rows_of = None if (user[1:] >= user[:-1]).all() else np.argsort(user, kind="stable")
    ends = np.cumsum(np.bincount(user))
    for users in group_blocks(np.diff(ends, prepend=0)):
        block = slice(ends[users.start - 1] if users.start else 0, ends[users.stop - 1])
        rows = np.arange(block.start, block.stop) if rows_of is None else rows_of[block]
        key = (user[rows] - users.start).astype(np.int64)
        since = time[rows].astype(np.int64)
        since -= since.min()
        span, bits = int(since.max()) + 1, len(rows).bit_length()
        if (users.stop - users.start) * span >= 1 << (63 - bits):
            order[block] = rows[np.lexsort((since, key))]
            continue
        key *= span
        key += since
        key <<= bits
        key |= np.arange(len(rows))
        key.sort()
        key &= (1 << bits) - 1
        order[block] = rows[key]
    return order


def has_repeats(user_offsets: np.ndarray, movie: np.ndarray, time: np.ndarray) -> bool:
    """Whether a user rated a movie twice at the same time; the columns must be sorted as by `time_order`."""
    movies = int(movie.max(initial=0)) + 1
    for users in group_blocks(np.diff(user_offsets)):
        block = slice(user_offsets[users.start], user_offsets[users.stop])
        new = np.ones(block.stop - block.start, dtype=bool)
        new[1:] = time[block][1:] != time[block][:-1]
        new[user_offsets[users] - block.start] = True
        tied = ~new | ~np.append(new[1:], True)
        key = np.cumsum(new)[tied] * movies + movie[block][tied]
        key.sort()
        if (key[1:] == key[:-1]).any():
            return True
    return False
