"""The cost of spinning threads: training speed on an idle machine, and while another process is busy.

    python benchmarks/threads.py [--spins 300000 1000] [--slices 9]

model=tiny trains on the sample with two threads, once for each value of `--spins`: how often a thread of OpenMP polls
for work before it sleeps (GOMP_SPINCOUNT). 300000 is the default of libgomp, `own` stands for the setting of mlens.
Each side is a separate process. The sides take turns of `--seconds`, so that other load affects all equally.
A turn during which other processes took more than a tenth of a processor is repeated, at most four times.

All sides train on the same steps from the same weights; the first losses are compared, and must be equal. About four
minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import psutil
from rich.table import Table

DEFAULT = "300000"
OVERRIDES = ("data=sample", "model=tiny", "wandb.mode=disabled")
# Rows before timing: first calls allocate, and the loader's worker has to start.
WARM_UP = 20
# The share of a processor that other processes may take during a valid turn.
OTHERS = 0.1
TRIES = 5


@dataclass
class Side:
    """One training process.

    name: the value of --spins.
    process: the process.
    losses: of its first rows.
    speeds: targets a second of its turns, by whether another process was busy.
    loads: the processors that other processes used during its turns.
    """

    name: str
    process: subprocess.Popen
    losses: list[float] = field(default_factory=list)
    speeds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    loads: list[float] = field(default_factory=list)

    def request(self, line: str) -> list[float]:
        """Send a line to the process; returns its reply."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def turn(self, seconds: float, busy: int | None) -> None:
        """Train for `seconds`; again if other processes used too much of the machine.

        busy: the id of the busy process, if any.
        """
        measured = [self.process.pid, *([busy] if busy is not None else [])]
        for attempt in range(TRIES):
            before, ours, started = machine_seconds(), tree_seconds(measured), time.perf_counter()
            (speed,) = self.request(str(seconds))
            spent = time.perf_counter() - started
            others = (machine_seconds() - before - (tree_seconds(measured) - ours)) / spent
            if others <= OTHERS or attempt == TRIES - 1:
                self.speeds[busy is not None].append(speed)
                self.loads.append(others)
                return


def machine_seconds() -> float:
    times = psutil.cpu_times()
    return times.user + times.system


def tree_seconds(pids: list[int]) -> float:
    roots = [psutil.Process(pid) for pid in pids]
    everyone = [process for root in roots for process in (root, *root.children(recursive=True))]
    return sum(sum(process.cpu_times()[:2]) for process in everyone)


def start_side(spins: str, threads: int) -> Side:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("OMP_WAIT_POLICY", None)
    environment.pop("GOMP_SPINCOUNT", None)
    if spins != "own":
        environment["GOMP_SPINCOUNT"] = spins
    process = subprocess.Popen(
        [sys.executable, __file__, "--side"], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    side = Side(spins, process)
    side.losses = side.request("losses")
    return side


def train() -> None:
    """Run a side: reply to `losses` with the losses of its first rows, and to a number of seconds with its speed."""
    import mlens  # noqa: F401  before torch, which reads how threads wait

    # isort: split
    import ours
    from setting import compose_setting

    replies, sys.stdout = sys.stdout, sys.stderr
    setting = compose_setting(*OVERRIDES)
    engine = ours.make_engine(setting)
    rows = itertools.chain.from_iterable(ours.load_rows(setting, ours.drawn_rows(setting)) for _ in itertools.count())

    def step() -> tuple[int, float]:
        planned, row = next(rows)
        return len(planned.targets), float(engine.backward(row, planned.labels, planned.last))

    losses = [step()[1] for _ in range(WARM_UP)]
    for line in sys.stdin:
        if line.strip() == "losses":
            reply = losses
        else:
            started, targets = time.perf_counter(), 0
            while time.perf_counter() - started < float(line):
                targets += step()[0]
            reply = [targets / (time.perf_counter() - started)]
        print(json.dumps(reply), file=replies, flush=True)


@contextmanager
def busy_process() -> Iterator[int]:
    """Start a process that keeps a processor busy until the block, or this process, ends."""
    process = subprocess.Popen([sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}: pass"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def main(options: argparse.Namespace) -> None:
    sides = [start_side(spins, options.threads) for spins in options.spins]
    try:
        for _ in range(options.slices):
            for side in sides:
                side.turn(options.seconds, None)
            with busy_process() as busy:
                for side in sides:
                    side.turn(options.seconds, busy)
    finally:
        for side in sides:
            side.process.kill()
    print_table(sides)
    if any(side.losses != sides[0].losses for side in sides):
        sys.exit("the losses differ")


def print_table(sides: list[Side]) -> None:
    from setting import console

    table = Table("GOMP_SPINCOUNT", title="Training, model=tiny, targets/s")
    for name in ("idle", "of the first", "one other busy", "of idle", "others, processors"):
        table.add_column(name, justify="right")
    first = median(sides[0].speeds[False])
    for side in sides:
        idle, busy = median(side.speeds[False]), median(side.speeds[True])
        cells = (f"{idle:.1f}", f"{idle / first:.0%}", f"{busy:.1f}", f"{busy / idle:.0%}", f"{max(side.loads):.2f}")
        table.add_row(side.name, *cells)
    console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", nargs="+", default=[DEFAULT, "own"], help=f"({DEFAULT} own)")
    parser.add_argument("--slices", type=int, default=9, help="turns of each side, idle and busy (9)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a turn (4)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        train()
    else:
        main(given)
