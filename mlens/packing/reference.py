"""packing=reference: one sample a row, scored plainly: what packed rows are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mlens.packing.dataset import Sample
from mlens.packing.row import Row


@dataclass(frozen=True)
class ReferenceRows:
    """Rows are ordinary causal sequences, for any attention of the model's own."""

    def deal(self, lengths: np.ndarray, world: int) -> list[list[np.ndarray]]:
        """One sample a row, dealt in turn; the last rows may be empty."""
        rows = [np.array([i]) for i in range(len(lengths))]
        rows += [np.array([], dtype=np.int64)] * (-len(rows) % world)
        return [rows[rank::world] for rank in range(world)]

    def train_row(self, samples: Sequence[Sample]) -> Row:
        """The prompt and its answer as one sequence; score 0 is the answer's log-probability."""
        if not samples:
            return _sequences([np.zeros(1, dtype=np.int64)], prompt=1, answers=[], useful=1)
        (sample,) = samples
        return self.score_row(samples, [sample.answer])

    def score_row(self, samples: Sequence[Sample], answers: Sequence[np.ndarray]) -> Row:
        """One whole sequence for every legal answer, padded at the end; score j is the log-probability of answer j."""
        if not samples:
            return self.train_row([])
        (sample,) = samples
        ids = [np.concatenate([sample.prompt, answer[:-1]]) for answer in answers]
        return _sequences(ids, len(sample.prompt), list(answers), useful=sum(len(sequence) for sequence in ids))


def _sequences(ids: list[np.ndarray], prompt: int, answers: list[np.ndarray], useful: int) -> Row:
    longest = max(len(sequence) for sequence in ids)
    padded = np.zeros((len(ids), longest), dtype=np.int64)
    for row, sequence in zip(padded, ids, strict=True):
        row[: len(sequence)] = sequence
    kept = longest - prompt + 1
    lengths = [len(answer) for answer in answers]
    slots = [row * kept + np.arange(length) for row, length in enumerate(lengths)]
    empty = np.zeros(0, dtype=np.int64)
    return Row(
        input_ids=torch.from_numpy(padded),
        position_ids=torch.arange(longest).expand(len(ids), longest),
        spans=None,
        layout=None,
        keep=torch.arange(prompt - 1, longest),
        slot=torch.from_numpy(np.concatenate([empty, *slots])),
        label=torch.from_numpy(np.concatenate([empty, *(answer.astype(np.int64) for answer in answers)])),
        owner=torch.from_numpy(np.repeat(np.arange(len(answers)), lengths)),
        scores=len(answers),
        useful=useful,
    )
