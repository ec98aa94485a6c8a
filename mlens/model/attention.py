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
    q, k, v = (_Spread.apply(x[0].transpose(0, 1), layout.source, layout.place) for x in (query, key, value))
    repeat = query.shape[1] // key.shape[1]
    results, first = [], 0
    for group in layout.groups:
        trunk_q, trunk_k, trunk_v = (_cut(x, first, group.trunk) for x in (q, k, v))
        trunk_k, trunk_v = _repeat(trunk_k, repeat), _repeat(trunk_v, repeat)
        first += group.trunk.numel()
        # Padding stands behind each segment, where causal attention doesn't look.
        attended = scaled_dot_product_attention(
            trunk_q, trunk_k, trunk_v, is_causal=True, scale=scaling, dropout_p=dropout
        )
        results.append(attended.transpose(1, 2).flatten(0, 1))
        if group.tail is not None:
            tail_q, tail_k, tail_v = (_cut(x, first, group.tail) for x in (q, k, v))
            seen_k = torch.cat([trunk_k, _repeat(tail_k, repeat)], dim=2)
            seen_v = torch.cat([trunk_v, _repeat(tail_v, repeat)], dim=2)
            first += group.tail.numel()
            attended = scaled_dot_product_attention(
                tail_q, seen_k, seen_v, attn_mask=group.tail_mask, scale=scaling, dropout_p=dropout
            )
            results.append(attended.transpose(1, 2).flatten(0, 1))
    return _Collect.apply(torch.cat(results), layout.source, layout.place)[None], None


class _Spread(torch.autograd.Function):
    """x [tokens, ...] -> the groups' places [places, ...]. A token's gradient is that of its one place: torch's own
    backward of an index would add up all places one by one, padding too, and took an eighth of a step."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, source: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, source)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return grad.index_select(0, place), None, None


class _Collect(torch.autograd.Function):
    """The groups' places [places, ...] -> tokens [tokens, ...]; padding gets no gradient."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, source: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(place)
        ctx.places = len(source)
        return x.index_select(0, place)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (place,) = ctx.saved_tensors
        spread = grad.new_zeros((ctx.places, *grad.shape[1:]))
        return spread.index_copy_(0, place, grad), None, None


def _cut(x: torch.Tensor, first: int, index: torch.Tensor) -> torch.Tensor:
    """A group's part of x [places, heads, d] -> [n, heads, m, d]."""
    return x[first : first + index.numel()].unflatten(0, index.shape).transpose(1, 2)


def _repeat(x: torch.Tensor, repeat: int) -> torch.Tensor:
    return x if repeat == 1 else x.repeat_interleave(repeat, dim=1)


AttentionInterface.register(ROW_ATTENTION, row_attention)
