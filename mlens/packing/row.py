"""A row of tokens, what each token sees, and the tensors that a model needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class RatingLoss:
    """The loss of a row that scores every legal rating after each of its targets.

    kind: one of mlens.packing.steps.LOSSES, but not `ce`.
    ratings [scale]: float32, the legal ratings in stars, ascending.
    truth [targets]: int64, the index in `ratings` of each target's true rating.
    expected_weight: with `ce+expected`, the weight of the second part.
    """

    kind: str
    ratings: torch.Tensor
    truth: torch.Tensor
    expected_weight: float = 1.0


@dataclass(frozen=True)
class Row:
    """The tensors of one forward pass.

    input_ids, position_ids [b, tokens]: int64.
    spans [tokens, s, 2]: int32, the ranges start:stop of the row that each token sees, which may be empty: a part of a
        prefix, a part of its suffix, its segment up to itself, and with s = 4 the stem of its answer chain. s is 3 or
        4. None for ordinary causal sequences.
    keep [k]: int64, the indices along `tokens` whose logits are needed; the model returns [b * k, vocabulary].
    slot [m]: int64, the index of the logits that predict each label.
    label [m]: int64, token ids.
    owner [m]: int64, the score to which each label's log-probability is added.
    weight [scores]: float32, the weight of each score in the cross-entropy.
    useful: the number of tokens that aren't padding.
    layout: the spans in the form that the attention needs (mlens/model/attention/); None until the row is prepared for
        a device.
    rating_loss: what is trained on instead of the cross-entropy; None for cross-entropy, and in scoring.
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
    rating_loss: RatingLoss | None = None

    @property
    def scores(self) -> int:
        return len(self.weight)

    def to(self, device: torch.device) -> Row:
        """Return a copy with all tensors on `device`."""
        return _map_values(self, torch.Tensor, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Row:
        """Return a copy in pinned memory, for asynchronous copies to a GPU; torch's DataLoader calls this."""
        return _map_values(self, torch.Tensor, torch.Tensor.pin_memory)

    def __reduce__(self) -> tuple:
        """Pickle tensors by value, as NumPy arrays.

        By default torch has a worker write each tensor to a file in /dev/shm and send its name. Where /dev/shm is
        small, as in a container, the worker would be killed or hang.
        """
        values = tuple(getattr(self, field.name) for field in fields(self))
        return _unpickle, (_map_values(values, torch.Tensor, torch.Tensor.numpy),)


def _unpickle(values: tuple) -> Row:
    return Row(*_map_values(values, np.ndarray, torch.from_numpy))


def _map_values(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to each object of type `kind` in the tuples and dataclasses of `value`."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map_values(item, kind, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(
            **{field.name: _map_values(getattr(value, field.name), kind, change) for field in fields(value)}
        )
    return value


def dense_mask(spans: torch.Tensor) -> torch.Tensor:
    """Return whether token i sees token j, from `spans` [tokens, s, 2]: [tokens, tokens] bool."""
    j = torch.arange(len(spans), device=spans.device)
    return ((j >= spans[:, :, :1]) & (j < spans[:, :, 1:])).any(dim=1)
