"""Packed rows against naive masks, and against separate samples with the model's unmodified attention."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from mlens.model.attention import cpu_layout
from mlens.model.attention.cpu import ROW_ATTENTION, row_attention
from mlens.model.attention.cpu_layout import with_cpu_layout
from mlens.packing.packed import PackedRows, filler_row
from mlens.packing.prefix_group import PrefixGroup
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import dense_mask
from tests.helpers.prefix_groups import (
    ANSWERS,
    VOCABULARY,
    check_layout,
    check_row,
    lone_groups,
    make_group,
    prefix_group_lists,
    prompts,
)
from tests.helpers.small_model import (
    assert_close_gradients,
    gradients,
    make_model,
    plain_log_probabilities,
    plain_score,
    row_scores,
)

ROWS = PackedRows()
kinds = st.sampled_from(["train", "history", "score"])


def make_row(kind, groups):
    if kind == "score":
        return with_cpu_layout(ROWS.score_row(groups, ANSWERS))
    return with_cpu_layout(ROWS.train_row(groups, history_loss_weight=0.5 if kind == "history" else 0.0))


# what tokens see


@given(prefix_group_lists(), kinds)
def test_a_rows_tokens_see_what_the_naive_row_sees(groups, kind):
    row = make_row(kind, groups)
    check_row(row, groups, ANSWERS if kind == "score" else None)
    assert row.useful == row.input_ids.numel()
    targets = sum(len(group.suffixes) for group in groups)
    lines = sum(len(group.lines) for group in groups)
    if kind == "score":
        assert row.weight.tolist() == [1.0] * (targets * len(ANSWERS))
    else:
        with_history = kind == "history" and lines > 0
        assert row.weight.tolist() == [1.0] * targets + [0.5] * with_history
        assert len(row.label) == sum(len(a) for _, a in prompts(groups)) + with_history * lines


small_limits = st.fixed_dictionaries(
    {
        "LONG": st.sampled_from([1, 4, 9, 512]),
        "BUNDLE": st.sampled_from([1, 8, 40, 256]),
        "MOST_PAIRS": st.sampled_from([1, 90, 1 << 22]),
    }
)


@given(prefix_group_lists(), kinds, small_limits)
def test_a_layouts_products_are_the_spans(groups, kind, limits):
    """With limits so small that there are long prefixes, bundles with a common prefix, and cut products."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in limits.items():
            patched.setattr(cpu_layout, name, value)
        check_layout(make_row(kind, groups))


def test_small_limits_produce_every_kind_of_product():
    groups = [make_group(9, [(3, 4), (5, 4), (9, 6)]), make_group(3, [(1, 2), (3, 2)]), *lone_groups([2, 2, 3])]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cpu_layout, "LONG", 9)
        patched.setattr(cpu_layout, "BUNDLE", 20)
        products = make_row("train", groups).layout.products
    longs = [product for product in products if product.common is not None]
    assert [product.common for product in longs] == [slice(0, 3), slice(0, 9)]
    assert any(product.mask is None and not isinstance(product.query, slice) for product in products)
    assert any(product.mask is not None and product.common is None for product in products)


def random_heads(heads, kv_heads, tokens, seed):
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, n, tokens, 8, generator=draw, dtype=torch.float64).requires_grad_()
        for n in (heads, kv_heads, kv_heads)
    ]


