"""Faults of a run at work: what is told, with which exit code, and that it goes on from where it was."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mlens.data.rating_table import RatingTable
from mlens.engine.engine import Engine
from mlens.errors import exit_on_user_error
from tests.helpers.runs import (
    FAST,
    ROOT,
    child_environment,
    composed,
    records_of,
    run_here,
    summary_of,
    train,
    train_here,
)
from tests.helpers.steps import parts

STEPS = (*FAST, "trainer.checkpoint.every_steps=1", "trainer.max_steps=6")


def ends(capsys, folder: Path, *overrides: str) -> tuple[int, str]:
    """Exit code and the one line on stderr of a run in this process that fails."""
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        train_here(composed(*overrides, f"output_dir={folder}"))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and not (folder / "summary.json").exists()
    return ended.value.code, told[0]


def newest(folder: Path) -> int:
    return int((folder / "checkpoints" / "last").resolve().name.removeprefix("step_"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    return run_here(tmp_path_factory.mktemp("undisturbed") / "run", *STEPS)


def goes_on_as(undisturbed: dict, folder: Path) -> None:
    assert run_here(folder, *STEPS, "resume=true")["metrics"] == undisturbed["metrics"]
    assert [record["step"] for record in records_of(folder)] == list(range(1, 7))


@pytest.mark.parametrize(
    "seen", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["seen before", "found while writing"]
)
def test_a_disk_that_is_full_at_a_checkpoint(seen, disk, undisturbed, capsys, monkeypatch):
    """Kept: the checkpoint before. The run goes on from it once there is room."""
    disk.resize(8000)
    run, save = disk.path / "run", Engine.save
    saves = []

    def filled(engine, folder, tag):
        saves.append(tag)
        filler = disk.fill(leaving=100_000) if len(saves) == 3 and not seen else None
        try:
            save(engine, folder, tag)
        finally:
            if filler is not None:
                filler.unlink()

    def room(engine):
        if len(saves) == 2 and seen and not (disk.path / "filler").exists():
            disk.fill(leaving=100_000)

    finite = Engine.finite
    monkeypatch.setattr(Engine, "save", filled)
    monkeypatch.setattr(Engine, "finite", lambda engine: room(engine) or finite(engine))
    code, told = ends(capsys, run, *STEPS)
    (disk.path / "filler").unlink(missing_ok=True)
    assert code == 1 and "the checkpoint of step 3 can't be written" in told
    assert ("MB are free" in told) == seen and "that of step 2 stays" in told
    assert newest(run) == 2 and not any((run / "checkpoints").glob(".*.new"))
    monkeypatch.undo()
    goes_on_as(undisturbed, run)


def test_a_disk_that_is_full_at_the_log(undisturbed, tmp_path, capsys, monkeypatch):
    """Kept: what the log held, and the last checkpoint."""
    run = tmp_path / "run"
    finite, steps = Engine.finite, []

    def full(engine):
        steps.append(engine)
        if len(steps) == 4:
            log = run / "training_logs" / "metrics.jsonl"
            descriptor = next(f.fd for f in psutil.Process().open_files() if f.path == str(log))
            with open("/dev/full", "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), descriptor)
        return finite(engine)

    monkeypatch.setattr(Engine, "finite", full)
    code, told = ends(capsys, run, *STEPS)
    assert code == 2 and "full" in told
    assert [record["step"] for record in records_of(run)] == [1, 2, 3] and newest(run) == 3
    monkeypatch.undo()
    goes_on_as(undisturbed, run)


@pytest.mark.slow
def test_a_worker_that_is_killed(undisturbed, tmp_path, capsys, monkeypatch):
    run, finite, steps = tmp_path / "run", Engine.finite, []
    before = {child.pid for child in psutil.Process().children()}  # of tests before this one

    def kill(engine):
        steps.append(engine)
        if len(steps) == 3:
            new = [child for child in psutil.Process().children() if child.pid not in before]
            (worker,) = [child for child in new if child.status() != psutil.STATUS_ZOMBIE]
            worker.kill()
        return finite(engine)

    monkeypatch.setattr(Engine, "finite", kill)
    more = (
        "trainer.loader_workers=1",
        "trainer.max_steps=30",
        "data.max_users=40",
        "trainer.early_stopping.patience=99",
    )
    code, told = ends(capsys, run, *STEPS, *more)
    assert code == 1 and "trainer.loader_workers" in told and newest(run) >= 3
    monkeypatch.undo()
    done = run_here(run, *STEPS, *more, "trainer.loader_workers=0", "resume=true")["training"]
    assert done["step"] == 30


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_saves_too(number, undisturbed, tmp_path):
    """As scancel and a terminal's Ctrl-C send it: the processes that build rows ahead get it too."""
    run, more = tmp_path / "run", ("trainer.loader_workers=2", "trainer.max_steps=400")
    program = [sys.executable, str(ROOT / "train.py"), *STEPS, *more, "trainer.early_stopping.patience=999"]
    started = subprocess.Popen(
        [*program, f"output_dir={run}"],
        env=child_environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = run / "training_logs" / "metrics.jsonl"
    while not log.exists() or len(records_of(run)) < 5:
        assert started.poll() is None
        time.sleep(0.05)
    os.killpg(started.pid, number)
    _, stderr = started.communicate(timeout=60)
    assert started.returncode == 75 and "Traceback" not in stderr and newest(run) == len(records_of(run))


def in_small_shm(options: str, *command: str) -> subprocess.CompletedProcess[str]:
    """The command where /dev/shm is a file system of its own."""
    mounted = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", mounted, "bash", *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=child_environment(),
    )


