"""The launcher's parts: names, ledger, shares of the machine, and jobs as processes (with a stand-in for torchrun)."""

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import psutil
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hydra_plugins.mlens_launcher import _agent
from hydra_plugins.mlens_launcher._board import Board, JobProgress
from hydra_plugins.mlens_launcher._ledger import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    Job,
    Ledger,
    job_names,
    names_in,
    read_ledger,
)
from hydra_plugins.mlens_launcher._local import last_lines, run_local
from hydra_plugins.mlens_launcher._settings import LauncherSettings, divide
from mlens.errors import UserError
from mlens.files import write_text
from mlens.overrides import quoted
from tests.helpers.runs import child_environment, composed, hydra_config

ROOT = Path(__file__).parents[2]
CHILD_FAILED = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=200)


@given(st.lists(st.lists(WORDS, max_size=3), min_size=1, max_size=6))
def test_names_are_different_and_no_path(batch):
    batch = [[f"{i}={value}" for i, value in enumerate(values)] for values in {tuple(values) for values in batch}]
    names = job_names(batch)
    assert len(set(names)) == len(batch)
    assert all(name and "/" not in name and len(name.encode()) < 255 * 4 and len(name) < 140 for name in names)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=2, max_size=4))
def test_a_jobs_folder_is_typed_without_quotes(batch):
    batch = [[f"k{i}={value}" for i, value in enumerate(values)] for values in {tuple(values) for values in batch}]
    for name in job_names(batch):
        path = f"multirun/2026-11-29/00-16-33/{name}"
        (override,) = OverridesParser.create().parse_overrides([f"output_dir={path}"])
        assert shlex.quote(path) == path and override.value() == path and not override.is_sweep_override()


def test_a_sweep_goes_on_in_the_folders_that_an_earlier_version_named(tmp_path):
    batch = [[f"history={history}", f"seed={seed}"] for history in ("none", "random") for seed in (0, 1)]
    Ledger(tmp_path, [Job("history=none,seed=0", batch[0], "f")]).write()
    (tmp_path / "history=none,seed=1").mkdir()
    (tmp_path / "history=random,seed=0").mkdir()
    (tmp_path / "history-random+seed-0").mkdir()  # begun since
    assert names_in(tmp_path, batch) == [
        *("history=none,seed=0", "history=none,seed=1"),
        *("history-random+seed-0", "history-random+seed-1"),
    ]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\\$"), max_size=40))
def test_a_quoted_folder_is_one_value_to_hydra(text):
    (override,) = OverridesParser.create().parse_overrides([f"output_dir={quoted(text)}"])
    assert not override.is_sweep_override() and override.value() == text


def test_the_ledger_keeps_what_an_earlier_sweep_did_of_the_same_jobs(tmp_path):
    first = Ledger(tmp_path, [Job("a", ["x=1"], "f1"), Job("b", ["x=2"], "f2")])
    first.set("a", state=FINISHED, seconds=3.0)
    first.set("b", state=FAILED, error="why")
    second = Ledger(tmp_path, [Job("a", ["x=1"], "f1"), Job("b", ["x=2"], "other")])
    assert second.jobs["a"] == replace(first.jobs["a"])
    assert second.jobs["b"].state == WAITING and second.jobs["b"].error is None
    second.write()
    assert [job.name for job in read_ledger(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "[]", '{"jobs": [{"x": 1}]}', '{"jobs": [3]}'])
def test_a_file_that_is_no_ledger_is_refused_and_kept(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=r"sweep\.json.* Remove it, or give another output_dir"):
        Ledger(tmp_path, [])
    assert (tmp_path / "sweep.json").read_text() == text


@pytest.mark.parametrize(
    ("settings", "gpus", "cores", "shares"),
    [
        ({}, 0, 8, [(1, (), 8)]),
        ({}, 8, 16, [(8, tuple("01234567"), 2)]),
        ({"max_parallel": 3}, 8, 16, [(2, ("0", "1"), 2), (2, ("2", "3"), 2), (2, ("4", "5"), 2)]),
        ({"max_parallel": 2, "nproc_per_node": 1}, 4, 2, [(1, ("0",), 1), (1, ("1",), 1)]),
        ({"max_parallel": 4}, 0, 2, [(1, (), 1)] * 4),
        ({"nproc_per_node": 2}, 0, 2, [(2, (), 1)]),
    ],
)
def test_the_machine_is_divided(settings, gpus, cores, shares):
    found = divide(LauncherSettings(**settings), [str(i) for i in range(gpus)], cores)
    assert [(share.ranks, share.gpus, share.threads) for share in found] == shares


