"""Models from a folder under every ZeRO stage: spread while they are loaded, stepped, exported, and loaded again."""

from itertools import product

import pytest
import torch
from hydra.errors import InstantiationException
from test_engine_steps import distance
from transformers import AutoModelForCausalLM
from transformers.integrations import is_deepspeed_zero3_enabled

from mlens.errors import UserError
from mlens.model.adapters import merged
from mlens.model.settings import Lora
from tests.helpers.other_models import save_model, with_model
from tests.helpers.runs import ROOT, command
from tests.helpers.steps import answer_log_probabilities, engine_steps, parts, plain_steps

RULE = ("trainer.gradient_clipping=0",)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = parts()
    return {name: save_model(name, made, tmp_path_factory.mktemp(name)) for name in ("tied", "untied", "moe")}


@pytest.fixture(scope="module")
def plain(folders):
    """By the model's name: (losses, weights before, weights after) of plain PyTorch."""

    def steps(name):
        made = parts("packing=reference", "model.attention=sdpa", *RULE)
        model = AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32, attn_implementation="sdpa")
        start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        losses = plain_steps(made, model.train(), 2)
        return losses, start, model.state_dict()

    return {name: steps(name) for name in folders}


def cases():
    """Every model at every stage, with and without checkpointing; what is most apart every day."""
    daily = {("untied", 2, False), ("tied", 3, True), ("moe", 3, True)}
    for case in product(("tied", "untied", "moe"), range(4), (False, True)):
        yield pytest.param(*case, marks=[] if case in daily else pytest.mark.slow)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "stage", "checkpointing"), cases())
def test_steps_and_exports_equal_plain_pytorch(name, stage, checkpointing, folders, plain, tmp_path):
    losses, start, after = plain[name]
    made = with_model(folders[name], f"deepspeed=zero{stage}", *RULE, gradient_checkpointing=checkpointing)
    engine = made.engine()
    assert engine_steps(made, engine, 2) == pytest.approx(losses, rel=1e-5)
    engine.export(tmp_path / "model", made.tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert distance(again.state_dict(), after, start) < 2e-4
    own, output = again.get_input_embeddings().weight, again.get_output_embeddings().weight
    assert (own.data_ptr() == output.data_ptr()) == (name == "tied")
    dataset = made.datasets["test"]
    row = made.collator.score_row([dataset.prefix_group([0])], dataset.renderer.template.answers)
    with torch.no_grad():
        prompt = dataset[0].prompt
        want = [float(answer_log_probabilities(again, prompt, a).sum()) for a in dataset.renderer.template.answers]
    assert engine.score(row).tolist() == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("stage", [0, 3])
def test_muon_is_refused_where_a_parameter_holds_several_matrices(stage, folders):
    rule = ("trainer.optimizer=muon", "trainer.gradient_clipping=0")
    with pytest.raises(InstantiationException, match=r"trainer\.optimizer=adamw") as caught:
        with_model(folders["moe"], f"deepspeed=zero{stage}", *rule).engine()
    assert isinstance(caught.value.__cause__, UserError)


def test_a_model_from_a_folder_is_in_parts_before_the_engine_is_made(folders):
    made = with_model(folders["tied"], "deepspeed=zero3")
    assert all(p.numel() == 0 and p.ds_tensor.numel() == p.ds_numel for p in made.model.parameters())
    assert not is_deepspeed_zero3_enabled()  # or every later model of this process would be
    assert all(p.numel() for p in with_model(folders["tied"], "deepspeed=zero2").model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tied", "untied", "moe"])
def test_two_ranks_step_like_one(name, folders, plain, tmp_path):
    """Samples of the two ranks go to different experts: neither waits for the other's."""
    losses, start, after = plain[name]
    script = str(ROOT / "tests" / "helpers" / "other_models.py")
    result = command(script, "step", str(folders[name]), str(tmp_path), *RULE, ranks=2)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("stage")]
    assert [line[0] for line in lines] == ["stage2", "stage3"]
    for stage, *own in lines:
        assert [float(loss) for loss in own] == pytest.approx(losses, rel=1e-5)
        again = AutoModelForCausalLM.from_pretrained(tmp_path / stage, dtype=torch.float32)
        assert distance(again.state_dict(), after, start) < 1e-4


@pytest.mark.slow
def test_no_rank_holds_a_whole_copy_while_a_model_is_spread(tmp_path):
    """190 million bfloat16 parameters: beside the file, which rank 0 maps, each takes little more than its part."""
    script = str(ROOT / "tests" / "helpers" / "other_models.py")
    # What is freed goes back at once, or the figures would be those of the allocator's leftovers.
    result = command(script, "load", str(tmp_path), ranks=2, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0")
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("rank")]
    assert {line[1] for line in lines} == {"0", "1"}
    for _, rank, whole, own, peak in lines:
        assert int(own) == int(whole) / 2
        assert int(peak) < 0.75 * int(whole), (rank, lines)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "stage", "dora"),
    [
        ("tied", 0, False),
        ("moe", 3, False),
        ("tied", 2, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("tied", 3, False), ("moe", 0, False), ("untied", 0, True), ("moe", 1, True))
        ),
    ],
)
def test_merged_adapters_score_as_they_did_beside_the_model(name, stage, dora, folders, tmp_path):
    overrides = (f"deepspeed=zero{stage}", "trainer.learning_rate=0.01", *RULE)
    adapters = Lora(r=4, dora=dora, merge=True)
    made = with_model(folders[name], *overrides, peft=adapters, gradient_checkpointing=True)
    engine = made.engine()
    dataset = made.datasets["test"]
    row = made.collator.score_row([dataset.prefix_group([0])], dataset.renderer.template.answers)
    fresh = engine.score(row)
    engine_steps(made, engine, 2)
    engine.export(tmp_path / "merged", made.tokenizer, merge=True)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32).state_dict()
    moved = {key.split(".")[-2] for key, tensor in again.state_dict().items() if not torch.equal(tensor, start[key])}
    experts = name == "moe"
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj"} | (
        set() if experts else {"gate_proj", "up_proj", "down_proj"}
    )
    prompt, answers = dataset[0].prompt, dataset.renderer.template.answers
    with torch.no_grad():
        want = [float(answer_log_probabilities(again, prompt, answer).sum()) for answer in answers]
    assert engine.score(row).tolist() == pytest.approx(want, abs=1e-4)
    assert (engine.score(row) - fresh).abs().max() > 1e-2


