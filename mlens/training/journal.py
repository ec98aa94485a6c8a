"""The log of a run while it trains: metrics.jsonl, trackers and the terminal, from the main process alone."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mlens.config import Settings
from mlens.engine.ranks import Ranks
from mlens.files import atomic_write, flush, naming, open_append, write_text
from mlens.tracking.tracker import Tracker, open_trackers
from mlens.training.folder import PHASE, RunFolder

logger = logging.getLogger(__name__)


def open_journal(ranks: Ranks, folder: RunFolder, settings: Settings) -> Journal:
    """Open the journal of a run; only that of the main process writes."""
    if not ranks.main:
        return Journal(folder.metrics, enabled=False)
    return Journal(folder.metrics, True, open_trackers(settings.trackers, settings.wandb, folder.path, settings.config))


class Journal:
    """Records of steps and validations, progress bars, messages. Where `enabled` is false, all methods do nothing."""

    def __init__(self, file: Path, enabled: bool, trackers: Sequence[Tracker] = ()) -> None:
        self.enabled = enabled
        self.console = Console(stderr=True, quiet=not enabled)
        self._trackers = trackers
        if not enabled:
            return
        self._path = file
        self._file = open_append(file)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )

    def set_phase(self, phase: str) -> None:
        """Write what the run is doing to training_logs/phase, where a sweep that monitors its jobs reads it."""
        if self.enabled:
            write_text(self._path.with_name(PHASE), phase)

    def sync(self) -> int:
        """Flush all records to disk; returns the size of the file in bytes, which a checkpoint stores for `rewind`."""
        if not self.enabled:
            return 0
        os.fsync(self._file.fileno())
        flush(self._path.parent)
        return self._path.stat().st_size

    def rewind(self, step: int, size: int | None = None) -> None:
        """Drop the records after `step`, which a resumed run writes again.

        size: of the file after that step, in bytes; None: not known

        Where the file was damaged since, the intact records are kept and a warning is logged.
        """
        if not self.enabled:
            return
        content = self._path.read_bytes()
        kept, damaged = intact_records(content, step, size)
        if damaged:
            logger.warning(f"{self._path} is damaged: some records of steps up to {step} are lost")
        self._file.close()
        atomic_write(self._path, lambda stream: stream.write(kept))
        self._file = open_append(self._path)
        for tracker in self._trackers:
            tracker.rewind(step)

    def begin(self, name: str, total: int, done: int = 0) -> TaskID:
        """Show a progress bar; returns its number for `advance` and `end`."""
        if not self.enabled:
            return TaskID(0)
        self._progress.start()
        return self._progress.add_task(name, total=total, completed=done, note="")

    def advance(self, bar: TaskID, done: int, note: str = "") -> None:
        if self.enabled:
            self._progress.update(bar, completed=done, note=note)

    def follow(self, bar: TaskID) -> Callable[[int], None]:
        """Return a function that advances the bar by its argument."""
        return lambda done: self._progress.advance(bar, done) if self.enabled else None

    def end(self, bar: TaskID) -> None:
        if self.enabled:
            self._progress.remove_task(bar)

    def record(self, kind: str, step: int, **values: Any) -> None:
        """Append a line to metrics.jsonl, and log its values to the trackers as `kind/name`."""
        if not self.enabled:
            return
        with naming(self._path):  # the error of a full disk doesn't name the file
            self._file.write(json.dumps({"kind": kind, "step": step, **values}).encode() + b"\n")
            self._file.flush()
        for tracker in self._trackers:
            tracker.log({f"{kind}/{name}": value for name, value in values.items()}, step)

    def log(self, text: str) -> None:
        """Print a line on stderr, above the progress bar. `text` is plain text, not markup."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def summarise(self, metrics: dict, step: int) -> None:
        """Log the final metrics of a run that ended after `step` to the trackers."""
        for tracker in self._trackers:
            tracker.summarise(metrics, step)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the bars and finish the runs at the trackers, as failed where an exception ends it."""
        if not self.enabled:
            return
        self._progress.stop()
        self._file.close()
        for tracker in self._trackers:
            tracker.finish(failed=kind is not None)


def intact_records(content: bytes, step: int, size: int | None) -> tuple[bytes, bool]:
    """Return the records up to `step` in a metrics.jsonl, and whether some of them are lost.

    content: of the file
    size: of the file when it held these records and no others, in bytes; None: not known

    What follows after `size` bytes is read only where the part before is damaged, since records may have moved then.
    """
    if size is not None:
        lines = _lines(content[:size])
        if sum(map(len, lines)) == size and all(_is_up_to(step, line) for line in lines):
            return content[:size], False
    lines = _lines(content)
    kept = [number for number, line in enumerate(lines) if _is_up_to(step, line)]
    between = lines[: kept[-1]] if kept else []
    lost = size is not None or any(_step_of(line) is None for line in between)
    return b"".join(lines[number] for number in kept), lost


def _lines(content: bytes) -> list[bytes]:
    """Return the complete lines. bytes.splitlines would also split at a carriage return."""
    return [line + b"\n" for line in content.split(b"\n")[:-1]]


def _is_up_to(step: int, line: bytes) -> bool:
    recorded = _step_of(line)
    return recorded is not None and recorded <= step


def _step_of(line: bytes) -> int | None:
    """Return the step of a record; None where the line is not a record."""
    try:
        record = json.loads(line)
        number = record["step"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return number if isinstance(number, int) and isinstance(record.get("kind"), str) else None