def test_more_ranks_than_gpus_are_refused():
    with pytest.raises(UserError, match="need 6 GPUs, and there are 4"):
        divide(LauncherSettings(max_parallel=2, nproc_per_node=3), list("0123"), 8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "pbs"},
        {"nproc_per_node": 0},
        {"nproc_per_node": "all"},
        {"max_parallel": 0},
        {"nnodes": 2},
        {"slurm": {"slurm_partition": "gpu"}},
    ],
)
def test_wrong_settings_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"hydra.launcher.{next(iter(wrong))}"):
        LauncherSettings(**wrong)


def test_a_jobs_standing_is_read_as_it_is_written(tmp_path):
    logs = tmp_path / "training_logs"
    logs.mkdir()
    at = JobProgress()
    at.refresh(tmp_path)
    assert at.seconds_left is None
    (tmp_path / "plan.json").write_text('{"steps": 10}')
    (logs / "phase").write_text("training")
    train = {"kind": "train", "epoch": 1, "seconds": 2.0}
    with (logs / "metrics.jsonl").open("w") as file:
        file.write(json.dumps(train | {"step": 1}) + "\n" + json.dumps(train | {"step": 2})[:20])
        file.flush()
        at.refresh(tmp_path)
        assert (at.step, at.steps, at.seconds_left) == (1, 10, 18.0)
        file.write(
            json.dumps(train | {"step": 2})[20:] + "\n" + json.dumps({"kind": "val", "step": 2, "rmse": 0.9}) + "\n"
        )
        file.flush()
        at.refresh(tmp_path)
    assert (at.step, at.rmse, at.seconds_left) == (2, 0.9, 16.0)


def test_a_standing_starts_over_with_the_file_of_a_run_that_goes_on(tmp_path):
    """Which leaves out the steps that are made again, and a line that was cut off."""
    (tmp_path / "training_logs").mkdir()
    file = tmp_path / "training_logs" / "metrics.jsonl"
    lines = [json.dumps({"kind": "train", "epoch": 0, "seconds": 2.0, "step": step}) + "\n" for step in range(1, 9)]
    file.write_text("".join(lines[:6]) + lines[6][:9])
    at = JobProgress()
    at.refresh(tmp_path)
    assert (at.step, at.step_seconds) == (6, 12.0)
    write_text(file, "".join(lines[:3]))
    for count in (3, 8):
        with file.open("a") as appended:
            appended.write("".join(lines[3:count]))
        at.refresh(tmp_path)
        assert (at.step, at.step_seconds) == (count, 2.0 * count)


def test_against_the_clock_no_more_is_left_than_the_clock_leaves(tmp_path):
    (tmp_path / "training_logs").mkdir()
    (tmp_path / "plan.json").write_text('{"steps": 10000, "max_minutes": 0.5}')
    (tmp_path / "training_logs" / "phase").write_text("training")
    record = json.dumps({"kind": "train", "epoch": 0, "seconds": 12.0, "step": 1})
    (tmp_path / "training_logs" / "metrics.jsonl").write_text(record + "\n")
    at = JobProgress()
    at.refresh(tmp_path)
    assert at.seconds_left == 18.0


@pytest.fixture
def board(tmp_path):
    """Of a running job `a`, begun by an earlier process, and a waiting `b`; without a terminal."""
    (tmp_path / "a" / "training_logs").mkdir(parents=True)
    write_text(tmp_path / "a" / "training_logs" / "phase", "testing")
    board = Board(Ledger(tmp_path, [Job("a", [], "f"), Job("b", [], "g")]))
    board.console = Console(file=StringIO(), width=200)
    board.ledger.set("a", state=RUNNING)
    return board


def go_on(board: Board, phase: str, rmse: float | None = None) -> None:
    """What a job's process leaves in its folder."""
    logs = board.ledger.folder / "a" / "training_logs"
    write_text(logs / "phase", phase)
    if rmse is not None:
        with (logs / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "val", "step": round(100 * rmse), "rmse": rmse}) + "\n")


def test_a_running_jobs_row_says_what_it_does_and_since_when(board):
    def row() -> list[str]:
        board()
        board.console.print(board.table())
        lines = [line for line in board.console.file.getvalue().splitlines() if line.startswith("│ a")]
        return [cell.strip() for cell in lines[-1].strip("│").split("│")]

    assert row() == ["a", "preparing", "", "", "", "0:00", ""]  # not what the earlier process did
    board._progress["a"].start_time -= 75
    for phase in ("training", "validating", "testing", "baselines"):
        go_on(board, phase)
        assert row()[1] == phase and row()[5].startswith("1:1")


def test_without_a_terminal_each_phase_is_a_line_once(board):
    board()
    for phase, rmse in (("training", None), ("validating", 0.9), ("training", None), ("validating", 0.8)):
        go_on(board, phase, rmse)
        board()
        board()
    board.ledger.set("a", state=FINISHED, seconds=75.0)
    board()
    assert [line.split("  ")[1:] for line in board.console.file.getvalue().splitlines()] == [
        ["preparing", "after 0:00"],
        ["training", "after 0:00"],
        ["step 0", "validation RMSE 0.9000"],
        ["validating", "after 0:00"],
        ["step 0", "validation RMSE 0.8000"],
        ["finished", "after 1:15"],
    ]


