"""Runs at Trackio."""

from __future__ import annotations

import io
import secrets
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trackio

from mlens.files import refuse_links, write_text
from mlens.text import one_line
from mlens.tracking.scalars import scalars, summary_scalars
from mlens.tracking.settings import Wandb

if TYPE_CHECKING:
    import polars as pl

# The file in a run's folder with the name under which a resumed run continues: Trackio knows runs by their names.
TRACKIO_NAME = ".trackio_name"


class TrackioRun:
    """A run at Trackio, which stores the runs of all projects in one folder, TRACKIO_DIR.

    Trackio prints to stdout, where a run prints its results; all but its warnings, which go to stderr, is discarded.
    """

    def __init__(self, settings: Wandb, folder: Path, config: dict) -> None:
        name_file = folder / TRACKIO_NAME
        refuse_links(name_file)
        if not name_file.is_file():
            write_text(name_file, f"{settings.name or folder.name}-{secrets.token_hex(4)}")
        with redirect_stdout(io.StringIO()):
            self._run = trackio.init(
                project=settings.project,
                name=one_line(name_file.read_text(encoding="utf-8", errors="replace")),
                group=settings.group,
                config=config,
                resume="allow",
                embed=False,
            )

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self._run.log(scalars(metrics), step=step)

    def rewind(self, step: int) -> None:
        """Do nothing: Trackio can't discard steps, and has those after the checkpoint twice."""

    def summarise(self, metrics: dict, step: int) -> None:
        """Log the final metrics as `summary/STAGE/NAME`: Trackio's runs have no summary."""
        self.log(summary_scalars(metrics), step)

    def log_report(self, answer: str, table: pl.DataFrame, page: str, text: str) -> None:
        rows = [list(row) for row in table.rows()]
        self._run.log(
            {
                "answer": trackio.Markdown(answer),
                "results": trackio.Table(columns=[*table.columns], data=rows),
                "report": trackio.Html(page, inject=False),
            }
        )

    def finish(self, failed: bool) -> None:
        with redirect_stdout(io.StringIO()):
            trackio.finish()
