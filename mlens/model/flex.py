"""Attention over rows on a GPU: FlexAttention over those blocks of a row that are seen, never tokens x tokens.

Registered through transformers' AttentionInterface, so the model's own code is used as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface

from mlens.model.attention import require_plain
from mlens.model.trunk import continuing
from mlens.packing.blocks import BLOCK, Blocks

FLEX_ATTENTION = "mlens_flex"


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask, scale: float) -> torch.Tensor:
    tokens = query.shape[2]
    if tokens % BLOCK == 0:
        # Said to the compiler, whose kernels then don't check at each block whether the row ends within it.
        torch._check(tokens % BLOCK == 0)
    return flex_attention(query, key, value, block_mask=mask, scale=scale, enable_gqa=True)


# dynamic: one compilation serves rows of all lengths, where by default the first length would get one for itself; only
# rows of a single block, rows that aren't whole blocks, and forward passes without gradients have others.
# fullgraph: a compilation that fails, or one too many, is an error, where by default the eager form would run in
# silence, on tokens x tokens.
_attend_compiled = torch.compile(_attend, dynamic=True, fullgraph=True)


def flex_row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: Blocks | None = None,
    **asked: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one row: query [1, heads, tokens, d], key and value [1, kv heads, tokens, d] give
    [1, tokens, heads, d]. A token that sees nothing gets 0.

    On CUDA d is at least 16, and rows are best padded to whole blocks: their kernels are simpler and compiled less
    often. Elsewhere it runs uncompiled, on tokens x tokens and without a backward pass: for tests.

    Raises ValueError without the row's blocks: the samples of a row would see one another; UserError where the model
    asks for more than this.
    """
    if not isinstance(layout, Blocks):
        raise ValueError("row attention on a GPU needs the row's blocks: model(..., layout=block_tables(spans))")
    require_plain(dropout=dropout, **asked)
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        # Normed queries and keys come in float32 then, values don't, and FlexAttention takes one type alone.
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    attend = _attend_compiled if query.is_cuda else _attend
    return attend(query, key, value, layout.mask, scaling).transpose(1, 2), None


AttentionInterface.register(FLEX_ATTENTION, continuing(flex_row_attention))
