"""A step of the engine is a step of plain PyTorch, whatever ZeRO spreads and however samples are packed."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.runs import ROOT, command
from tests.helpers.steps import STEPS, engine_steps, exported, parts, plain_steps


def distance(a: dict, b: dict, start: dict) -> float:
    """How far two results are apart, beside how far the steps went."""
    names = [name for name in start if name in a]
    assert names
    apart = sum(float(((a[n].double() - b[n].double()) ** 2).sum()) for n in names)
    went = sum(float(((b[n].double() - start[n].double()) ** 2).sum()) for n in names)
    assert went > 0
    return (apart / went) ** 0.5


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """(losses, weights before, weights after) of plain PyTorch, by clipping."""

    def steps(*overrides):
        made = parts("packing=reference", "model.attention=sdpa", *overrides)
        start = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
        losses = plain_steps(made, made.model)
        return losses, start, made.model.state_dict()

    return steps


@pytest.fixture(scope="module")
def without_clipping(plain):
    return plain("trainer.gradient_clipping=0")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("stage", range(4))
def test_steps_equal_plain_pytorch_at_every_stage(stage, without_clipping, tmp_path):
    losses, start, after = without_clipping
    made = parts(f"deepspeed=zero{stage}", "trainer.gradient_clipping=0")
    engine = made.engine()
    assert engine_steps(made, engine) == pytest.approx(losses, rel=1e-5)
    assert distance(exported(made, engine, tmp_path / "model"), after, start) < 1e-4


def test_reference_rows_step_like_packed_ones(without_clipping, tmp_path):
    losses, start, after = without_clipping
    made = parts("packing=reference", "model.attention=sdpa", "deepspeed=zero0", "trainer.gradient_clipping=0")
    engine = made.engine()
    assert engine_steps(made, engine) == pytest.approx(losses, rel=1e-5)
    assert distance(exported(made, engine, tmp_path / "model"), after, start) < 1e-4


WITH_EXPECTED_PART = ("trainer.loss=ce+expected", "trainer.expected_loss_weight=0.5", "trainer.gradient_clipping=0")


@pytest.fixture(scope="module")
def with_expected_part(plain):
    return plain(*WITH_EXPECTED_PART)


@pytest.mark.parametrize("stage", [*(pytest.param(stage, marks=pytest.mark.slow) for stage in range(3)), 3])
def test_steps_of_a_loss_over_ratings_equal_plain_pytorch_at_every_stage(stage, with_expected_part, tmp_path):
    losses, start, after = with_expected_part
    made = parts(f"deepspeed=zero{stage}", *WITH_EXPECTED_PART)
    engine = made.engine()
    assert engine_steps(made, engine) == pytest.approx(losses, rel=1e-5)
    assert distance(exported(made, engine, tmp_path / "model"), after, start) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["expected", "ordinal"])
def test_steps_of_each_loss_over_ratings_equal_plain_pytorch(loss, plain, tmp_path):
    rule = (f"trainer.loss={loss}", "trainer.gradient_clipping=0")
    losses, start, after = plain(*rule)
    for rows in ((), ("packing=reference", "model.attention=sdpa")):
        made = parts("deepspeed=zero2", *rule, *rows)
        engine = made.engine()
        assert engine_steps(made, engine) == pytest.approx(losses, rel=1e-5)
        assert distance(exported(made, engine, tmp_path / "model"), after, start) < 1e-4


@pytest.mark.slow
def test_two_ranks_step_like_one_with_a_loss_over_ratings(with_expected_part, tmp_path):
    check_two_ranks(tmp_path, WITH_EXPECTED_PART, *with_expected_part)


WITH_HISTORY_LOSS = ("trainer.gradient_clipping=0", "trainer.history_loss_weight=0.5", "trainer.users_per_step=1")


@pytest.fixture(scope="module")
def with_history_loss(tmp_path_factory):
    """(losses, weights before, weights after) of reference rows, where ratings in histories carry loss too."""
    made = parts("packing=reference", "model.attention=sdpa", "deepspeed=zero0", *WITH_HISTORY_LOSS)
    start = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    engine = made.engine()
    losses = engine_steps(made, engine)
    return losses, start, exported(made, engine, tmp_path_factory.mktemp("reference") / "model")


@pytest.mark.parametrize("share", ["auto", "never"])
def test_history_loss_steps_equal_those_of_reference_rows(share, with_history_loss, without_clipping, tmp_path):
    losses, start, after = with_history_loss
    made = parts(f"packing.share={share}", "deepspeed=zero2", *WITH_HISTORY_LOSS)
    engine = made.engine()
    assert engine_steps(made, engine) == pytest.approx(losses, rel=1e-5)
    assert losses[0] != pytest.approx(without_clipping[0][0], rel=1e-3)
    assert distance(exported(made, engine, tmp_path / "model"), after, start) < 1e-4


@pytest.mark.parametrize("stage", [0, 2])
def test_clipping_is_of_the_whole_steps_gradient(stage, plain, tmp_path):
    losses, start, after = plain("trainer.gradient_clipping=0.1")
    made = parts(f"deepspeed=zero{stage}", "trainer.gradient_clipping=0.1")
    engine = made.engine()
    assert engine_steps(made, engine) == pytest.approx(losses, rel=1e-5)
    assert distance(exported(made, engine, tmp_path / "model"), after, start) < 1e-4


@pytest.mark.slow
def test_two_ranks_step_like_one_at_every_stage(without_clipping, tmp_path):
    check_two_ranks(tmp_path, ("trainer.gradient_clipping=0",), *without_clipping)


@pytest.mark.slow
def test_two_ranks_step_like_one_with_history_loss(with_history_loss, tmp_path):
    check_two_ranks(tmp_path, WITH_HISTORY_LOSS, *with_history_loss)


def check_two_ranks(tmp_path, overrides, losses, start, after):
    result = command(str(ROOT / "tests" / "helpers" / "steps.py"), str(tmp_path), *overrides, ranks=2)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("stage")]
    assert [line[0] for line in lines] == [f"stage{stage}" for stage in range(4)]
    for stage, line in enumerate(lines):
        assert [float(loss) for loss in line[1:]] == pytest.approx(losses, rel=1e-5)
        assert len(losses) == STEPS
        assert distance(load_file(tmp_path / f"stage{stage}" / "model.safetensors"), after, start) < 1e-4


@pytest.mark.parametrize("stage", [0, 2])
def test_bfloat16_steps_come_near_those_of_float32(stage, without_clipping):
    losses, _, _ = without_clipping
    made = parts(f"deepspeed=zero{stage}", "model.dtype=bfloat16", "trainer.gradient_clipping=0")
    held = {parameter.dtype for parameter in made.model.parameters()}
    assert held == {torch.float32 if stage == 0 else torch.bfloat16}
    assert engine_steps(made, made.engine()) == pytest.approx(losses, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_bfloat16_steps_of_a_loss_over_ratings_come_near_those_of_float32(stage, with_expected_part):
    losses, _, _ = with_expected_part
    made = parts(f"deepspeed=zero{stage}", "model.dtype=bfloat16", *WITH_EXPECTED_PART)
    assert engine_steps(made, made.engine()) == pytest.approx(losses, rel=0.02)


def test_muon_is_not_compiled_on_a_cpu_and_other_functions_still_are():
    before = torch.compile
    parts("trainer.optimizer=muon", "trainer.gradient_clipping=0").engine()
    muon = sys.modules["deepspeed.runtime.zero.muon.original_muon"]
    compiled = [name for name, value in vars(muon).items() if hasattr(value, "_torchdynamo_orig_callable")]
    assert callable(muon.muon_update) and compiled == []
    assert torch.compile is before


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(4))
def test_muon_gives_the_same_losses_at_every_stage(stage):
    rule = ("trainer.optimizer=muon", "trainer.learning_rate=0.02", "trainer.gradient_clipping=0")
    base = parts("deepspeed=zero0", *rule)
    made = parts(f"deepspeed=zero{stage}", *rule)
    assert engine_steps(made, made.engine()) == pytest.approx(engine_steps(base, base.engine()), rel=1e-3)
