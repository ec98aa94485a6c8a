"""Flex attention over a row's blocks against SDPA under the dense mask: uncompiled here, compiled on a GPU."""

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, Qwen3Config

from mlens.model.attention import cuda
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.model.attention.cuda import FLEX_ATTENTION, flex_row_attention
from mlens.model.attention.cuda_layout import BLOCK, cuda_layout, with_cuda_layout
from mlens.packing.packed import PackedRows
from mlens.packing.row import dense_mask
from tests.helpers.naive_rows import naive_row
from tests.helpers.prefix_groups import ANSWERS, lone_groups, make_group
from tests.helpers.small_model import model_once, row_scores

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled flex attention needs a CUDA device")
CUDA = "cuda"
SCALE = 0.3
# Lengths: 1; just under, on and just over a block; several blocks with full ones among them.
ROWS = {
    1: naive_row([(1, [])]),
    127: naive_row([(90, [(20, 30, [(2, 20), (3, 7)]), (12, 90, [])])]),
    128: naive_row([(100, [(20, 0, [(2, 20)])]), (6, [])]),
    129: naive_row([(128, []), (1, [])]),
    640: naive_row([(300, [(40, 256, [(2, 40), (2, 40)]), (40, 299, [])]), (200, [(30, 1, []), (26, 200, [])])]),
}
LONGEST = ROWS[640]


@pytest.fixture(autouse=True)
def compiles_anew():
    """Reset compiled functions before each test: torch compiles a function only a limited number of times."""
    torch._dynamo.reset()


def inputs(tokens, heads=4, kv_heads=2, d=16, dtype=torch.float32, device="cpu"):
    """Queries, keys and values as a model has them: transposed views of [1, tokens, heads, d]."""
    draw = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(1, tokens, n, d, generator=draw).to(device, dtype).transpose(1, 2) for n in (heads, *[kv_heads] * 2)
    ]


def attend(q, k, v, spans):
    return flex_row_attention(None, q, k, v, None, scaling=SCALE, layout=moved(cuda_layout(spans), q.device))[0]


def moved(blocks, device):
    """The blocks with each tensor on `device`, as a row moves its layout."""
    return type(blocks)(
        *(tensor.to(device) for tensor in vars(blocks).values() if isinstance(tensor, torch.Tensor)), blocks.block
    )


def attend_densely(q, k, v, spans):
    mask = dense_mask(spans).to(q.device)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=SCALE, enable_gqa=True).transpose(1, 2)


def small_model(attention, device="cpu"):
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        use_cache=False,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(device)


def logits_of(model, row, **layout):
    device = model.device
    ids = (torch.arange(len(row.spans)) * 7 % 50).to(device)
    return model(input_ids=ids[None], position_ids=row.positions[None].to(device), **layout).logits[0]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tokens", ROWS)
@pytest.mark.parametrize(
    "kv_heads", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_rows_attention_is_that_of_the_dense_mask(tokens, kv_heads):
    spans = ROWS[tokens].spans
    q, k, v = inputs(tokens, kv_heads=kv_heads)
    attended = attend(q, k, v, spans)
    assert attended.shape == (1, tokens, 4, 16)
    assert torch.allclose(attended, attend_densely(q, k, v, spans), atol=2e-6)


def test_bfloat16_stays_bfloat16():
    q, k, v = inputs(640, dtype=torch.bfloat16)
    attended = attend(q, k, v, LONGEST.spans)
    assert attended.dtype == torch.bfloat16
    exact = attend_densely(q.float(), k.float(), v.float(), LONGEST.spans)
    assert torch.allclose(attended.float(), exact, atol=2e-2)


def test_under_autocast_queries_keys_and_values_are_of_one_type():
    q, k, v = inputs(640)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended = attend(q, k, v.bfloat16(), LONGEST.spans)
    assert attended.dtype == torch.bfloat16
    assert torch.allclose(attended.float(), attend_densely(q, k, v, LONGEST.spans), atol=5e-2)


def test_a_models_logits_are_those_under_the_dense_mask():
    model, plain = small_model(FLEX_ATTENTION), small_model("sdpa")
    with torch.no_grad():
        ours = logits_of(model, LONGEST, layout=cuda_layout(LONGEST.spans))
        theirs = logits_of(plain, LONGEST, attention_mask=dense_mask(LONGEST.spans)[None, None])
        causal = logits_of(plain, LONGEST)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, causal, atol=1e-2)


@pytest.mark.parametrize("scoring", [False, True])
def test_a_row_padded_to_blocks_scores_as_under_row_attention(scoring):
    groups = [make_group(90, [(30, 20), (90, 25)]), *lone_groups([9, 40])]
    row = PackedRows().score_row(groups, ANSWERS) if scoring else PackedRows().train_row(groups, 0.5)
    on_gpu, on_cpu = model_once(FLEX_ATTENTION, torch.float32), model_once(ROW_ATTENTION, torch.float32)
    with torch.no_grad():
        ours, theirs = row_scores(on_gpu, with_cuda_layout(row)), row_scores(on_cpu, row)
    assert len(row.spans) % BLOCK
    assert torch.allclose(ours, theirs, rtol=1e-5)


def test_the_mask_is_made_once_for_all_layers(monkeypatch):
    made, make = [], BlockMask.from_kv_blocks
    monkeypatch.setattr(BlockMask, "from_kv_blocks", lambda *args, **named: made.append(1) or make(*args, **named))
    model, blocks = small_model(FLEX_ATTENTION), cuda_layout(LONGEST.spans)
    with torch.no_grad():
        logits_of(model, LONGEST, layout=blocks)
        logits_of(model, LONGEST, layout=blocks)
    assert len(made) == 1


