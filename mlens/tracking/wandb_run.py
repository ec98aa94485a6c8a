"""Runs at Weights & Biases."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import wandb

from mlens.files import refuse_links, write_text
from mlens.tracking.settings import Wandb

if TYPE_CHECKING:
    import polars as pl

# The file in a run's folder with the id under which a resumed run continues.
WANDB_ID = ".wandb_id"


class WandbRun:
    """A run at Weights & Biases, whose files are in wandb/ in the run's folder."""

    def __init__(self, settings: Wandb, folder: Path, config: dict, job_type: str | None = None) -> None:
        id_file = folder / WANDB_ID
        refuse_links(folder / "wandb", id_file)
        if not (id_file.is_file() and re.fullmatch("[0-9a-z]{8}", id_file.read_text(errors="replace"))):
            write_text(id_file, secrets.token_hex(4))
        self._run = wandb.init(
            mode=cast(Literal["online", "offline"], settings.mode),
            project=settings.project,
            name=settings.name,
            group=settings.group,
            job_type=job_type,
            dir=folder,
            id=id_file.read_text(),
            resume="allow",
            config=config,
            settings=wandb.Settings(silent=True, console="off"),
        )
        if self._run.id != id_file.read_text():  # in a sweep of Weights & Biases, its agent gives the id
            write_text(id_file, self._run.id)

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self._run.log(metrics, step=step)

    def rewind(self, step: int) -> None:
        """Do nothing: Weights & Biases, online, ignores the steps that it has."""

    def summarise(self, metrics: dict, step: int) -> None:
        self._run.summary.update(metrics)

    def log_report(self, answer: str, table: pl.DataFrame, page: str, text: str) -> None:
        rows = [list(row) for row in table.rows()]
        self._run.log(
            {
                "results": wandb.Table(columns=[*table.columns], data=rows),
                "report": wandb.Html(page, inject=False),
            }
        )
        self._run.summary["answer"] = answer

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)
