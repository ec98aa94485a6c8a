"""The loss without logits equals the loss. Liger's kernels run on a GPU, or slowly with TRITON_INTERPRET=1."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from mlens.model.fused import LabelHead, fuse, label_head, liger_is_installed
from mlens.model.settings import Lora, NoPeft
from tests.helpers.other_models import save_model, with_model
from tests.helpers.steps import engine_steps, parts

RUNS = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
needs_liger = pytest.mark.skipif(not (liger_is_installed() and RUNS), reason="needs liger-kernel and a CUDA device")
# Two weights of labels: those of answers and those of ratings in the history.
RULE = ("trainer.gradient_clipping=0", "trainer.history_loss_weight=0.5", "trainer.users_per_step=1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = parts()
    return {name: save_model(name, made, tmp_path_factory.mktemp(name)) for name in ("tied", "untied", "moe", "llama")}


@pytest.mark.gpu
@needs_liger
@pytest.mark.parametrize("peft", [NoPeft(), Lora(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_steps_are_those_with_logits(name, stage, peft, folders, tmp_path):
    results = {}
    for loss in ("logits", "liger"):
        made = with_model(folders[name], f"deepspeed=zero{stage}", *RULE, peft=peft)
        if loss == "liger":
            fuse(made.model.get_base_model() if isinstance(peft, Lora) else made.model)
        engine = made.engine()
        assert engine.loss == loss
        losses = engine_steps(made, engine, 2)
        engine.export(tmp_path / loss, made.tokenizer, merge=isinstance(peft, Lora))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / loss, dtype=torch.float32)
        results[loss] = losses, torch.cat([p.flatten() for p in model.parameters()])
    assert results["liger"][0] == pytest.approx(results["logits"][0], rel=1e-5)
    # Adam's first steps depend only on the sign of the gradient, which rounding changes where it is nearly 0.
    apart = (results["liger"][1] - results["logits"][1]).norm()
    start = AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32)
    assert apart < 1e-3 * (results["logits"][1] - torch.cat([p.flatten() for p in start.parameters()])).norm()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["tied", "untied", "moe"])
def test_a_head_without_fused_labels_is_the_models_head(name, folders):
    made = with_model(folders[name])
    plain, ids = made.model.lm_head, torch.arange(9)[None]
    with torch.no_grad():
        want = plain(made.model.get_input_embeddings()(ids))
        fuse(made.model)
        assert torch.equal(made.model.lm_head(made.model.get_input_embeddings()(ids)), want)
    assert label_head(made.model) is made.model.lm_head and made.model.lm_head.weight is plain.weight
    assert made.model.state_dict().keys() == with_model(folders[name]).model.state_dict().keys()


def test_only_a_plain_output_layer_is_fused(folders):
    other = with_model(folders["llama"]).model
    fuse(other)
    assert label_head(other) is None
    adapted = with_model(folders["untied"], peft=Lora(r=2, target_modules=["lm_head"])).model
    fuse(adapted.get_base_model())
    assert label_head(adapted) is None
    inner = with_model(folders["untied"]).model
    fuse(inner)
    assert isinstance(inner.lm_head, LabelHead)
