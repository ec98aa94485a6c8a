"""The cache folder: tables and tokenizers that are built once and opened by every later run.

An entry is a folder `kind/key`. It is filled under a temporary name, sealed with the digest of each of its files,
flushed to the disk and renamed, all under a lock. So it is either complete or absent, however the process that builds
it ends; later damage to its files is detected, and the entry rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from mlens.errors import UserError
from mlens.files import NEW, atomic_folder, disk_refusal, in_words, refuse_links, write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# The size in bytes from which a file's digest is worth caching: reading 16 MiB takes some hundredths of a second.
LARGE = 1 << 24
# How old a file's times must be before they distinguish one content from the next.
SETTLED_NS = 2_000_000_000
UNWRITABLE = "the cache can't be written: {}. Set MLENS_CACHE=FOLDER in the environment to use another folder"


def cache_root() -> Path:
    """Return MLENS_CACHE where it is set, else the user's cache folder."""
    return Path(os.environ.get("MLENS_CACHE") or platformdirs.user_cache_path("mlens"))


def content_key(*parts: object, files: Iterable[Path] = ()) -> str:
    """Return a key derived from the settings `parts` (by their repr) and the content of `files`."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(repr(part).encode())
        digest.update(b"\0")
    for file in files:
        digest.update(file.name.encode() + b"\0")
        digest.update(file_digest(file))
    return digest.hexdigest()


def file_digest(file: Path) -> bytes:
    """Return the BLAKE2b digest of the file's content, 64 bytes.

    The digest of a large file is cached, and reused while the file's path, device, inode, size and times of the last
    change of content (mtime) and of inode (ctime) stay the same. Programs can't set ctime back without changing the
    system's clock; on a file system without ctime (or on Windows), changed content of the same size goes undetected
    where mtime was set back. The digest isn't cached where the file changed while it was read, or so recently that a
    later change may have the same time.
    """
    before = _file_identity(file)
    large = before["size"] >= LARGE
    name = hashlib.blake2b(os.fsencode(file.resolve()), digest_size=16).hexdigest()
    digest_file = cache_root() / "digests" / f"{name}.json"
    if large and (cached := _cached_digest(digest_file, before)):
        return bytes.fromhex(cached)
    digest = _digest(file)
    settled = max(before["mtime_ns"], before["ctime_ns"]) < time.time_ns() - SETTLED_NS
    if large and settled and _file_identity(file) == before:
        _cache_digest(digest_file, before, digest.hex())
    return digest


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()


def _file_identity(file: Path) -> dict[str, int]:
    stat = file.stat()
    return {name: getattr(stat, f"st_{name}") for name in ("dev", "ino", "size", "mtime_ns", "ctime_ns")}


def _cached_digest(digest_file: Path, identity: dict[str, int]) -> str | None:
    try:
        content = json.loads(digest_file.read_text(encoding="utf-8"))
        return content["digest"] if content["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cache_digest(digest_file: Path, identity: dict[str, int], digest: str) -> None:
    # A read-only cache is still useful.
    with suppress(OSError):
        digest_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(digest_file, {"identity": identity, "digest": digest})


def cached_folder(kind: str, key: str, write: Callable[[Path], None]) -> Path:
    """Return the folder `kind/key` of the cache; where it is missing or damaged, `write` fills it first.

    Where several ranks or runs need it at once, one fills it and the others wait. Raises UserError where the disk is
    full or read-only.
    """
    folder = cache_root() / kind / key
    if is_intact(folder):
        return folder
    with lock(folder):
        if not is_intact(folder, warn=True):
            with new_entry(folder) as fresh:
                write(fresh)
    return folder


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes from filling this entry inside the context. Leftovers of killed processes are removed first.

    The system releases the lock of a process that dies; the lock file stays, and means nothing by itself. Raises
    UserError where the disk is full or read-only.
    """
    with _disk_errors():
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
        # A process that holds the lock of another entry is filling it right now.
        with suppress(Timeout, OSError), FileLock(folder.with_name(f"{key}.lock"), timeout=0):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def new_entry(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which is sealed and becomes the entry at the end. Must be used under the entry's lock."""
    with atomic_folder(folder) as fresh:
        try:
            yield fresh
            seal(fresh)
        except FileNotFoundError as error:
            if fresh.exists():
                raise
            raise UserError(f"{folder.parent} was deleted while being written. Start again") from error


def seal(folder: Path) -> None:
    """Write the digest of every file in the filled folder to its manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    write_json(folder / MANIFEST, {file.relative_to(folder).as_posix(): _digest(file).hex() for file in files})


def is_intact(folder: Path, warn: bool = False) -> bool:
    """Whether the entry exists and all its files are unchanged; with `warn`, a damaged entry is logged as a warning."""
    if not folder.is_dir():
        return False
    damaged = _damaged_file(folder)
    if damaged is not None and warn:
        logger.warning(f"the cache entry {folder} is damaged ({damaged} is changed or missing) and is rebuilt")
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
def _disk_errors() -> Iterator[None]:
    """Turn the errors of a full or read-only disk into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        refusal = disk_refusal(error)
        if refusal is None:
            raise
        message = in_words(refusal)
        if refusal.filename is not None and cache_root() in Path(os.fsdecode(refusal.filename)).parents:
            message = UNWRITABLE.format(message)
        raise UserError(message) from error
