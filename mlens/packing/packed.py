"""packing=rows: several samples to a row, none of which sees another."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mlens.errors import UserError
from mlens.packing.dataset import Sample
from mlens.packing.row import Layout, Row, segment_layout


@dataclass(frozen=True)
class PackedRows:
    """row_tokens: the most tokens of a row, unless one sample alone is longer."""

    row_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.row_tokens < 1:
            raise UserError(f"packing.row_tokens must be at least 1, not {self.row_tokens}")

    def deal(self, lengths: np.ndarray, world: int) -> list[list[np.ndarray]]:
        """Cut samples of these lengths [n] into rows of equal cost, and deal the rows to `world` ranks: for each
        rank its rows, each an ascending array of indices into `lengths`. All ranks get as many rows; some of them may
        be empty. The longest samples are placed first, each into the row that is shortest so far.

        >>> PackedRows(row_tokens=10).deal(np.array([6, 5, 4, 4]), world=2)
        [[array([0, 3])], [array([1, 2])]]
        """
        if len(lengths) == 0:
            return [[] for _ in range(world)]
        rows = -(-int(np.minimum(lengths, self.row_tokens).sum()) // self.row_tokens)
        while True:
            rows = -(-rows // world) * world
            packed = _fill(lengths, rows, self.row_tokens)
            if packed is not None:
                return [packed[rank::world] for rank in range(world)]
            # One more at a time would be thousands of tries where rows can't be filled well.
            rows += max(world, rows // 100)

    def train_row(self, samples: Sequence[Sample]) -> Row:
        """A row whose labels are the answers of `samples`; score i is the log-probability of answer i."""
        if not samples:
            return filler_row()
        # The end token is predicted, never read.
        read = [np.concatenate([sample.prompt, sample.answer[:-1]]) for sample in samples]
        trunks = np.array([len(ids) for ids in read])
        starts = np.concatenate([[0], np.cumsum(trunks)[:-1]])
        keep = [
            start + len(sample.prompt) - 1 + np.arange(len(sample.answer))
            for start, sample in zip(starts, samples, strict=True)
        ]
        spans = np.zeros((trunks.sum(), 3, 2), dtype=np.int32)
        spans[:, 2, 0] = np.repeat(starts, trunks)
        spans[:, 2, 1] = np.arange(len(spans)) + 1
        positions = np.arange(len(spans)) - np.repeat(starts, trunks)
        labels = np.concatenate([sample.answer for sample in samples])
        answers = np.array([len(sample.answer) for sample in samples])
        return make_row(
            ids=np.concatenate(read),
            positions=positions,
            spans=spans,
            layout=segment_layout(starts, trunks, np.zeros_like(trunks), []),
            keep=np.concatenate(keep),
            slot=np.arange(len(labels)),
            label=labels,
            owner=np.repeat(np.arange(len(samples)), answers),
            scores=len(samples),
        )

    def score_row(self, samples: Sequence[Sample], answers: Sequence[np.ndarray]) -> Row:
        """A row that scores every one of the r legal `answers` for every sample: score i * r + j is the
        log-probability of answer j, its end token included, after prompt i. Each answer is a short chain of tokens
        that sees its prompt and itself."""
        if not samples:
            return filler_row()
        chains = [len(answer) - 1 for answer in answers]
        chain_ids = np.concatenate([answer[:-1] for answer in answers])
        within = np.concatenate([np.arange(length) for length in chains])
        chain_starts = np.concatenate([[0], np.cumsum(chains)[:-1]])
        tail = len(chain_ids)
        trunks = np.array([len(sample.prompt) for sample in samples])
        starts = np.concatenate([[0], np.cumsum(trunks + tail)[:-1]])
        tokens = int((trunks + tail).sum())
        ids, positions = np.empty(tokens, dtype=np.int64), np.empty(tokens, dtype=np.int64)
        spans = np.zeros((tokens, 3, 2), dtype=np.int32)
        keep, slot = [], []
        # Logits are kept once for a prompt's last token, which all chains start from, and once a chain token.
        first_slot = [0] * len(answers)
        own_slots = [1 + start + np.arange(length) for start, length in zip(chain_starts, chains, strict=True)]
        slots = np.concatenate([[first, *own] for first, own in zip(first_slot, own_slots, strict=True)])
        for i, (start, trunk, sample) in enumerate(zip(starts, trunks, samples, strict=True)):
            middle, stop = start + trunk, start + trunk + tail
            ids[start:middle], ids[middle:stop] = sample.prompt, chain_ids
            positions[start:middle], positions[middle:stop] = np.arange(trunk), trunk + within
            spans[start:middle, 2, 0], spans[start:middle, 2, 1] = start, np.arange(start, middle) + 1
            spans[middle:stop, 0] = start, middle
            spans[middle:stop, 2, 0] = middle + np.arange(tail) - within
            spans[middle:stop, 2, 1] = np.arange(middle, stop) + 1
            keep.append(np.arange(middle - 1, stop))
            slot.append(i * (tail + 1) + slots)
        labels = np.concatenate(list(answers))
        owner = np.repeat(np.arange(len(answers)), [len(answer) for answer in answers])
        return make_row(
            ids=ids,
            positions=positions,
            spans=spans,
            layout=segment_layout(starts, trunks, np.full_like(trunks, tail), chains),
            keep=np.concatenate(keep),
            slot=np.concatenate(slot),
            label=np.tile(labels, len(samples)),
            owner=(np.arange(len(samples))[:, None] * len(answers) + owner).ravel(),
            scores=len(samples) * len(answers),
        )


def _fill(lengths: np.ndarray, rows: int, capacity: int) -> list[np.ndarray] | None:
    """The samples of each row, or None where a row of several samples would pass its capacity."""
    shortest = [(0, row) for row in range(rows)]
    members: list[list[int]] = [[] for _ in range(rows)]
    for i in np.argsort(-lengths, kind="stable"):
        used, row = heapq.heappop(shortest)
        used += int(lengths[i])
        if used > capacity and members[row]:
            return None
        members[row].append(int(i))
        heapq.heappush(shortest, (used, row))
    return [np.array(sorted(row), dtype=np.int64) for row in members]


def make_row(
    *,
    ids: np.ndarray,
    positions: np.ndarray,
    spans: np.ndarray,
    layout: Layout,
    keep: np.ndarray,
    slot: np.ndarray,
    label: np.ndarray,
    owner: np.ndarray,
    scores: int,
) -> Row:
    """One row (batch size 1) from NumPy columns."""

    def tensor(column: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(column, dtype=np.int64))

    return Row(
        input_ids=tensor(ids)[None],
        position_ids=tensor(positions)[None],
        spans=torch.from_numpy(spans),
        layout=layout,
        keep=tensor(keep),
        slot=tensor(slot),
        label=tensor(label),
        owner=tensor(owner),
        scores=scores,
        useful=len(ids),
    )


def filler_row() -> Row:
    """A row without labels, for a rank that has none left: under ZeRO-3 a missing forward would hang the others."""
    zero, none = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return make_row(
        ids=zero,
        positions=zero,
        spans=np.array([[[0, 0], [0, 0], [0, 1]]], dtype=np.int32),
        layout=segment_layout(starts=zero, trunks=zero + 1, tails=zero, chains=[]),
        keep=zero,
        slot=none,
        label=none,
        owner=none,
        scores=0,
    )
