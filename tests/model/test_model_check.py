"""A model that gives wrong results for packed rows is refused before training; a correct one passes."""

from dataclasses import replace

import pytest
import torch

import mlens.model.check as module
from mlens.errors import UserError
from mlens.model import scores
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.model.attention.cpu_layout import CpuLayout, with_cpu_layout
from mlens.model.check import ModelCheck, check_model, require_passed, worst
from mlens.model.load import ParamPlacement, build_model
from mlens.model.settings import Lora, NoPeft, PretrainedModel

LONGEST = 256


def checked(folder, made, longest=LONGEST, bf16=False, autocast=False, peft=None, **fields):
    settings = PretrainedModel(name=None, path=str(folder), **fields)
    model = build_model(settings, peft or NoPeft(), made.tokenizer, longest, seed=0, placement=ParamPlacement(bf16))
    plain = model.get_base_model() if peft else model
    before = plain.config._attn_implementation, plain.training, torch.get_rng_state()
    found = check_model(model, plain, longest, autocast, torch.device("cpu"))
    require_passed(found, name="the model")
    assert (plain.config._attn_implementation, plain.training) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    return found


@pytest.mark.parametrize("name", ["tied", "untied", "moe", "llama", "wide window", "opt", "gpt2"])
def test_a_correct_model_passes_within_rounding(name, made, folder_of):
    found = checked(folder_of(name), made)
    assert found.kind == "rows" and found.difference < 1e-5 and found.tokens < 400


@pytest.mark.parametrize("how", [{"bf16": True}, {"autocast": True}, {"peft": Lora(r=2)}])
def test_it_passes_in_bfloat16_and_with_adapters(how, made, folder_of):
    assert checked(folder_of("tied"), made, **how).passed


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["convolutions", "state space", "longrope", "both ways"])
def test_a_model_that_looks_across_samples_is_refused(name, bf16, made, folder_of):
    with pytest.raises(UserError, match=r"can't use packed rows: .* differ by .* packing=reference"):
        checked(folder_of(name), made, bf16=bf16)


def test_rotary_factors_that_no_prompt_reaches_are_accepted(made, folder_of):
    assert checked(folder_of("longrope"), made, longest=200).passed


def test_chunks_that_a_prompt_may_leave_are_refused(made, folder_of):
    with pytest.raises(UserError, match=r"chunks of 64 tokens.* prompt\.max_tokens=256"):
        checked(folder_of("chunks"), made)
    assert checked(folder_of("chunks"), made, longest=64).passed


def test_a_model_that_does_not_pass_the_row_to_its_attention_is_refused_in_one_line(made, folder_of):
    # Some versions of transformers refuse to build it, others build a model that can't compute.
    with pytest.raises(UserError, match=r"can't (use|compute) packed rows.* packing=reference") as caught:
        checked(folder_of("attention without arguments"), made)
    assert "\n" not in str(caught.value)


def test_without_rows_a_model_must_be_causal(made, folder_of):
    assert checked(folder_of("tied"), made, attention="sdpa") == ModelCheck("causal", 0.0, 1e-4, 183)
    assert checked(folder_of("convolutions"), made, attention="eager").passed
    with pytest.raises(UserError, match="isn't causal"):
        checked(folder_of("both ways"), made, attention="eager")


@pytest.mark.parametrize("wrong", ["a product forgotten", "positions of another sample"])
def test_wrong_rows_of_a_correct_model_are_detected(wrong, made, folder_of, monkeypatch):
    """So the check also covers the attention and the rows of mlens."""

    class Wrong(module.PackedRows):
        def train_row(self, groups, history_loss_weight=0.0):
            row = super().train_row(groups, history_loss_weight)
            return replace(row, position_ids=torch.arange(row.input_ids.shape[1])[None] % LONGEST)

    def forgetful(row):
        row = with_cpu_layout(row)
        return row if row.layout is None else replace(row, layout=CpuLayout(row.layout.products[:-1]))

    if wrong == "a product forgotten":
        monkeypatch.setattr(scores, "with_cpu_layout", forgetful)
    else:
        monkeypatch.setattr(module, "PackedRows", Wrong)
    with pytest.raises(UserError, match="can't use packed rows"):
        checked(folder_of("tied"), made)


def test_a_difference_that_is_not_a_number_fails():
    nan, zero, some = (ModelCheck("rows", difference, 0.1, 10) for difference in (float("nan"), 0.0, 0.05))
    assert not nan.passed and zero.passed
    assert worst([zero, some, zero]) == some and worst([zero, nan, some]) is nan
    with pytest.raises(UserError):
        require_passed(nan, "a model")


def test_a_run_checks_its_model_and_records_the_result(made):
    engine = made.engine()
    assert made.model.config._attn_implementation == ROW_ATTENTION
    engine.check(LONGEST)
    assert engine.checked.kind == "rows" and engine.checked.passed
