"""What threads that wait cost: training steps a second while the machine is quiet, and beside one other busy process.

    python benchmarks/threads.py [--spins 300000 1000] [--slices 9]

model=tiny trains on the sample with two threads, once for each number of `--spins`: how often a thread of OpenMP looks
for work before it sleeps (GOMP_SPINCOUNT). 300000 is libgomp's own default, `own` what mlens sets. Every side is a
process of its own, and all take turns of `--seconds`, so that whatever else the machine does affects all alike.
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
# Rows before a side is ready: first calls allocate, and the loader's worker has to start.
WARM_UP = 20
# Of a processor: what other processes may take during a turn that counts.
OTHERS = 0.1
TRIES = 5


@dataclass
class Side:
    """One training process. speeds: targets a second of its turns, by whether another process was busy; losses: of its
    first rows; loads: processors that others used meanwhile."""

    name: str
    process: subprocess.Popen
    losses: list[float] = field(default_factory=list)
    speeds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    loads: list[float] = field(default_factory=list)

    def ask(self, line: str) -> list[float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def turn(self, seconds: float, busy: int | None) -> None:
        """Train for so long, again where others were in the way."""
        tree = [self.process.pid, *([busy] if busy is not None else [])]
        for attempt in range(TRIES):
            before, ours, started = machine_seconds(), tree_seconds(tree), time.perf_counter()
            (speed,) = self.ask(str(seconds))
            spent = time.perf_counter() - started
            others = (machine_seconds() - before - (tree_seconds(tree) - ours)) / spent
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
    side.losses = side.ask("losses")
    return side


def train() -> None:
    """A side: answers `losses` with those of its first rows, and a number of seconds with targets a second."""
    import mlens  # noqa: F401  before torch, which reads how threads wait

    # isort: split
    import ours
    from setting import compose_setting

    answers, sys.stdout = sys.stdout, sys.stderr
    setting = compose_setting(*OVERRIDES)
    engine = ours.make_engine(setting)
    rows = itertools.chain.from_iterable(ours.load_rows(setting, ours.drawn_rows(setting)) for _ in itertools.count())

    def step() -> tuple[int, float]:
        planned, row = next(rows)
        return len(planned.targets), float(engine.backward(row, planned.labels, planned.last))

    losses = [step()[1] for _ in range(WARM_UP)]
    for line in sys.stdin:
        if line.strip() == "losses":
            found = losses
        else:
            started, targets = time.perf_counter(), 0
            while time.perf_counter() - started < float(line):
                targets += step()[0]
            found = [targets / (time.perf_counter() - started)]
        print(json.dumps(found), file=answers, flush=True)


@contextmanager
def busy_process() -> Iterator[int]:
    """Another process that takes a processor for itself, until this one ends, however it does."""
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
    for name in ("quiet", "of the first's", "one other busy", "of its quiet", "others, processors"):
        table.add_column(name, justify="right")
    first = median(sides[0].speeds[False])
    for side in sides:
        quiet, busy = median(side.speeds[False]), median(side.speeds[True])
        cells = (f"{quiet:.1f}", f"{quiet / first:.0%}", f"{busy:.1f}", f"{busy / quiet:.0%}", f"{max(side.loads):.2f}")
        table.add_row(side.name, *cells)
    console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", nargs="+", default=[DEFAULT, "own"], help=f"({DEFAULT} own)")
    parser.add_argument("--slices", type=int, default=9, help="turns of each side, quiet and busy (9)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn (4)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        train()
    else:
        main(given)
