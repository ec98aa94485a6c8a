"""A run's folder: its layout, its lock, and when it is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from hydra.conf import HydraConf
from omegaconf import OmegaConf

from mlens.config import Settings
from mlens.errors import UserError
from mlens.files import ensure_folder, refuse_links, remove_leftovers, write_text
from mlens.identity import FILE as IDENTITY
from mlens.identity import write_identity
from mlens.saved_config import read_saved_config
from mlens.tracking.tracker import PLACES
from mlens.training.resume import refuse_changes

if TYPE_CHECKING:
    from mlens.engine.ranks import Ranks
    from mlens.pipeline import RunInputs

logger = logging.getLogger(__name__)

LOCK = ".lock"
# The file, next to metrics.jsonl, that names what the run is doing.
PHASE = "phase"


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder. A run is finished when `summary` exists.

    path: the folder.
    resumed: whether this process resumes a run that the folder holds.
    finished: whether that run is finished.
    """

    path: Path
    resumed: bool = False
    finished: bool = False

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def detailed_log(self) -> Path:
        return self.path / "training_logs" / "detailed_training_log.txt"

    @property
    def metrics(self) -> Path:
        return self.path / "training_logs" / "metrics.jsonl"

    def predictions(self, stage: str) -> Path:
        return self.path / "predictions" / f"{stage}.parquet"

    @property
    def prompts(self) -> Path:
        return self.path / "predictions" / "prompts.json"

    @property
    def hydra(self) -> Path:
        return self.path / ".hydra"

    @property
    def config(self) -> Path:
        return self.hydra / "config.yaml"

    @property
    def resumed_from(self) -> Path | None:
        """The folder of the run that is resumed; None for a new run."""
        return self.path if self.resumed else None

    @property
    def started(self) -> bool:
        """Whether there is a run to resume: its config is written after everything else."""
        return self.config.is_file()

    def refuse_links(self) -> None:
        """Raise OSError where a path that is written in this folder is a link. The folder itself may be one."""
        refuse_links(self.path / LOCK, self.hydra, self.checkpoints, self.model, self.metrics.parent, self.metrics)
        refuse_links(self.predictions("test").parent, *(self.path / name for name in PLACES))


def find_folder(ranks: Ranks, settings: Settings) -> RunFolder:
    """Return the run's folder, which the main process names for all ranks; nothing is written yet.

    Raises UserError where the folder holds a finished run (except with resume=auto), an unfinished run without
    `resume`, other files, or a run whose config differs in more than a resume may change. Logs a warning where the
    horizon of the learning-rate schedule changes.
    """
    return ranks.on_main(lambda: _check(Path(settings.output_dir or _unused_folder()).expanduser(), settings))


def _unused_folder() -> Path:
    """Return outputs/DATE/TIME, with a number where another run began in the same second."""
    path = Path("outputs") / f"{datetime.now():%Y-%m-%d/%H-%M-%S}"
    return next(p for p in (path.with_name(f"{path.name}{end}") for end in ("", *range(2, 1000))) if not p.exists())


def _check(path: Path, settings: Settings) -> RunFolder:
    folder = RunFolder(path)
    if folder.summary.exists():
        if settings.resume == "auto":
            return RunFolder(path, resumed=True, finished=True)
        raise UserError(f"{path} holds a finished run: give another output_dir, or remove it to run it again")
    if settings.resume is True or (settings.resume == "auto" and folder.started):
        _check_resume(folder, settings)
        folder = RunFolder(path, resumed=True)
    elif folder.started:
        raise UserError(f"{path} holds an unfinished run: resume it with resume=true, or give another output_dir")
    else:
        refuse_other_files(folder)
    folder.refuse_links()
    return folder


def refuse_other_files(folder: RunFolder) -> None:
    """Raise UserError where a folder without a run's config holds any other file, so that a new run overwrites nothing.

    Files that a run writes before its config are accepted: a run that was killed there can be started again.
    """
    for path in sorted(folder.path.rglob("*")) if folder.path.exists() else ():
        precedes = path.parent == folder.hydra or path in (folder.path / LOCK, folder.path / IDENTITY)
        if not precedes and (path.is_symlink() or not path.is_dir()):
            raise UserError(
                f"{folder.path} holds other files than a run's (there is {path.name}, and no .hydra/config.yaml): "
                "remove them, or give another output_dir"
            )


@contextmanager
def make_folder(ranks: Ranks, folder: RunFolder, inputs: RunInputs, hydra_config: HydraConf) -> Iterator[None]:
    """Create the folder on the main process, lock it, and write the run's identity and .hydra/ into it.

    Called after all checks, so that a run that can't work leaves no folder. Raises UserError where another run holds
    the lock, or has used the folder since it was checked.
    """
    with ExitStack() as locks:
        ranks.on_main(lambda: _write(folder, locks, inputs, hydra_config))
        yield


@contextmanager
def lock_run_folder(path: Path) -> Iterator[None]:
    """Hold the lock of the run's folder `path`. Raises UserError where a run holds it."""
    refuse_links(path / LOCK)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another run is using {path}: wait for it, or give another output_dir") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a run holds the lock of the folder `path`, tested by acquiring it for a moment.

    False also where the lock can't be opened or is a link, as in another user's folder.
    """
    if not (path / LOCK).is_file():
        return False
    try:
        with lock_run_folder(path):
            return False
    except UserError:
        return True
    except OSError:
        return False


def _write(folder: RunFolder, locks: ExitStack, inputs: RunInputs, hydra_config: HydraConf) -> None:
    settings, identity = inputs.settings, inputs.identity
    assert identity is not None
    folder.path.mkdir(parents=True, exist_ok=True)
    locks.enter_context(lock_run_folder(folder.path))
    if _check(folder.path, settings) != folder:
        raise UserError(f"another run has used {folder.path} in the meantime: start again")
    for made in (folder.hydra, folder.checkpoints, folder.metrics.parent, folder.predictions("test").parent):
        remove_leftovers(ensure_folder(made))
    write_identity(folder.path, identity)
    write_text(folder.hydra / "overrides.yaml", OmegaConf.to_yaml(hydra_config.overrides.task))
    write_text(folder.hydra / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra_config})))
    write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create(settings.config)))


def _check_resume(folder: RunFolder, settings: Settings) -> None:
    saved = folder.config
    if not folder.started:
        remedy = "give output_dir=ITS_FOLDER, or start it without resume=true"
        raise UserError(f"resume=true: {folder.path} holds no run (no .hydra/config.yaml): {remedy}")
    horizon = refuse_changes(read_saved_config(saved), settings.config)
    if horizon:
        logger.warning(f"{', '.join(horizon)} changed: the learning rate continues on another schedule")
