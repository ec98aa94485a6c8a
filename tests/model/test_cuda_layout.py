"""The CUDA layout of a row: the blocks for FlexAttention's kernels are what the row's tokens see."""

import pickle
import tracemalloc
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, create_mask

from mlens.model.attention.cuda_layout import BLOCK, cuda_layout, with_cuda_layout
from mlens.packing.packed import PackedRows, filler_row
from mlens.packing.prefix_group import PrefixGroup
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import dense_mask
from tests.helpers.naive_rows import naive_row, naive_rows
from tests.helpers.prefix_groups import ANSWERS, lone_groups, prefix_group_lists

SIDES = st.sampled_from([1, 2, 3, 4, 8, 16])
# For FlexAttention's default block size: a causal prefix, and suffixes that end inside, at and after a block's border.
LARGE = naive_row(
    [
        (3 * BLOCK, [(40, 2 * BLOCK, [(2, 40), (2, 39)]), (86, 2 * BLOCK + 1, [])]),
        (BLOCK + 1, [(3, BLOCK, [])]),
        (1, []),
    ]
)


def kinds(sees: np.ndarray, block: int) -> tuple[list[list[int]], list[list[int]]]:
    """The partial and the full blocks of keys of each block of queries, from all pairs."""
    n = -(-len(sees) // block)
    partial, full = [[] for _ in range(n)], [[] for _ in range(n)]
    for i in range(n):
        for j in range(n):
            pairs = sees[i * block : (i + 1) * block, j * block : (j + 1) * block]
            if pairs.shape == (block, block) and pairs.all():
                full[i].append(j)
            elif pairs.any():
                partial[i].append(j)
    return partial, full


def listed(counts: torch.Tensor, indices: torch.Tensor) -> list[list[int]]:
    return [line[:count].tolist() for count, line in zip(counts[0, 0].tolist(), indices[0, 0], strict=True)]


def looked_at(partial: list[list[int]], full: list[list[int]], mask_mod, tokens: int, block: int) -> np.ndarray:
    """[tokens, tokens] bool: the pairs of full blocks, and those of partial blocks for which mask_mod is true."""
    passes = create_mask(mask_mod, 1, 1, tokens, tokens, device="cpu")[0, 0].numpy()
    result = np.zeros_like(passes)
    for i in range(len(full)):
        for j in full[i]:
            result[i * block : (i + 1) * block, j * block : (j + 1) * block] = True
        for j in partial[i]:
            part = slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block)
            result[part] = passes[part]
    return result


def transposed(lists: list[list[int]]) -> list[list[int]]:
    return [[i for i, line in enumerate(lists) if j in line] for j in range(len(lists))]


