"""packing=reference: one sample a row, scored by ordinary forward passes; the reference for packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mlens.packing.prefix_group import PrefixGroup, Shapes
from mlens.packing.row import Row


@dataclass(frozen=True)
class ReferenceRows:
    """The collator of ordinary causal sequences, for the model's unmodified attention."""

    def pack(self, shapes: Shapes, world: int) -> list[list[tuple[np.ndarray, ...]]]:
        """Make a row of every sample, and shard the rows to the ranks in turn; the last rows may be empty."""
        rows: list[tuple[np.ndarray, ...]] = [(np.array([i]),) for i in range(len(shapes.group))]
        rows += [()] * (-len(rows) % world)
        return [rows[rank::world] for rank in range(world)]

    def train_row(self, groups: Sequence[PrefixGroup], history_loss_weight: float = 0.0) -> Row:
        """Build a row of the prompt and its answer. Score 0 is the log-probability of the answer.

        history_loss_weight: the weight of score 1, the log-probability of all tokens in `PrefixGroup.lines`.
        """
        if not groups:
            return _sequences([np.zeros(1, dtype=np.int64)], prompt=1, answers=[], useful=1)
        (group,) = groups
        (suffix,) = group.suffixes
        row = self.score_row(groups, [suffix.answer])
        if not (history_loss_weight and len(group.lines)):
            return row
        kept, lines = len(row.keep), torch.from_numpy(group.lines)
        return Row(
            input_ids=row.input_ids,
            position_ids=row.position_ids,
            spans=None,
            keep=torch.cat([row.keep, lines - 1]),
            slot=torch.cat([row.slot, kept + torch.arange(len(lines))]),
            label=torch.cat([row.label, row.input_ids[0, lines]]),
            owner=torch.cat([row.owner, torch.ones_like(lines)]),
            weight=torch.tensor([1.0, history_loss_weight]),
            useful=row.useful,
        )

    def score_row(self, groups: Sequence[PrefixGroup], answers: Sequence[np.ndarray]) -> Row:
        """Build a batch of prompt and answer for every legal answer, padded at the end.

        Score j is the log-probability of answer j.
        """
        if not groups:
            return self.train_row([])
        (group,) = groups
        (suffix,) = group.suffixes
        prompt = np.concatenate([group.prefix[: suffix.seen], suffix.ids])
        ids = [np.concatenate([prompt, answer[:-1]]) for answer in answers]
        return _sequences(ids, len(prompt), list(answers), useful=sum(len(sequence) for sequence in ids))


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
        keep=torch.arange(prompt - 1, longest),
        slot=torch.from_numpy(np.concatenate([empty, *slots])),
        label=torch.from_numpy(np.concatenate([empty, *(answer.astype(np.int64) for answer in answers)])),
        owner=torch.from_numpy(np.repeat(np.arange(len(answers)), lengths)),
        weight=torch.ones(len(answers)),
        useful=useful,
    )
