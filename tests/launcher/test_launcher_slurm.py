"""Jobs in a queue: the text of the sbatch script, and real jobs through submitit's local executor."""

import os
import signal
import stat
import textwrap

import psutil
import pytest

from hydra_plugins.mlens_launcher._ledger import FAILED, FINISHED, RUNNING, Job, Ledger, read_ledger
from hydra_plugins.mlens_launcher._settings import LauncherSettings
from hydra_plugins.mlens_launcher._slurm import make_executor, run_queued, still_queued
from mlens.errors import UserError

pytest.importorskip("submitit", reason="submitit is not installed (the extra `slurm`)")


@pytest.fixture
def with_srun(tmp_path, monkeypatch):
    """SLURM is recognised by its commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "sbatch"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_script_asks_for_one_task_a_node_and_what_was_given(with_srun, tmp_path):
    given = {"slurm_partition": "gpu", "slurm_gpus_per_node": 8, "timeout_min": 600}
    settings = LauncherSettings(backend="slurm", nnodes=2, slurm=given)
    executor = make_executor(settings, tmp_path)
    lines = executor._executor._make_submission_file_text("COMMAND", "uid").splitlines()
    flags = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "partition=gpu", "time=600", "job-name=mlens"} <= flags
    assert any(line.startswith("srun ") and line.endswith("COMMAND") for line in lines)


def test_an_unknown_parameter_is_refused_by_name(with_srun, tmp_path):
    with pytest.raises(UserError, match=r"hydra\.launcher\.slurm: .*slurm_partitions"):
        make_executor(LauncherSettings(backend="slurm", slurm={"slurm_partitions": "gpu"}), tmp_path)


def test_without_slurm_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"hydra\.launcher\.slurm: "):
        make_executor(LauncherSettings(backend="slurm"), tmp_path)


def test_queued_jobs_run_under_torchrun_and_end_in_the_ledger(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys
            print(os.environ["WORLD_SIZE"], flush=True)
            if sys.argv[1] == "b":
                print("error: no such film", flush=True)
                sys.exit(2)
            """
        )
    )
    settings = LauncherSettings(backend="slurm", nproc_per_node=2, max_parallel=2, slurm={"timeout_min": 5})
    executor = make_executor(settings, tmp_path, cluster="local")
    ledger = Ledger(tmp_path, [Job(name, [], name) for name in "ab"])
    run_queued(ledger, list("ab"), lambda name: [str(script), name], settings, lambda: None, executor, {})
    found = {job.name: job for job in read_ledger(tmp_path)}
    assert (found["a"].state, found["a"].exit_code) == (FINISHED, 0)
    assert (tmp_path / "logs" / "a.log").read_text().splitlines().count("2") == 2
    assert found["b"].state == FAILED and found["b"].exit_code != 0 and found["b"].error == "error: no such film"
    assert all(job.queue_id for job in found.values())


def test_a_job_that_the_queue_is_about_to_end_saves_and_goes_on_when_it_comes_again(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, pathlib, signal, sys, time
            run = pathlib.Path(sys.argv[-1])
            print(f"resume {'resume=true' in sys.argv}", flush=True)
            if "resume=true" in sys.argv:
                sys.exit(0)
            signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
            (run / ".hydra").mkdir(parents=True)
            (run / ".hydra" / "config.yaml").touch()
            (run / "saved").touch()
            time.sleep(120)
            """
        )
    )
    settings = LauncherSettings(backend="slurm", nproc_per_node=1, slurm={"timeout_min": 5})
    executor = make_executor(settings, tmp_path, cluster="local")
    ledger = Ledger(tmp_path, [Job("a", [], "a")])
    asked = []

    def end_once() -> None:
        if (tmp_path / "a" / "saved").exists() and not asked:
            (task,) = psutil.Process(submitted[0]._process.pid).children()
            task.send_signal(signal.SIGUSR2)  # as the queue does, before it ends a job
            asked.append(True)

    submitted, submit = [], executor.submit
    executor.submit = lambda task: submitted.append(submit(task)) or submitted[-1]
    run_queued(ledger, ["a"], lambda name: [str(script), str(tmp_path / "a")], settings, end_once, executor, {})
    (job,) = read_ledger(tmp_path)
    assert asked and (job.state, job.exit_code) == (FINISHED, 0)
    log = (tmp_path / "logs" / "a.log").read_text().splitlines()
    assert [line for line in log if line.startswith("resume")] == ["resume False", "resume True"]


def test_a_job_that_is_still_queued_is_found_again(with_srun, tmp_path):
    sacct = tmp_path / "bin" / "sacct"
    sacct.write_text("#!/bin/sh\necho 'JobID|State|NodeList\n12|RUNNING|node1\n13|COMPLETED|node1'\n")
    sacct.chmod(stat.S_IRWXU)
    executor = make_executor(LauncherSettings(backend="slurm"), tmp_path)
    ledger = Ledger(tmp_path, [Job(name, [], name) for name in "abcd"])
    ledger.set("a", state=RUNNING, queue_id="12")
    ledger.set("b", state=RUNNING, queue_id="13")
    ledger.set("c", state=FAILED, queue_id="12")
    assert list(still_queued(ledger, list("abcd"), executor)) == ["a"]