def test_a_sweep_passes_on_what_the_first_of_its_plans_warns_of(board):
    (board.ledger.folder / "b" / "training_logs").mkdir(parents=True)
    board.ledger.set("b", state=RUNNING)
    for name in "ab":
        (board.ledger.folder / name / "plan.json").write_text('{"steps": 1, "warnings": ["WARNING: cut"]}')
    board()
    board()
    assert board.console.file.getvalue().count("WARNING: cut") == 1


def test_what_a_failed_job_said_last(tmp_path):
    log = tmp_path / "log"
    log.write_text("a\n\nerror: data.path is missing\ntorchrun's own words\n")
    assert last_lines(log) == "error: data.path is missing"
    log.write_text("".join(f"line {i}\n" for i in range(9)))
    assert last_lines(log) == "line 4\nline 5\nline 6\nline 7\nline 8"
    log.write_text("Traceback\nDistNetworkError: The server socket has failed to bind. message: too many open files\n")
    assert "`ulimit -n" in last_lines(log)
    log.write_text(f"[rank0]: Traceback\n[rank0]: KeyError: 'rmse'\nE1129 failed\n{CHILD_FAILED}:\n{'=' * 60}\n")
    assert last_lines(log) == f"KeyError: 'rmse' (traceback: {log})"
    log.write_text("\n")  # a job that was killed at once
    assert last_lines(log) == "no output"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A stand-in for torchrun that starts the job's command once a rank, and ends as the real agent does."""
    agent = tmp_path / "agent.py"
    agent.write_text(
        textwrap.dedent(
            """
            import subprocess, sys, threading
            from hydra_plugins.mlens_launcher._agent import end_with_launcher
            threading.Thread(target=end_with_launcher, daemon=True).start()
            ranks = next(int(a.split("=")[1]) for a in sys.argv if a.startswith("--nproc_per_node="))
            command = [a for a in sys.argv[1:] if not a.startswith("--")]
            jobs = [subprocess.Popen([sys.executable, *command], start_new_session=True) for _ in range(ranks)]
            sys.exit(max(job.wait() for job in jobs))
            """
        )
    )
    monkeypatch.setattr(_agent, "__file__", str(agent))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def write_job(folder: Path, body: str) -> str:
    script = folder / "job.py"
    script.write_text(f"import os, sys, time, pathlib\nname = sys.argv[1]\n{textwrap.dedent(body)}")
    return str(script)


def run(ledger: Ledger, script: str, settings: LauncherSettings, watch=lambda: None) -> None:
    folder = str(ledger.folder)
    run_local(
        ledger, list(ledger.jobs), lambda name: [script, name, folder, f"output_dir={folder}/{name}"], settings, watch
    )


