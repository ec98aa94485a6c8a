"""Links in a folder of somebody else's: what is written there lands in the folder, or is refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from hydra_plugins.mlens_launcher._ledger import Job, Ledger
from hydra_plugins.mlens_launcher._local import log_file
from mlens.comparison.report import report
from mlens.data.cache import cache_root, cached_folder
from mlens.engine.ranks import Ranks
from mlens.errors import UserError, exit_on_user_error
from mlens.files import atomic_folder, atomic_write, ensure_folder, open_append, write_json, write_text
from mlens.training.folder import find_folder, make_folder
from tests.helpers.made_up_runs import leave_out_figures, make_run
from tests.helpers.runs import ROOT, checked, child_environment, hydra_config, only_identity

RANKS = Ranks(0, 1, torch.device("cpu"))
SECRET = "not to be overwritten"
FRAME = pl.DataFrame({"p": np.arange(3.0)})


@pytest.fixture
def victim(tmp_path):
    """A file of the user's own; `victim.parent` holds nothing else."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "victim").write_text(SECRET)
    return folder / "victim"


def assert_untouched(victim):
    assert victim.read_text() == SECRET and [path.name for path in victim.parent.iterdir()] == ["victim"]


def one_line(capsys, act):
    """What is printed of an error that ends with exit code 2."""
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        act()
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.count("\n") == 1
    return printed


