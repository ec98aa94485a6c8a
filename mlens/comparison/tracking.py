"""Logging of the report to the trackers, in the group of the sweep's jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlens.comparison.report import EXPLORE_LINK, Report
from mlens.tracking.settings import Wandb
from mlens.tracking.tracker import open_trackers


def track(written: Report, names: Sequence[str], settings: Wandb, folder: Path) -> None:
    """Log the table of arms and the page with its plots as a separate run, to each of the trackers `names`.

    Trackers don't have explore.html: their page is without the link to it.
    """
    page = written.html.read_text(encoding="utf-8").replace(EXPLORE_LINK, "")
    text = written.html.with_suffix(".md").read_text(encoding="utf-8")
    labels = replace(settings, name="report", group=settings.group or folder.name)
    for tracker in open_trackers(names, labels, folder, {}, job_type="report"):
        tracker.log_report(written.answer, written.table, page, text)
        tracker.finish(failed=False)
