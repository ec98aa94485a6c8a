"""What a sweep shows while it runs: a table of its jobs on a terminal, else a line whenever something happens."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hydra_plugins.mlens_launcher._ledger import RUNNING, Job, Ledger


@dataclass
class Standing:
    """How far a job has come, as its folder tells: steps done, planned at most, and the seconds that they may take at
    most (None: any number); its last validation RMSE, and the seconds that its steps took; read: bytes of the `file`
    (its inode) that were looked at."""

    step: int = 0
    steps: int | None = None
    limit: float | None = None
    epoch: int = 0
    rmse: float | None = None
    spent: float = 0.0
    read: int = 0
    file: int | None = None

    @property
    def seconds_left(self) -> float | None:
        if not self.step or self.steps is None:
            return None
        left = (self.steps - self.step) * self.spent / self.step
        return left if self.limit is None else min(left, max(0.0, self.limit - self.spent))

    def look(self, folder: Path) -> None:
        """Read what the job wrote since."""
        plan, metrics = folder / "plan.json", folder / "training_logs" / "metrics.jsonl"
        if self.steps is None and plan.is_file():
            planned = json.loads(plan.read_text(encoding="utf-8"))
            self.steps, minutes = planned["steps"], planned.get("max_minutes")
            self.limit = None if minutes is None else 60 * minutes
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
            self.rmse = record["rmse"]


class Board:
    """Follows a ledger; to be called often, from `with Board(ledger) as board: … board()`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.console = Console(stderr=True)
        self._standings = {name: Standing() for name in ledger.jobs}
        self._told: dict[str, tuple] = {name: (job.state, None) for name, job in ledger.jobs.items()}
        self._live = Live(console=self.console, transient=True) if self.console.is_terminal else None

    def __call__(self) -> None:
        for name, job in self.ledger.jobs.items():
            if job.state == RUNNING:
                self._standings[name].look(self.ledger.folder / name)
            now = (job.state, self._standings[name].rmse)
            if self._live is None and now != self._told[name]:
                self._say(job, self._standings[name])
            self._told[name] = now
        if self._live is not None:
            self._live.update(self.table())

    def table(self) -> Table:
        table = Table(title=escape(str(self.ledger.folder)))
        table.add_column("job", overflow="fold")
        table.add_column("state")
        for column in ("epoch", "step", "validation RMSE", "time left"):
            table.add_column(column, justify="right")
        for name, job in self.ledger.jobs.items():
            at = self._standings[name]
            step = f"{at.step:,}" + (f" of {at.steps:,}" if at.steps is not None else "") if at.step else ""
            rmse = "" if at.rmse is None else f"{at.rmse:.4f}"
            left = _minutes(at.seconds_left) if job.state == RUNNING else ""
            table.add_row(escape(name), job.state, str(at.epoch + 1) if at.step else "", step, rmse, left)
        return table

    def _say(self, job: Job, at: Standing) -> None:
        parts = [job.name, job.state]
        if job.state == RUNNING and at.rmse is not None:
            parts.append(f"step {at.step:,}  validation RMSE {at.rmse:.4f}  {_minutes(at.seconds_left)} left")
        elif job.seconds is not None:
            parts.append(f"after {_minutes(job.seconds)}")
        if job.error is not None:
            parts.append(job.error.splitlines()[-1])
        self.console.print("  ".join(parts), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self.console.print(self.table())


def _minutes(seconds: float | None) -> str:
    """
    >>> _minutes(75.2)
    '1:15'
    """
    if seconds is None:
        return ""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
