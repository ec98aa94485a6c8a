"""From settings to a model: random or saved, with the configured attention."""

import re
import shutil
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from mlens.errors import UserError
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.model.digest import model_digest
from mlens.model.load import ParamPlacement, build_model, load_tokenizer, load_trained
from mlens.model.settings import Lora, NoPeft, PretrainedModel, TinyModel
from mlens.prompt.settings import Style
from tests.helpers.steps import parts


def weights(made):
    return made.model.state_dict()


def test_a_random_model_depends_only_on_the_seed():
    torch.manual_seed(1)
    first = weights(parts())
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again, other = weights(parts()), weights(parts("seed=1"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_tiny_model_has_the_configured_sizes():
    made = parts("model.layers=3", "model.heads=4", "model.kv_heads=2", "model.hidden_size=48")
    config = made.model.config
    assert isinstance(made.model, Qwen3ForCausalLM)
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (3, 4, 2)
    assert (config.hidden_size, config.head_dim, config.intermediate_size) == (48, 16, 64)
    assert config.vocab_size == len(made.tokenizer)
    assert config.eos_token_id == made.tokenizer.eos_token_id
    assert config.max_position_embeddings == 256
    assert not config.use_cache


@pytest.mark.parametrize("attention, name", [("rows", ROW_ATTENTION), ("sdpa", "sdpa"), ("eager", "eager")])
def test_the_attention_is_the_configured_one(attention, name):
    packing = () if attention == "rows" else ("packing=reference",)
    assert parts(f"model.attention={attention}", *packing).model.config._attn_implementation == name


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    made = parts()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return made, folder


def build(settings, made, bf16=False, peft=None):
    return build_model(settings, peft or NoPeft(), made.tokenizer, longest=256, seed=0, placement=ParamPlacement(bf16))


def test_a_saved_model_is_loaded_with_row_attention(saved):
    made, folder = saved
    settings = PretrainedModel(name=None, path=str(folder), dtype="float32")
    model = build(settings, made)
    assert model.config._attn_implementation == ROW_ATTENTION and not model.config.use_cache
    assert model.is_gradient_checkpointing
    loaded = model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in made.model.state_dict().items())
    tokenizer = load_tokenizer(settings, made.table, made.settings.prompt, made.settings.ablation)
    assert tokenizer.get_vocab() == made.tokenizer.get_vocab()


def test_parameters_are_bfloat16_if_requested(saved):
    made, folder = saved
    for settings in (PretrainedModel(name=None, path=str(folder)), TinyModel(vocab_size=512, dtype="bfloat16")):
        assert {p.dtype for p in build(settings, made, bf16=True).parameters()} == {torch.bfloat16}
        assert {p.dtype for p in build(settings, made).parameters()} == {torch.float32}


def test_adapters_are_all_that_is_trained(saved):
    made, _ = saved
    model = build(TinyModel(vocab_size=512, hidden_size=32), made, peft=Lora(r=2, target_modules=["q_proj"]))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("q_proj.lora_" in name for name in trained)


def test_all_linear_is_every_linear_layer_except_the_output(saved):
    made, _ = saved
    model = build(TinyModel(vocab_size=512, layers=1), made, peft=Lora())
    adapted = {re.search(r"\.(\w+)\.lora_A", name)[1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_folder_without_a_model_is_refused_in_one_line(saved, tmp_path):
    made, _ = saved
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{")
    settings = PretrainedModel(name=None, path=str(tmp_path))
    with pytest.raises(UserError) as caught:
        build(settings, made)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        load_tokenizer(settings, made.table, made.settings.prompt, made.settings.ablation)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_model_that_is_out_of_reach_is_refused_in_one_line(saved, monkeypatch):
    made, _ = saved
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = PretrainedModel(name="mlens/there-is-no-such-model")
    with pytest.raises(UserError, match=r"model\.path") as caught:
        load_tokenizer(settings, made.table, made.settings.prompt, made.settings.ablation)
    assert "mlens/there-is-no-such-model" in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_does_not_support_row_attention_is_refused_with_a_remedy(saved, tmp_path, monkeypatch):
    made, folder = saved
    monkeypatch.setattr(Qwen3ForCausalLM, "_supports_attention_backend", False)
    with pytest.raises(UserError, match="packing=reference"):
        build(PretrainedModel(name=None, path=str(folder)), made)


def test_a_loaded_model_is_in_training_mode(saved):
    # Otherwise checkpointing and dropout would have no effect.
    made, folder = saved
    assert build(PretrainedModel(name=None, path=str(folder)), made).training
    assert build(TinyModel(vocab_size=512), made).training


def changed_weights(folder, tmp_path, change):
    """A copy of the model in `folder` with `change` applied to its weights."""
    copy = shutil.copytree(folder, tmp_path / "changed")
    weights = load_file(copy / "model.safetensors")
    save_file(change(weights), copy / "model.safetensors", {"format": "pt"})
    return copy


def under_a_prefix(weights):
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def without_a_layer(weights):
    return {name: tensor for name, tensor in weights.items() if ".layers.1." not in name}


def with_one_layer_more(weights):
    more = {name.replace(".layers.1.", ".layers.9."): tensor.clone() for name, tensor in weights.items()}
    return weights | more


def of_another_width(weights):
    return {name: tensor[:-1].clone() if name.endswith("norm.weight") else tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (under_a_prefix, r"model\.embed_tokens\.weight.*\(missing\)"),
        (without_a_layer, r"model\.layers\.1\..* and \d+ more \(missing\)"),
        (with_one_layer_more, r"model\.layers\.9\..* \(unexpected\)"),
        (of_another_width, "mismatch"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused_in_one_line(saved, tmp_path, capfd, change, kind):
    made, folder = saved
    copy = changed_weights(folder, tmp_path, change)
    with pytest.raises(UserError, match=kind) as caught:
        build(PretrainedModel(name=None, path=str(copy)), made)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)
    assert "REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("change", [under_a_prefix, without_a_layer, with_one_layer_more])
def test_a_saved_tiny_model_is_loaded_completely_or_not_at_all(saved, tmp_path, change):
    made, folder = saved
    copy = changed_weights(folder, tmp_path, change)
    settings = made.settings.model
    with pytest.raises(UserError, match=str(copy)) as caught:
        build_model(settings, NoPeft(), made.tokenizer, 256, 0, weights=copy)
    assert "\n" not in str(caught.value)
    assert build_model(settings, NoPeft(), made.tokenizer, 256, 0, weights=folder)


@dataclass(frozen=True)
class Trained:
    model: TinyModel | PretrainedModel
    peft: Lora
    prompt: Style
    seed: int = 0


@pytest.fixture(params=[False, True], ids=["lora", "dora"])
def adapter(saved, tmp_path, request):
    """A pretrained model's adapter, and a function that loads it."""
    made, folder = saved
    settings = PretrainedModel(name=None, path=str(folder), dtype="float32")
    adapters = Lora(r=2, target_modules=["q_proj"], dora=request.param)
    build(settings, made, peft=adapters).save_pretrained(tmp_path / "adapter")
    trained = Trained(settings, Lora(r=2), made.settings.prompt)

    def load(digest=None):
        return load_trained(trained, tmp_path / "adapter", made.tokenizer, ParamPlacement(), digest)

    return load, tmp_path / "adapter" / "adapter_model.safetensors", settings


def test_an_adapter_without_some_of_its_weights_is_refused(adapter):
    load, file, _ = adapter
    assert load()
    weights = load_file(file)
    save_file({name: tensor for name, tensor in weights.items() if ".layers.1." not in name}, file)
    with pytest.raises(UserError, match=r"layers\.1\..*\(missing\)"):
        load()
    save_file(weights | {"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 32)}, file)
    with pytest.raises(UserError, match=r"lm_head.*\(unexpected\)"):
        load()


def test_an_adapter_on_another_base_model_is_refused(adapter):
    load, _, settings = adapter
    assert load(model_digest(settings))
    with pytest.raises(UserError, match="an adapter of another model"):
        load("another digest")
