"""Sweeps as a user starts them: jobs in torchruns of their own, failures, restarts, and what is refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from hydra_plugins.mlens_launcher import _agent, launcher
from tests.helpers.runs import FAST, ROOT, child_environment, summary_of, train, train_command_here

SWEEP = ("--multirun", "history=none,fixed_count", *FAST, "trainer.max_steps=2", "evaluation.max_users=null")
# The name of the job with trainer.learning_rate=1e+30.
FAILING = "trainer.learning_rate-1e_30-885deb"
# The agent of a sweep's jobs, but one of them fails at once.
AGENT = """
import runpy, sys
if any({failing!r} in word for word in sys.argv):
    sys.exit("error: no room")
runpy.run_path({agent!r}, run_name="__main__")
"""


def jobs_of(folder: Path) -> dict[str, dict]:
    return {job["name"]: job for job in json.loads((folder / "sweep.json").read_text())["jobs"]}


def results_of(folder: Path) -> list[dict]:
    """results.csv without its timing columns."""
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("seconds_")} for row in csv.DictReader(file)]


def test_a_failed_job_stops_no_other_and_alone_is_started_again(tmp_path, tmp_path_factory, monkeypatch):
    sweep, agent = tmp_path / "sweep", tmp_path_factory.mktemp("agent") / "agent.py"
    agent.write_text(AGENT.format(failing=FAILING, agent=_agent.__file__))
    monkeypatch.setattr(_agent, "__file__", str(agent))
    common = ("--multirun", "trainer.learning_rate=0.02,1e30", *FAST, "trainer.validate_every_steps=null")
    common += ("history=none", "trainer.max_steps=2", f"output_dir={sweep}")
    first = train_command_here(*common, cwd=tmp_path)
    assert first.returncode == 1, first.stderr
    jobs, finished = jobs_of(sweep), "trainer.learning_rate-0.02"
    assert {name: job["state"] for name, job in jobs.items()} == {finished: "finished", FAILING: "failed"}
    assert (jobs[FAILING]["error"], jobs[FAILING]["exit_code"]) == ("error: no room", 1)
    assert first.stderr.splitlines()[-1].startswith(f"error: job {FAILING} failed")
    assert [row["arm"] for row in results_of(sweep)] == ["none"]
    assert summary_of(sweep / finished)["training"]["step"] == 2
    assert (sweep / "report.html").is_file() and [path.name for path in tmp_path.iterdir()] == ["sweep"]

    started = []
    monkeypatch.setattr(launcher, "run_local", lambda ledger, names, *_: started.extend(names))
    written = (sweep / finished / "summary.json").stat().st_mtime_ns
    assert train_command_here(*common, cwd=tmp_path).returncode == 1
    assert started == [FAILING] and (sweep / finished / "summary.json").stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_sweep_of_two_ranks_a_job_goes_on_where_it_stopped(tmp_path):
    sweep = tmp_path / "sweep"
    # A learning rate that no float holds makes the loss of the second step no number.
    rates = "trainer.learning_rate=0.02,0.01,1e30"
    common = ["--multirun", "history=none", rates, *FAST, "trainer.validate_every_steps=null", "trainer.max_steps=3"]
    common += [f"output_dir={sweep}", "hydra.launcher.nproc_per_node=2"]
    first = train(*common, cwd=tmp_path)
    assert first.returncode == 1, first.stderr
    jobs = jobs_of(sweep)
    states = {name: job["state"] for name, job in jobs.items()}
    assert states == {
        "trainer.learning_rate-0.02": "finished",
        "trainer.learning_rate-0.01": "finished",
        FAILING: "failed",
    }
    failed = jobs[FAILING]
    assert failed["error"].startswith("error: the loss of step") and failed["exit_code"] != 0
    assert first.stderr.splitlines()[-1].startswith(f"error: job {FAILING} failed")
    assert {row["arm"] for row in results_of(sweep)} == {
        f"none trainer.learning_rate={rate}" for rate in ("0.02", "0.01")
    }
    finished = sweep / "trainer.learning_rate-0.02"
    assert summary_of(finished)["counts"]["ranks"] == 2 and (sweep / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]

    written = (finished / "summary.json").stat().st_mtime_ns
    again = train(*common, cwd=tmp_path)
    assert again.returncode == 1 and (finished / "summary.json").stat().st_mtime_ns == written
    lines = [line for line in again.stderr.splitlines() if "  preparing  " in line]
    assert len(lines) == 1 and FAILING in lines[0]


def test_other_settings_in_a_finished_jobs_folder_are_refused_and_it_is_kept(tmp_path):
    job = tmp_path / "history-none"
    job.mkdir(parents=True)
    (job / "summary.json").write_text('{"fingerprint": "x"}')
    result = train_command_here(*SWEEP, f"output_dir={tmp_path}", cwd=tmp_path)
    assert result.returncode == 2 and "finished with other settings" in result.stderr.splitlines()[-1]
    assert (job / "summary.json").read_text() == '{"fingerprint": "x"}'


def test_a_wrong_job_is_refused_by_name_before_any_starts(tmp_path):
    words = ("--multirun", "history=random", "history.ratio=0.5,2", *FAST, f"output_dir={tmp_path}/s")
    result = train_command_here(*words, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: job history.ratio-2: history.ratio must be above 0")
    assert not (tmp_path / "s" / "sweep.json").exists() and not (tmp_path / "s" / "logs").exists()


def test_under_torchrun_a_sweep_is_refused_with_the_command_to_use_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    result = train_command_here("--multirun", "history=none,random", "seed=3", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "python train.py --multirun history=none,random seed=3 hydra.launcher.nproc_per_node=2" in line
    assert not list(tmp_path.iterdir())


def test_a_sweep_in_a_folder_where_another_is_at_work_is_refused(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".sweep.lock"):
        result = train_command_here(*SWEEP, f"output_dir={tmp_path}", cwd=tmp_path)
    assert result.returncode == 2 and "another sweep is running" in result.stderr


@pytest.mark.slow
def test_the_jobs_use_the_configs_that_the_sweep_was_given(tmp_path):
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    fast = conf / "debug" / "fast.yaml"
    fast.write_text(fast.read_text().replace("max_users: 20", "max_users: 15"))
    command = (f"--config-path={conf}", "--multirun", "history=none", *FAST, f"output_dir={tmp_path}/sweep")
    for _ in range(2):  # the second finds it finished under the same fingerprint
        result = train(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert summary_of(tmp_path / "sweep" / "0")["counts"]["users"] == 15


@pytest.mark.slow
def test_two_agents_as_two_nodes_do_what_two_ranks_of_one_do(tmp_path):
    train(*FAST, f"output_dir={tmp_path}/one", "trainer.max_steps=3", ranks=2, cwd=tmp_path)
    arguments = [
        "--nnodes=2",
        "--nproc_per_node=1",
        "--rdzv_backend=c10d",
        "--rdzv_id=x",
        "--rdzv_endpoint=127.0.0.1:29871",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *arguments, str(ROOT / "train.py"), *FAST]
    command += ["trainer.max_steps=3", f"output_dir={tmp_path}/two"]
    agents = [subprocess.Popen(command, cwd=tmp_path, env=child_environment()) for _ in range(2)]
    assert [agent.wait(timeout=300) for agent in agents] == [0, 0]
    one, two = summary_of(tmp_path / "one"), summary_of(tmp_path / "two")
    assert two["metrics"] == one["metrics"] and two["counts"]["ranks"] == 2 and two["fingerprint"] == one["fingerprint"]


KILLS = int(os.environ.get("MLENS_KILLS", "3"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_a_sweep_killed_at_a_random_moment_ends_as_one_left_alone(number, tmp_path, tmp_path_factory):
    """SIGKILL to the launcher, to a job's agent or to one rank of two, in turn; MLENS_KILLS=20 for more of them."""
    common = (*SWEEP, "hydra.launcher.nproc_per_node=2")
    alone = tmp_path_factory.getbasetemp() / "left_alone"
    if not alone.exists():
        started = time.monotonic()
        assert train(*common, f"output_dir={alone}", cwd=tmp_path).returncode == 0
        (alone / "seconds").write_text(str(time.monotonic() - started))
    random = np.random.default_rng(number)
    sweep = tmp_path / "sweep"
    command = [sys.executable, str(ROOT / "train.py"), *common, f"output_dir={sweep}"]
    started = subprocess.Popen(command, cwd=tmp_path, env=child_environment(), stderr=subprocess.DEVNULL)
    time.sleep(random.uniform(1, float((alone / "seconds").read_text())))
    kill(started, ("launcher", "agent", "rank")[number % 3])
    started.wait(timeout=300)
    done = train(*common, f"output_dir={sweep}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results_of(sweep) == results_of(alone)
    assert {name: job["state"] for name, job in jobs_of(sweep).items()} == dict.fromkeys(jobs_of(alone), "finished")


def kill(started: subprocess.Popen, what: str) -> None:
    """SIGKILL to one process of the sweep; to the launcher where there is no such process at the moment."""
    victims = [started.pid]
    if what != "launcher" and started.poll() is None:
        for process in psutil.Process(started.pid).children(recursive=True):
            line = process.cmdline()
            is_agent = any(word.endswith("_agent.py") for word in line)
            if is_agent == (what == "agent") and any(word.startswith("output_dir=") for word in line):
                victims.append(process.pid)
    os.kill(victims[-1], signal.SIGKILL)
