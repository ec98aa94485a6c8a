"""A run's folder: who makes it, what stands where, and when it is refused."""

from __future__ import annotations

import warnings
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
from mlens.training.resume import refuse_changes

if TYPE_CHECKING:
    from mlens.engine.ranks import Ranks
    from mlens.pipeline import RunInputs

LOCK = ".lock"
WANDB_ID = ".wandb_id"
# In the folder of metrics.jsonl.
PHASE = "phase"


@dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder. A run is finished when `summary` exists.

    resumed: whether this process continues a run that the folder holds; finished: whether that one has finished.
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
    def wandb(self) -> Path:
        return self.path / "wandb"

    @property
    def continued(self) -> Path | None:
        """The folder of the run that is continued; None for a new run."""
        return self.path if self.resumed else None

    @property
    def begun(self) -> bool:
        """Whether there is a run to resume: its config is written when all else is in place."""
        return self.config.is_file()

    def refuse_links(self) -> None:
        """Raises OSError where a link stands for what is written in this folder. The folder itself may be one."""
        refuse_links(self.path / LOCK, self.hydra, self.checkpoints, self.model, self.metrics.parent, self.metrics)
        refuse_links(self.predictions("test").parent, self.wandb, self.path / WANDB_ID)


def find_folder(ranks: Ranks, settings: Settings) -> RunFolder:
    """The run's folder, named by rank 0 for all; nothing is written yet.

    Raises UserError where it holds a finished run (but with resume=auto), an unfinished one without `resume`, other
    files, or a run whose config differs in more than a resume may change; warns where the schedule's horizon changes.
    """
    return ranks.on_main(lambda: _check(Path(settings.output_dir or _unused_folder()).expanduser(), settings))


def _unused_folder() -> Path:
    """outputs/DATE/TIME, with a number where another run began in the same second."""
    path = Path("outputs") / f"{datetime.now():%Y-%m-%d/%H-%M-%S}"
    return next(p for p in (path.with_name(f"{path.name}{end}") for end in ("", *range(2, 1000))) if not p.exists())


def _check(path: Path, settings: Settings) -> RunFolder:
    folder = RunFolder(path)
    if folder.summary.exists():
        if settings.resume == "auto":
            return RunFolder(path, resumed=True, finished=True)
        raise UserError(f"{path} holds a finished run: give another output_dir, or remove it to run it again")
    if settings.resume is True or (settings.resume == "auto" and folder.begun):
        _check_resume(folder, settings)
        folder = RunFolder(path, resumed=True)
    elif folder.begun:
        raise UserError(f"{path} holds an unfinished run: resume=true continues it; or give another output_dir")
    else:
        refuse_other_files(folder)
    folder.refuse_links()
    return folder


def refuse_other_files(folder: RunFolder) -> None:
    """Raises UserError where the folder, which holds no run's config, holds any file but what a run leaves that is
    killed before it has written its config. So a run may start there, and overwrites nothing."""
    for path in sorted(folder.path.rglob("*")) if folder.path.exists() else ():
        precedes = path.parent == folder.hydra or path in (folder.path / LOCK, folder.path / IDENTITY)
        if not precedes and (path.is_symlink() or not path.is_dir()):
            raise UserError(
                f"{folder.path} holds other files than a run (there is no .hydra/config.yaml, but {path.name}): remove "
                "them, or give another output_dir"
            )


@contextmanager
def make_folder(ranks: Ranks, folder: RunFolder, inputs: RunInputs, hydra_config: HydraConf) -> Iterator[None]:
    """Make the folder and write the run's identity and .hydra/ into it: rank 0 alone, when all that can be wrong has
    been checked. Inside, no other run can have it.

    Raises UserError where another run has it, or has had it since it was checked.
    """
    with ExitStack() as held:
        ranks.on_main(lambda: _write(folder, held, inputs, hydra_config))
        yield


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Inside, no run can be at work in the folder `path`. Raises UserError where one is."""
    refuse_links(path / LOCK)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another run is at work in {path}: wait for it, or give another output_dir") from error
    try:
        yield
    finally:
        lock.release()


def is_at_work(path: Path) -> bool:
    """Whether a run is at work in the folder `path`: asked by holding its lock for a moment. Of somebody else's folder,
    whose lock can't be opened or is a link, it isn't known, and False."""
    if not (path / LOCK).is_file():
        return False
    try:
        with alone_in(path):
            return False
    except UserError:
        return True
    except OSError:
        return False


def _write(folder: RunFolder, held: ExitStack, inputs: RunInputs, hydra_config: HydraConf) -> None:
    settings, identity = inputs.settings, inputs.identity
    assert identity is not None
    folder.path.mkdir(parents=True, exist_ok=True)
    held.enter_context(alone_in(folder.path))
    if _check(folder.path, settings) != folder:
        raise UserError(f"{folder.path} was used by another run meanwhile: start again")
    for made in (folder.hydra, folder.checkpoints, folder.metrics.parent, folder.predictions("test").parent):
        remove_leftovers(ensure_folder(made))
    write_identity(folder.path, identity)
    write_text(folder.hydra / "overrides.yaml", OmegaConf.to_yaml(hydra_config.overrides.task))
    write_text(folder.hydra / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra_config})))
    write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create(settings.config)))


def _check_resume(folder: RunFolder, settings: Settings) -> None:
    saved = folder.config
    if not folder.begun:
        remedy = "give output_dir=ITS_FOLDER, or start it without resume=true"
        raise UserError(f"resume=true: {folder.path} holds no run (no .hydra/config.yaml): {remedy}")
    horizon = refuse_changes(read_saved_config(saved), settings.config)
    if horizon:
        warnings.warn(f"{', '.join(horizon)} changed: the rate goes on along another schedule", stacklevel=2)