def test_a_leak_changes_only_its_token():
    spans = LONGEST.spans.clone()
    token = 300 + 5  # of the first suffix, which sees 256 tokens of the prefix
    spans[token, 0, 1] += 1
    q, k, v = inputs(640)
    right, leaking = attend(q, k, v, LONGEST.spans)[0], attend(q, k, v, spans)[0]
    differs = (right - leaking).abs().amax(dim=(1, 2)) > 1e-5
    assert differs.nonzero().flatten().tolist() == [token]


def test_padding_that_sees_nothing_gives_zeros():
    spans = torch.cat([ROWS[127].spans, torch.zeros(129, 3, 2, dtype=torch.int32)])
    q, k, v = inputs(256)
    attended = attend(q, k, v, spans)
    assert torch.equal(attended[:, 127:], torch.zeros(1, 129, 4, 16))
    assert torch.allclose(
        attended[:, :127], attend_densely(*(x[:, :, :127] for x in (q, k, v)), spans[:127]), atol=2e-6
    )


def test_unsupported_arguments_are_refused():
    q, k, v = inputs(1)
    for layout in (None, object()):
        with pytest.raises(ValueError, match="blocks"):
            flex_row_attention(None, q, k, v, None, SCALE, layout=layout)
    with pytest.raises(ValueError, match="dropout"):
        flex_row_attention(None, q, k, v, None, SCALE, dropout=0.1, layout=cuda_layout(ROWS[1].spans))


@pytest.mark.slow
@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param((640, 768, 1024, 1280), id="complete blocks", marks=pytest.mark.slow),
        pytest.param((641, 1000, 650, 1279), id="others"),
    ],
)
@pytest.mark.parametrize("stems", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_compilation_serves_rows_of_every_length(lengths, stems):
    compiled = []

    def count(graph, _):
        compiled.append(1)
        return graph.forward

    # At least five blocks: torch would identify a size of the first row with an equal number of heads.
    with torch.compiler.set_stance(force_backend=count):
        for tokens in lengths:
            spans = torch.nn.functional.pad(naive_row([(tokens, [])]).spans, (0, 0, 0, stems))
            spans[-1, -1] = spans[-1, 2]  # with stems, one token sees everything by its fourth span
            spans[-1, :-1] *= 1 - stems
            q, k, v = inputs(tokens)
            attended = cuda._attend_compiled()(q, k, v, cuda_layout(spans).mask, SCALE).transpose(1, 2)
            assert torch.allclose(attended, attend_densely(q, k, v, spans), atol=2e-6)
    assert len(compiled) == 1


def gradients(attention, tensors, spans, weight):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    result = attention(*leaves, spans)
    return result.detach(), torch.autograd.grad((result.float() * weight).sum(), leaves)


def far(a, b):
    """The largest difference, relative to the largest value."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-9))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("tokens", ROWS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_compiled_attention_and_its_gradients_are_those_of_the_dense_mask(tokens, kv_heads):
    spans = ROWS[tokens].spans
    tensors = inputs(tokens, kv_heads=kv_heads, device=CUDA)
    weight = torch.linspace(0.5, 2, tokens, device=CUDA)[None, :, None, None]
    ours, our_gradients = gradients(attend, tensors, spans, weight)
    theirs, their_gradients = gradients(attend_densely, tensors, spans, weight)
    assert far(ours, theirs) < 1e-5
    for a, b in zip(our_gradients, their_gradients, strict=True):
        # With a softmax over one token, the gradients of query and key are only rounding errors.
        assert far(a, b) < 1e-4 or tokens == 1


@pytest.mark.gpu
@needs_gpu
def test_compiled_attention_in_bfloat16():
    tensors = inputs(640, device=CUDA)
    weight = torch.linspace(0.5, 2, 640, device=CUDA)[None, :, None, None]
    ours, our_gradients = gradients(attend, [x.bfloat16() for x in tensors], LONGEST.spans, weight)
    theirs, their_gradients = gradients(attend_densely, tensors, LONGEST.spans, weight)
    assert ours.dtype == torch.bfloat16
    assert far(ours, theirs) < 2e-2
    assert all(far(a, b) < 5e-2 for a, b in zip(our_gradients, their_gradients, strict=True))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_models_gradients_are_those_under_the_dense_mask(checkpointing):
    model, plain = small_model(FLEX_ATTENTION, CUDA), small_model("sdpa", CUDA)
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    layout = moved(cuda_layout(LONGEST.spans), CUDA)
    ours = logits_of(model, LONGEST, layout=layout)
    theirs = logits_of(plain, LONGEST, attention_mask=dense_mask(LONGEST.spans).to(CUDA)[None, None])
    assert torch.allclose(ours, theirs, atol=1e-4)
    weight = torch.linspace(0.5, 2, 50, device=CUDA)
    for logits in (ours, theirs):
        (logits.log_softmax(-1) * weight).sum().backward()
    for (name, a), (_, b) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert far(a.grad, b.grad) < 1e-3, name


@pytest.mark.gpu
@needs_gpu
def test_a_long_rows_memory_is_far_below_pairs_of_tokens():
    tokens = 125 * BLOCK
    spans = torch.zeros(tokens, 3, 2, dtype=torch.int32)
    spans[:, 2, 1] = torch.arange(tokens) + 1
    tensors = inputs(tokens, heads=2, kv_heads=1, d=64, dtype=torch.bfloat16, device=CUDA)
    weight = torch.ones(1, tokens, 1, 1, device=CUDA)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients(attend, tensors, spans, weight)
    # One byte a pair would be just a bool mask, without scores.
    assert torch.cuda.max_memory_allocated() - before < tokens**2 / 2
