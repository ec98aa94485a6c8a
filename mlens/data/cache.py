"""The cache folder: tables and tokenizers that are made once and opened by every later run.

An entry is a folder `kind/key`, filled beside, sealed with the digest of each of its files, flushed to the disk and
renamed, all under a lock. So it is whole or not there, whatever ends the process that makes it; and whatever happens to
its files later is noticed, and the entry made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from mlens.errors import UserError
from mlens.files import NEW, atomic_folder, disk_refusal, in_words, refuse_links, write_json

MANIFEST = "manifest.json"
# From how many bytes on a file's digest is worth remembering: 16 MiB are read in some hundredths of a second.
LARGE = 1 << 24
# How long a file's times must be past before they tell one content from the next.
SETTLED_NS = 2_000_000_000
UNWRITABLE = "the cache can't be written: {}; MLENS_CACHE=FOLDER in the environment puts it elsewhere"


def cache_root() -> Path:
    """MLENS_CACHE where it is set, else the user's cache folder."""
    return Path(os.environ.get("MLENS_CACHE") or platformdirs.user_cache_path("mlens"))


def content_key(*parts: object, files: Iterable[Path] = ()) -> str:
    """A name made from the settings `parts` (by their repr) and the content of `files`."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(repr(part).encode())
        digest.update(b"\0")
    for file in files:
        digest.update(file.name.encode() + b"\0")
        digest.update(file_digest(file))
    return digest.hexdigest()


def file_digest(file: Path) -> bytes:
    """[64] the BLAKE2b digest of the file's content.

    That of a large file is remembered in the cache, and trusted as long as the file's path, device, inode, size, time
    of its last change of content (mtime) and of inode (ctime) are what they were. No program can set ctime back short
    of the system's clock; on a file system without it (or on Windows) a content of the same size goes unseen where
    mtime was set back. What changed while it was read, or so shortly before that a later change may bear the same time,
    isn't remembered.
    """
    before = _identity(file)
    large = before["size"] >= LARGE
    name = hashlib.blake2b(os.fsencode(file.resolve()), digest_size=16).hexdigest()
    memory = cache_root() / "digests" / f"{name}.json"
    if large and (remembered := _remembered(memory, before)):
        return bytes.fromhex(remembered)
    digest = _digest(file)
    settled = max(before["mtime_ns"], before["ctime_ns"]) < time.time_ns() - SETTLED_NS
    if large and settled and _identity(file) == before:
        _remember(memory, before, digest.hex())
    return digest


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()


def _identity(file: Path) -> dict[str, int]:
    stat = file.stat()
    return {name: getattr(stat, f"st_{name}") for name in ("dev", "ino", "size", "mtime_ns", "ctime_ns")}


def _remembered(memory: Path, identity: dict[str, int]) -> str | None:
    try:
        content = json.loads(memory.read_text(encoding="utf-8"))
        return content["digest"] if content["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(memory: Path, identity: dict[str, int], digest: str) -> None:
    # A cache that can't be written to is of use all the same.
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, {"identity": identity, "digest": digest})


def cached_folder(kind: str, key: str, write: Callable[[Path], None]) -> Path:
    """The folder `kind/key` of the cache; where it is not there yet, or damaged, `write` fills it.

    Of several ranks or runs that want it at once one fills it and the others wait. Raises UserError where the disk has
    no room for it or is read-only.
    """
    folder = cache_root() / kind / key
    if is_whole(folder):
        return folder
    with lock(folder):
        if not is_whole(folder, tell=True):
            with new_entry(folder) as fresh:
                write(fresh)
    return folder


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Inside, no other process fills this entry. What processes that were killed left of theirs is removed first.

    The system lets go of the lock of a process that dies; the lock's file stays, and says nothing. Raises UserError
    where the disk has no room or is read-only.
    """
    with _told():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a home folder that doesn't exist, or isn't this user's
            raise UserError(UNWRITABLE.format(in_words(error))) from error
        lock_file = folder.with_name(f"{folder.name}.lock")
        refuse_links(lock_file)
        with FileLock(lock_file):
            _remove_leftovers(folder)
            yield


def _remove_leftovers(folder: Path) -> None:
    for left in folder.parent.glob(f".*{NEW}"):
        key = left.name[1:].rsplit(".", 2)[0]
        if key == folder.name:
            shutil.rmtree(left, ignore_errors=True)
            continue
        # Who holds the lock of another entry is filling it right now.
        with suppress(Timeout, OSError), FileLock(folder.with_name(f"{key}.lock"), timeout=0):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def new_entry(folder: Path) -> Iterator[Path]:
    """Under the entry's lock: an empty folder, which is sealed and becomes the entry when it was filled inside."""
    with atomic_folder(folder) as fresh:
        try:
            yield fresh
            seal(fresh)
        except FileNotFoundError as error:
            if fresh.exists():
                raise
            raise UserError(f"{folder.parent} was deleted while it was written to: start again") from error


def seal(folder: Path) -> None:
    """Note the digest of every file in the filled folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    write_json(folder / MANIFEST, {file.relative_to(folder).as_posix(): _digest(file).hex() for file in files})


def is_whole(folder: Path, tell: bool = False) -> bool:
    """Whether the entry is there and each of its files is what was written; with `tell`, a damaged one is warned of."""
    if not folder.is_dir():
        return False
    damaged = _damaged_file(folder)
    if damaged is not None and tell:
        what = f"{damaged} is not what was written, or gone"
        warnings.warn(f"the cache entry {folder} is damaged and is made again: {what}", stacklevel=4)
    return damaged is None


def _damaged_file(folder: Path) -> str | None:
    name = MANIFEST
    try:
        sealed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, digest in sealed.items():
            if file_digest(folder / name).hex() != digest:
                return name
    except (OSError, ValueError, AttributeError):
        return name
    return None


@contextmanager
def _told() -> Iterator[None]:
    """A full or closed disk is no mistake of the program's: one line, and what to do."""
    try:
        yield
    except OSError as error:
        refusal = disk_refusal(error)
        if refusal is None:
            raise
        told = in_words(refusal)
        if refusal.filename is not None and cache_root() in Path(os.fsdecode(refusal.filename)).parents:
            told = UNWRITABLE.format(told)
        raise UserError(told) from error
