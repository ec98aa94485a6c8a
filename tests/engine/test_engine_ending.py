"""Ranks end together, and say the same: under torchrun, two ranks that work in step until one fails."""

import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mlens.errors import EXIT_RESUMABLE
from tests.helpers.runs import ROOT, child_environment

SCRIPT = ROOT / "tests" / "helpers" / "failing_ranks.py"


def torchrun(how: str, log) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT), how]
    return subprocess.Popen(command, env=child_environment(), stdout=log, stderr=log)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, said",
    [
        ("error", {"error: no room for a row"}),
        ("both", {"error: the same on both"}),
        ("killed", {"error: another rank ended without a word"}),
        ("bug", {"error: KeyError: 'left'"}),
    ],
)
def test_all_ranks_end_within_30_seconds_and_with_one_reason(how, said, tmp_path):
    with (tmp_path / "log").open("w") as log:
        started = time.monotonic()
        assert torchrun(how, log).wait(timeout=120) == 1
    text = (tmp_path / "log").read_text()
    told = [line for line in text.splitlines() if line.startswith("error: ")]
    assert {re.sub(r"(: it was killed.*|;.*)", "", line) for line in told} == said
    assert text.count("Traceback") == (2 if how == "bug" else 1), text  # torchrun's own, and a bug's
    print(f"{how}: {time.monotonic() - started:.1f} s with the start")


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path):
    with (tmp_path / "log").open("w") as log:
        assert torchrun("signal", log).wait(timeout=120) == 1  # torchrun's own
    text = (tmp_path / "log").read_text()
    assert [line for line in text.splitlines() if line.startswith("stopped: ")] == ["stopped: after step 5"]
    codes = re.findall(r"exitcode\s*: (\d+)", text)
    assert codes and set(codes) == {str(EXIT_RESUMABLE)}


@pytest.mark.slow
def test_a_rank_that_waits_for_one_that_hangs_is_ended_when_asked_to(tmp_path):
    """The other rank is stopped (SIGSTOP), so the collective never ends; SIGTERM to torchrun must end both soon."""
    with (tmp_path / "log").open("w") as log:
        agent = torchrun("hangs", log)
        deadline = time.monotonic() + 60
        while not (hanging := [p for p in psutil.Process(agent.pid).children() if p.status() == psutil.STATUS_STOPPED]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (waiting,) = [p for p in psutil.Process(agent.pid).children() if p != hanging[0]]
        time.sleep(0.5)
        asked = time.monotonic()
        waiting.send_signal(signal.SIGTERM)
        waiting.wait(timeout=20)  # DEADLINE is 6 s in this script
        assert time.monotonic() - asked > 5
        agent.wait(timeout=60)
    assert "error: could not end after a signal" in (tmp_path / "log").read_text()


ENDLESS = """
import time
import torch
from mlens.engine.ending import leave_signals_to_parent

class Rows(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return b"0" * 1_000_000  # more than a pipe holds

rows = iter(torch.utils.data.DataLoader(Rows(), sampler=range(10**9), num_workers=1, prefetch_factor=4, batch_size=None,
                                        worker_init_fn=leave_signals_to_parent))
next(rows)
print(rows._workers[0].pid, flush=True)
time.sleep(600)
"""


def test_a_loader_worker_does_not_outlive_a_rank_that_was_killed():
    rank = subprocess.Popen([sys.executable, "-c", ENDLESS], env=child_environment(), stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(rank.stdout.readline()))
    time.sleep(1)  # the worker has made all rows that it may make ahead
    rank.kill()
    rank.wait()
    try:
        worker.wait(timeout=20)
    finally:
        rank.stdout.close()
        if worker.is_running():
            worker.kill()
