"""Logging of the report to Weights & Biases, in the group of the sweep's jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from mlens.comparison.report import Report
from mlens.files import refuse_links
from mlens.training.settings import Wandb


def track(written: Report, settings: Wandb, folder: Path) -> None:
    """Log the table of arms and the page with its plots as a separate run, unless tracking is disabled."""
    if settings.mode == "disabled":
        return
    import wandb

    refuse_links(folder / "wandb")
    run = wandb.init(
        mode=cast(Literal["online", "offline"], settings.mode),
        project=settings.project,
        group=settings.group or folder.name,
        name="report",
        job_type="report",
        dir=folder,
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.log(
        {
            "results": wandb.Table(columns=[*written.table.columns], data=[list(row) for row in written.table.rows()]),
            "report": wandb.Html(written.html.read_text(encoding="utf-8"), inject=False),
        }
    )
    run.summary["answer"] = written.answer
    run.finish()
