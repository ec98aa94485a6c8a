"""Naive rows of prefixes, suffixes and answer chains, built token by token: a reference for what tokens see."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st


@dataclass(frozen=True)
class NaiveRow:
    """A row.

    spans: [tokens, 3, 2] int32.
    positions: [tokens] int64.
    sees: [tokens, tokens] bool, made from sets of tokens and not from the spans.
    """

    spans: torch.Tensor
    positions: torch.Tensor
    sees: np.ndarray


def naive_row(prefixes) -> NaiveRow:
    """Build a row.

    prefixes: (length, suffixes) each.
    suffix: (length, tokens of the prefix that it sees, chains).
    chain: (length, tokens of the suffix that it sees).
    """
    spans: list[list[tuple[int, int]]] = []
    positions: list[int] = []
    sees: list[set[int]] = []

    def segment(length, *seen):
        """Append tokens that see these ranges of the row, and their segment up to themselves; return its start."""
        first = len(spans)
        before = [token for start, stop in seen for token in range(start, stop)]
        empty = [(0, 0)] * (2 - len(seen))
        for offset in range(length):
            spans.append([*seen, *empty, (first, first + offset + 1)])
            positions.append(len(before) + offset)
            sees.append({*before, *range(first, first + offset + 1)})
        return first

    for prefix_length, suffixes in prefixes:
        prefix = segment(prefix_length)
        for suffix_length, prefix_seen, chains in suffixes:
            of_prefix = (prefix, prefix + prefix_seen)
            suffix = segment(suffix_length, of_prefix)
            for chain_length, suffix_seen in chains:
                segment(chain_length, of_prefix, (suffix, suffix + suffix_seen))
    return NaiveRow(
        torch.tensor(spans, dtype=torch.int32),
        torch.tensor(positions),
        np.array([[j in seen for j in range(len(spans))] for seen in sees]),
    )


@st.composite
def naive_rows(draw, block: int, segments: int = 8):
    """Draw rows of up to about `segments` segments, many with lengths near multiples of `block` tokens."""
    near = [block - 1, block, block + 1, 2 * block, 2 * block + 1, 3 * block]
    lengths = st.one_of(st.integers(1, 4), st.sampled_from([length for length in near if length > 0]))
    prefixes, left = [], draw(st.integers(1, segments))
    while left > 0:
        prefix, suffixes = draw(lengths), []
        left -= 1
        for _ in range(draw(st.integers(0, left))):
            suffix = draw(st.one_of(st.integers(1, 5), lengths))
            few = st.tuples(st.integers(1, 3), st.integers(1, suffix))
            suffixes.append((suffix, draw(st.integers(0, prefix)), draw(st.lists(few, max_size=3))))
            left -= 1
        prefixes.append((prefix, suffixes))
    return naive_row(prefixes)
