"""Event files for TensorBoard."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch.utils.tensorboard import SummaryWriter

from mlens.files import naming, refuse_links
from mlens.tracking.scalars import scalars, summary_scalars

if TYPE_CHECKING:
    import polars as pl

FOLDER = "tensorboard"
# Seconds after which events are on disk at the latest.
FLUSH_SECONDS = 10


class TensorBoardRun:
    """Event files in tensorboard/ in a run's folder. TensorBoard names the run by its path, so that all jobs of a sweep
    are under the sweep's folder."""

    def __init__(self, folder: Path, config: dict) -> None:
        self._folder = folder / FOLDER
        refuse_links(self._folder)
        self._config = config
        self._resumed_step: int | None = None

    @cached_property
    def _writer(self) -> SummaryWriter:
        """The writer of a new event file, made on first use: after `rewind`."""
        step = self._resumed_step
        purge_step = None if step is None else step + 1
        with naming(self._folder):
            writer = SummaryWriter(str(self._folder), purge_step=purge_step, flush_secs=FLUSH_SECONDS)
        if self._config:
            writer.add_text(
                "config", _code(yaml.safe_dump(self._config, allow_unicode=True, sort_keys=False)), step or 0
            )
        return writer

    def log(self, metrics: dict[str, Any], step: int) -> None:
        with naming(self._folder):  # the error of a full disk doesn't name the file
            for name, value in scalars(metrics).items():
                self._writer.add_scalar(name, value, step)

    def rewind(self, step: int) -> None:
        """Let TensorBoard discard the events after `step`."""
        self._resumed_step = step

    def summarise(self, metrics: dict, step: int) -> None:
        """Log the final metrics as scalars `summary/STAGE/NAME`."""
        self.log(summary_scalars(metrics), step)

    def log_report(self, answer: str, table: pl.DataFrame, page: str, text: str) -> None:
        """Log the answer and the report in Markdown, which has the table: TensorBoard shows no HTML."""
        self._writer.add_text("answer", answer)
        self._writer.add_text("report", text)

    def finish(self, failed: bool) -> None:
        with naming(self._folder):
            self._writer.close()


def _code(text: str) -> str:
    """Return `text` as a code block in Markdown."""
    return "".join(f"    {line}\n" for line in text.splitlines())
