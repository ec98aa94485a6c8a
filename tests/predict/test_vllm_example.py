"""examples/vllm_scoring.py: it runs up to the import of vLLM, and with a stand-in it scores like the Predictor."""

import json
import runpy
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.runs import ROOT

SCRIPT = ROOT / "examples" / "vllm_scoring.py"


@pytest.fixture
def scored(monkeypatch, capsys):
    """Run the script; returns what it exits with (None: it didn't), and what it printed."""

    def run_it(*words):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return end.code, capsys.readouterr()
        return None, capsys.readouterr()

    return run_it


@pytest.fixture
def model(tmp_path):
    """A folder with all that the script reads before it imports vLLM."""
    (tmp_path / "mlens.json").write_text(json.dumps({"scale": [1.0, 2.0]}))
    (tmp_path / "to_serve.json").write_text("[]")
    return tmp_path


def test_it_runs_up_to_the_import_of_vllm(model, scored, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    end, printed = scored(model, model / "to_serve.json")
    assert end.startswith("error: vLLM isn't installed") and "\n" not in end and not printed.out


def test_what_it_cannot_read_is_one_line(model, scored):
    end, _ = scored(model, model / "nothing.json")
    assert end.startswith("error: ") and "nothing.json" in end and "\n" not in end
    (model / "adapter_config.json").write_text("{}")
    assert "peft.merge=true" in scored(model, model / "to_serve.json")[0]


def test_tiny_probabilities_are_normalised():
    assert runpy.run_path(str(SCRIPT))["normalised"]([-1000.0, -1000.0]) == [0.5, 0.5]


class PlainLLM:
    """Answers as vLLM does, with the log-probabilities of plain transformers."""

    def __init__(self, model, dtype):
        assert dtype == "float32"
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def get_tokenizer(self):
        return self.tokenizer

    def generate(self, inputs, parameters):
        assert (parameters.max_tokens, parameters.prompt_logprobs) == (1, 0)
        return [SimpleNamespace(prompt_logprobs=self.log_probabilities(one["prompt_token_ids"])) for one in inputs]

    def log_probabilities(self, ids):
        with torch.no_grad():
            found = self.model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        # The first token has none.
        return [None, *({ids[i]: SimpleNamespace(logprob=float(found[i - 1, ids[i]]))} for i in range(1, len(ids)))]


def test_its_probabilities_are_the_predictors(all_previous, scored, tmp_path, monkeypatch):
    vllm = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = PlainLLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    movies = [{"title": f"Movie {i} (19{i}9)", "genres": "Drama|Comedy"} for i in range(2)]
    history = all_previous.history(all_previous.test.row(-1, named=True))[-3:]
    prompter = all_previous.predictor.prompter
    prompter.prompts(prompter.request(history, movies)).write_json(tmp_path / "to_serve.json")
    words = (all_previous.folder / "model", tmp_path / "to_serve.json", "--dtype", "float32")
    end, printed = scored(*words, "--output", tmp_path / "scored.json")
    assert end is None and printed.out == f"{tmp_path / 'scored.json'}\n"
    records = {record["title"]: record for record in json.loads((tmp_path / "scored.json").read_text())}
    predicted = all_previous.predictor.predict(history, movies)
    assert len(records) == len(predicted) == 2
    for row in predicted.iter_rows(named=True):
        for name in ("expected", *(f"p_{rating}" for rating in prompter.exported.scale)):
            assert records[row["title"]][name] == pytest.approx(row[name], abs=5e-6)
    assert f"{predicted['expected'][0]:.3f}  {predicted['title'][0]}\n" in scored(*words)[1].out