def check_blocks(spans: torch.Tensor, sees: np.ndarray, block: int) -> None:
    """The tables, the mask made of them, and the mask's tables for the backward pass, against `sees`."""
    blocks, tokens, n = cuda_layout(spans, block), len(spans), -(-len(spans) // block)
    partial, full = kinds(sees, block)
    assert listed(blocks.kv_num_blocks, blocks.kv_indices) == partial
    assert listed(blocks.full_kv_num_blocks, blocks.full_kv_indices) == full
    for counts, indices in (
        (blocks.kv_num_blocks, blocks.kv_indices),
        (blocks.full_kv_num_blocks, blocks.full_kv_indices),
    ):
        assert counts.dtype == indices.dtype == torch.int32
        assert (counts.shape, indices.shape) == ((1, 1, n), (1, 1, n, n))
    mask = blocks.mask
    assert mask.shape == (1, 1, tokens, tokens)
    assert (block, block) == mask.BLOCK_SIZE
    assert np.array_equal(looked_at(partial, full, mask.mask_mod, tokens, block), sees)
    assert listed(mask.q_num_blocks, mask.q_indices) == transposed(partial)
    assert listed(mask.full_q_num_blocks, mask.full_q_indices) == transposed(full)


@given(SIDES.flatmap(lambda block: st.tuples(st.just(block), naive_rows(block))))
def test_blocks_of_prefixes_suffixes_and_chains(drawn):
    block, row = drawn
    assert np.array_equal(dense_mask(row.spans).numpy(), row.sees)
    check_blocks(row.spans, row.sees, block)


@given(st.data())
def test_blocks_of_spans_that_overlap_touch_or_are_empty(data):
    tokens, block = data.draw(st.integers(1, 40)), data.draw(SIDES)
    bounds = st.tuples(st.integers(0, tokens), st.integers(0, tokens)).map(sorted)
    of_token = st.tuples(*[bounds] * data.draw(st.sampled_from([3, 4])))
    drawn = data.draw(st.lists(of_token, min_size=tokens, max_size=tokens))
    spans = torch.tensor(drawn, dtype=torch.int32)
    check_blocks(spans, dense_mask(spans).numpy(), block)


@settings(max_examples=10)
@given(naive_rows(BLOCK, segments=3))
def test_blocks_of_flex_attentions_default_size(row):
    check_blocks(row.spans, row.sees, BLOCK)


def test_a_large_row_has_all_kinds_of_blocks():
    partial, full = kinds(LARGE.sees, BLOCK)
    assert sum(map(len, full)) >= 4
    assert sum(map(len, partial)) >= 4
    assert len(LARGE.spans) % BLOCK
    check_blocks(LARGE.spans, LARGE.sees, BLOCK)


@pytest.mark.parametrize(("row", "block"), [(LARGE, BLOCK), (naive_row([(20, [(5, 9, [(2, 5)])]), (4, [])]), 8)])
def test_the_mask_is_that_of_create_block_mask(row, block):
    mask, tokens = cuda_layout(row.spans, block).mask, len(row.spans)
    other = create_block_mask(mask.mask_mod, None, None, tokens, tokens, device="cpu", BLOCK_SIZE=block)
    for counts, indices in (
        ("kv_num_blocks", "kv_indices"),
        ("full_kv_num_blocks", "full_kv_indices"),
        ("q_num_blocks", "q_indices"),
        ("full_q_num_blocks", "full_q_indices"),
    ):
        ours = listed(getattr(mask, counts), getattr(mask, indices))
        assert ours == listed(getattr(other, counts), getattr(other, indices)), counts
    assert mask.seq_lengths == other.seq_lengths


@settings(max_examples=10)
@given(st.data())
def test_a_span_widened_by_one_is_detected(data):
    block = data.draw(SIDES)
    row = data.draw(naive_rows(block))
    i, which, end = (data.draw(st.integers(0, most)) for most in (len(row.spans) - 1, 2, 1))
    start, stop = row.spans[i, which].tolist()
    leaked = stop if end else start - 1
    assume(start < stop and 0 <= leaked < len(row.spans) and not row.sees[i, leaked])
    spans = row.spans.clone()
    spans[i, which, end] += 1 if end else -1
    with pytest.raises(AssertionError):
        check_blocks(spans, row.sees, block)
    sees = row.sees.copy()
    sees[i, leaked] = True
    check_blocks(spans, sees, block)


def test_blocks_can_be_pickled_and_make_their_mask_once():
    blocks = cuda_layout(LARGE.spans)
    arrived = pickle.loads(pickle.dumps(blocks))
    assert arrived.mask is arrived.mask
    assert torch.equal(arrived.mask.to_dense(), blocks.mask.to_dense())


def test_a_long_row_never_makes_pairs_of_tokens():
    # 4 prefixes, each with 100 suffixes of 30 tokens.
    tokens, spans = 16_000, np.zeros((16_000, 3, 2), dtype=np.int32)
    for prefix in range(0, tokens, 4_000):
        spans[prefix : prefix + 1_000, 2] = [[prefix, prefix + i + 1] for i in range(1_000)]
        for suffix in range(100):
            start = prefix + 1_000 + 30 * suffix
            spans[start : start + 30, 0] = prefix, prefix + 10 * (suffix + 1)
            spans[start : start + 30, 2] = [[start, start + i + 1] for i in range(30)]
    tracemalloc.start()
    blocks = cuda_layout(torch.from_numpy(spans))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < tokens**2 / 20
    looked = int(blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum())
    assert looked < 125**2 / 5


# rows


@settings(max_examples=8)
@given(prefix_group_lists(prefix=60, suffix=30), st.booleans())
def test_a_row_with_blocks_is_padded_with_tokens_that_see_themselves_alone(groups, scoring):
    row = PackedRows().score_row(groups, ANSWERS) if scoring else PackedRows().train_row(groups, 0.5)
    with_them, tokens = with_cuda_layout(row), len(row.spans)
    length = with_them.input_ids.shape[1]
    assert length % BLOCK == 0 and 0 <= length - tokens < BLOCK
    assert with_them.position_ids.shape == (1, length) and with_them.spans is None
    assert torch.equal(with_them.input_ids[:, :tokens], row.input_ids)
    assert torch.equal(with_them.position_ids[:, :tokens], row.position_ids)
    for name in ("keep", "slot", "label", "owner", "weight"):
        assert torch.equal(getattr(with_them, name), getattr(row, name)), name
    assert (with_them.useful, with_them.scores) == (row.useful, row.scores)
    sees = np.eye(length, dtype=bool)
    sees[:tokens, :tokens] = dense_mask(row.spans).numpy()
    blocks = with_them.layout
    assert np.array_equal(dense_mask(blocks.spans).numpy(), sees)
    partial, full = kinds(sees, BLOCK)
    assert listed(blocks.kv_num_blocks, blocks.kv_indices) == partial
    assert listed(blocks.full_kv_num_blocks, blocks.full_kv_indices) == full
    assert np.array_equal(looked_at(partial, full, blocks.mask.mask_mod, length, BLOCK), sees)


@pytest.mark.parametrize(("tokens", "length"), [(2, BLOCK), (BLOCK, BLOCK), (BLOCK + 1, 2 * BLOCK)])
def test_complete_blocks_are_not_padded(tokens, length):
    row = PackedRows().train_row([PrefixGroup(np.arange(tokens), np.arange(1, tokens), ())], 1.0)
    assert len(row.spans) == tokens and with_cuda_layout(row).input_ids.shape == (1, length)


def test_a_filler_row_is_padded_too():
    row = with_cuda_layout(filler_row())
    assert row.input_ids.shape == (1, BLOCK) and row.scores == 0
    assert torch.equal(dense_mask(row.layout.spans), torch.eye(BLOCK, dtype=torch.bool))


def test_a_row_without_spans_is_unchanged():
    row = ReferenceRows().train_row(lone_groups([5]))
    assert with_cuda_layout(row) is row
    once = with_cuda_layout(PackedRows().train_row(lone_groups([5])))
    assert with_cuda_layout(once) is once


def test_a_row_moves_and_is_pinned_with_its_blocks(monkeypatch):
    row = with_cuda_layout(PackedRows().score_row(lone_groups([5, 100, 90]), ANSWERS))
    names = [field.name for field in fields(row.layout) if field.name != "block"]
    moved = row.to(torch.device("meta"))
    assert len(names) == 5 and moved.layout.block == BLOCK
    for name in names:
        one, other = getattr(row.layout, name), getattr(moved.layout, name)
        assert (other.device.type, other.shape, other.dtype) == ("meta", one.shape, one.dtype)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    copy = row.pin_memory()
    assert all(any(tensor is getattr(copy.layout, name) for tensor in pinned) for name in names)
    assert torch.equal(copy.layout.mask.to_dense(), row.layout.mask.to_dense())
