"""The tokens of every legal answer after a prompt, in which answers share their common first tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AnswerChains:
    """The c tokens that score every legal answer after a prompt, in chains. A chain may continue another one, its stem.

    ids [c]: token ids.
    index [c]: the number of tokens of its answer before each token.
    stem [c, 2]: the range of these tokens that is the stem of each token's chain; (0, 0) for none.
    chain_start [c]: the first token of each token's chain.
    slots: for each answer, what predicts its tokens and the end token: 0 is the last token of the prompt, 1 + i is
        token i.
    """

    ids: np.ndarray
    index: np.ndarray
    stem: np.ndarray
    chain_start: np.ndarray
    slots: tuple[np.ndarray, ...]

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def pairs(self) -> int:
        """The number of pairs of these tokens of which one attends to the other, or to itself."""
        return int((self.index + 1).sum())


def answer_chains(answers: Sequence[np.ndarray]) -> AnswerChains:
    """Lay out the answers, each with its end token, which is predicted and never read.

    Answers that begin with the same token share their longest common start as a stem. What only some of them share
    beyond it is repeated, so that no token sees more than one stem.

    >>> chains = answer_chains([np.array([4, 0, 5, 9]), np.array([3, 9]), np.array([4, 0, 0, 9])])
    >>> chains.ids, chains.stem[:, 1], [slots.tolist() for slots in chains.slots]
    (array([4, 0, 5, 0, 3]), array([0, 0, 2, 2, 0]), [[0, 1, 2, 3], [0, 5], [0, 1, 2, 4]])
    """
    by_start: dict[int, list[int]] = {}
    for i, answer in enumerate(answers):
        by_start.setdefault(int(answer[0]), []).append(i)
    ids: list[int] = []
    columns: list[tuple[int, int, int, int]] = []  # index, start and stop of the stem, chain_start
    slots = [np.zeros(0, dtype=np.int64)] * len(answers)
    for members in by_start.values():
        read = [answers[i][:-1].tolist() for i in members]
        first, length = len(ids), _common(read)
        ids += read[0][:length]
        columns += [(i, 0, 0, first) for i in range(length)]
        for member, chain in zip(members, read, strict=True):
            start, rest = len(ids), chain[length:]
            ids += rest
            columns += [(length + i, first, first + length, start) for i in range(len(rest))]
            seen = [*range(first, first + length), *range(start, start + len(rest))]
            slots[member] = np.array([0, *(1 + i for i in seen)])
    index, stem_start, stem_stop, chain_start = np.array(columns).T
    return AnswerChains(np.array(ids), index, np.stack([stem_start, stem_stop], axis=1), chain_start, tuple(slots))


def _common(lists: Sequence[list[int]]) -> int:
    """Return how many elements all lists begin with in common."""
    return next((i for i, column in enumerate(zip(*lists, strict=False)) if len({*column}) > 1), min(map(len, lists)))
