"""The digest of a model is the same in every folder, and different for every other model."""

import json
import shutil
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlens.errors import UserError
from mlens.model.digest import model_digest, model_folder
from mlens.model.load import load_pretrained_tokenizer
from mlens.model.settings import PretrainedModel, TinyModel
from tests.helpers.other_models import save_model
from tests.helpers.steps import parts


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model("tied", parts(), tmp_path_factory.mktemp("model"))


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "elsewhere")


def digest(folder, **fields):
    return model_digest(PretrainedModel(name=None, path=str(folder), **fields))


def test_a_moved_folder_is_the_same_model_whatever_else_the_folder_contains(saved, copied):
    (copied / "README.md").write_text("a card")
    (copied / "modeling.py").write_text("import os")
    assert digest(copied) == digest(saved)


def test_code_counts_where_it_may_run(copied):
    before = digest(copied, trust_remote_code=True)
    (copied / "modeling.py").write_text("import os")
    assert digest(copied, trust_remote_code=True) != before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]), st.data())
def test_any_byte_of_config_weights_and_tokenizer_counts(saved, tmp_path, name, data):
    folder = tmp_path / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1
    (folder / name).write_bytes(content)
    assert digest(folder) != digest(saved)


def test_another_chat_template_is_another_model(saved, copied):
    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(copied)
    assert digest(copied) != digest(saved)


def test_a_tiny_model_is_described_by_its_settings_and_the_data():
    assert model_digest(TinyModel()) is None


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    """The cache of a hub with two commits of a model; `hub(commit)` makes main point at one of them."""
    home = tmp_path / "hub" / "models--someone--model"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(saved, home / "snapshots" / commit)
    other = home / "snapshots" / ("b" * 40)
    model = AutoModelForCausalLM.from_pretrained(other)
    model.lm_head.weight.data += 1
    model.save_pretrained(other)
    (home / "refs").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return lambda commit: (home / "refs" / "main").write_text(commit * 40)


def test_a_name_on_a_hub_is_the_model_that_its_revision_points_at_now(saved, hub):
    named = PretrainedModel(name="someone/model", revision="main")
    hub("a")
    assert model_digest(named) == digest(saved)
    assert load_pretrained_tokenizer(named).get_vocab() == AutoTokenizer.from_pretrained(saved).get_vocab()
    hub("b")
    assert model_digest(named) != digest(saved) and model_folder(named).name == "b" * 40


def test_a_model_that_the_hub_does_not_give_is_refused_in_one_line(hub):
    with pytest.raises(UserError, match=r"can't get the model someone/else .* model\.path") as caught:
        model_digest(PretrainedModel(name="someone/else", revision="main"))
    assert "\n" not in str(caught.value)


@pytest.fixture
def silent_hub(hub, monkeypatch):
    """The cache of a hub that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr("mlens.connection.TIMEOUT", 0.1)
        yield hub


def test_a_hub_that_does_not_answer_does_not_block(saved, silent_hub):
    silent_hub("a")
    cached = PretrainedModel(name="someone/model", revision="main")
    assert model_digest(cached) == digest(saved)
    assert load_pretrained_tokenizer(cached).get_vocab() == AutoTokenizer.from_pretrained(saved).get_vocab()
    with pytest.raises(UserError, match=r"someone/else .*can't be reached \(timed out\)"):
        model_digest(PretrainedModel(name="someone/else", revision="main"))


def test_json_is_read_as_bytes(saved, copied):
    """The same settings in another format count as another file: only bytes are compared."""
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config))
    assert digest(copied) != digest(saved)
