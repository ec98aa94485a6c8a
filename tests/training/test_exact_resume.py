"""A run that is killed repeatedly ends as an uninterrupted one: bit for bit, at every ZeRO stage.

MLENS_KILLS=7 for seven kills of each of the eight kinds of run.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.helpers.runs import FAST, ROOT, child_environment, summary_of, train

RUN = (
    *(
        *FAST,
        "history=random",
        "trainer.max_steps=24",
        "trainer.validate_every_steps=8",
        "trainer.checkpoint.every_steps=1",
    ),
    *("trainer.early_stopping.patience=99", "trainer.loader_workers=1", "evaluation.draws=2"),
)
KILLS = int(os.environ.get("MLENS_KILLS", "2"))
TIMES = ("seconds", "targets_per_second", "tokens_per_second", "process_seconds", "peak_memory_bytes")


def left_by(run: Path) -> dict:
    """All results of a run except times: its records in order, metrics, and the digests of predictions and model."""
    records = [json.loads(line) for line in (run / "training_logs" / "metrics.jsonl").read_text().splitlines()]
    summary = summary_of(run)
    files = [*run.glob("predictions/*"), *run.glob("model/*.safetensors")]
    return {
        "records": [{key: value for key, value in record.items() if key not in TIMES} for record in records],
        "metrics": summary["metrics"],
        "training": {key: value for key, value in summary["training"].items() if key != "seconds"},
        "fingerprint": summary["fingerprint"],
        "files": {str(f.relative_to(run)): hashlib.blake2b(f.read_bytes()).hexdigest() for f in files},
    }


def start(run: Path, ranks: int, *overrides: str) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    resume = ["resume=true"] if (run / ".hydra" / "config.yaml").exists() else []
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *RUN, *overrides, f"output_dir={run}", *resume]
    return subprocess.Popen(command, env=child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def steps_done(run: Path) -> int:
    file = run / "training_logs" / "metrics.jsonl"
    return file.read_bytes().count(b'"train"') if file.exists() else 0


def kill_somewhere(process: subprocess.Popen, run: Path, random: np.random.Generator) -> str | None:
    """Send SIGKILL to the run or to one of its processes: in a save, between steps, or after a random time.

    Returns what was killed and when, None if the run had ended before.
    """
    moment = random.choice(["in a save", "after some steps", "some time after the start"])
    before, more, seconds = steps_done(run), int(random.integers(1, 6)), random.uniform(0, 12)
    began = time.monotonic()
    while process.poll() is None:
        saving = any((run / "checkpoints").glob(".*.new")) and steps_done(run) >= before + 1
        if moment == "in a save" and saving:
            time.sleep(random.uniform(0, 0.03))
            break
        if moment == "after some steps" and steps_done(run) >= before + more:
            time.sleep(random.uniform(0, 0.2))
            break
        if moment == "some time after the start" and time.monotonic() > began + seconds:
            break
        time.sleep(0.001)
    if process.poll() is not None:
        return None
    victims = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    victim = int(random.choice(victims))
    what = "the run" if victim == process.pid else "one of its processes"
    # Killing torchrun leaves its ranks running; the end of a job in a queue kills them too.
    for pid in victims if victim == process.pid else [victim]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(timeout=120)
    return f"{what}, {moment}, at step {steps_done(run)}"


def uninterrupted(ranks: int, folder: Path, *overrides: str) -> dict:
    """The results of an uninterrupted run with these settings, which is kept in `folder`."""
    run = folder / "-".join((str(ranks), *overrides)).replace("=", "_")
    if not run.exists():
        assert start(run, ranks, *overrides).wait(timeout=600) == 0
    return left_by(run)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", range(4))
def test_a_run_killed_repeatedly_ends_as_an_uninterrupted_one(stage, ranks, tmp_path, tmp_path_factory):
    random, kills = np.random.default_rng([stage, ranks]), []
    run = tmp_path / "run"
    while len(kills) < KILLS:
        killed = kill_somewhere(start(run, ranks, f"deepspeed=zero{stage}"), run, random)
        if killed is None:
            if (run / "summary.json").exists():
                break
            continue  # an earlier kill ended it a little later
        kills.append(killed)
    if not (run / "summary.json").exists():
        assert start(run, ranks, f"deepspeed=zero{stage}").wait(timeout=600) == 0
    print(f"ZeRO {stage}, ranks {ranks}: {len(kills)} kills: {'; '.join(kills)}")
    assert left_by(run) == uninterrupted(ranks, tmp_path_factory.getbasetemp(), f"deepspeed=zero{stage}")


@pytest.mark.slow
@pytest.mark.parametrize("stage, before, after", [(0, 2, 1), (1, 1, 2), (2, 2, 1), (3, 2, 1), (3, 1, 2)])
def test_a_run_resumes_with_another_number_of_ranks(stage, before, after, tmp_path, tmp_path_factory):
    """It uses DeepSpeed's universal checkpoint; results are equal up to the rounding of sums in another order."""
    overrides = (f"deepspeed=zero{stage}", "trainer.optimizer=adamw", "trainer.learning_rate=0.001")
    run = tmp_path / "run"
    process = start(run, before, *overrides)
    while steps_done(run) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        child.kill()
    process.wait()
    assert start(run, after, *overrides).wait(timeout=600) == 0
    found, expected = left_by(run), uninterrupted(before, tmp_path_factory.getbasetemp(), *overrides)
    losses = [[record["loss"] for record in one["records"] if record["kind"] == "train"] for one in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)
    assert found["metrics"]["test"]["rmse"] == pytest.approx(expected["metrics"]["test"]["rmse"], rel=2e-3)


@pytest.mark.slow
def test_muon_resumes_only_with_the_same_number_of_ranks(tmp_path):
    run = tmp_path / "run"
    process = start(run, 1)
    while steps_done(run) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    result = train(*RUN, f"output_dir={run}", "resume=true", ranks=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1 and len(errors) == 1 and "written by 1 ranks" in errors[0], result.stderr
    assert start(run, 1).wait(timeout=600) == 0


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_once_and_the_run_resumes_from_there(number, ranks, tmp_path, tmp_path_factory):
    overrides = ("trainer.checkpoint.every_steps=null",)
    run = tmp_path / "run"
    process = start(run, ranks, *overrides)
    while steps_done(run) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    rank = process.pid if ranks == 1 else psutil.Process(process.pid).children()[0].pid
    os.kill(rank, number)
    code = process.wait(timeout=60)
    assert code == (75 if ranks == 1 else 1)  # of torchrun
    saved = (run / "checkpoints" / "last").resolve().name
    assert int(saved.removeprefix("step_")) == steps_done(run) >= 10
    assert start(run, ranks, *overrides).wait(timeout=600) == 0
    assert left_by(run) == uninterrupted(ranks, tmp_path_factory.getbasetemp(), *overrides)
