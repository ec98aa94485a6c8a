"""The interface to experiment trackers, each of which is imported only when a run names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlens.tracking.settings import Wandb

if TYPE_CHECKING:
    import polars as pl

# What trackers write in a run's folder.
PLACES = ("wandb", ".wandb_id", "tensorboard", ".trackio_name")


class Tracker(Protocol):
    """A run, or the report of a sweep, at one tracker."""

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Log the metrics of a step, named `kind/name`."""

    def rewind(self, step: int) -> None:
        """Continue after `step`, called before anything is logged by a resumed run."""

    def summarise(self, metrics: dict, step: int) -> None:
        """Log the final metrics, nested by stage, of a run that ended after `step`."""

    def log_report(self, answer: str, table: pl.DataFrame, page: str, text: str) -> None:
        """Log the report of a sweep.

        answer: the comparison's outcome in words
        table: figures of each arm, one row an arm
        page: the report in HTML, without links to other files
        text: the report in Markdown
        """

    def finish(self, failed: bool) -> None:
        """Write what is left and close the run, as failed where an exception ends it."""


def open_trackers(
    names: Sequence[str], settings: Wandb, folder: Path, config: dict, job_type: str | None = None
) -> list[Tracker]:
    """Begin or continue a run at each of these trackers.

    names: of the trackers
    settings: project, name and group of the run, at every tracker
    folder: of the run or the sweep; the run that an earlier process began for it is continued
    config: of the run
    job_type: "report" for the report of a sweep
    """
    return [_open(name, settings, folder, config, job_type) for name in names]


def _open(name: str, settings: Wandb, folder: Path, config: dict, job_type: str | None) -> Tracker:
    if name == "tensorboard":
        from mlens.tracking.tensorboard_run import TensorBoardRun

        return TensorBoardRun(folder, config)
    if name == "trackio":
        from mlens.tracking.trackio_run import TrackioRun

        return TrackioRun(settings, folder, config)
    from mlens.tracking.wandb_run import WandbRun

    return WandbRun(settings, folder, config, job_type)
