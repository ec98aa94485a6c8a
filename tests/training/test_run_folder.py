"""The files of a run's folder, the rank that writes them, and the settings that a resume may change."""

import json
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf

from mlens.config import check_config
from mlens.engine.ranks import Ranks
from mlens.errors import UserError
from mlens.files import atomic_write, write_json, write_text
from mlens.training.folder import RunFolder, find_folder, make_folder
from mlens.training.journal import Journal
from mlens.training.resume import refuse_changes
from tests.helpers.runs import checked, composed, hydra_config, only_identity


def rank(number: int) -> Ranks:
    return Ranks(number, 1, torch.device("cpu"))


@pytest.mark.parametrize("before", [None, "old"])
def test_an_interrupted_write_leaves_the_file_unchanged(tmp_path, before):
    file = tmp_path / "summary.json"
    if before:
        file.write_text(before)

    def broken(stream):
        stream.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError):
        atomic_write(file, broken)
    assert (file.read_text() if file.exists() else None) == before


def test_a_written_file_is_intact_and_the_only_one(tmp_path):
    write_json(tmp_path / "a.json", {"title": "评分"})
    write_text(tmp_path / "b.txt", "é\n")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"title": "评分"}
    assert "评分" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.txt"}


def test_only_rank_0_makes_the_folder(tmp_path):
    settings = checked(f"output_dir={tmp_path}/run")
    folder = find_folder(rank(0), settings)
    assert folder.path == tmp_path / "run" and not folder.path.exists()
    with make_folder(rank(1), folder, only_identity(settings), hydra_config()):
        assert not folder.path.exists()
    with make_folder(rank(0), folder, only_identity(settings), hydra_config()):
        pass
    assert OmegaConf.load(folder.hydra / "config.yaml") == OmegaConf.create(settings.config)
    assert list(OmegaConf.load(folder.hydra / "overrides.yaml")) == [f"output_dir={tmp_path}/run"]
    assert "hydra" in OmegaConf.load(folder.hydra / "hydra.yaml")


def test_without_output_dir_each_run_has_a_separate_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, made = checked(), set()
    for _ in range(3):
        folder = find_folder(rank(0), settings)
        with make_folder(rank(0), folder, only_identity(settings), hydra_config()):
            pass
        made.add(str(folder.path))
    assert len(made) == 3 and all(path.startswith("outputs/") for path in made)


def test_an_empty_folder_is_used(tmp_path):
    assert find_folder(rank(0), checked(f"output_dir={tmp_path}")).path == tmp_path


