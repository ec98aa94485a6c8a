"""The display of a running sweep: a live table of its jobs on a terminal, else a line for every event."""

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

# The phase of a job that hasn't reported one yet: it imports, reads data, makes the model and audits.
PREPARING = "preparing"


@dataclass
class JobProgress:
    """The progress of a job, read from its folder.

    phase: current phase.
    step: steps done.
    steps: steps planned at most.
    max_seconds: the most seconds that the steps may take (None: unlimited).
    epoch: current epoch, from 0.
    rmse: of the last validation.
    validated_step: the step before the last validation.
    step_seconds: total seconds of the steps done.
    warnings: the warnings of the job's plan.
    start_time: of the job, by time.monotonic().
    previous_phase_version: version of the phase file at the job's start, when an earlier process had written it.
    read: bytes of the metrics file that were read.
    file: inode of the metrics file.
    """

    phase: str = PREPARING
    step: int = 0
    steps: int | None = None
    max_seconds: float | None = None
    epoch: int = 0
    rmse: float | None = None
    validated_step: int | None = None
    step_seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    start_time: float = field(default_factory=time.monotonic)
    previous_phase_version: tuple[int, int] | None = None
    read: int = 0
    file: int | None = None

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start_time

    @property
    def seconds_left(self) -> float | None:
        """Estimate the seconds left of training; None while unknown, and after training."""
        if not self.step or self.steps is None or self.phase not in ("training", "validating"):
            return None
        left = (self.steps - self.step) * self.step_seconds / self.step
        return left if self.max_seconds is None else min(left, max(0.0, self.max_seconds - self.step_seconds))

    def refresh(self, folder: Path) -> None:
        """Read what the job has written since the last call."""
        plan, metrics = folder / "plan.json", folder / "training_logs" / "metrics.jsonl"
        with suppress(FileNotFoundError):
            if _file_version(phase_file(folder)) != self.previous_phase_version:
                self.phase = printable(phase_file(folder).read_text(encoding="utf-8", errors="replace"))[:20]
        if self.steps is None and plan.is_file():
            planned = json.loads(plan.read_text(encoding="utf-8"))
            self.steps, minutes = planned["steps"], planned.get("max_minutes")
            self.max_seconds = None if minutes is None else 60 * minutes
            self.warnings = tuple(planned.get("warnings", ()))
        if not metrics.is_file():
            return
        with metrics.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self.file:  # a resumed run replaces the file, without the records of the steps that it repeats
                self.file, self.read, self.step, self.epoch, self.step_seconds = inode, 0, 0, 0, 0.0
            file.seek(self.read)
            text = file.read()
        complete = text.rfind(b"\n") + 1
        self.read += complete
        for line in text[:complete].split(b"\n"):
            with suppress(ValueError, LookupError, TypeError):  # damaged: the job itself warns about it
                self._record(json.loads(line))

    def _record(self, record: dict) -> None:
        if record["kind"] == "train":
            self.step, self.epoch = record["step"], record["epoch"]
            self.step_seconds += record["seconds"]
        elif record["kind"] == "val":
            self.rmse, self.validated_step = record["rmse"], record["step"]


class Board:
    """The display of a ledger's jobs.

    Use it as `with Board(ledger) as board:`, and call `board()` often to update it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.console = Console(stderr=True)
        self._progress = {name: JobProgress() for name in ledger.jobs}
        self._states = {name: job.state for name, job in ledger.jobs.items()}
        # Without a terminal: the events already reported.
        self._reported: set[tuple] = set()
        self._warned = False
        self._live = Live(console=self.console, transient=True) if self.console.is_terminal else None

    def __call__(self) -> None:
        for name, job in self.ledger.jobs.items():
            if job.state == RUNNING:
                self._update(name)
            if self._live is None:
                self._report(job, self._progress[name])
            self._states[name] = job.state
        if self._live is not None:
            self._live.update(self.table())

    def _update(self, name: str) -> None:
        folder = self.ledger.folder / name
        started = self._states[name] != RUNNING
        if started:
            self._progress[name] = JobProgress(previous_phase_version=_file_version(phase_file(folder)))
        progress = self._progress[name]
        progress.refresh(folder)
        if started:
            self._reported = {line for line in self._reported if line[0] != name} | {(name, progress.validated_step)}
        if progress.warnings and not self._warned:  # jobs have similar warnings, and the report has them all
            self._warned = True
            for line in progress.warnings:
                self._print(f"{name}: {line}")

    def table(self) -> Table:
        table = Table(title=escape(str(self.ledger.folder)))
        table.add_column("job", overflow="fold")
        table.add_column("state")
        for column in ("epoch", "step", "validation RMSE", "elapsed", "time left"):
            table.add_column(column, justify="right")
        for name, job in self.ledger.jobs.items():
            progress, runs = self._progress[name], job.state == RUNNING
            of_steps = "" if progress.steps is None else f" of {progress.steps:,}"
            step = f"{progress.step:,}{of_steps}" if progress.step else ""
            rmse = "" if progress.rmse is None else f"{progress.rmse:.4f}"
            elapsed, left = (progress.elapsed, progress.seconds_left) if runs else (job.seconds, None)
            state, epoch = progress.phase if runs else job.state, str(progress.epoch + 1) if progress.step else ""
            times = _format_minutes(elapsed), _format_minutes(left)
            table.add_row(escape(name), escape(state), epoch, step, rmse, *times)
        return table

    def _report(self, job: Job, progress: JobProgress) -> None:
        """Print a line for a job's new state, for its first time in each phase, and for every validation."""
        if job.state != RUNNING:
            if job.state != self._states[job.name]:
                took = [f"after {_format_minutes(job.seconds)}"] if job.seconds is not None else []
                last = [job.error.splitlines()[-1]] if job.error is not None else []
                self._print("  ".join([job.name, job.state, *took, *last]))
            return
        if (job.name, progress.validated_step) not in self._reported and progress.rmse is not None:
            left = [] if progress.seconds_left is None else [f"{_format_minutes(progress.seconds_left)} left"]
            self._print("  ".join([job.name, f"step {progress.step:,}", f"validation RMSE {progress.rmse:.4f}", *left]))
        if (job.name, progress.phase) not in self._reported:
            self._print(f"{job.name}  {progress.phase}  after {_format_minutes(progress.elapsed)}")
        self._reported |= {(job.name, progress.validated_step), (job.name, progress.phase)}

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


def _file_version(file: Path) -> tuple[int, int] | None:
    """Return a value that differs between a file and its replacement; None where there is no file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _format_minutes(seconds: float | None) -> str:
    """Format seconds as minutes and seconds; None as empty text.

    >>> _format_minutes(75.2)
    '1:15'
    """
    if seconds is None:
        return ""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
