"""Which checkpoints a finished run doesn't need, and their removal.

A finished run's model and predictions stand beside its checkpoints, which are of use only for training it longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlens.comparison.runs import read_run
from mlens.engine.manifest import MANIFEST, PREFIX, read_manifest
from mlens.errors import UserError
from mlens.training.folder import RunFolder, alone_in

# A checkpoint that is being removed isn't called one any more: what a crash leaves of it is no damaged checkpoint.
REMOVED = ".removed_"
NAME = re.compile(rf"(?:{re.escape(REMOVED)})?{PREFIX}(\d{{8,}})")


@dataclass(frozen=True)
class Removable:
    """What may go of the folder `run`. checkpoints: folders, the newest first, so that none that is left while they go
    needs one that is gone; bytes: of these; stays: what looks like a checkpoint and stays, and why."""

    run: Path
    checkpoints: tuple[Path, ...]
    bytes: int
    stays: tuple[str, ...]


def find_removable(run: Path, keep_best: bool = False) -> Removable:
    """The checkpoints of a finished run, but for the best one with `keep_best`. Raises UserError where the run isn't
    finished, or its model isn't there."""
    folder = RunFolder(run)
    read_run(run)
    if not any(folder.model.glob("*.safetensors")):
        raise UserError(f"{folder.model} holds no weights: the checkpoints are all that is left of the model")
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
    going = tuple(path for path in newest_first if path.name.startswith(REMOVED) or found[path] != best)
    return Removable(run, going, sum(file.lstat().st_size for path in going for file in path.iterdir()), tuple(stays))


def _foreign(path: Path, step: int) -> str:
    """Why the folder isn't a checkpoint that mlens wrote, or holds more than that; empty where it is."""
    if path.is_symlink() or not path.is_dir():
        return "is no folder"
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
    return f"holds {other[0]}, which isn't the checkpoint's" if other else ""


def _best(newest_first: list[Path]) -> int | None:
    """The step of the best model, as the newest checkpoint knows it (without validation: its own)."""
    for path in newest_first:
        saved, _ = read_manifest(path)
        if saved is not None and not path.name.startswith(REMOVED):
            return saved.step if saved.needs is None else saved.needs
    return None


def remove(run: Path, keep_best: bool = False) -> Iterator[tuple[Path, int]]:
    """Remove what `find_removable` finds now, and tell of each checkpoint with its bytes. Raises UserError where a run
    is at work there, or as that does."""
    with alone_in(run):
        for path in find_removable(run, keep_best).checkpoints:
            yield path, _remove(path)


def _remove(checkpoint: Path) -> int:
    """Nothing but the files that its manifest names, which goes last; returns their bytes."""
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
