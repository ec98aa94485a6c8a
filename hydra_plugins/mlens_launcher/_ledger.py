"""sweep.json: the jobs of a sweep, and how far each has come."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlens.identity import Identity

# A folder's name stays short enough for every file system.
LONGEST_NAME = 120

WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class Job:
    """One job: its name (also its folder's, in the sweep's), overrides and fingerprint; state: waiting, running,
    finished, failed or stopped (by the user); exit_code; seconds that its last start took; queue_id: of a queued job;
    error: the last lines of a failed one."""

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
    """A job as it would run now. entry: in the ledger; config: as plain data; identity: its data and model."""

    entry: Job
    config: dict
    identity: Identity


class Ledger:
    """The jobs in their order, kept in `folder`/sweep.json; every change is written at once, beside and renamed."""

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Takes over what an earlier sweep in this folder left to say of the same jobs, and of others."""
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
    """The jobs that `folder`/sweep.json knows; none where there is no such file. Raises UserError where it is no
    ledger."""
    from mlens.errors import UserError

    file = folder / "sweep.json"
    if not file.is_file():
        return []
    try:
        jobs = [Job(**job) for job in json.loads(file.read_text(encoding="utf-8"))["jobs"]]
        wrong = next((job for job in jobs if not _has_right_kinds(job)), None)
        if wrong is not None:
            raise ValueError(f"job {wrong.name!r} has values of another kind")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is no ledger of a sweep ({error}): remove it, or give another output_dir") from error
    return jobs


def _has_right_kinds(job: Job) -> bool:
    """Whether all values are of their kinds: a ledger that was edited or cut is told where it is read."""
    texts = [job.name, job.fingerprint, job.state, *(v for v in (job.queue_id, job.error) if v is not None)]
    numbers = [v for v in (job.exit_code, job.seconds) if v is not None]
    return (
        isinstance(job.overrides, list)
        and all(isinstance(text, str) for text in (*texts, *job.overrides))
        and all(isinstance(number, int | float) and abs(number) < 1e12 for number in numbers)  # NaN is none
    )


def job_names(batch: Sequence[Sequence[str]], first: int = 0) -> list[str]:
    """A name for each job: its overrides that differ among the jobs, else its number.

    >>> job_names([["history=none", "seed=1"], ["history=random", "seed=1"]])
    ['history-none', 'history-random']
    >>> job_names([["seed=1"]], first=3)
    ['3']
    """
    return _numbered([_folder_name(overrides) for overrides in _differing(batch)], first)


def names_in(folder: Path, batch: Sequence[Sequence[str]], first: int = 0) -> list[str]:
    """The jobs' names in a sweep's folder: a job that an earlier version named `history=none,seed=0` keeps that."""
    former = _numbered([_former_name(overrides) for overrides in _differing(batch)], first)
    known = {job.name for job in read_ledger(folder)}
    return [
        old if (old in known or os.path.lexists(folder / old)) and not os.path.lexists(folder / new) else new
        for old, new in zip(former, job_names(batch, first), strict=True)
    ]


def _differing(batch: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each job's overrides without those that all have."""
    shared = set.intersection(*(set(overrides) for overrides in batch))
    return [[override for override in overrides if override not in shared] for overrides in batch]


def _numbered(names: Sequence[str], first: int) -> list[str]:
    named = [name or str(first + number) for number, name in enumerate(names)]
    assert len(set(named)) == len(named), named
    return named


def _folder_name(overrides: Sequence[str]) -> str:
    """The overrides as a folder's name that neither a shell nor Hydra wants in quotes.

    >>> _folder_name(["history=none", "seed=0"])
    'history-none+seed-0'
    >>> _folder_name(["data.path=/a/b"])
    'data.path-_a_b-cbf575'
    """
    texts = [override.lstrip("+").replace("=", "-", 1) for override in overrides]
    safe = [re.sub(r"[^A-Za-z0-9_.-]", "_", text) for text in texts]
    return _distinct("+".join(safe), ",".join(overrides), intact=safe == texts)


def _former_name(overrides: Sequence[str]) -> str:
    """
    >>> _former_name(["history=none", "seed=0"])
    'history=none,seed=0'
    """
    text = ",".join(overrides)
    name = re.sub(r"[^\w.,=+-]", "_", text)
    return _distinct(name, text, intact=name == text)


def _distinct(name: str, text: str, intact: bool) -> str:
    """A name of limited length; where it doesn't hold all of `text`, a hash makes up for what is lost."""
    if intact and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"
