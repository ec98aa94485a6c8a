"""Checkpoints give back what was saved or say that they can't, and exports are ordinary models."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import mlens.engine.checkpoints as module
from mlens.engine.checkpoints import Checkpoints
from mlens.engine.manifest import Manifest, digest_of
from mlens.errors import RunFailed, UserError
from mlens.evaluation.score import predict
from tests.helpers.steps import answer_log_probabilities, engine_steps, parts


def weights(engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine._engine.module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def checkpoints(engine, folder, keep=2) -> Checkpoints:
    return Checkpoints(engine, folder, keep)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("stage", "peft"), [(0, "none"), (2, "none"), (2, "dora")])
def test_a_loaded_checkpoint_goes_on_bit_for_bit(stage, peft, tmp_path):
    made = parts(f"deepspeed=zero{stage}", f"peft={peft}")
    engine = made.engine()
    engine_steps(made, engine, 2)
    state = {"progress": {"step": 2, "seconds": 0.1 + 0.2}}
    checkpoints(engine, tmp_path).save(2, state, None)
    saved = weights(engine)
    losses = engine_steps(made, engine, 4, first=2)
    other = parts(f"deepspeed=zero{stage}", f"peft={peft}")
    fresh = other.engine()
    assert checkpoints(fresh, tmp_path).load_newest() == state
    assert same(weights(fresh), saved)
    assert engine_steps(other, fresh, 4, first=2) == losses
    assert same(weights(fresh), weights(engine))


@pytest.fixture(scope="module")
def trained():
    made = parts("deepspeed=zero2")
    engine = made.engine()
    engine_steps(made, engine, 2)
    return made, engine


def names(folder) -> set[str]:
    """But for the scripts that DeepSpeed puts beside its checkpoints."""
    return {path.name for path in folder.iterdir() if path.suffix != ".py"}


def test_the_newest_stay_and_those_that_they_need(trained, tmp_path):
    saved = checkpoints(trained[1], tmp_path, keep=2)
    for step, needs in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 3)]:
        saved.save(step, {"step": step}, needs)
    assert names(tmp_path) == {"step_00000003", "step_00000005", "step_00000006", "last", "best"}
    assert (tmp_path / "last").resolve().name == "step_00000006" and (tmp_path / "best").resolve().name[-1] == "3"
    for path in tmp_path.glob("step_*"):
        manifest = json.loads((path / "manifest.json").read_text())
        assert manifest["files"].keys() == names(path) - {"manifest.json"} and manifest["ranks"] == 1
    assert saved.load_newest() == {"step": 6}


def damage_truncated(path):
    os.truncate(path, path.stat().st_size - 2)


def damage_one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [damage_truncated, damage_one_bit, Path.unlink])
@pytest.mark.parametrize("part", ["manifest.json", "mp_rank_00_model_states.pt", "*_optim_states.pt"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(trained, tmp_path, damage, part):
    saved = checkpoints(trained[1], tmp_path)
    for step in (1, 2, 3):
        saved.save(step, {"step": step}, None)
    (file,) = (tmp_path / "step_00000003").glob(part)
    damage(file)
    with pytest.warns(UserWarning, match="step_00000003 is damaged"):
        assert saved.load_newest() == {"step": 2}
    assert names(tmp_path) - {"last"} == {"step_00000002"}  # what is behind it is made again


def test_a_checkpoint_whose_best_model_is_damaged_is_of_no_use(trained, tmp_path):
    saved = checkpoints(trained[1], tmp_path)
    for step, needs in [(1, 1), (2, 1), (3, 3), (4, 3)]:
        saved.save(step, {"step": step}, needs)
    damage_one_bit(tmp_path / "step_00000003" / "mp_rank_00_model_states.pt")
    with pytest.warns(UserWarning, match="step_00000003"):
        assert saved.load_newest() is None  # of the two that stay, 4 needs 3
    with pytest.warns(UserWarning, match="step_00000003"), pytest.raises(RunFailed, match="step_00000003"):
        saved.load(3)


def test_without_a_whole_checkpoint_there_is_nothing_to_load(trained, tmp_path):
    saved = checkpoints(trained[1], tmp_path)
    assert saved.load_newest() is None
    (tmp_path / ".step_00000001.0123.new" / "step_00000001").mkdir(parents=True)
    assert saved.load_newest() is None


def test_no_checkpoint_is_written_through_a_planted_link(trained, tmp_path):
    victim = tmp_path / "home"
    victim.mkdir()
    (victim / "file").write_text("mine")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in (".new", "step_00000001", "step_00000002", "step_00000009", "step_00000001.universal"):
        (folder / name).symlink_to(victim)
    for name in ("last", "best", ".last.new", "latest", "latest_universal", "zero_to_fp32.py"):
        (folder / name).symlink_to(victim / "file")
    saved = checkpoints(trained[1], folder)
    assert saved.load_newest() is None
    for step in (1, 2, 3):
        saved.save(step, {"step": step}, 2 if step > 1 else None)
    assert saved.load_newest() == {"step": 3}
    assert [path.name for path in victim.iterdir()] == ["file"] and (victim / "file").read_text() == "mine"
    assert (folder / "best").readlink() == Path("step_00000002") and not (folder / "step_00000002").is_symlink()


class Killed(BaseException):
    pass


def test_a_run_that_starts_over_keeps_what_it_saves_beside_damaged_checkpoints_of_later_steps(trained, tmp_path):
    saved = checkpoints(trained[1], tmp_path, keep=2)
    for step in (4, 6):
        saved.save(step, {"step": step}, step)
        damage_truncated(tmp_path / f"step_{step:08d}" / "manifest.json")
    with pytest.warns(match="damaged"):
        assert saved.load_newest() is None
    for step in (1, 2, 3):
        saved.save(step, {"step": step}, step)
    assert names(tmp_path) == {*(f"step_0000000{step}" for step in (2, 3, 4, 6)), "last", "best"}
    with pytest.warns(match="damaged"):
        assert saved.load_newest() == {"step": 3}


@pytest.mark.parametrize("write", ["save_checkpoint", "write_json", "rename"])
def test_a_kill_while_it_saves_loses_no_checkpoint(trained, tmp_path, monkeypatch, write):
    _, engine = trained
    saved = checkpoints(engine, tmp_path)
    saved.save(1, {"step": 1}, None)

    def killed(*arguments, **_):
        if write == "save_checkpoint":
            beside = Path(arguments[0]) / _["tag"]
            beside.mkdir()
            (beside / "half.pt").write_text("half")
        raise Killed

    with monkeypatch.context() as patched:
        where = {"save_checkpoint": engine._engine, "write_json": module, "rename": Path}[write]
        patched.setattr(where, write, killed)
        with pytest.raises(Killed):
            saved.save(2, {"step": 2}, None)
    assert saved.load_newest() == {"step": 1}
    saved.save(3, {"step": 3}, None)
    assert saved.load_newest() == {"step": 3}
    assert names(tmp_path) == {"step_00000001", "step_00000003", "last"}


def test_no_room_is_told_before_anything_is_written(trained, tmp_path, monkeypatch):
    saved = checkpoints(trained[1], tmp_path)
    needed = trained[1].checkpoint_bytes
    saved.save(1, {"step": 1}, None)
    size = sum(file.stat().st_size for file in (tmp_path / "step_00000001").iterdir())
    assert 0.7 * needed < size < 1.5 * needed
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": size - 1})())
    with pytest.raises(RunFailed, match=r"step 2 can't be written .*that of step 1 stays"):
        saved.save(2, {"step": 2}, None)
    assert names(tmp_path) == {"step_00000001", "last"}


class Code:
    """What a pickle can make happen where it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("part", ["mp_rank_00_model_states.pt", "*_optim_states.pt"])
