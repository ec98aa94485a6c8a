"""A trunk that several rows begin with is computed in the first of them: the others look at its keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mlens.packing.layout import Layout, Places
from mlens.packing.row import Row

Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Trunk:
    """ids [p]: its tokens; layers: of each layer that has computed it, its keys and values [1, kv heads, p, d]."""

    ids: torch.Tensor
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Continued:
    """The layout of a row (`whole`) that begins with `trunk`. Its tokens are computed from `start` on: from the first
    (0), where the trunk is to be kept, or from behind the trunk."""

    whole: Any
    trunk: Trunk
    start: int


def continuing(attention: Attention) -> Attention:
    """The row attention that takes a row's layout, and Continued ones too."""

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        layout: Any = None,
        **asked: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not isinstance(layout, Continued):
            return attention(module, query, key, value, attention_mask, layout=layout, **asked)
        layers, layer, length = layout.trunk.layers, module.layer_idx, len(layout.trunk.ids)
        if layout.start:
            # What isn't asked for gets an answer that nobody reads.
            query = torch.cat([query.new_zeros(*query.shape[:2], length, query.shape[3]), query], dim=2)
            key, value = (torch.cat(parts, dim=2) for parts in zip(layers[layer], (key, value), strict=True))
        else:
            layers[layer] = key[:, :, :length].clone(), value[:, :, :length].clone()
        result, weights = attention(module, query, key, value, attention_mask, layout=layout.whole, **asked)
        return result[:, layout.start :], weights

    return attend


def continued(row: Row, last: Trunk | None) -> tuple[Row, Trunk | None]:
    """The placed row as it is to be computed when the trunk `last` is known, and the trunk that is known after it.

    A row whose first trunk isn't one of branches, or that needs logits within it, stays as it is.
    """
    length = 0 if row.spans is None else int((row.spans[:, 2, 0] == 0).sum())
    if length == row.input_ids.shape[1] or length == 0 or int(row.keep.min()) < length:
        return row, last
    ids = row.input_ids[0, :length]
    if last is None or not torch.equal(last.ids, ids):
        trunk = Trunk(ids)
        return replace(row, layout=Continued(row.layout, trunk, 0)), trunk
    layout = row.layout
    if isinstance(layout, Layout):
        layout = Layout(tuple(product for product in layout.products if _asks(product.query, length)))
    rest = replace(
        row,
        input_ids=row.input_ids[:, length:],
        position_ids=row.position_ids[:, length:],
        keep=row.keep - length,
        layout=Continued(layout, last, length),
    )
    return rest, last


def _asks(query: Places, length: int) -> bool:
    """Whether one of these tokens stands behind the first `length`."""
    return query.stop > length if isinstance(query, slice) else bool((query >= length).any())
