"""Any causal language model gives the same for packed rows as for separate samples, or is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mlens.errors import UserError
from mlens.model.attention.cpu import require_plain
from mlens.model.attention.cpu_layout import with_cpu_layout
from mlens.model.attention.cuda import FLEX_ATTENTION
from mlens.model.attention.cuda_layout import with_cuda_layout
from mlens.model.load import build_model
from mlens.model.scores import row_scores
from mlens.model.settings import NoPeft, PretrainedModel
from mlens.packing.packed import PackedRows
from tests.helpers.small_model import assert_close_gradients
from tests.helpers.steps import answer_log_probabilities

# A target without history, three suffixes of one prefix, and a target of another user.
TRAIN = [np.array([0]), np.array([39, 40, 41]), np.array([100])]


def row(made):
    return with_cpu_layout(PackedRows().train_row([made.datasets["train"].prefix_group(group) for group in TRAIN]))


def build(folder, made, **fields):
    settings = PretrainedModel(name=None, path=str(folder), dtype="float32", **fields)
    return build_model(settings, NoPeft(), made.tokenizer, longest=256, seed=0)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["tied", "untied", "moe", "llama", "wide window", "opt", "gpt2"])
def test_rows_scores_and_gradients_are_those_of_the_unmodified_model(name, checkpointing, made, folder_of):
    model = build(folder_of(name), made, gradient_checkpointing=checkpointing)
    plain = AutoModelForCausalLM.from_pretrained(folder_of(name), dtype=torch.float32, attn_implementation="sdpa")
    samples = [made.datasets["train"][int(i)] for group in TRAIN for i in group]
    packed = row_scores(model, row(made), autocast=False)
    separate = torch.stack([answer_log_probabilities(plain, s.prompt, s.answer).sum() for s in samples])
    assert torch.allclose(packed, separate, rtol=1e-5, atol=1e-5)
    weight = torch.linspace(0.5, 2.0, len(samples))
    ours, theirs = gradients(model, (packed * weight).sum()), gradients(plain, (separate * weight).sum())
    assert_close_gradients(ours, theirs, 1e-4)


def test_experts_differ_from_token_to_token(made, folder_of):
    """Otherwise the test above wouldn't test routing."""
    model = build(folder_of("moe"), made)
    chosen = []
    hook = model.model.layers[0].mlp.gate.register_forward_hook(lambda _, __, output: chosen.append(output[2]))
    with torch.no_grad():
        row_scores(model, row(made), autocast=False)
    hook.remove()
    assert set(chosen[0].flatten().tolist()) == {0, 1, 2, 3}


def test_a_model_of_experts_scores_the_same_under_flex_attention(made, folder_of):
    # FlexAttention refuses heads below 16 only on a GPU.
    settings = {"attn_implementation": FLEX_ATTENTION, "dtype": torch.float32}
    flex = AutoModelForCausalLM.from_pretrained(folder_of("moe"), **settings)
    with torch.no_grad():
        ours = row_scores(flex, with_cuda_layout(row(made)), autocast=False)
        theirs = row_scores(build(folder_of("moe"), made), row(made), autocast=False)
    assert torch.allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("narrow window", "sliding_window=100"),
        ("gemma2", r"softcap=50\.0"),
        ("gpt_oss", "s_aux"),
        ("gpt2 with dropout", r"dropout=0\.1"),
    ],
)
def test_attention_with_unsupported_arguments_is_refused_in_one_line(name, message, made, folder_of):
    model = build(folder_of(name), made)
    with pytest.raises(UserError, match=rf"requires .*{message}.* packing=reference"):
        row_scores(model, row(made), autocast=False)


@pytest.mark.parametrize("name", ["bloom", "falcon"])
def test_a_model_with_custom_attention_is_refused_with_a_remedy(name, made, folder_of):
    with pytest.raises(UserError, match=r"packing=reference model\.attention=sdpa"):
        build(folder_of(name), made)
    assert build(folder_of(name), made, attention="eager").training


def test_a_window_longer_than_all_samples_is_ignored():
    require_plain(0.0, sliding_window=8, position_ids=torch.arange(8)[None], use_cache=False, softcap=None)
    with pytest.raises(UserError, match="sliding_window=8"):
        require_plain(0.0, sliding_window=8, position_ids=torch.arange(9)[None])
    with pytest.raises(UserError, match="bias"):
        require_plain(0.0, bias=torch.zeros(1))


def test_the_window_is_compared_with_the_longest_sample_not_with_the_row(made, folder_of):
    longer = row(made)
    assert longer.input_ids.shape[1] > 256 > int(longer.position_ids.max())
    model = build(folder_of("wide window"), made)
    row_scores(model, longer, autocast=False)
    with pytest.raises(UserError, match="sliding_window=256"):
        row_scores(model, replace(longer, position_ids=longer.position_ids + 200), autocast=False)
