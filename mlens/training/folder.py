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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mlens.config import refuse_changes, resolved
from mlens.errors import UserError, first_line
from mlens.files import write_text

if TYPE_CHECKING:
    from mlens.engine.ranks import Ranks

LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder. A run is finished when `summary` exists."""

    path: Path

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


def find_folder(ranks: Ranks, config: DictConfig) -> RunFolder:
    """The run's folder, named by rank 0 for all; nothing is written yet.

    Raises UserError where it holds a finished run, an unfinished one without `resume=true`, other files, or a run whose
    config differs in more than a resume may change; warns where the schedule's horizon changes.
    """
    folder = RunFolder(ranks.tell(Path(config.output_dir or _unused_folder())))
    ranks.alone(lambda: _check(folder, config))
    return folder


def _unused_folder() -> Path:
    """outputs/DATE/TIME, with a number where another run began in the same second."""
    path = Path("outputs") / f"{datetime.now():%Y-%m-%d/%H-%M-%S}"
    return next(p for p in (path.with_name(f"{path.name}{end}") for end in ("", *range(2, 1000))) if not p.exists())


def _check(folder: RunFolder, config: DictConfig) -> None:
    if folder.summary.exists():
        raise UserError(f"{folder.path} holds a finished run: give another output_dir, or remove it to run it again")
    if config.resume:
        _check_resume(folder, config)
    elif folder.config.is_file():
        raise UserError(f"{folder.path} holds an unfinished run: resume=true continues it; or give another output_dir")
    else:
        refuse_other_files(folder)


def refuse_other_files(folder: RunFolder) -> None:
    """Raises UserError where the folder, which holds no run's config, holds any file but what a run leaves that is
    killed before it has written its config. So a run may start there, and overwrites nothing."""
    for path in sorted(folder.path.rglob("*")) if folder.path.exists() else ():
        begun = path.name == LOCK or (path.parent == folder.hydra and path.name.startswith("."))
        if not begun and (path.is_symlink() or not path.is_dir()):
            raise UserError(
                f"{folder.path} holds other files than a run (there is no .hydra/config.yaml, but {path.name}): remove "
                "them, or give another output_dir"
            )


@contextmanager
def make_folder(ranks: Ranks, folder: RunFolder, config: DictConfig, hydra_config: HydraConf) -> Iterator[None]:
    """Make the folder and write .hydra/ into it: rank 0 alone, when all that can be wrong has been checked. Inside, no
    other run can have it.

    Raises UserError where another run has it, or has had it since it was checked.
    """
    with ExitStack() as held:
        ranks.alone(lambda: _write(folder, held, config, hydra_config))
        yield


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Inside, no run can be at work in the folder `path`. Raises UserError where one is."""
    lock = FileLock(path / LOCK)
    if (path / LOCK).is_symlink():
        raise UserError(f"{path / LOCK} is a link, and no run's lock: remove it")
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
    whose lock can't be opened, it isn't known, and False."""
    if not (path / LOCK).is_file():
        return False
    try:
        with alone_in(path):
            return False
    except UserError:
        return True
    except PermissionError:
        return False


def _write(folder: RunFolder, held: ExitStack, config: DictConfig, hydra_config: HydraConf) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    held.enter_context(alone_in(folder.path))
    _check(folder, config)
    for made in (folder.hydra, folder.checkpoints, folder.metrics.parent, folder.predictions("test").parent):
        made.mkdir(parents=True, exist_ok=True)
    write_text(folder.config, OmegaConf.to_yaml(config, resolve=True))
    write_text(folder.hydra / "overrides.yaml", OmegaConf.to_yaml(hydra_config.overrides.task))
    write_text(folder.hydra / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra_config})))


def saved_config(folder: RunFolder) -> dict:
    """The config that the folder's run began with, as plain data. Raises UserError where it is none."""
    try:
        # As text: it was resolved when it was saved, and must fetch nothing from the environment now.
        before = OmegaConf.to_container(OmegaConf.load(folder.config), resolve=False)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"resume=true: {folder.config} can't be read: {first_line(error)}") from error
    if not isinstance(before, dict):
        raise UserError(f"resume=true: {folder.config} is no run's config")
    return {str(key): value for key, value in before.items()}


def _check_resume(folder: RunFolder, config: DictConfig) -> None:
    if not folder.config.is_file():
        raise UserError(f"resume=true: {folder.path} holds no run (no .hydra/config.yaml): give output_dir=ITS_FOLDER")
    horizon = refuse_changes(saved_config(folder), resolved(config))
    if horizon:
        warnings.warn(f"{', '.join(horizon)} changed: the rate goes on along another schedule", stacklevel=2)
