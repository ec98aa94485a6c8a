"""What a sweep shows while it runs: a table of its jobs on a terminal, else a line whenever something happens."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hydra_plugins.mlens_launcher._ledger import RUNNING, Job, Ledger
from mlens.text import printable

# The phase of a job that hasn't said one yet: it imports, reads data, makes the model and audits.
PREPARING = "preparing"


@dataclass
class Standing:
    """How far a job has come, as its folder says.

    phase: what it does now.
    step, steps, limit: steps done, planned at most, and the seconds that they may take at most (None: any number).
    rmse, validated: of its last validation, and the step that it followed.
    spent: seconds that its steps took.
    warnings: what its plan warns of.
    since: when it was started, by time.monotonic().
    former: the phase file's version when the job was started, which says what an earlier process did.
    read: bytes of the `file` (its inode) that were looked at.
    """

    phase: str = PREPARING
    step: int = 0
    steps: int | None = None
    limit: float | None = None
    epoch: int = 0
    rmse: float | None = None
    validated: int | None = None
    spent: float = 0.0
    warnings: tuple[str, ...] = ()
    since: float = field(default_factory=time.monotonic)
    former: tuple[int, int] | None = None
    read: int = 0
    file: int | None = None

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.since

    @property
    def seconds_left(self) -> float | None:
        """Of the training; None while it isn't known, and after it."""
        if not self.step or self.steps is None or self.phase not in ("training", "validating"):
            return None
        left = (self.steps - self.step) * self.spent / self.step
        return left if self.limit is None else min(left, max(0.0, self.limit - self.spent))

    def look(self, folder: Path) -> None:
        """Read what the job wrote since."""
        plan, metrics = folder / "plan.json", folder / "training_logs" / "metrics.jsonl"
        with suppress(FileNotFoundError):
            if _version(phase_file(folder)) != self.former:
                self.phase = printable(phase_file(folder).read_text(encoding="utf-8", errors="replace"))[:20]
        if self.steps is None and plan.is_file():
            planned = json.loads(plan.read_text(encoding="utf-8"))
            self.steps, minutes = planned["steps"], planned.get("max_minutes")
            self.limit = None if minutes is None else 60 * minutes
            self.warnings = tuple(planned.get("warnings", ()))
        if not metrics.is_file():
            return
        with metrics.open("rb") as file:
            number = os.fstat(file.fileno()).st_ino
            if number != self.file:  # a run that goes on writes another, without the lines that it makes again
                self.file, self.read, self.step, self.epoch, self.spent = number, 0, 0, 0, 0.0
            file.seek(self.read)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self.read += whole
        for line in text[:whole].split(b"\n"):
            with suppress(ValueError, LookupError, TypeError):  # damaged: the job itself warns of it
                self._note(json.loads(line))

    def _note(self, record: dict) -> None:
        if record["kind"] == "train":
            self.step, self.epoch = record["step"], record["epoch"]
            self.spent += record["seconds"]
        elif record["kind"] == "val":
            self.rmse, self.validated = record["rmse"], record["step"]


class Board:
    """Follows a ledger; to be called often, from `with Board(ledger) as board: … board()`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.console = Console(stderr=True)
        self._standings = {name: Standing() for name in ledger.jobs}
        self._states = {name: job.state for name, job in ledger.jobs.items()}
        # Without a terminal: what lines have reported already.
        self._reported: set[tuple] = set()
        self._warned = False
        self._live = Live(console=self.console, transient=True) if self.console.is_terminal else None

    def __call__(self) -> None:
        for name, job in self.ledger.jobs.items():
            if job.state == RUNNING:
                self._follow(name)
            if self._live is None:
                self._report(job, self._standings[name])
            self._states[name] = job.state
        if self._live is not None:
            self._live.update(self.table())

    def _follow(self, name: str) -> None:
        folder = self.ledger.folder / name
        started = self._states[name] != RUNNING
        if started:
            self._standings[name] = Standing(former=_version(phase_file(folder)))
        at = self._standings[name]
        at.look(folder)
        if started:
            self._reported = {line for line in self._reported if line[0] != name} | {(name, at.validated)}
        if at.warnings and not self._warned:  # the jobs' are alike, and the report has them all
            self._warned = True
            for line in at.warnings:
                self._print(f"{name}: {line}")

    def table(self) -> Table:
        table = Table(title=escape(str(self.ledger.folder)))
        table.add_column("job", overflow="fold")
        table.add_column("state")
        for column in ("epoch", "step", "validation RMSE", "elapsed", "time left"):
            table.add_column(column, justify="right")
        for name, job in self.ledger.jobs.items():
            at, runs = self._standings[name], job.state == RUNNING
            step = f"{at.step:,}" + (f" of {at.steps:,}" if at.steps is not None else "") if at.step else ""
            rmse = "" if at.rmse is None else f"{at.rmse:.4f}"
            elapsed, left = (_minutes(at.elapsed), _minutes(at.seconds_left)) if runs else (_minutes(job.seconds), "")
            state, epoch = at.phase if runs else job.state, str(at.epoch + 1) if at.step else ""
            table.add_row(escape(name), escape(state), epoch, step, rmse, elapsed, left)
        return table

    def _report(self, job: Job, at: Standing) -> None:
        """A line for a job's new state, the first time in each phase, and every validation."""
        if job.state != RUNNING:
            if job.state != self._states[job.name]:
                took = [f"after {_minutes(job.seconds)}"] if job.seconds is not None else []
                last = [job.error.splitlines()[-1]] if job.error is not None else []
                self._print("  ".join([job.name, job.state, *took, *last]))
            return
        if (job.name, at.validated) not in self._reported and at.rmse is not None:
            left = [] if at.seconds_left is None else [f"{_minutes(at.seconds_left)} left"]
            self._print("  ".join([job.name, f"step {at.step:,}", f"validation RMSE {at.rmse:.4f}", *left]))
        if (job.name, at.phase) not in self._reported:
            self._print(f"{job.name}  {at.phase}  after {_minutes(at.elapsed)}")
        self._reported |= {(job.name, at.validated), (job.name, at.phase)}

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self.console.print(self.table())


def phase_file(folder: Path) -> Path:
    return folder / "training_logs" / "phase"


def _version(file: Path) -> tuple[int, int] | None:
    """Tells a file from one that takes its place; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _minutes(seconds: float | None) -> str:
    """
    >>> _minutes(75.2)
    '1:15'
    """
    if seconds is None:
        return ""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
