"""The layout of a row for FlexAttention: tables of its blocks, which skip the parts of the row that no token sees.

The tables are counted from the spans in time and memory of tokens + blocks x blocks, never tokens x tokens: a few
milliseconds a row, while the GPU computes the previous row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from mlens.packing.row import Row

# The block size of FlexAttention; its CUDA kernels take blocks that divide it.
BLOCK = 128


@dataclass(frozen=True, eq=False)
class CudaLayout:
    """What each token of a row sees, by blocks of `block` tokens: n = ceil(tokens / block) of them along each side.

    In a full block every pair is seen; in a partial one some pairs are. A last block that exceeds the row is never
    full.

    spans [tokens, s, 2]: int32, the ranges start:stop that each token sees; s is 3 or 4.
    kv_num_blocks [1, 1, n]: int32, the number of partial blocks of each block of queries.
    kv_indices [1, 1, n, n]: int32, which these are, ascending, in the first places of the last axis.
    full_kv_num_blocks, full_kv_indices: the same for the full blocks.
    block: tokens of a block.
    """

    spans: torch.Tensor
    kv_num_blocks: torch.Tensor
    kv_indices: torch.Tensor
    full_kv_num_blocks: torch.Tensor
    full_kv_indices: torch.Tensor
    block: int = BLOCK

    @cached_property
    def mask(self) -> BlockMask:
        """The BlockMask, on the device of the tables.

        It is made once and kept as long as the tables: all layers, the backward pass and what checkpointing recomputes
        share it. The tables of the backward pass are made here from those of the forward pass, on blocks x blocks. A
        pickled layout has no mask, whose function can't be pickled.
        """
        tokens = len(self.spans)
        return BlockMask.from_kv_blocks(
            self.kv_num_blocks,
            self.kv_indices,
            self.full_kv_num_blocks,
            self.full_kv_indices,
            BLOCK_SIZE=self.block,
            mask_mod=_sees(self.spans),
            seq_lengths=(tokens, tokens),
        )


def _sees(spans: torch.Tensor) -> Callable[..., torch.Tensor]:
    """FlexAttention's mask_mod: whether token q sees token k."""
    # Columns instead of one tensor: a kernel reads each contiguously, and compiled code doesn't mistake sizes of a
    # row that happen to be 2 or 3 for those of the spans, which would recompile for the next row.
    columns = (column.clone(memory_format=torch.contiguous_format) for column in spans.flatten(1).unbind(1))
    first_start, first_stop, second_start, second_stop, third_start, third_stop, *stem = columns

    def sees(batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        first = (first_start[q] <= k) & (k < first_stop[q])
        second = (second_start[q] <= k) & (k < second_stop[q])
        third = (third_start[q] <= k) & (k < third_stop[q])
        return first | second | third

    if not stem:
        return sees
    stem_start, stem_stop = stem

    def sees_stem_too(batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return sees(batch, head, q, k) | (stem_start[q] <= k) & (k < stem_stop[q])

    return sees_stem_too


def cuda_layout(spans: torch.Tensor, block: int = BLOCK) -> CudaLayout:
    """The layout of a row whose tokens see `spans` [tokens, s, 2] int32, which may touch or overlap. CPU only."""
    seen = _seen_pairs(spans.numpy(), block)
    full = seen == block * block
    partial = (seen > 0) & ~full
    return CudaLayout(spans, *_table(partial), *_table(full), block)


def with_cuda_layout(row: Row) -> Row:
    """The row with the layout of its spans, padded to full blocks, which the kernels take without checks. A padding
    token sees only itself. A row without spans stays as it is. CPU only."""
    if row.spans is None:
        return row
    tokens = len(row.spans)
    padding = -tokens % BLOCK
    itself = torch.arange(tokens, tokens + padding, dtype=row.spans.dtype)
    spans = torch.zeros(padding, *row.spans.shape[1:], dtype=row.spans.dtype)
    spans[:, 2, 0], spans[:, 2, 1] = itself, itself + 1
    return replace(
        row,
        input_ids=torch.nn.functional.pad(row.input_ids, (0, padding)),
        position_ids=torch.nn.functional.pad(row.position_ids, (0, padding)),
        spans=None,
        layout=cuda_layout(torch.cat([row.spans, spans])),
    )


def _table(chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each line of `chosen` [n, n]: how many are chosen [1, 1, n], and which, before the others [1, 1, n, n]."""
    indices = np.argsort(~chosen, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(chosen.sum(axis=1, dtype=np.int32))[None, None], torch.from_numpy(indices)[None, None]


def _seen_pairs(spans: np.ndarray, block: int) -> np.ndarray:
    """[n, n] int64: how many pairs (query, key) of each block are seen, from spans [tokens, 3, 2]."""
    order = np.argsort(spans[:, :, 0], axis=1)[:, :, None]
    starts, stops = np.moveaxis(np.take_along_axis(spans, order, axis=1), 2, 0)
    # Where spans overlap, a pair counts once: each span begins where those before it have ended.
    ends = np.maximum.accumulate(stops, axis=1)
    starts = np.maximum(starts, np.pad(ends[:, :-1], ((0, 0), (1, 0))))
    return _pairs_below(np.maximum(starts, stops), block) - _pairs_below(starts, block)


def _pairs_below(bounds: np.ndarray, block: int) -> np.ndarray:
    """[n, n] int64: how many pairs (query, key) of each block have key < bound, summed over the bounds [tokens, s]."""
    n = -(-len(bounds) // block)
    column, remainder = np.divmod(bounds, block)
    cell = (np.arange(len(bounds))[:, None] // block * (n + 1) + column).ravel()
    # All keys of the columns before a bound's own are below it, and `remainder` keys of that column.
    inside = np.bincount(cell, weights=remainder.ravel(), minlength=n * (n + 1)).reshape(n, n + 1)
    there = np.bincount(cell, minlength=n * (n + 1)).reshape(n, n + 1)
    beyond = there[:, ::-1].cumsum(axis=1)[:, ::-1]
    return inside[:, :-1].astype(np.int64) + block * beyond[:, 1:]