def test_adapters_of_embeddings_can_not_be_merged(folders):
    for module in ("embed_tokens", "lm_head"):
        with pytest.raises(UserError, match=r"peft\.merge=true"):
            with_model(folders["untied"], peft=Lora(r=2, target_modules=["q_proj", module], merge=True))


def test_merging_keeps_the_dtype_and_sums_in_float32():
    draw = torch.Generator().manual_seed(0)
    w, a, b = (torch.randn(*shape, generator=draw).bfloat16() for shape in ((6, 4), (2, 4), (6, 2)))
    state = {
        "base_model.model.x.q.base_layer.weight": w,
        "base_model.model.x.q.base_layer.bias": b[:, 0],
        "base_model.model.x.q.lora_A.default.weight": a,
        "base_model.model.x.q.lora_B.default.weight": b,
        "base_model.model.norm.weight": a,
    }
    plain = merged(state, scale=2.0)
    assert plain.keys() == {"x.q.weight", "x.q.bias", "norm.weight"}
    assert torch.equal(plain["x.q.weight"], (w.double() + 2 * b.double() @ a.double()).bfloat16())
    assert plain["x.q.bias"] is state["base_model.model.x.q.base_layer.bias"] and plain["norm.weight"] is a


def test_merged_dora_has_rows_of_the_trained_magnitude():
    draw = torch.Generator().manual_seed(0)
    w, a, b = (torch.randn(*shape, generator=draw) for shape in ((6, 4), (2, 4), (6, 2)))
    magnitude = torch.rand(6, generator=draw) + 0.5
    state = {
        "base_model.model.x.q.base_layer.weight": w,
        "base_model.model.x.q.lora_A.default.weight": a,
        "base_model.model.x.q.lora_B.default.weight": b,
        "base_model.model.x.q.lora_magnitude_vector.default.weight": magnitude,
    }
    (plain,) = merged(state, scale=2.0).values()
    assert torch.allclose(plain.norm(dim=1), magnitude)
    assert torch.allclose(torch.cosine_similarity(plain, w + 2 * b @ a), torch.ones(6))
