"""The cache folder: tables and tokenizers that are made once and opened by every later run."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs
from filelock import FileLock


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
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


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
