"""Checkpoints give back what was saved, a half-written one replaces nothing, and exports are ordinary models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from steps import answer_log_probabilities, engine_steps, parts
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlens.errors import UserError
from mlens.evaluation.score import predict


def weights(engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine._engine.module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stage", [0, 2])
def test_a_loaded_checkpoint_goes_on_bit_for_bit(stage, tmp_path):
    made = parts(f"deepspeed=zero{stage}")
    engine = made.engine()
    engine_steps(made, engine, 2)
    engine.save(tmp_path, "last", {"progress": {"step": 2}})
    saved = weights(engine)
    losses = engine_steps(made, engine, 4, first=2)
    other = parts(f"deepspeed=zero{stage}")
    fresh = other.engine()
    assert fresh.load(tmp_path, "last")["progress"] == {"step": 2}
    assert same(weights(fresh), saved)
    assert engine_steps(other, fresh, 4, first=2) == losses
    assert same(weights(fresh), weights(engine))


@pytest.fixture(scope="module")
def trained():
    made = parts("deepspeed=zero2")
    engine = made.engine()
    engine_steps(made, engine, 2)
    return made, engine


@pytest.mark.parametrize("stage", range(1, 4))
def test_a_checkpoint_of_another_number_of_ranks_is_refused(stage, tmp_path):
    engine = parts(f"deepspeed=zero{stage}").engine()
    engine.save(tmp_path, "last", {})
    engine.ranks = replace(engine.ranks, world=3)
    with pytest.raises(UserError, match="written by 1 ranks"):
        engine.load(tmp_path, "last")


def step_of(engine, folder) -> int:
    return engine.load(folder, "last")["step"]


def test_a_save_that_breaks_off_leaves_the_checkpoint_before(trained, tmp_path, monkeypatch):
    _, engine = trained
    engine.save(tmp_path, "last", {"step": 1})

    def broken(folder, tag, **_):
        (Path(folder) / tag).mkdir()
        (Path(folder) / tag / "half.pt").write_text("half")
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(engine._engine, "save_checkpoint", broken)
        with pytest.raises(OSError):
            engine.save(tmp_path, "last", {"step": 2})
    assert step_of(engine, tmp_path) == 1
    engine.save(tmp_path, "last", {"step": 3})
    assert step_of(engine, tmp_path) == 3
    assert not {"last.new", "last.old"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("renames, kept", [(0, 1), (1, 1), (2, 2)])
def test_a_kill_between_renames_loses_no_checkpoint(trained, tmp_path, monkeypatch, renames, kept):
    _, engine = trained
    engine.save(tmp_path, "last", {"step": 1})
    done, rename = [], Path.rename

    def killed(path, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        if renames < 2:
            with pytest.raises(KeyboardInterrupt):
                engine.save(tmp_path, "last", {"step": 2})
        else:
            engine.save(tmp_path, "last", {"step": 2})
    assert step_of(engine, tmp_path) == kept
    engine.save(tmp_path, "last", {"step": 3})
    assert step_of(engine, tmp_path) == 3


@pytest.mark.parametrize("present", [None, "last.new"])
def test_without_a_whole_checkpoint_there_is_nothing_to_load(trained, tmp_path, present):
    if present:
        (tmp_path / present).mkdir()
    with pytest.raises(UserError, match="last"):
        trained[1].load(tmp_path, "last")


@pytest.mark.parametrize("stage", [2, 3])
def test_an_export_scores_in_plain_transformers_as_it_was_predicted(stage, tmp_path):
    made = parts(f"deepspeed=zero{stage}")
    engine = made.engine()
    engine_steps(made, engine, 2)
    engine.export(tmp_path / "model", made.tokenizer)
    dataset = made.datasets["test"]
    predicted = predict(engine, dataset, made.collator)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    for i in range(4):
        ids = tokenizer(dataset.text(i), add_special_tokens=False)["input_ids"]
        assert ids == dataset[i].prompt.tolist()
        answers = [[*tokenizer(str(rating))["input_ids"], tokenizer.eos_token_id] for rating in made.table.scale]
        with torch.no_grad():
            scores = [float(answer_log_probabilities(model, ids, answer).sum()) for answer in answers]
        expected = np.exp(scores)
        assert predicted.probability[i] == pytest.approx(expected / expected.sum(), abs=1e-5)
        assert predicted.legal[i] == pytest.approx(expected.sum(), rel=1e-4)


def test_lora_trains_and_exports_adapters_alone(tmp_path):
    made = parts("peft=lora", "peft.r=4", "deepspeed=zero2")
    engine = made.engine()
    before = weights(engine)
    engine_steps(made, engine, 2)
    after = weights(engine)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("lora_" in name for name in moved)
    assert {name for name in before if "lora_B" in name} <= moved
    engine.export(tmp_path / "adapter", made.tokenizer)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert not list((tmp_path / "adapter").glob("model*.safetensors"))
    plain = parts("packing=reference", "model.attention=sdpa")
    adapted = PeftModel.from_pretrained(plain.model, tmp_path / "adapter")
    sample = made.datasets["test"][0]
    answers = made.datasets["test"].renderer.answers
    with torch.no_grad():
        expected = [float(answer_log_probabilities(adapted, sample.prompt, answer).sum()) for answer in answers]
    row = made.collator.score_row([made.datasets["test"].tree(np.array([0]))], answers)
    assert engine.score(row).tolist() == pytest.approx(expected, abs=1e-4)


def test_lora_learns_with_gradient_checkpointing_too():
    made = parts("peft=lora", "model.gradient_checkpointing=true")
    engine = made.engine()
    before = weights(engine)
    engine_steps(made, engine, 1)
    after = weights(engine)
    assert all(not torch.equal(before[name], after[name]) for name in before if "lora_B" in name)


def test_an_export_replaces_the_one_before(trained, tmp_path):
    made, engine = trained
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "leftover").write_text("old")
    engine.export(tmp_path / "model", made.tokenizer)
    assert not (tmp_path / "model" / "leftover").exists() and (tmp_path / "model" / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("stage", [0, 3])
def test_parameters_are_counted_whole(stage):
    made = parts(f"deepspeed=zero{stage}")
    whole = sum(parameter.numel() for parameter in made.model.parameters())
    assert made.engine().parameters == whole


def test_learning_rates_are_factors_of_each_groups_own():
    made = parts("trainer.optimizer=muon", "trainer.learning_rate=0.02", "trainer.adam_learning_rate=0.004")
    engine = made.engine()
    assert engine.set_learning_rate(0.5) == pytest.approx(0.01)
    rates = {round(group["lr"], 9) for group in engine._engine.optimizer.param_groups}
    assert rates == {0.01, 0.002}
    engine.set_learning_rate(1.0)
    assert {round(group["lr"], 9) for group in engine._engine.optimizer.param_groups} == {0.02, 0.004}
