"""The checkpoints of a run. Each is complete or absent, and verified when it is loaded.

`step_00000120/` holds what DeepSpeed wrote after step 120, and a manifest: the run's state, and the size and BLAKE2b
digest of every file and of the manifest. The links `last` and `best` to two of these folders are for users; nothing
reads them.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlens.engine.engine import Engine
from mlens.engine.manifest import MANIFEST, Manifest, checkpoint_name, digest_of, read_manifest, saved_steps
from mlens.errors import RunFailed
from mlens.files import fresh_folder, fresh_name, remove, remove_leftovers, write_json
from mlens.text import first_line


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder. All ranks call each method together.

    engine: what is saved and loaded.
    folder: where the checkpoints are.
    keep: how many of the newest checkpoints stay, besides those that they need.
    """

    engine: Engine
    folder: Path
    keep: int

    def save(self, step: int, state: dict, needs: int | None) -> None:
        """Write a checkpoint under a temporary name, then rename it.

        step: how many updates were made.
        state: the run's state, saved with the engine's parameters and optimizer.
        needs: the step of another checkpoint that this one needs (the best model's), or None.

        Raises RunFailed, on all ranks, where the disk is too full; earlier checkpoints stay.
        """
        ranks, name = self.engine.ranks, checkpoint_name(step)
        # DeepSpeed also writes a script, to the parent of the checkpoint's folder.
        fresh = ranks.on_main(lambda: self._make_room(step))
        try:
            self.engine.save(fresh, name)
            digests = ranks.gather(_digests(self._rank_files(fresh / name)))
        except (OSError, RuntimeError) as error:
            if not _could_not_write(error):
                raise
            if ranks.main:
                shutil.rmtree(fresh, ignore_errors=True)
            raise RunFailed(self._cannot_write(step, first_line(error))) from error
        ranks.on_main(lambda: self._put(fresh / name, Manifest(step, needs, ranks.world, state, _merged(digests))))

    def load_newest(self) -> dict | None:
        """Load the newest intact checkpoint, and return the run's state; None where there is none.

        A checkpoint whose needed one is damaged doesn't count as intact. A damaged one is reported and skipped;
        checkpoints newer than the loaded one are removed, since the run will write them again.
        """
        ranks = self.engine.ranks
        for step in reversed(ranks.on_main(lambda: saved_steps(self.folder))):
            saved = self._intact(step)
            if saved is not None and (saved.needs in (None, step) or self._intact(saved.needs)):
                self.engine.load(self.folder, checkpoint_name(step), saved.ranks)
                ranks.on_main(partial(self._drop_after, saved.step))
                return saved.state
        return None

    def load(self, step: int) -> None:
        """Load parameters and optimizer of this step's checkpoint. Raises RunFailed where it isn't intact."""
        saved = self._intact(step)
        if saved is None:
            raise RunFailed(f"the best model's checkpoint, {self.folder / checkpoint_name(step)}, is gone or damaged")
        self.engine.load(self.folder, checkpoint_name(step), saved.ranks)

    def _intact(self, step: int) -> Manifest | None:
        """The checkpoint's manifest where every file verifies, else None and a warning. Each rank reads some files."""
        path, ranks = self.folder / checkpoint_name(step), self.engine.ranks
        saved, problem = ranks.on_main(lambda: read_manifest(path))
        if saved is not None:
            digests = _merged(ranks.gather(_digests(self._rank_files(path))))
            wrong = sorted(name for name in saved.files if digests.get(name) != saved.files[name])
            problem = f"the digest of {wrong[0]} differs" if wrong else None
        if problem is None:
            return saved
        if ranks.main:
            warnings.warn(f"{path} is damaged and skipped: {problem}", stacklevel=2)
        return None

    def _rank_files(self, path: Path) -> list[Path]:
        """The files of a checkpoint that this rank reads, so that all are read in parallel."""
        files = sorted(file for file in path.iterdir() if file.is_file() and file.name != MANIFEST)
        return files[self.engine.ranks.rank :: self.engine.ranks.world]

    def _make_room(self, step: int) -> Path:
        """A new folder to write the checkpoint to. Raises RunFailed where the disk is too full."""
        remove_leftovers(self.folder)
        steps = saved_steps(self.folder)
        needed = _bytes(self.folder / checkpoint_name(steps[-1])) if steps else self.engine.checkpoint_bytes
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            sizes = f"it takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"
            raise RunFailed(self._cannot_write(step, sizes))
        return fresh_folder(self.folder / checkpoint_name(step))

    def _put(self, written: Path, saved: Manifest) -> None:
        path = self.folder / checkpoint_name(saved.step)
        try:
            write_json(written / MANIFEST, {"digest": digest_of(saved), **vars(saved)})
            remove(path)  # of a run that resumed from an earlier checkpoint
            written.rename(path)
            remove(written.parent)
        except OSError as error:
            raise RunFailed(self._cannot_write(saved.step, error)) from error
        _link(self.folder / "last", path)
        if saved.needs is not None:
            _link(self.folder / "best", self.folder / checkpoint_name(saved.needs))
        # Later ones are damaged, in a run that started over: they don't count, and stay until they are written again.
        steps = [step for step in saved_steps(self.folder) if step <= saved.step]
        newest = steps[-self.keep :]
        manifests = [read_manifest(self.folder / checkpoint_name(step))[0] for step in newest]
        kept = {*newest, *(manifest.needs for manifest in manifests if manifest is not None)}
        self._drop(step for step in steps if step not in kept)

    def _drop_after(self, step: int) -> None:
        self._drop(newer for newer in saved_steps(self.folder) if newer > step)

    def _drop(self, steps: Iterable[int]) -> None:
        for step in list(steps):
            remove(self.folder / checkpoint_name(step))

    def _cannot_write(self, step: int, why: Any) -> str:
        steps = saved_steps(self.folder)
        kept = f"that of step {steps[-1]} stays, and resume=true continues from it" if steps else "there is none yet"
        return f"the checkpoint of step {step} can't be written to {self.folder}: {why}; {kept}"


def _could_not_write(error: Exception) -> bool:
    """torch reports a failed write as a RuntimeError, as it does every other error of its file writer."""
    return isinstance(error, OSError) or "PytorchStreamWriter" in str(error) or "inline_container" in str(error)


def _digests(files: Iterable[Path]) -> dict[str, list]:
    """[size, BLAKE2b digest] of each file, by its name."""
    found = {}
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
        found[file.name] = [file.stat().st_size, digest.hexdigest()]
    return found


def _merged(parts: Iterable[dict]) -> dict:
    return {name: value for part in parts for name, value in part.items()}


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def _link(link: Path, target: Path) -> None:
    with suppress(OSError):  # a file system without links
        fresh = fresh_name(link)
        fresh.symlink_to(target.name)
        fresh.replace(link)
