"""Which runs there are, in which state, and how large."""

import json
import os

import pytest

from hydra_plugins.mlens_launcher._ledger import Job, Ledger
from mlens.cli import runs as command
from mlens.errors import UserError
from mlens.runs.listing import list_runs
from mlens.training import folder
from mlens.training.folder import lock_run_folder
from tests.helpers.made_up_checkpoints import finish, make_checkpoint
from tests.helpers.made_up_runs import make_run


def unfinished(path, *steps):
    """A run that was stopped: all but what is written at the end."""
    make_run(path, "fixed_count", {"count": 10}, seed=3)
    (path / "summary.json").unlink()
    for step in steps:
        make_checkpoint(path / "checkpoints", step)
    return path


def states(place):
    return {run.folder.relative_to(place).as_posix(): run.state for run in list_runs([place])}


def sweep(place, **jobs):
    """A ledger of jobs in these states."""
    place.mkdir(parents=True, exist_ok=True)
    Ledger(
        place,
        [
            Job(name, [], f"print of {name}", state, error="…\nCUDA\x1b[2J" if state == "failed" else None)
            for name, state in jobs.items()
        ],
    ).write()


def test_a_finished_run_is_described_by_its_files(tmp_path):
    run = finish(make_run(tmp_path / "deep" / "a", "fixed_count", {"count": 10}, seed=3), 20, 40, best=20)
    summary = json.loads((run / "summary.json").read_text())
    (listed,) = list_runs([tmp_path])
    assert (listed.folder, listed.state, listed.history, listed.data) == (run, "finished", "fixed_count 10", "sample")
    assert listed.test == summary["metrics"]["test"]["rmse"] and listed.val == summary["metrics"]["val"]["rmse"]
    assert (listed.seed, listed.step) == (3, summary["training"].get("step"))
    assert listed.fingerprint == summary["fingerprint"]
    assert listed.minutes == pytest.approx(sum(v for v in summary["seconds"].values() if v) / 60)
    files = {path: path.stat().st_size for path in run.rglob("*") if path.is_file()}
    inside = [size for path, size in files.items() if path.parts[len(run.parts)] == "checkpoints"]
    assert listed.sizes.checkpoints == sum(inside) > 400
    assert listed.sizes.model == len(b"weights")
    assert listed.sizes.all == sum(files.values())


def test_states_without_a_sweep(tmp_path):
    finish(make_run(tmp_path / "finished"), 10)
    unfinished(tmp_path / "stopped", 10, 30)
    unfinished(tmp_path / "early")
    working = unfinished(tmp_path / "working", 5)
    (make_run(tmp_path / "cut") / "summary.json").write_text('{"fingerprint": ')
    with lock_run_folder(working):
        found = {run.folder.name: (run.state, run.step) for run in list_runs([tmp_path])}
        assert found["working"] == ("running", 5)
    found = {run.folder.name: (run.state, run.step) for run in list_runs([tmp_path])}
    assert found["working"] == ("unfinished", 5)
    assert found["stopped"] == ("unfinished", 30) and found["early"] == ("unfinished", None)
    assert found["cut"][0] == "broken" and found["finished"][0] == "finished"


def test_somebody_elses_run_is_listed_where_its_lock_cannot_be_opened(tmp_path, monkeypatch):
    def refused(lock, timeout):
        raise PermissionError(13, "Permission denied", lock.lock_file)

    run = unfinished(tmp_path / "theirs", 5)
    (run / ".lock").touch()
    monkeypatch.setattr(folder.FileLock, "acquire", refused)
    assert states(tmp_path) == {"theirs": "unfinished"}


def test_a_damaged_checkpoint_is_not_the_newest(tmp_path):
    run = unfinished(tmp_path / "a", 10, 30)
    (run / "checkpoints" / "step_00000030" / "manifest.json").write_text("{")
    assert list_runs([run])[0].step == 10


def test_a_sweeps_ledger_says_what_the_folders_cannot(tmp_path):
    place = tmp_path / "sweep"
    sweep(place, done="finished", died="failed", ended="stopped", next="waiting", lost="running", never="failed")
    finish(make_run(place / "done"), 10)
    for name in ("died", "ended", "lost"):
        unfinished(place / name, 7)
    found = {run.folder.name: run for run in list_runs([tmp_path])}
    assert {name: run.state for name, run in found.items()} == {
        "done": "finished",
        "died": "failed",
        "ended": "stopped",
        "next": "waiting",
        "lost": "unfinished",  # the ledger's launcher is gone, and no run holds the folder
        "never": "failed",
    }
    assert found["died"].step == 7 and found["never"].step is None and found["next"].sizes.all == 0
    assert found["died"].note == found["never"].note == "CUDA\x1b[2J"
    assert found["died"].fingerprint == "print of died"
    # A job's folder alone is in its sweep still.
    assert [run.state for run in list_runs([place / "died"])] == ["failed"]


def test_a_broken_ledger_is_reported_and_hides_no_run(tmp_path):
    make_run(tmp_path / "sweep" / "a")
    (tmp_path / "sweep" / "sweep.json").write_text("[")
    assert states(tmp_path) == {"sweep": "broken", "sweep/a": "finished"}


def test_what_lies_in_a_run_is_no_run_and_links_are_not_followed(tmp_path):
    run = make_run(tmp_path / "here" / "a")
    make_run(run / "evaluations" / "history=none")
    elsewhere = make_run(tmp_path / "elsewhere")
    (tmp_path / "here" / "link").symlink_to(elsewhere, target_is_directory=True)
    assert states(tmp_path / "here") == {"a": "finished"}
    assert states(elsewhere) == {".": "finished"}


@pytest.mark.parametrize(("name", "said"), [("nowhere", "no such folder"), ("empty", "no run")])
def test_where_there_is_nothing_it_says_so(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        list_runs([tmp_path / name])


def listing(place, capsys, sort):
    command.show([place], sort)
    return capsys.readouterr().out


def test_the_table_is_sorted_and_hostile_text_is_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # no name is folded, however long the path of temporary files
    good, bad = make_run(tmp_path / "z", error=0.5), make_run(tmp_path / "a [red]\x1b[2J", error=1.5)
    for age, run in ((100, good), (200, bad)):
        for file in ("summary.json", "training_logs/metrics.jsonl", ".hydra/config.yaml"):
            os.utime(run / file, (age, age))
    config = bad / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("mlens.data.sample.Sample", "x.[bold]\\x1b.y"))
    os.utime(config, (200, 200))
    by_time, by_rmse = listing(tmp_path, capsys, "time"), listing(tmp_path, capsys, "rmse")
    for shown in (by_time, by_rmse):
        assert shown.index("/z") < shown.index("[red]")
        assert "\x1b" not in shown and "a [red]\\x1b[2J" in shown and "[bold]" in shown
    os.utime(good / "summary.json", (300, 300))
    assert listing(tmp_path, capsys, "time").index("/z") > listing(tmp_path, capsys, "time").index("[red]")


def test_the_last_line_of_a_failed_jobs_error_is_shown(tmp_path, capsys):
    sweep(tmp_path / "sweep", never="failed")
    assert "never: failed: CUDA\\x1b[2J" in listing(tmp_path, capsys, "time")
