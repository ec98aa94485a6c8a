"""Attention over rows on a GPU: FlexAttention over the blocks of a row that are seen, never tokens x tokens.

Registered with transformers' AttentionInterface, so the code of the model stays unchanged.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface

from mlens.model.attention.cpu import require_plain
from mlens.model.attention.cuda_layout import BLOCK, CudaLayout
from mlens.model.attention.prefix_cache import with_prefix_cache

FLEX_ATTENTION = "mlens_flex"


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask, scale: float) -> torch.Tensor:
    tokens = query.shape[2]
    if tokens % BLOCK == 0:
        # Tells the compiler, whose kernels then don't check in each block whether the row ends there.
        torch._check(tokens % BLOCK == 0)
    return flex_attention(query, key, value, block_mask=mask, scale=scale, enable_gqa=True)


@cache
def _attend_compiled() -> Any:
    """`_attend`, compiled; made on first use, since torch's compiler takes a second to import."""
    # dynamic: one compilation serves rows of all lengths, where by default the first length would have its own; only
    # rows of a single block, rows that don't fill their last block, and forward passes without gradients have others.
    # fullgraph: a compilation that fails, or one too many, is an error, where by default the eager form would silently
    # run, on tokens x tokens.
    return torch.compile(_attend, dynamic=True, fullgraph=True)


def flex_row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: CudaLayout | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of one row: [1, tokens, heads, d], 0 for a token that sees nothing.

    On CUDA rows are best padded to full blocks: their kernels are simpler and compiled less often. Elsewhere this runs
    uncompiled, on tokens x tokens and without a backward pass: for tests.

    query: [1, heads, tokens, d]; on CUDA d is at least 16.
    key, value: [1, kv heads, tokens, d].
    layout: the row's; without one the samples of the row would see one another.

    Raises ValueError without a layout, UserError where the model requires more than a scaled softmax.
    """
    if not isinstance(layout, CudaLayout):
        raise ValueError("row attention on a GPU needs the row's blocks: model(..., layout=cuda_layout(spans))")
    require_plain(dropout=dropout, **options)
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        # Normalised queries and keys arrive in float32 then and values don't; FlexAttention takes a single type.
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    attend = _attend_compiled() if query.is_cuda else _attend
    return attend(query, key, value, layout.mask, scaling).transpose(1, 2), None


AttentionInterface.register(FLEX_ATTENTION, with_prefix_cache(flex_row_attention))