@pytest.fixture(scope="module")
def small_shm():
    tried = in_small_shm("size=64k", "true")
    if tried.returncode:
        pytest.skip(f"a small /dev/shm can't be mounted here: {tried.stderr}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_small_shm_serves_the_workers_and_changes_nothing(workers, small_shm, undisturbed, tmp_path):
    run = tmp_path / "run"
    program = (sys.executable, str(ROOT / "train.py"), *STEPS, f"trainer.loader_workers={workers}")
    ended = in_small_shm("size=64k", *program, f"output_dir={run}")
    assert ended.returncode == 0, ended.stderr
    assert summary_of(run)["metrics"] == undisturbed["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("options", ["size=4k", "size=64k,ro"])
def test_a_shm_that_has_no_room_for_a_semaphore_is_one_line(options, small_shm, tmp_path):
    program = (sys.executable, str(ROOT / "train.py"), *STEPS, "trainer.loader_workers=1")
    ended = in_small_shm(options, *program, f"output_dir={tmp_path}/run")
    (told,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 2 and "/dev/shm can't be used" in told and "trainer.loader_workers=0" in told
    assert "Traceback" not in ended.stderr


@pytest.mark.slow  # tests/test_train.py has the loss
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none(what, undisturbed, tmp_path, capsys, monkeypatch):
    """Kept: the checkpoints before that step; nothing is saved of it."""
    run, backward, rows = tmp_path / "run", Engine.backward, []

    def spoilt(engine, row, labels, last):
        rows.append(row)
        if len(rows) >= 8 and what == "gradient" and last:
            parameter = next(engine._engine.module.parameters())
            loss = backward(engine, row, labels, last)
            parameter.data[0, 0] = math.inf  # what an update by an infinite gradient leaves
            return loss
        return backward(engine, row, labels, last) * (math.nan if len(rows) >= 8 and what == "loss" else 1.0)

    monkeypatch.setattr(Engine, "backward", spoilt)
    code, told = ends(capsys, run, *STEPS)
    step = int(told.split(" step ")[1].split()[0])
    assert code == 1 and what in told and "user " in told and "movie " in told and "learning_rate" in told
    assert newest(run) == step - 1 == len(records_of(run))
    monkeypatch.undo()
    goes_on_as(undisturbed, run)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("stage", "clipping"),
    [
        *((stage, float(stage % 2)) for stage in range(4)),
        *(pytest.param(stage, float(1 - stage % 2), marks=pytest.mark.slow) for stage in range(4)),
    ],
)
def test_a_gradient_that_is_not_finite_is_seen_at_every_stage(stage, clipping):
    made = parts(f"deepspeed=zero{stage}", f"trainer.gradient_clipping={clipping}")
    engine = made.engine()
    row = made.collator.train_row([made.datasets["train"].prefix_group(np.arange(1))])
    engine.backward(row, 1.0, True)
    assert engine.finite()
    engine.backward(row, 1e-46, True)  # the loss divided by this is infinite
    assert not engine.finite()


OUT_OF_MEMORY = """
import resource
from tests.helpers.steps import parts
import numpy as np
from mlens.errors import exit_on_user_error
from mlens.evaluation.local_scorer import LocalScorer
made = parts("prompt.max_tokens=4096", "packing.row_tokens=4096", "packing.share=never", "data.users=400")
engine, dataset = made.engine(), made.datasets["train"]
small = made.collator.train_row([dataset.prefix_group(np.arange(1))])
engine.backward(small, 1.0, True)
large = made.collator.train_row([dataset.prefix_group(np.array([i])) for i in range(len(dataset))])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), resource.RLIM_INFINITY))
with exit_on_user_error():
    {act}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "act", ["engine.backward(large, 1.0, True)", "Alone(engine._engine.module, engine.ranks, False).score(large)"]
)
def test_memory_that_runs_out_is_told_with_the_rows_size(act):
    script = OUT_OF_MEMORY.format(act=act)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=child_environment(), timeout=300
    )
    assert result.returncode == 1, result.stderr
    told = result.stderr.splitlines()[-1]
    assert told.startswith("error: out of memory in a row of ") and "packing.row_tokens" in told


@pytest.mark.slow
def test_a_clock_that_is_set_back(undisturbed, tmp_path, monkeypatch):
    """Nothing but the times told depends on it."""
    started, calls = time.time(), []

    def back() -> float:
        calls.append(None)
        return started - 60.0 * len(calls)

    monkeypatch.setattr(time, "time", back)
    assert (
        run_here(tmp_path / "run", *STEPS, "trainer.checkpoint.every_minutes=0.01")["metrics"] == undisturbed["metrics"]
    )


@pytest.mark.slow
def test_minutes_between_checkpoints_follow_the_clock_that_never_goes_back(tmp_path, monkeypatch):
    saved, save = [], Engine.save
    monkeypatch.setattr(
        Engine, "save", lambda engine, folder, tag: (saved.append(time.monotonic()), save(engine, folder, tag))
    )
    run = (*FAST, "trainer.max_steps=6", "trainer.validate_every_steps=6")
    run_here(tmp_path / "often", *run, "trainer.checkpoint.every_minutes=1e-9")
    assert len(saved) == 6
    saved.clear()
    run_here(tmp_path / "once", *run, "trainer.checkpoint.every_minutes=60")
    assert len(saved) == 1


def test_data_that_changed_under_a_stopped_run_are_refused(tmp_path, capsys, monkeypatch):
    """Kept: the run as it was; with the data that it began with it goes on."""
    run, content_hash = tmp_path / "run", RatingTable.content_hash
    finite, steps = Engine.finite, []

    def interrupted(engine):
        steps.append(engine)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGUSR1)
        return finite(engine)

    monkeypatch.setattr(Engine, "finite", interrupted)
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        train_here(composed(*STEPS, f"output_dir={run}"))
    assert ended.value.code == 75 and newest(run) == 3
    monkeypatch.setattr(Engine, "finite", finite)
    with monkeypatch.context() as patched:
        patched.setattr(RatingTable, "content_hash", lambda table: "other")
        code, told = ends(capsys, run, *STEPS, "resume=true")
    assert code == 2 and f"the data aren't those that the run in {run} began with" in told
    assert RatingTable.content_hash is content_hash
    assert run_here(run, *STEPS, "resume=true")["training"]["step"] == 6


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_others_within_30_seconds(tmp_path):
    """And the run goes on as if nothing had been."""
    run, more = tmp_path / "run", ("trainer.max_steps=200", "trainer.early_stopping.patience=999")
    with (tmp_path / "log").open("w") as log:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train.py")]
        agent = subprocess.Popen(
            [sys.executable, *command, *STEPS, *more, f"output_dir={run}"],
            env=child_environment(),
            stdout=log,
            stderr=log,
        )
        while (
            not run.exists() or len(records_of(run) if (run / "training_logs" / "metrics.jsonl").exists() else ()) < 3
        ):
            assert agent.poll() is None
            time.sleep(0.05)
        everyone = psutil.Process(agent.pid).children(recursive=True)
        ranks = psutil.Process(agent.pid).children()
        killed = time.monotonic()
        ranks[1].kill()
        assert agent.wait(timeout=60) == 1
        _, alive = psutil.wait_procs(everyone, timeout=30)
        seconds = time.monotonic() - killed
    assert not alive and seconds < 30
    print(f"a killed rank: all ended after {seconds:.1f} s")
    told = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error: ")]
    assert len(set(told)) <= 1 and all("another rank ended" in line for line in told)
    result = train(*STEPS, *more, "trainer.max_steps=10", f"output_dir={run}", "resume=true", ranks=2)
    assert result.returncode == 0 and summary_of(run)["training"]["step"] == 10


@pytest.mark.slow
def test_a_rank_without_rows_and_rows_without_labels(tmp_path):
    """One target a step on two ranks: one of them has an empty row each time."""
    two = train(*FAST, "trainer.targets_per_step=1", f"output_dir={tmp_path}/two", ranks=2)
    one = run_here(tmp_path / "one", *FAST, "trainer.targets_per_step=1")
    assert two.returncode == 0, two.stderr
    losses = [[record["loss"] for record in records_of(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 4
    assert summary_of(tmp_path / "two")["metrics"]["test"]["rmse"] == pytest.approx(
        one["metrics"]["test"]["rmse"], rel=1e-3
    )


@pytest.mark.slow
def test_two_runs_given_one_folder_at_once(tmp_path):
    """Kept: the first one's, which ends as if it had been alone; the other is refused."""
    run = tmp_path / "run"
    results = []

    def other() -> None:
        while not (run / "training_logs" / "metrics.jsonl").exists():
            time.sleep(0.02)
        results.append(train(*FAST, f"output_dir={run}", "resume=true"))

    thread = threading.Thread(target=other)
    thread.start()
    first = train(*FAST, "trainer.max_steps=400", "trainer.early_stopping.patience=999", f"output_dir={run}")
    thread.join()
    assert first.returncode == 0 and summary_of(run)["training"]["step"] == 400
    assert results[0].returncode == 2 and results[0].stderr.count("error: ") == 1
