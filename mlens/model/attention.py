"""Attention over rows: every segment sees itself alone, every answer chain its prompt and itself.

Registered through transformers' AttentionInterface, so the model's own code is used as it is.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from mlens.packing.row import Layout

ROW_ATTENTION = "mlens_rows"


def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of one row: query [1, heads, tokens, d], key and value [1, kv heads, tokens, d] give
    [1, tokens, heads, d].

    Raises ValueError without a layout: the samples of a row would see one another.
    """
    if layout is None:
        raise ValueError("row attention needs the row's layout: model(..., layout=row.layout)")
    repeat = query.shape[1] // key.shape[1]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    results = []
    for group in layout.groups:
        trunk_k, trunk_v = _take(k, group.trunk, repeat), _take(v, group.trunk, repeat)
        # Padding stands behind each segment, where causal attention doesn't look.
        attended = scaled_dot_product_attention(
            _take(q, group.trunk), trunk_k, trunk_v, is_causal=True, scale=scaling, dropout_p=dropout
        )
        results.append(attended.transpose(1, 2).flatten(0, 1))
        if group.tail is not None:
            seen_k = torch.cat([trunk_k, _take(k, group.tail, repeat)], dim=2)
            seen_v = torch.cat([trunk_v, _take(v, group.tail, repeat)], dim=2)
            attended = scaled_dot_product_attention(
                _take(q, group.tail), seen_k, seen_v, attn_mask=group.tail_mask, scale=scaling, dropout_p=dropout
            )
            results.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(results)[layout.place][None], None


def _take(x: torch.Tensor, index: torch.Tensor, repeat: int = 1) -> torch.Tensor:
    """x [tokens, heads, d] at index [n, m] -> [n, heads * repeat, m, d]."""
    taken = x.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)
    return taken if repeat == 1 else taken.repeat_interleave(repeat, dim=1)


AttentionInterface.register(ROW_ATTENTION, row_attention)
