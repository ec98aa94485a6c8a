"""The cache folder: tables and tokenizers that are made once and opened by every later run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import platformdirs
from filelock import FileLock

# From how many bytes on a file's digest is worth remembering: 16 MiB are read in some hundredths of a second.
LARGE = 1 << 24
# How long a file's times must be past before they tell one content from the next.
SETTLED_NS = 2_000_000_000


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
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "blake2b").digest()
    settled = max(before["mtime_ns"], before["ctime_ns"]) < time.time_ns() - SETTLED_NS
    if large and settled and _identity(file) == before:
        _remember(memory, before, digest.hex())
    return digest


def _identity(file: Path) -> dict[str, int]:
    stat = file.stat()
    return {name: getattr(stat, f"st_{name}") for name in ("dev", "ino", "size", "mtime_ns", "ctime_ns")}


def _remembered(memory: Path, identity: dict[str, int]) -> str | None:
    try:
        content = json.loads(memory.read_text())
        return content["digest"] if content["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(memory: Path, identity: dict[str, int], digest: str) -> None:
    beside = memory.with_suffix(f".{os.getpid()}")
    # A cache that can't be written to is of use all the same.
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"identity": identity, "digest": digest}))
        beside.replace(memory)


def cached_folder(kind: str, key: str, write: Callable[[Path], None]) -> Path:
    """The folder `kind/key` of the cache; where it is not there yet, `write` fills it.

    It is filled beside and renamed, under a lock, so that several ranks or runs never see half of it.
    """
    folder = cache_root() / kind / key
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{key}-"))
        try:
            write(beside)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder
