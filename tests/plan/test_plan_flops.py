"""The count of operations against torch's own counter, which looks at every product that a model makes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from mlens.model.adapters import with_adapters
from mlens.model.flops import Passes, Sizes, forward_flops, training_flops
from mlens.model.settings import Lora, NoPeft, TinyModel
from mlens.plan.sketch import Sketch
from tests.helpers.small_model import make_model, model_once

TOKENS, LOGITS = 24, 5
# Dense attention makes every pair, seen or not.
PASSES = Passes(tokens=TOKENS, pairs=TOKENS**2, logits=LOGITS, rows=1)


def counted_by_torch(model, training: bool) -> int:
    ids = torch.arange(TOKENS)[None]
    # By itself torch leaves out what is computed last again, whose result nothing needs.
    whole = set_checkpoint_early_stop(False)
    with whole, FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        logits = model(input_ids=ids, logits_to_keep=LOGITS, use_cache=False).logits
        if training:
            logits.sum().backward()
    return counter.get_total_flops()


def sizes_of(model, lora: int = 0, dora: bool = False) -> Sizes:
    """By hand: four matrices of attention and three of the MLP a layer, and the tied output layer.

    DoRA multiplies B A with an identity matrix as its input.
    """
    config = model.config
    width, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    h, f = config.hidden_size, config.intermediate_size
    matrices = [(h, width), (h, kv), (h, kv), (width, h), (h, f), (h, f), (f, h)]
    own = config.num_hidden_layers * sum(a * b for a, b in matrices)
    adapters = config.num_hidden_layers * sum((a + b) * lora for a, b in matrices)
    trained = adapters if lora else own
    row = config.num_hidden_layers * sum(a * (a + b) * lora for a, b in matrices) if dora else 0
    return Sizes(config.num_hidden_layers, width, own + adapters, trained, h * config.vocab_size, not lora, row)


@pytest.fixture(scope="module")
def eager():
    return make_model("eager", torch.float32, vocabulary=60)


def test_a_forward_pass(eager):
    assert forward_flops(sizes_of(eager), PASSES) == counted_by_torch(eager, training=False)


def test_a_training_step(eager):
    assert training_flops(sizes_of(eager), PASSES) == counted_by_torch(eager, training=True)


def test_a_training_step_that_computes_its_layers_again():
    model = make_model("eager", torch.float32, vocabulary=60, checkpointing=True)
    assert training_flops(sizes_of(model), PASSES, checkpointing=True) == counted_by_torch(model, training=True)


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_spare_the_gradients_of_what_is_frozen(dora):
    model = make_model("eager", torch.float32, vocabulary=60, checkpointing=True)
    sizes = sizes_of(model, lora=4, dora=dora)
    adapted = with_adapters(model, Lora(r=4, dora=dora), checkpointing=True, seed=0)
    assert training_flops(sizes, PASSES, checkpointing=True) == counted_by_torch(adapted, training=True)


def test_the_sizes_that_a_plan_finds_are_those_counted_by_hand(eager):
    for peft, lora, dora in ((NoPeft(), 0, False), (Lora(r=4, dora=True), 4, True), (Lora(r=4), 4, False)):
        found = Sketch(eager.config, TinyModel(), peft, bf16=False, autocast=False).count()
        assert found.sizes == sizes_of(eager, lora, dora)
    assert found.trained == found.sizes.trained
    assert (
        found.parameters == sum(p.numel() for p in model_once("eager", torch.float32, 60).parameters()) + found.trained
    )


numbers = st.integers(0, 1000)


@given(st.lists(st.builds(Passes, numbers, numbers, numbers, numbers), max_size=4), st.integers(1, 9))
def test_rows_cost_together_what_they_cost_alone(rows, factor):
    sizes = Sizes(layers=3, attention=16, body=1000, trained=700, head=50, row=20)
    together = sum(rows, Passes())
    assert training_flops(sizes, together, True) == sum(training_flops(sizes, row, True) for row in rows)
    assert forward_flops(sizes, together.times(factor)) == factor * forward_flops(sizes, together)