def test_a_checkpoint_that_brings_code_is_refused(trained, tmp_path, monkeypatch, part):
    saved = checkpoints(trained[1], tmp_path)
    saved.save(1, {"step": 1}, None)
    (file,) = (tmp_path / "step_00000001").glob(part)
    content = torch.load(file, weights_only=False)
    torch.save(content | {"code": Code()}, file)
    manifest = json.loads((tmp_path / "step_00000001" / "manifest.json").read_text())
    manifest["files"] |= module._digests([file])  # who can write the file can write its digest
    del manifest["digest"]
    manifest["digest"] = digest_of(Manifest(**manifest))
    (tmp_path / "step_00000001" / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFailed, match="can't be loaded"):
        saved.load_newest()
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)  # without the guard it runs
    assert (tmp_path / "ran").exists()


def test_another_number_of_ranks_is_refused_where_deepspeed_cannot_convert(tmp_path):
    engine = parts("trainer.optimizer=muon", "trainer.gradient_clipping=0.0").engine()
    checkpoints(engine, tmp_path).save(1, {}, None)
    engine.ranks = replace(engine.ranks, world=3)
    with pytest.raises(UserError, match=r"written by 1 ranks: with trainer\.optimizer=muon"):
        engine.load(tmp_path, "step_00000001", written_by=1)


@pytest.mark.sampled(1)
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
    answers = made.datasets["test"].renderer.template.answers
    with torch.no_grad():
        expected = [float(answer_log_probabilities(adapted, sample.prompt, answer).sum()) for answer in answers]
    row = made.collator.score_row([made.datasets["test"].prefix_group(np.array([0]))], answers)
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