WRITES = {
    "text": lambda file: write_text(file, "new"),
    "json": lambda file: write_json(file, {}),
    "parquet": lambda file: atomic_write(file, FRAME.write_parquet),
    "csv": lambda file: atomic_write(file, FRAME.write_csv),
    "ndjson": lambda file: atomic_write(file, FRAME.write_json),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_file_is_written_through_no_link(name, victim, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for planted in ("file", ".file.new", ".file.tmp", "file.new", "file~"):
        (folder / planted).symlink_to(victim)
    WRITES[name](folder / "file")
    assert_untouched(victim)
    assert not (folder / "file").is_symlink() and (folder / "file").stat().st_size
    assert len([*folder.iterdir()]) == 5


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_permissions_that_the_user_gives_to_files(umask, tmp_path):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "x")
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask


def test_no_two_writes_have_one_temporary_name(tmp_path):
    seen = set()
    for _ in range(20):
        atomic_write(tmp_path / "file", lambda stream: seen.add(stream.name))
        with atomic_folder(tmp_path / "folder") as fresh:
            seen.add(fresh)
    assert len(seen) == 40


def test_a_folder_takes_the_place_of_a_link_and_of_an_older_one(victim, tmp_path):
    for planted in ("model", "model.new", ".model.new"):
        (tmp_path / planted).symlink_to(victim.parent)
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "model") as fresh:
            (fresh / "weights").write_text(text)
        assert (tmp_path / "model" / "weights").read_text() == text
    assert_untouched(victim)
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model") as fresh:
        (fresh / "weights").write_text(str(1 // 0))
    assert (tmp_path / "model" / "weights").read_text() == "second"
    assert {path.name for path in tmp_path.iterdir()} == {"home", "model", "model.new", ".model.new"}


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("act", [open_append, ensure_folder])
def test_what_is_written_through_must_be_no_link(act, dangling, victim, tmp_path, capsys):
    target = victim.with_name("new") if dangling else victim if act is open_append else victim.parent
    (tmp_path / "link").symlink_to(target)
    told = one_line(capsys, lambda: act(tmp_path / "link"))
    assert f"{tmp_path / 'link'}: is a link" in told
    assert_untouched(victim)


@pytest.fixture
def begun(tmp_path):
    """A run that was stopped, reached through a link, as a user has it whose large disk is elsewhere."""
    (tmp_path / "large disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "large disk")
    settings = checked(f"output_dir={tmp_path}/run")
    with make_folder(RANKS, find_folder(RANKS, settings), only_identity(settings), hydra_config()):
        pass
    return tmp_path / "run"


PLACES = (
    *(".lock", ".hydra", "checkpoints", "model", "training_logs", "training_logs/metrics.jsonl", "predictions"),
    *("wandb", ".wandb_id", "tensorboard", ".trackio_name"),
)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("place", PLACES)
def test_a_run_with_a_link_in_it_is_not_resumed(place, begun, victim, capsys):
    settings = checked(f"output_dir={begun}", "resume=true")
    find_folder(RANKS, settings)
    there = begun / place
    target = victim.parent if there.is_dir() or place in ("model", "wandb", "tensorboard") else victim
    if there.exists():
        there.rename(begun.parent / "aside")
    if place == ".hydra":  # the config is read before
        target = begun.parent / "aside"
    there.symlink_to(target)
    told = one_line(capsys, lambda: find_folder(RANKS, settings))
    assert f"{there}: is a link" in told
    assert_untouched(victim)


def test_a_link_in_place_of_a_run_that_has_not_begun_is_other_files(tmp_path, victim):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions").symlink_to(victim.parent)
    with pytest.raises(UserError, match="holds other files"):
        find_folder(RANKS, checked(f"output_dir={tmp_path}/run"))


def test_a_report_is_written_through_no_link(victim, tmp_path, monkeypatch):
    leave_out_figures(monkeypatch)
    run = make_run(tmp_path / "run", users=4, each=3)
    for name in ("report.html", "report.md", "results.csv", "pairs.csv"):
        (run / f".{name}.new").symlink_to(victim)
        (run / name).symlink_to(victim)
    report([run], run)
    assert_untouched(victim)
    assert "<html" in (run / "report.html").read_text()


def test_a_ledger_and_a_jobs_log_are_written_through_no_link(victim, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    for name in ("sweep.json", ".sweep.json.new"):
        (sweep / name).symlink_to(victim)
    with pytest.raises(UserError, match=r"sweep\.json"):
        Ledger(sweep, [Job("0", [], "x")])
    (sweep / "sweep.json").unlink()
    Ledger(sweep, [Job("0", [], "x")]).write()
    (sweep / "logs").mkdir()
    log_file(sweep, "0").symlink_to(victim)
    assert "is a link" in one_line(capsys, lambda: open_append(log_file(sweep, "0")))
    assert_untouched(victim)


@pytest.mark.slow
@pytest.mark.parametrize("place", [".sweep.lock", "logs", "history-none"])
def test_a_sweeps_folder_with_a_link_in_it_starts_no_job(place, victim, tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / place).symlink_to(victim if place == ".sweep.lock" else victim.parent)
    words = ("--multirun", "debug=fast", "history=none,all_previous", f"output_dir={sweep}")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == (
        f"error: {sweep / place}: is a link, and nothing is written through it: remove it"
    )
    assert_untouched(victim)


def test_an_entrys_lock_in_a_cache_that_others_write_to(victim, capsys):
    (cache_root() / "kind").mkdir()
    (cache_root() / "kind" / "key.lock").symlink_to(victim)
    assert "key.lock: is a link" in one_line(capsys, lambda: cached_folder("kind", "key", Path.exists))
    assert_untouched(victim)


@pytest.mark.slow
def test_a_sweep_goes_on_with_a_finished_job_that_was_moved_to_a_large_disk(tmp_path):
    sweep, disk = tmp_path / "sweep", tmp_path / "disk"
    words = ("--multirun", "debug=fast", "trainer.max_steps=1", f"output_dir={sweep}")
    started = (sys.executable, str(ROOT / "train.py"), *words)
    options = {"env": child_environment(), "capture_output": True, "text": True, "timeout": 300}
    assert subprocess.run([*started, "history=none,all_previous"], **options).returncode == 0
    (sweep / "history-none").rename(disk)
    (sweep / "history-none").symlink_to(disk)
    done = subprocess.run([*started, "history=none,all_previous"], **options)
    assert done.returncode == 0, done.stderr
    assert (sweep / "history-none").is_symlink() and (disk / "summary.json").is_file()