def test_a_folder_is_used_by_one_run_at_a_time_and_by_no_other_later(tmp_path):
    settings = checked(f"output_dir={tmp_path}/run")
    folder = find_folder(rank(0), settings)
    one, other = (make_folder(rank(0), folder, only_identity(settings), hydra_config()) for _ in range(2))
    with one, pytest.raises(UserError, match="another run is using"), other:
        pass
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with (
        pytest.raises(UserError, match="unfinished run"),
        make_folder(rank(0), folder, only_identity(settings), hydra_config()),
    ):
        pass
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("left", ["", "overrides.yaml", ".config.yaml.0123.new"])
def test_a_run_that_was_killed_before_it_had_begun_is_started_over(tmp_path, left):
    run = tmp_path / "run"
    for name in (".hydra", "checkpoints", "training_logs", "predictions"):
        (run / name).mkdir(parents=True)
    (run / ".lock").touch()
    if left:
        (run / ".hydra" / left).write_text("{}")
    with pytest.raises(UserError, match=r"holds no run .*or start it without resume=true"):
        find_folder(rank(0), checked(f"output_dir={run}", "resume=true"))
    settings = checked(f"output_dir={run}")
    with make_folder(rank(0), find_folder(rank(0), settings), only_identity(settings), hydra_config()):
        assert {path.name for path in (run / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    (run / "training_logs" / "metrics.jsonl").touch()
    find_folder(rank(0), checked(f"output_dir={run}", "resume=true"))


def test_a_run_that_left_a_file_is_not_started_over(tmp_path):
    (tmp_path / "training_logs").mkdir()
    (tmp_path / "training_logs" / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="holds other files"):
        find_folder(rank(0), checked(f"output_dir={tmp_path}"))


@cache
def begun() -> dict:
    return checked("history=random").config


def changed(*overrides):
    return refuse_changes(begun(), checked("history=random", *overrides).config)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "override",
    [
        *("seed=1", "history.ratio=0.4", "history=none", "split.seed=3", "data.users=200", "prompt.max_tokens=1024"),
        *("trainer.learning_rate=0.5", "trainer.early_stopping.threshold=0.1", "evaluation.draws=2"),
        *("deepspeed=zero0", "packing.row_tokens=4096", "model.layers=1"),
    ],
)
def test_a_resume_refuses_what_changes_the_run_by_name(override):
    with pytest.raises(UserError) as caught:
        changed(override)
    key, _, value = override.partition("=")
    assert key in str(caught.value) and "\n" not in str(caught.value)
    assert "." not in key or f"now {value}" in str(caught.value)


def test_every_changed_key_is_named_with_both_values():
    with pytest.raises(UserError, match=r"history\.ratio \(was 0\.5, now 0\.4\), seed \(was 0, now 1\)"):
        changed("seed=1", "history.ratio=0.4")


@pytest.mark.parametrize(
    "override",
    [
        *("trainer.early_stopping.patience=9", "trainer.checkpoint.every_steps=5", "wandb.name=x", "wandb=default"),
        *("output_dir=x", "resume=true", "trainer.loader_workers=0"),
    ],
)
def test_a_resume_may_change_what_leaves_the_run_as_it_is(override):
    assert changed(override) == []


@pytest.mark.parametrize("key", ["trainer.max_epochs", "trainer.max_steps"])
def test_another_horizon_is_allowed_and_reported(key):
    assert changed(f"{key}=99") == [key]


def test_a_config_that_is_read_back_is_unchanged(tmp_path):
    config = composed("debug=fast", "trainer.learning_rate=1e-5", "peft=lora")
    OmegaConf.save(config, tmp_path / "config.yaml", resolve=True)
    before = OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"))
    assert refuse_changes(before, check_config(config).config) == []


@pytest.fixture
def journal(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.parent.mkdir()
    with Journal(folder.metrics, True) as journal:
        yield journal, folder.metrics


def steps(file):
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_a_record_is_written_as_a_line_at_once(journal):
    journal, file = journal
    journal.record("train", 1, loss=0.5)
    assert json.loads(file.read_text()) == {"kind": "train", "step": 1, "loss": 0.5}


def test_rewind_drops_what_came_after_the_checkpoint(journal):
    journal, file = journal
    for step in range(1, 6):
        journal.record("train", step, loss=1.0)
        journal.record("val", step, rmse=1.0)
    journal.rewind(3)
    assert steps(file) == [1, 1, 2, 2, 3, 3]
    journal.record("train", 4, loss=2.0)
    assert steps(file) == [1, 1, 2, 2, 3, 3, 4]


def test_rewind_drops_a_truncated_line(journal):
    journal, file = journal
    journal.record("train", 1, loss=1.0)
    with file.open("a") as more:
        more.write('{"kind": "train", "st')
    journal.rewind(5)
    assert steps(file) == [1]


def test_a_silent_journal_writes_nothing(tmp_path, capsys):
    with Journal(tmp_path / "metrics.jsonl", False) as journal:
        bar = journal.begin("training", 3)
        journal.follow(bar)(1)
        journal.advance(bar, 1)
        journal.record("train", 1, loss=1.0)
        journal.log("hello")
        journal.rewind(0)
        journal.end(bar)
        journal.summarise({"rmse": 1.0}, 1)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
