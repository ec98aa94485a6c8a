"""A row of tokens, what each of its tokens sees, and the tensors that a model needs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Row:
    """One forward pass.

    input_ids, position_ids [b, tokens] int64; spans [tokens, 3, 2] int32: the up to three stretches start:stop of the
    row that each token sees (a part of a trunk, a part of its branch, its own segment up to itself); layout: the same
    as its attention takes it (mlens/packing/layout.py), or None where rows are ordinary causal sequences (then spans is
    None too);
    keep [k] int64: the places along `tokens` whose logits are needed; they come out as [b * k, vocabulary];
    slot, label, owner [m] int64: label[i] is a token to predict from logits[slot[i]], and counts for score owner[i];
    weight [scores] float32: what each score counts in the loss; useful: how many tokens are no padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    spans: torch.Tensor | None
    layout: Any
    keep: torch.Tensor
    slot: torch.Tensor
    label: torch.Tensor
    owner: torch.Tensor
    weight: torch.Tensor
    useful: int

    @property
    def scores(self) -> int:
        return len(self.weight)

    def to(self, device: torch.device) -> Row:
        """A copy with all tensors on `device`."""
        return _mapped(self, torch.Tensor, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Row:
        """A copy in pinned memory, from which a GPU copies while it computes; torch's DataLoader calls this."""
        return _mapped(self, torch.Tensor, torch.Tensor.pin_memory)

    def __reduce__(self) -> tuple:
        """Pickles tensors as NumPy arrays, by value. torch would have a worker put each of them into a file in /dev/shm
        and send its name; where that is small, as in a container, the worker is killed or waits forever."""
        values = tuple(getattr(self, field.name) for field in fields(self))
        return _unpickled, (_mapped(values, torch.Tensor, torch.Tensor.numpy),)


def _unpickled(values: tuple) -> Row:
    return Row(*_mapped(values, np.ndarray, torch.from_numpy))


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied to each object of this kind in its tuples and dataclasses."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(item, kind, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _mapped(getattr(value, field.name), kind, change) for field in fields(value)})
    return value


def dense_mask(spans: torch.Tensor) -> torch.Tensor:
    """[tokens, tokens] bool: whether token i (first index) sees token j, from `spans` [tokens, 3, 2]."""
    j = torch.arange(len(spans), device=spans.device)
    return ((j >= spans[:, :, :1]) & (j < spans[:, :, 1:])).any(dim=1)
