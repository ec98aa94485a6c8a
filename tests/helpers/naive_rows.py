"""Rows of trunks, branches and chains, spelled out token by token: a second opinion on what tokens see."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st


@dataclass(frozen=True)
class NaiveRow:
    """spans [tokens, 3, 2] int32; positions [tokens] int64; sees [tokens, tokens] bool, made from sets of tokens and
    not from the spans."""

    spans: torch.Tensor
    positions: torch.Tensor
    sees: np.ndarray


def naive_row(trunks) -> NaiveRow:
    """trunks: (length, branches) each; a branch: (length, how many tokens of the trunk it sees, chains); a chain:
    (length, how many tokens of the branch it sees)."""
    spans: list[list[tuple[int, int]]] = []
    positions: list[int] = []
    sees: list[set[int]] = []

    def segment(length, *seen):
        """Tokens that see these stretches of the row and their own segment up to themselves; returns its place."""
        first = len(spans)
        before = [token for start, stop in seen for token in range(start, stop)]
        empty = [(0, 0)] * (2 - len(seen))
        for own in range(length):
            spans.append([*seen, *empty, (first, first + own + 1)])
            positions.append(len(before) + own)
            sees.append({*before, *range(first, first + own + 1)})
        return first

    for trunk_length, branches in trunks:
        trunk = segment(trunk_length)
        for branch_length, trunk_seen, chains in branches:
            of_trunk = (trunk, trunk + trunk_seen)
            branch = segment(branch_length, of_trunk)
            for chain_length, branch_seen in chains:
                segment(chain_length, of_trunk, (branch, branch + branch_seen))
    return NaiveRow(
        torch.tensor(spans, dtype=torch.int32),
        torch.tensor(positions),
        np.array([[j in seen for j in range(len(spans))] for seen in sees]),
    )


@st.composite
def naive_rows(draw, block: int, segments: int = 8):
    """Rows of up to about `segments` segments, whose lengths are like those of blocks of `block` tokens."""
    near = [block - 1, block, block + 1, 2 * block, 2 * block + 1, 3 * block]
    lengths = st.one_of(st.integers(1, 4), st.sampled_from([length for length in near if length > 0]))
    trunks, left = [], draw(st.integers(1, segments))
    while left > 0:
        trunk, branches = draw(lengths), []
        left -= 1
        for _ in range(draw(st.integers(0, left))):
            branch = draw(st.one_of(st.integers(1, 5), lengths))
            few = st.tuples(st.integers(1, 3), st.integers(1, branch))
            branches.append((branch, draw(st.integers(0, trunk)), draw(st.lists(few, max_size=3))))
            left -= 1
        trunks.append((trunk, branches))
    return naive_row(trunks)
