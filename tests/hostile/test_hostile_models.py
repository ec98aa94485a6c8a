"""A model's folder is data too: nothing that it brings is run, and what is cut or strange is told in one line."""

import json
import pickle
import shutil

import pytest
import torch

from mlens.errors import UserError
from mlens.model.load import build_model, load_tokenizer
from mlens.model.settings import NoPeft, PretrainedModel
from tests.helpers.steps import parts


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    made = parts()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return made, folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "model")


def load(folder, made, **fields):
    settings = PretrainedModel(name=None, path=str(folder), dtype="float32", **fields)
    load_tokenizer(settings, made.table, made.settings.prompt, made.settings.ablation)
    return build_model(settings, NoPeft(), made.tokenizer, longest=256, seed=0)


def refusal(folder, made):
    with pytest.raises(UserError) as caught:
        load(folder, made)
    assert str(caught.value).isprintable() and str(folder) in str(caught.value)
    return str(caught.value)


class Trap:
    """What a pickle runs when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_weights_that_could_run_code_are_not_read(saved, folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"model.embed_tokens.weight": Trap(tmp_path / "mark")}))
    assert "holds no weights as .safetensors" in refusal(folder, saved[0])
    assert not (tmp_path / "mark").exists()


def test_beside_safetensors_nothing_else_is_read(saved, folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    loaded = load(folder, saved[0]).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in saved[0].model.state_dict().items())
    assert not (tmp_path / "mark").exists()


def with_code(folder, mark, model_type):
    """The folder with a program of its own for its config, model and tokenizer, which leaves a mark when it is run."""
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit('run')\n")
    for name, classes in (
        ("config.json", {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}),
    ):
        content = json.loads((folder / name).read_text())
        if name == "config.json":
            content["model_type"] = model_type
        (folder / name).write_text(json.dumps(content | {"auto_map": classes}))


def test_a_known_models_folder_with_code_is_loaded_without_it(saved, folder, tmp_path):
    with_code(folder, tmp_path / "mark", "qwen3")
    assert type(load(folder, saved[0])).__module__.startswith("transformers.")
    assert not (tmp_path / "mark").exists()


def test_a_folder_that_needs_its_own_code_is_refused(saved, folder, tmp_path):
    with_code(folder, tmp_path / "mark", "strange")
    refusal(folder, saved[0])
    assert not (tmp_path / "mark").exists()


def test_it_is_run_only_where_that_was_asked_for(saved, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with_code(folder, tmp_path / "mark", "strange")
    with pytest.raises(SystemExit):
        load(folder, saved[0], trust_remote_code=True)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 100),
        ("model.safetensors", None),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "qwen3", "hidden_size": "x"}'),
        ("config.json", b"[" * 100_000),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", b"["),
    ],
)
def test_what_is_cut_or_makes_no_sense(saved, folder, name, content):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    refusal(folder, saved[0])