def test_a_failed_job_stops_no_other_and_its_last_words_are_kept(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script = write_job(
        tmp_path,
        """
        assert "RANK" not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
        assert int(os.environ["OMP_NUM_THREADS"]) >= 1
        if name == "b":
            print("error: no such film"); sys.exit(3)
        pathlib.Path(sys.argv[2], name).touch()
        """,
    )
    ledger = Ledger(tmp_path, [Job(name, [], name) for name in "abc"])
    run(ledger, script, LauncherSettings(max_parallel=2))
    found = {job.name: (job.state, job.exit_code, job.error) for job in read_ledger(tmp_path)}
    assert found == {
        "a": (FINISHED, 0, None),
        "b": (FAILED, 3, "error: no such film"),
        "c": (FINISHED, 0, None),
    }
    assert (tmp_path / "a").exists() and (tmp_path / "c").exists()


def test_a_job_that_a_signal_stopped_goes_on_after_the_others(stand_in, tmp_path):
    script = write_job(
        tmp_path,
        """
        run = pathlib.Path(sys.argv[2], name)
        print(name, "resume=true" in sys.argv, file=open(run.parent / "order", "a"))
        if name == "a" and not run.exists():
            (run / ".hydra").mkdir(parents=True)
            (run / ".hydra" / "config.yaml").touch()
            sys.exit(75)
        """,
    )
    ledger = Ledger(tmp_path, [Job(name, [], name) for name in "ab"])
    run(ledger, script, LauncherSettings())
    assert (tmp_path / "order").read_text().splitlines() == ["a False", "b False", "a True"]
    assert [(job.state, job.exit_code) for job in read_ledger(tmp_path)] == [(FINISHED, 0), (FINISHED, 0)]


@pytest.mark.slow
def test_the_agent_passes_the_warning_on_and_ends_as_its_ranks_do(tmp_path):
    """Three ranks under the real agent; the signal reaches all, and their exit code is its own."""
    script = write_job(
        tmp_path,
        """
        import signal
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75 if name == "all" else 3))
        pathlib.Path(f"{sys.argv[2]}_{os.environ['RANK']}").touch()
        time.sleep(120)
        """,
    )
    for name, code in (("all", 75), ("other", 1)):
        command = [sys.executable, _agent.__file__, "--standalone", "--nproc_per_node=3", script, name]
        ready = tmp_path / name
        with (tmp_path / "log").open("wb") as log:
            agent = subprocess.Popen(
                [*command, str(ready)], stdin=subprocess.PIPE, stdout=log, stderr=log, env=child_environment()
            )
        wait_until(lambda: len(list(tmp_path.glob(f"{name}_*"))) == 3, 60.0)  # noqa: B023
        agent.send_signal(signal.SIGUSR1)
        assert agent.wait(timeout=60) == code


def test_no_more_jobs_at_once_than_asked(stand_in, tmp_path):
    script = write_job(
        tmp_path,
        """
        own = pathlib.Path(sys.argv[2], f"at_work_{name}")
        own.touch()
        time.sleep(0.5)
        print(len(list(own.parent.glob("at_work_*"))))
        own.unlink()
        """,
    )
    ledger = Ledger(tmp_path, [Job(name, [], name) for name in "abcd"])
    run(ledger, script, LauncherSettings(max_parallel=2))
    counts = [int((tmp_path / "logs" / f"{name}.log").read_text()) for name in "abcd"]
    assert max(counts) == 2 and all(job.state == FINISHED for job in ledger.jobs.values())


def pids_of(tmp_path: Path) -> list[int]:
    return [int(file.read_text()) for file in tmp_path.glob("pid_*") if file.read_text()]


def wait_until(true, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "too long"
        time.sleep(0.05)


SLEEPER = """
    pathlib.Path(sys.argv[2], f"pid_{name}_{os.getpid()}").write_text(str(os.getpid()))
    time.sleep(120)
"""


def test_ctrl_c_ends_every_rank_and_leaves_a_ledger_to_go_on_from(stand_in, tmp_path):
    script = write_job(tmp_path, SLEEPER)
    ledger = Ledger(tmp_path, [Job(name, [], name) for name in "ab"])

    def interrupt_when_started() -> None:
        if len(pids_of(tmp_path)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(ledger, script, LauncherSettings(nproc_per_node=2), interrupt_when_started)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids_of(tmp_path)))
    assert {job.name: job.state for job in read_ledger(tmp_path)} == {"a": STOPPED, "b": WAITING}


def test_when_the_launcher_is_killed_no_rank_goes_on(stand_in, tmp_path):
    script = write_job(tmp_path, SLEEPER)
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                f"""
                from pathlib import Path
                from hydra_plugins.mlens_launcher import _agent
                from hydra_plugins.mlens_launcher._ledger import Job, Ledger
                from hydra_plugins.mlens_launcher._local import run_local
                from hydra_plugins.mlens_launcher._settings import LauncherSettings
                _agent.__file__ = {_agent.__file__!r}
                ledger = Ledger(Path({str(tmp_path)!r}), [Job(name, [], name) for name in "ab"])
                command = lambda name: [{script!r}, name, {str(tmp_path)!r}, f"output_dir={{name}}"]
                run_local(ledger, ["a", "b"], command, LauncherSettings(nproc_per_node=2, max_parallel=2), lambda: None)
                """
            ),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    wait_until(lambda: len(pids_of(tmp_path)) == 4, 60.0)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids_of(tmp_path)))


def test_when_a_jobs_agent_is_killed_its_ranks_end_and_the_sweep_goes_on(stand_in, tmp_path):
    script = write_job(tmp_path, "if name == 'b': sys.exit(0)\n" + textwrap.dedent(SLEEPER))
    ledger = Ledger(tmp_path, [Job(name, [], name) for name in "ab"])

    def kill_the_agent() -> None:
        found = pids_of(tmp_path)
        if len(found) == 2 and psutil.pid_exists(found[0]):
            psutil.Process(found[0]).parent().send_signal(signal.SIGKILL)

    run(ledger, script, LauncherSettings(nproc_per_node=2), kill_the_agent)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids_of(tmp_path)))
    assert [(job.state, job.exit_code) for job in ledger.jobs.values()] == [(FAILED, -signal.SIGKILL), (FINISHED, 0)]


def test_hydra_finds_the_launcher():
    found = {f"{launcher.__module__}.{launcher.__name__}" for launcher in Plugins.instance().discover(Launcher)}
    assert "hydra_plugins.mlens_launcher.launcher.MlensLauncher" in found
    assert composed().keys() and hydra_config().launcher._target_ in found