@given(prefix_group_lists(), kinds, st.sampled_from([(4, 4), (4, 2), (6, 1)]), small_limits, st.integers(0, 3))
def test_row_attention_is_attention_under_the_dense_mask(groups, kind, heads, limits, seed):
    with pytest.MonkeyPatch.context() as patched:
        for name, value in limits.items():
            patched.setattr(cpu_layout, name, value)
        row = make_row(kind, groups)
    q, k, v = random_heads(*heads, row.input_ids.shape[1], seed)
    got, _ = row_attention(torch.nn.Identity(), q, k, v, None, scaling=0.3, layout=row.layout)
    wide_k, wide_v = (x.repeat_interleave(heads[0] // heads[1], dim=1) for x in (k, v))
    want = scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=dense_mask(row.spans), scale=0.3).transpose(1, 2)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    weights = torch.linspace(0.5, 2, got.numel(), dtype=torch.float64).view_as(got)
    for one, other in zip(*(torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (got, want)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_row_attention_in_bfloat16_and_under_autocast():
    row = make_row("train", [make_group(30, [(10, 4), (30, 6)])])
    q, k, v = (x.detach().float() for x in random_heads(4, 2, row.input_ids.shape[1], 0))
    exact = row_attention(None, q, k, v, None, 0.3, layout=row.layout)[0]
    alike = row_attention(None, *(x.bfloat16() for x in (q, k, v)), None, 0.3, layout=row.layout)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = row_attention(None, q, k, v.bfloat16(), None, 0.3, layout=row.layout)[0]
    assert alike.dtype == cast.dtype == torch.bfloat16
    assert torch.equal(alike, cast)
    torch.testing.assert_close(alike.float(), exact, rtol=0, atol=2e-2)


def test_row_attention_refuses_a_missing_layout_and_dropout():
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="layout"):
        row_attention(torch.nn.Identity(), q, q, q, None, scaling=1.0)
    with pytest.raises(ValueError, match="dropout"):
        row_attention(torch.nn.Identity(), q, q, q, None, 1.0, dropout=0.1, layout=make_row("train", []).layout)
    model = make_model(ROW_ATTENTION)
    with pytest.raises(ValueError, match="layout"):
        model(input_ids=torch.tensor([[3, 4]]), use_cache=False)


# the model

CASES = {
    "unshared": lone_groups([1, 5, 5, 30, 3], seed=1),
    "one token": lone_groups([1]),
    "a group": [make_group(30, [(4, 3), (4, 5), (17, 2), (30, 6)], seed=2)],
    "all kinds": [
        make_group(20, [(1, 7), (20, 3)], seed=3),
        *lone_groups([11, 2], seed=4),
        make_group(7, [(3, 4), (7, 4)]),
    ],
    "a group of one": [make_group(12, [(12, 5)], seed=5)],
}


def together(*parts) -> list[PrefixGroup]:
    return [group for part in parts for group in CASES[part]]


def separately(groups) -> list[PrefixGroup]:
    """A group for each target; the last one has the lines of the shared prefix."""
    separate = []
    for group in groups:
        for suffix in group.suffixes:
            last = suffix is group.suffixes[-1]
            lines = group.lines if last else group.lines[:0]
            separate.append(PrefixGroup(group.prefix[: suffix.seen], lines, (suffix,)))
    return separate


@pytest.fixture(scope="module")
def row_model():
    return make_model(ROW_ATTENTION)


@pytest.fixture(scope="module")
def plain_model():
    return make_model("sdpa")


@pytest.mark.parametrize("case", CASES)
def test_a_samples_log_probability_is_that_of_the_separate_sample(row_model, plain_model, case):
    groups = CASES[case]
    with torch.no_grad():
        packed = row_scores(row_model, ROWS.train_row(groups))
        reference = torch.cat([row_scores(plain_model, ReferenceRows().train_row([t])) for t in separately(groups)])
        separate = torch.stack([plain_score(plain_model, *sample) for sample in prompts(groups)])
    torch.testing.assert_close(packed, separate, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(reference, separate, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_every_legal_rating_is_scored_as_by_a_plain_forward(row_model, plain_model, case):
    groups = CASES[case]
    with torch.no_grad():
        packed = row_scores(row_model, ROWS.score_row(groups, ANSWERS))
        rows = [ReferenceRows().score_row([group], ANSWERS) for group in separately(groups)]
        reference = torch.cat([row_scores(plain_model, row) for row in rows])
        separate = [plain_score(plain_model, prompt, answer) for prompt, _ in prompts(groups) for answer in ANSWERS]
    torch.testing.assert_close(packed, torch.stack(separate), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(reference, torch.stack(separate), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("collator", [ROWS, ReferenceRows()], ids=["rows", "reference"])
def test_the_ratings_of_a_prefix_are_one_more_score(collator, weight, row_model, plain_model):
    group = CASES["a group of one"][0]
    row = collator.train_row([group], weight)
    assert row.weight.tolist() == pytest.approx([1.0, *[weight] * (weight > 0)])
    with torch.no_grad():
        scores = row_scores(row_model if collator is ROWS else plain_model, row)
        expected = plain_log_probabilities(plain_model, group.prefix)[group.lines - 1].sum()
    if weight:
        assert float(scores[1]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_loss_and_gradients_are_those_of_the_separate_samples(dtype, relative, weight):
    shared, plain = make_model(ROW_ATTENTION, dtype), make_model("sdpa", dtype)
    groups = together("a group", "all kinds", "unshared")

    def loss(model, rows):
        return -sum((row_scores(model, row) * row.weight).sum() for row in rows)

    one = loss(shared, [ROWS.train_row(groups[:2], weight), ROWS.train_row(groups[2:], weight)])
    other = loss(plain, [ReferenceRows().train_row([group], weight) for group in separately(groups)])
    assert one.item() == pytest.approx(other.item(), rel=relative)
    assert_close_gradients(gradients(shared, one), gradients(plain, other), relative)


def test_a_prefix_without_suffixes_carries_the_loss_of_its_lines(row_model, plain_model):
    groups = [PrefixGroup(group.prefix, group.lines, ()) for group in together("a group", "a group of one")]
    row = ROWS.train_row(groups, 1.0)
    assert row.weight.tolist() == [1.0]
    with torch.no_grad():
        expected = [plain_log_probabilities(plain_model, group.prefix)[group.lines - 1].sum() for group in groups]
        assert float(row_scores(row_model, row)) == pytest.approx(float(sum(expected)), rel=1e-6)


def test_checkpointing_changes_nothing():
    row = ROWS.train_row(together("a group", "all kinds"))
    models = [make_model(ROW_ATTENTION, checkpointing=on) for on in (False, True)]
    losses = [-row_scores(model, row).sum() for model in models]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    assert_close_gradients(*(gradients(m, loss) for m, loss in zip(models, losses, strict=True)), relative=1e-12)


SEVERAL = together("all kinds", "unshared")


@pytest.mark.parametrize("scoring", [False, True])
@pytest.mark.parametrize("changed", range(len(SEVERAL)))
def test_no_group_sees_another_or_any_padding(row_model, scoring, changed):
    """Other tokens in one group leave the scores of all others as they are, bit for bit."""
    other = list(SEVERAL)
    other[changed] = replace(other[changed], prefix=2 + (other[changed].prefix + 1) % (VOCABULARY - 2))

    def scores(groups):
        with torch.no_grad():
            return row_scores(row_model, make_row("score" if scoring else "train", groups))

    owner = np.repeat(
        np.arange(len(SEVERAL)), [len(group.suffixes) * (len(ANSWERS) if scoring else 1) for group in SEVERAL]
    )
    same = scores(SEVERAL) == scores(other)
    assert same.tolist() == (owner != changed).tolist()


@pytest.mark.parametrize("changed", range(4))
def test_no_suffix_sees_another(row_model, changed):
    (group,) = CASES["a group"]
    suffixes = list(group.suffixes)
    suffixes[changed] = replace(suffixes[changed], ids=2 + (suffixes[changed].ids + 1) % (VOCABULARY - 2))
    with torch.no_grad():
        some, other = (
            row_scores(row_model, ROWS.train_row([one])) for one in (group, replace(group, suffixes=tuple(suffixes)))
        )
    assert (some == other).tolist() == [i != changed for i in range(4)]


def test_answers_do_not_see_one_another(row_model):
    groups = together("a group", "unshared")
    with torch.no_grad():
        some, other = (
            row_scores(row_model, ROWS.score_row(groups, answers)).view(-1, 4)
            for answers in (ANSWERS, [*ANSWERS[:2], np.array([30, 31, 32, 1]), ANSWERS[3]])
        )
    assert (some == other).all(dim=0).tolist() == [True, True, False, True]


@pytest.mark.parametrize("collator", [ROWS, ReferenceRows()], ids=["rows", "reference"])
def test_a_filler_row_has_no_scores_and_gives_every_parameter_a_zero_gradient(collator):
    model = make_model(ROW_ATTENTION if collator is ROWS else "sdpa")
    for row in (collator.train_row([]), collator.train_row([], 1.0), collator.score_row([], ANSWERS)):
        assert row.scores == len(row.label) == 0
        layout = {} if row.spans is None else {"layout": with_cpu_layout(row).layout}
        logits = model(row.input_ids, position_ids=row.position_ids, logits_to_keep=row.keep, **layout).logits
        assert all(not gradient.any() for gradient in gradients(model, logits.sum() * 0).values())


def test_a_filler_row_sees_itself():
    assert dense_mask(filler_row().spans).tolist() == [[True]]


def tensors_of(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inside = value if isinstance(value, tuple) else vars(value).values() if hasattr(value, "__dict__") else ()
    return [tensor for item in inside for tensor in tensors_of(item)]


@pytest.mark.parametrize("kind", ["train", "score"])
def test_a_row_moves_with_all_its_tensors(kind):
    row = make_row(kind, SEVERAL)
    moved = row.to(torch.device("meta"))
    assert len(tensors_of(row)) == len(tensors_of(moved)) > 8 + len(row.layout.products)
    assert {tensor.device.type for tensor in tensors_of(row)} == {"cpu"}
    assert {tensor.device.type for tensor in tensors_of(moved)} == {"meta"}
    assert [tensor.shape for tensor in tensors_of(row)] == [tensor.shape for tensor in tensors_of(moved)]
    assert (moved.scores, moved.useful) == (row.scores, row.useful)
    assert [product.common for product in moved.layout.products] == [product.common for product in row.layout.products]


def test_a_row_is_pinned_with_all_its_tensors(monkeypatch):
    pinned = []

    def pin(tensor):
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    row = make_row("score", SEVERAL)
    copy = row.pin_memory()
    assert [id(tensor) for tensor in pinned] == [id(tensor) for tensor in tensors_of(row)]
    for one, other in zip(tensors_of(row), tensors_of(copy), strict=True):
        assert torch.equal(one, other) and one is not other
