"""What a run tells while it trains: metrics.jsonl, Weights & Biases, and the terminal. Rank 0 alone speaks."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mlens.config import Settings, resolved
from mlens.engine.ranks import Ranks
from mlens.files import naming, write_text
from mlens.training.folder import RunFolder
from mlens.training.settings import Wandb


def open_journal(ranks: Ranks, folder: RunFolder, settings: Settings, config: DictConfig) -> Journal:
    """The journal of a run; rank 0's writes, the others' are silent."""
    return Journal(folder.metrics, ranks.main, settings.wandb, resolved(config))


class Journal:
    """Takes records of steps and validations. With `speaks` false (ranks other than 0) it does nothing."""

    def __init__(self, file: Path, speaks: bool, wandb: Wandb, config: dict) -> None:
        self.speaks = speaks
        self.console = Console(stderr=True, quiet=not speaks)
        self._run: Any = None
        if not speaks:
            return
        self._path = file
        self._file = file.open("a", encoding="utf-8")
        self._run = _start_wandb(wandb, config, file.parent.parent)
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

    def rewind(self, step: int) -> None:
        """Drop records behind `step`: a resumed run does them again."""
        if not self.speaks:
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        self._file.close()
        write_text(self._path, "".join(kept))
        self._file = self._path.open("a", encoding="utf-8")

    def begin(self, what: str, total: int, done: int = 0) -> TaskID:
        """Show a progress bar; returns its number for `advance` and `end`."""
        if not self.speaks:
            return TaskID(0)
        self._progress.start()
        return self._progress.add_task(what, total=total, completed=done, note="")

    def advance(self, bar: TaskID, done: int, note: str = "") -> None:
        if self.speaks:
            self._progress.update(bar, completed=done, note=note)

    def follow(self, bar: TaskID) -> Callable[[int], None]:
        """What moves the bar on by as many as it is told."""
        return lambda done: self._progress.advance(bar, done) if self.speaks else None

    def end(self, bar: TaskID) -> None:
        if self.speaks:
            self._progress.remove_task(bar)

    def record(self, kind: str, step: int, **values: Any) -> None:
        """One line of metrics.jsonl, and the same to Weights & Biases as `kind/name`."""
        if not self.speaks:
            return
        with naming(self._path):  # a full disk doesn't say whose line had no room
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        if self._run is not None:
            self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def say(self, text: str) -> None:
        """A line on the terminal (stderr), above the progress bar. `text` is plain text, not markup."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def summarise(self, metrics: dict) -> None:
        """Tell the tracked run its final metrics."""
        if self._run is not None:
            self._run.summary.update(metrics)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the bars and finish the tracked run, as failed where an exception ends it."""
        if not self.speaks:
            return
        self._progress.stop()
        self._file.close()
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None else 1)


def _start_wandb(settings: Wandb, config: dict, folder: Path) -> Any:
    if settings.mode == "disabled":
        return None
    import wandb

    name_file = folder / ".wandb_id"
    if not name_file.exists():
        name_file.write_text(secrets.token_hex(4))
    return wandb.init(
        mode=cast(Literal["online", "offline"], settings.mode),
        project=settings.project,
        name=settings.name,
        group=settings.group,
        dir=folder,
        id=name_file.read_text(),
        resume="allow",
        config=config,
        settings=wandb.Settings(silent=True, console="off"),
    )
