"""Removal of checkpoints that a finished run doesn't need.

A finished run has its model and predictions outside of its checkpoints; these serve only to train it longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlens.comparison.finished_runs import read_run
from mlens.engine.manifest import MANIFEST, PREFIX, read_manifest
from mlens.errors import UserError
from mlens.training.folder import RunFolder, lock_run_folder

# A checkpoint is renamed before it is removed, so that what a crash leaves of it isn't taken for a damaged checkpoint.
REMOVED = ".removed_"
NAME = re.compile(rf"(?:{re.escape(REMOVED)})?{PREFIX}(\d{{8,}})")


@dataclass(frozen=True)
class Removable:
    """The checkpoints of a run that can be removed.

    run: the run's folder.
    checkpoints: their folders, the newest first, so that no remaining checkpoint refers to a removed one.
    bytes: their size.
    stays: a line for each path that looks like a checkpoint and is kept, with the reason.
    """

    run: Path
    checkpoints: tuple[Path, ...]
    bytes: int
    kept: tuple[str, ...]


def find_removable(run: Path, keep_best: bool = False) -> Removable:
    """Find the checkpoints of a finished run, except for the best one with `keep_best`.

    Raises UserError if the run isn't finished or its model is missing.
    """
    folder = RunFolder(run)
    read_run(run)
    if not any(folder.model.glob("*.safetensors")):
        raise UserError(f"no model weights: {folder.model}. The checkpoints are all that is left of the model")
    if folder.checkpoints.is_symlink():
        return Removable(run, (), 0, (f"{folder.checkpoints} is a link",))
    found, stays = {}, []
    for path in folder.checkpoints.iterdir() if folder.checkpoints.is_dir() else ():
        name = NAME.fullmatch(path.name)
        if name is None:
            continue
        problem = _foreign(path, int(name[1]))
        if problem:
            stays.append(f"{path} {problem}")
        else:
            found[path] = int(name[1])
    newest_first = sorted(found, key=lambda path: (found[path], path.name), reverse=True)
    best = _best(newest_first) if keep_best else None
    removable = tuple(path for path in newest_first if path.name.startswith(REMOVED) or found[path] != best)
    size = sum(file.lstat().st_size for path in removable for file in path.iterdir())
    return Removable(run, removable, size, tuple(stays))


def _foreign(path: Path, step: int) -> str:
    """Return why the folder isn't a checkpoint that mlens wrote, or has other files in it; empty if it is one."""
    if path.is_symlink() or not path.is_dir():
        return "is not a folder"
    inside = list(path.iterdir())
    if not inside and path.name.startswith(REMOVED):
        return ""
    saved, problem = read_manifest(path)
    if saved is None:
        return f"is not an intact checkpoint: {problem}"
    if saved.step != step:
        return f"is the checkpoint of step {saved.step} under another name"
    other = [file.name for file in inside if file.name not in (MANIFEST, *saved.files)]
    other += [file.name for file in inside if file.is_symlink() or not file.is_file()]
    return f"has a file that isn't the checkpoint's: {other[0]}" if other else ""


def _best(newest_first: list[Path]) -> int | None:
    """Return the step of the best model according to the newest checkpoint (without validation: that checkpoint's)."""
    for path in newest_first:
        saved, _ = read_manifest(path)
        if saved is not None and not path.name.startswith(REMOVED):
            return saved.step if saved.needs is None else saved.needs
    return None


def remove(run: Path, keep_best: bool = False) -> Iterator[tuple[Path, int]]:
    """Remove what `find_removable` finds, and yield each removed checkpoint with its size in bytes.

    Raises UserError if the run is running, and as `find_removable` does.
    """
    with lock_run_folder(run):
        for path in find_removable(run, keep_best).checkpoints:
            yield path, _remove(path)


def _remove(checkpoint: Path) -> int:
    """Remove the files that the checkpoint's manifest names, and the manifest last; return their bytes."""
    if not checkpoint.name.startswith(REMOVED):
        for link in (checkpoint.with_name("last"), checkpoint.with_name("best")):
            if link.is_symlink() and str(link.readlink()) == checkpoint.name:
                link.unlink()
        checkpoint = checkpoint.rename(checkpoint.with_name(REMOVED + checkpoint.name))
    total = 0
    for file in sorted(checkpoint.iterdir(), key=lambda file: file.name == MANIFEST):
        total += file.lstat().st_size
        file.unlink()
    checkpoint.rmdir()
    return total
