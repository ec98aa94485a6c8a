"""4-bit weights under adapters, and 8-bit states of AdamW, as bitsandbytes computes them on a CPU."""

from importlib.util import find_spec

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from mlens.engine.checkpoints import Checkpoints
from mlens.errors import UserError
from mlens.model.settings import Lora
from mlens.plan.rank_memory import NF4 as NF4_BYTES
from tests.helpers.other_models import save_model, with_model
from tests.helpers.predicting_runs import predicting_run
from tests.helpers.steps import answer_log_probabilities, engine_steps, parts, plain_steps

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes: the extra qlora")
RULE = ("trainer.learning_rate=0.01", "trainer.gradient_clipping=0")
# The 16 values of NF4 (Dettmers et al., 2023, appendix E).
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model("untied", parts(), tmp_path_factory.mktemp("untied"))


def scores(made, engine):
    dataset = made.datasets["test"]
    row = made.collator.score_row([dataset.prefix_group([0])], dataset.renderer.template.answers)
    return engine.score(row)


def test_the_planned_bytes_are_those_of_bitsandbytes():
    from bitsandbytes.functional import quantize_4bit

    packed, scales = quantize_4bit(torch.randn(512, 1024), compress_statistics=True, quant_type="nf4")
    kept = packed.numel() + scales.absmax.nbytes + scales.state2.absmax.nbytes
    assert kept == NF4_BYTES * 512 * 1024


def quantised_model(folder, *overrides, **more):
    return with_model(folder, *RULE, *overrides, peft=Lora(r=4, load_in_4bit=True, **more), gradient_checkpointing=True)


def in_nf4(weight: torch.Tensor) -> torch.Tensor:
    """The nearest values of NF4, in blocks of 64 with unquantised scales."""
    blocks = weight.reshape(-1, 64)
    scales = blocks.abs().amax(1, keepdim=True)
    values = torch.tensor(NF4)
    return (values[(blocks / scales)[..., None].sub(values).abs().argmin(-1)] * scales).reshape(weight.shape)


def test_the_linear_layers_alone_are_in_4_bits(folder):
    from bitsandbytes.functional import dequantize_4bit

    model = quantised_model(folder).model.get_base_model()
    start = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        before = start[name.replace(".base_layer", "")]
        if not name.endswith("base_layer.weight"):
            assert torch.equal(parameter, before)
            continue
        assert parameter.dtype == torch.uint8 and 2 * parameter.numel() == before.numel()
        now = dequantize_4bit(parameter.data, parameter.quant_state)
        # The scales are in 8 bits.
        assert (now - in_nf4(before)).abs().max() < 0.02 * before.abs().max()


@pytest.mark.parametrize(
    ("stage", "dora"),
    [(2, False), (1, True), *(pytest.param(0, dora, marks=pytest.mark.slow) for dora in (False, True))],
)
def test_adapters_over_4_bits_learn_resume_and_are_merged(stage, dora, folder, tmp_path):
    made = quantised_model(folder, f"deepspeed=zero{stage}", dora=dora, merge=True)
    engine = made.engine()
    parameters = engine.parameters
    fresh = scores(made, engine)
    losses = engine_steps(made, engine, 2)
    checkpoints = Checkpoints(engine, tmp_path, 2)
    checkpoints.save(2, {"step": 2}, None)
    (file,) = (tmp_path / "step_00000002").glob("mp_rank_00_model_states.pt")
    trained = {name: parameter.numel() for name, parameter in made.model.named_parameters() if parameter.requires_grad}
    assert torch.load(file, weights_only=False)["module"].keys() == trained.keys()
    losses += engine_steps(made, engine, 4, first=2)
    assert losses[-1] < losses[0]
    after = scores(made, engine)

    again = quantised_model(folder, f"deepspeed=zero{stage}", dora=dora, merge=True)
    resumed = again.engine()
    assert torch.equal(scores(again, resumed), fresh)
    assert Checkpoints(resumed, tmp_path, 2).load_newest() == {"step": 2}
    assert engine_steps(again, resumed, 4, first=2) == losses[2:]
    assert torch.equal(scores(again, resumed), after)

    engine.export(tmp_path / "merged", made.tokenizer, merge=True)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    dataset = made.datasets["test"]
    with torch.no_grad():
        prompt, answers = dataset[0].prompt, dataset.renderer.template.answers
        want = [float(answer_log_probabilities(plain, prompt, answer).sum()) for answer in answers]
    assert after.tolist() == pytest.approx(want, abs=1e-4)
    assert parameters == sum(p.numel() for p in plain.parameters()) + sum(trained.values())
    assert engine.checkpoint_bytes == 16 * sum(trained.values())


def test_a_checkpoint_of_4_bits_is_converted_for_another_number_of_ranks(folder, tmp_path):
    made = quantised_model(folder, "deepspeed=zero2")
    engine = made.engine()
    engine_steps(made, engine, 2)
    engine.save(tmp_path, "two")
    losses = engine_steps(made, engine, 3, first=2)
    again = quantised_model(folder, "deepspeed=zero2")
    resumed = again.engine()
    resumed.load(tmp_path, "two", written_by=2)
    assert engine_steps(again, resumed, 3, first=2) == pytest.approx(losses, rel=1e-5)


EIGHT = ("trainer.optimizer=adamw_8bit", *RULE)


@pytest.mark.parametrize("stage", [0, 2, pytest.param(1, marks=pytest.mark.slow), 3])
def test_8_bit_adamw_steps_like_adamw_and_resumes(stage, tmp_path):
    made = parts(f"deepspeed=zero{stage}", *EIGHT)
    engine = made.engine()
    losses = engine_steps(made, engine, 2)
    want = plain_steps(made, parts("packing=reference", "model.attention=sdpa", *RULE).model, 4)
    Checkpoints(engine, tmp_path, 2).save(2, {"step": 2}, None)
    losses += engine_steps(made, engine, 4, first=2)
    assert losses == pytest.approx(want, rel=0.02) and losses[0] == pytest.approx(want[0], rel=1e-5)
    again = parts(f"deepspeed=zero{stage}", *EIGHT)
    resumed = again.engine()
    assert Checkpoints(resumed, tmp_path, 2).load_newest() == {"step": 2}
    assert engine_steps(again, resumed, 4, first=2) == losses[2:]
    if stage == 2:
        with pytest.raises(UserError, match=r"trainer\.optimizer=adamw_8bit resume with as many"):
            resumed.load(tmp_path, "step_00000002", written_by=2)
        (state,) = engine._engine.basic_optimizer.state.values()  # all parameters are flattened into one
        assert state["state1"].dtype == state["state2"].dtype == torch.uint8


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("model.dtype=bfloat16",), ("peft.dora=true",)], ids=str)
def test_an_adapter_predicts_over_4_bits_as_its_run_measured(more, tmp_path):
    run = predicting_run(tmp_path / "run", "peft=qlora", *EIGHT[:1], "trainer.gradient_clipping=1", *more)
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()
    # Later targets go on from the window of those before them.
    for row in run.test.filter(pl.col("user").is_first_distinct()).iter_rows(named=True):
        (found,) = run.predict(row).rows(named=True)
        names = [name for name in row if name.startswith("p_")]
        tolerance = 2e-6 if "bfloat16" not in str(more) else 2e-2
        assert [found[name] for name in names] == pytest.approx([row[name] for name in names], abs=tolerance)
