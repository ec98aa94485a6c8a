"""The ledger sweep.json: the jobs of a sweep and their states."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlens.identity import Identity

# Short enough for every file system.
MAX_NAME_LENGTH = 120

WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    name: also the name of its folder in the sweep's folder.
    overrides: as on a command line.
    fingerprint: of its config, data and model.
    state: waiting, running, finished, failed, or stopped (by the user).
    exit_code: of its last process.
    seconds: duration of its last process.
    queue_id: of a queued job.
    error: the last lines of a failed job.
    """

    name: str
    overrides: list[str]
    fingerprint: str
    state: str = WAITING
    exit_code: int | None = None
    seconds: float | None = None
    queue_id: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class CheckedJob:
    """A job as it would run now.

    entry: of the ledger.
    config: as plain data.
    identity: of its data and model.
    """

    entry: Job
    config: dict
    identity: Identity


class Ledger:
    """The jobs in their order, stored in `folder`/sweep.json. Every change is written at once, atomically."""

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Keep the states that an earlier sweep in this folder recorded for the same jobs, and its other jobs."""
        self.folder = folder
        known = {job.name: job for job in read_ledger(folder)}
        self.jobs = {job.name: job for job in jobs}
        self._others = {name: job for name, job in known.items() if name not in self.jobs}
        for name, job in self.jobs.items():
            if name in known and known[name].fingerprint == job.fingerprint:
                self.jobs[name] = replace(known[name], overrides=job.overrides)

    def set(self, name: str, **changes: Any) -> None:
        self.jobs[name] = replace(self.jobs[name], **changes)
        self.write()

    def write(self) -> None:
        from mlens.files import write_json

        jobs = [asdict(job) for job in (*self._others.values(), *self.jobs.values())]
        write_json(self.folder / "sweep.json", {"jobs": jobs})


def read_ledger(folder: Path) -> list[Job]:
    """Return the jobs in `folder`/sweep.json; an empty list where the file doesn't exist.

    Raises UserError where the file isn't a ledger.
    """
    from mlens.errors import UserError
    from mlens.schema import INTEGER_OR_NONE, NUMBER_OR_NONE, TEXT, TEXT_OR_NONE, read_json

    file = folder / "sweep.json"
    if not file.is_file():
        return []
    job = {"name": TEXT, "overrides": [TEXT], "fingerprint": TEXT, "state?": TEXT, "queue_id?": TEXT_OR_NONE}
    job |= {"exit_code?": INTEGER_OR_NONE, "seconds?": NUMBER_OR_NONE, "error?": TEXT_OR_NONE}
    try:
        content = read_json(file, {"jobs": [job]})
    except UserError as error:
        raise UserError(f"{error}. Remove it, or give another output_dir") from error
    names = [field.name for field in fields(Job)]
    return [Job(**{name: job[name] for name in names if name in job}) for job in content["jobs"]]


def job_names(batch: Sequence[Sequence[str]], first: int = 0, shared: Collection[str] | None = None) -> list[str]:
    """Return a name for each job: its overrides that differ among the jobs, else its index. Equal jobs share a name.

    batch: overrides of each job
    first: index of the first job
    shared: the overrides that all jobs of the sweep share, where this batch isn't all of it

    >>> job_names([["history=none", "seed=1"], ["history=random", "seed=1"], ["history=none", "seed=1"]])
    ['history-none', 'history-random', 'history-none']
    >>> job_names([["seed=1"]], first=3)
    ['3']
    >>> job_names([["history=none", "seed=1"]], first=3, shared=["history=none"])
    ['seed-1']
    """
    return _numbered(batch, [_folder_name(overrides) for overrides in _distinct_overrides(batch, shared)], first)


def names_in(
    folder: Path, batch: Sequence[Sequence[str]], first: int = 0, shared: Collection[str] | None = None
) -> list[str]:
    """Return the jobs' names in a sweep's folder; a name from an earlier version, `history=none,seed=0`, is kept."""
    former = _numbered(batch, [_former_name(overrides) for overrides in _distinct_overrides(batch, shared)], first)
    known = {job.name for job in read_ledger(folder)}
    return [
        old if (old in known or os.path.lexists(folder / old)) and not os.path.lexists(folder / new) else new
        for old, new in zip(former, job_names(batch, first, shared), strict=True)
    ]


def _distinct_overrides(batch: Sequence[Sequence[str]], shared: Collection[str] | None) -> list[list[str]]:
    """Remove the overrides that all jobs share: of the sweep, or (None) of this batch."""
    if shared is None:
        shared = set.intersection(*(set(overrides) for overrides in batch))
    return [[override for override in overrides if override not in shared] for overrides in batch]


def _numbered(batch: Sequence[Sequence[str]], names: Sequence[str], first: int) -> list[str]:
    """Give the jobs without a name their index, or that of the first equal job."""
    named: dict[tuple[str, ...], str] = {}
    for number, (overrides, name) in enumerate(zip(batch, names, strict=True), first):
        named.setdefault(tuple(overrides), name or str(number))
    assert len(set(named.values())) == len(named), named
    return [named[tuple(overrides)] for overrides in batch]


def _folder_name(overrides: Sequence[str]) -> str:
    """Return the overrides as a folder name that needs no quotes in a shell or for Hydra.

    >>> _folder_name(["history=none", "seed=0"])
    'history-none+seed-0'
    >>> _folder_name(["data.path=/a/b"])
    'data.path-_a_b-cbf575'
    """
    texts = [override.lstrip("+").replace("=", "-", 1) for override in overrides]
    safe = [re.sub(r"[^A-Za-z0-9_.-]", "_", text) for text in texts]
    return _limited_name("+".join(safe), ",".join(overrides), intact=safe == texts)


def _former_name(overrides: Sequence[str]) -> str:
    """Return the name of an earlier version.

    >>> _former_name(["history=none", "seed=0"])
    'history=none,seed=0'
    """
    text = ",".join(overrides)
    name = re.sub(r"[^\w.,=+-]", "_", text)
    return _limited_name(name, text, intact=name == text)


def _limited_name(name: str, text: str, intact: bool) -> str:
    """Limit a name's length; where it doesn't represent all of `text`, append a hash of `text`."""
    if intact and len(name) <= MAX_NAME_LENGTH:
        return name
    return f"{name[:MAX_NAME_LENGTH]}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"
