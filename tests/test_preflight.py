"""What can be known to fail before any data are read ends in one line there, not after minutes of reading."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mlens.errors import UserError
from mlens.preflight import preflight
from tests.helpers.runs import checked, command, run_here
from tests.helpers.tokenizers_for_tests import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 16) | {"num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tiny()), **sizes, **heads)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A model's folder with the tokenizer of its own vocabulary."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tiny().save_pretrained(tmp_path)
    return tmp_path


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        preflight(checked("wandb.mode=disabled", *overrides))
    return str(caught.value)


def of_model(folder: Path, *overrides: str) -> tuple[str, ...]:
    return ("model=hf", f"model.path={folder}", "prompt.max_tokens=512", *overrides)


def change_json(file: Path, **values) -> None:
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_usable_model_passes(folder):
    preflight(checked(*of_model(folder), "wandb.mode=disabled"))


def test_a_tokenizer_without_an_end_token(folder):
    change_json(folder / "tokenizer_config.json", eos_token=None)
    assert "has no end token" in refusal(*of_model(folder))


def test_an_end_token_beyond_the_embeddings(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.save_pretrained(folder)
    assert f"beyond the model's {len(tiny())} embeddings: <|im_end|> ({len(tiny())})" in refusal(*of_model(folder))


def test_a_token_of_the_chat_template_beyond_the_embeddings(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(["<|turn|>"], special_tokens=True)
    tokenizer.chat_template = "<|turn|>{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    preflight(checked(*of_model(folder), "wandb.mode=disabled"))  # without it no prompt has the token
    assert "<|turn|>" in refusal(*of_model(folder, "prompt=chat"))


def test_a_chat_template_that_raises(folder):
    (folder / "chat_template.jinja").write_text("{{ raise_exception('a system turn is needed') }}")
    assert "a system turn is needed" in refusal(*of_model(folder, "prompt=chat"))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_clone_without_git_lfs(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert f"{name} is a git-lfs pointer, not the file: run `git lfs pull`" in refusal(*of_model(folder))


def test_a_model_without_gradient_checkpointing(folder, monkeypatch):
    monkeypatch.setattr(Qwen3ForCausalLM, "supports_gradient_checkpointing", False)
    assert "set model.gradient_checkpointing=false" in refusal(*of_model(folder))
    preflight(checked(*of_model(folder, "model.gradient_checkpointing=false"), "wandb.mode=disabled"))


def test_prompts_longer_than_the_model_was_made_for(folder):
    assert "prompt.max_tokens=99999 is more than" in refusal(
        *of_model(folder, "prompt.max_tokens=99999", "packing.row_tokens=99999")
    )


@pytest.mark.parametrize("setting", ["peft=qlora", "trainer.optimizer=adamw_8bit"])
def test_4_and_8_bits_need_bitsandbytes(setting, monkeypatch):
    monkeypatch.setattr("mlens.packages.find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    assert refusal("trainer=lora", setting) == f"{setting} needs the package bitsandbytes: pip install -e '.[qlora]'"


def test_a_run_checks_its_model_before_it_reads_its_data(folder):
    (folder / "ratings.csv").write_text("not,what,it,should,be\n1,2,3,4,5\n")
    (folder / "model.safetensors").unlink()
    data = ("data=csv", f"data.path={folder / 'ratings.csv'}")
    with pytest.raises(UserError, match=r"holds no weights as \.safetensors"):
        run_here(folder / "run", *of_model(folder, *data), "wandb.mode=disabled")
    assert not (folder / "run").exists()


@contextmanager
def server(status: int):
    """A local stand-in for Weights & Biases that answers everything with this status."""

    class Answer(BaseHTTPRequestHandler):
        def answer(self):
            self.send_response(status)
            self.end_headers()

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


CALL = """
from types import SimpleNamespace
from mlens.errors import UserError
from mlens.preflight import preflight
from mlens.tracking.settings import Wandb
try:
    preflight(SimpleNamespace(trackers=("wandb",), wandb=Wandb(mode="online"), model=None))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("status", "key", "told"),
    [
        (404, "", "not configured|No API key configured"),
        pytest.param(401, "a" * 40, "Failed to authenticate|verifying the API key", marks=pytest.mark.slow),
        pytest.param(None, "a" * 40, "can't be reached", marks=pytest.mark.slow),
    ],
)
def test_online_tracking_that_can_not_work(status, key, told, tmp_path):
    """In a process of its own, since wandb keeps what it finds for the whole process. None: nobody listens.
    The messages are those of the lowest and the newest version."""
    with server(status or 404) as url:
        url = "http://127.0.0.1:9" if status is None else url
        nobody = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": key}
        line = command("-c", CALL, WANDB_BASE_URL=url, **nobody).stdout
    assert re.search(told, line) and "wandb.mode=offline" in line and line.count("\n") == 1
