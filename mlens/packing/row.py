"""A row of tokens, what each of its tokens sees, and the tensors that a model needs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Row:
    """The tensors of one forward pass.

    input_ids, position_ids [b, tokens]: int64.
    spans [tokens, 3, 2]: int32, the up to three ranges start:stop of the row that each token sees: a part of a prefix,
        a part of its suffix, and its segment up to itself. None where rows are ordinary causal sequences.
    keep [k]: int64, the places along `tokens` whose logits are needed; they come out as [b * k, vocabulary].
    slot, label, owner [m]: int64; label[i] is predicted by logits[slot[i]] and counts for score owner[i].
    weight [scores]: float32, the weight of each score in the loss.
    useful: the number of tokens that aren't padding.
    layout: the spans as the attention takes them (mlens/model/attention/); None until the row is prepared for a device.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    spans: torch.Tensor | None
    keep: torch.Tensor
    slot: torch.Tensor
    label: torch.Tensor
    owner: torch.Tensor
    weight: torch.Tensor
    useful: int
    layout: Any = None

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
        """Pickle tensors by value, as NumPy arrays. torch would have a worker write each of them to a file in /dev/shm
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
