"""Attention over rows on a GPU: FlexAttention over those blocks of a row that are seen, never tokens x tokens.

Registered through transformers' AttentionInterface, so the model's own code is used as it is.
"""

from __future__ import annotations

import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import AttentionInterface

from mlens.packing.blocks import Blocks

FLEX_ATTENTION = "mlens_flex"

# dynamic: one compilation serves rows of every length, with and without gradients one each, and one more for rows of a
# single block; by default the first length would be compiled for itself alone. fullgraph: where a compilation fails
# or there were too many, this is an error; by default the eager form would run in silence, which is tokens x tokens.
_compiled = torch.compile(flex_attention, dynamic=True, fullgraph=True)


def flex_row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: Blocks | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of one row: query [1, heads, tokens, d], key and value [1, kv heads, tokens, d] give
    [1, tokens, heads, d]. A token that sees nothing gets 0.

    On CUDA d is at least 16, and rows of a multiple of layout.block tokens spare the kernels checks of their ends;
    elsewhere it runs uncompiled, without a backward pass: for tests.

    Raises ValueError without the row's blocks: the samples of a row would see one another; and with dropout, which
    FlexAttention lacks.
    """
    if not isinstance(layout, Blocks):
        raise ValueError("row attention on a GPU needs the row's blocks: model(..., layout=block_tables(spans))")
    if dropout:
        raise ValueError(f"row attention has no dropout: the model's config asks for {dropout}")
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        # Normed queries and keys come in float32 then, values don't, and FlexAttention takes one type alone.
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    attend = _compiled if query.is_cuda else flex_attention
    attended = attend(query, key, value, block_mask=layout.mask, scale=scaling, enable_gqa=True)
    return attended.transpose(1, 2), None


AttentionInterface.register(FLEX_ATTENTION, flex_row_attention)
