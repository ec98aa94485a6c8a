"""Reuse of a prefix that successive rows begin with: the first of them computes it, the others read its keys and
values from a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mlens.model.attention.cpu_layout import CpuLayout, Places
from mlens.packing.row import Row

Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class CachedPrefix:
    """A prefix that a row began with.

    ids [p]: its tokens.
    layers: its keys and values [1, kv heads, p, d] at each layer that has computed them.
    """

    ids: torch.Tensor
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class CachedLayout:
    """The layout of a row that begins with a cached prefix, or fills the cache with it.

    layout: that of the complete row.
    prefix: the cached prefix.
    start: the first token that is computed: 0 to fill the cache, else the first one after the prefix.
    """

    layout: Any
    prefix: CachedPrefix
    start: int


def with_prefix_cache(attention: Attention) -> Attention:
    """Extend a row attention so that it takes a CachedLayout as well as a row's plain layout."""

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        layout: Any = None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not isinstance(layout, CachedLayout):
            return attention(module, query, key, value, attention_mask, layout=layout, **options)
        layers, layer, length = layout.prefix.layers, module.layer_idx, len(layout.prefix.ids)
        if layout.start:
            # Zero queries stand in for the cached prefix; their outputs are discarded.
            query = torch.cat([query.new_zeros(*query.shape[:2], length, query.shape[3]), query], dim=2)
            key, value = (torch.cat(parts, dim=2) for parts in zip(layers[layer], (key, value), strict=True))
        else:
            layers[layer] = key[:, :, :length].clone(), value[:, :, :length].clone()
        result, weights = attention(module, query, key, value, attention_mask, layout=layout.layout, **options)
        return result[:, layout.start :], weights

    return attend


def reuse_prefix(row: Row, cached: CachedPrefix | None) -> tuple[Row, CachedPrefix | None]:
    """The prepared row as it is to be computed with this cached prefix, and the prefix that is cached after it.

    A row that begins with a prefix without suffixes, or that needs logits within its prefix, stays as it is.
    """
    length = 0 if row.spans is None else int((row.spans[:, 2, 0] == 0).sum())
    if length == row.input_ids.shape[1] or length == 0 or int(row.keep.min()) < length:
        return row, cached
    ids = row.input_ids[0, :length]
    if cached is None or not torch.equal(cached.ids, ids):
        prefix = CachedPrefix(ids)
        return replace(row, layout=CachedLayout(row.layout, prefix, 0)), prefix
    layout = row.layout
    if isinstance(layout, CpuLayout):
        layout = CpuLayout(tuple(product for product in layout.products if _reaches(product.query, length)))
    suffixes = replace(
        row,
        input_ids=row.input_ids[:, length:],
        position_ids=row.position_ids[:, length:],
        keep=row.keep - length,
        layout=CachedLayout(layout, cached, length),
    )
    return suffixes, cached


def _reaches(query: Places, length: int) -> bool:
    """Whether one of these tokens stands after the first `length`."""
    return query.stop > length if isinstance(query, slice) else bool((query >= length).any())
