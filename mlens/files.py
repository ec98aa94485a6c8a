"""Atomic writes of files and folders, and readable messages for what a disk refuses.

A folder may come from somebody else, with links planted in it. So a file is written under a random name, for which no
link can have been made, and renamed; and where an existing name is used (a folder, a file that is appended to, a lock),
a link in its place is refused.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import resource
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from typing import Any

# Errors that the user must resolve: the disk is full, or can't be written or read.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EISDIR, errno.EEXIST),
)
# Too many files are open, in this process or on the machine.
CROWDED = (errno.EMFILE, errno.ENFILE)
# The end of temporary names.
NEW = ".new"
# The beginning of the text that git-lfs leaves in place of a file that wasn't downloaded.
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"


def disk_refusal(error: BaseException) -> OSError | None:
    """The OSError of a full, read-only or forbidden place, or of too many open files, if `error` is one or is a
    library's report of one.

    >>> disk_refusal(RuntimeError("I/O error: No space left on device (os error 28)"))
    OSError(28, 'No space left on device')
    """
    if isinstance(error, OSError) and error.errno is not None:
        known = error.errno in FULL + CROWDED or (error.errno in CLOSED and error.filename is not None)
        return error if known else None
    # As torch and the loader of shared libraries report it.
    if "too many open files" in str(error).lower():
        return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    # As libraries written in Rust (polars, safetensors, tokenizers) report it.
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None or int(number[1]) not in FULL + CLOSED + CROWDED:
        return None
    return OSError(int(number[1]), os.strerror(int(number[1])))


def in_words(refusal: OSError) -> str:
    """Describe a refusal in one line: which file or folder, and why.

    >>> in_words(OSError(28, "No space left on device", "/tmp/x"))
    '/tmp/x: the disk is full (no space left on device)'
    """
    assert refusal.errno is not None
    reason = os.strerror(refusal.errno).lower()
    if refusal.errno == errno.ENOSPC:
        reason = f"the disk is full ({reason})"
    if refusal.errno == errno.ELOOP:
        reason = "is a link, and nothing is written through it: remove it"
    if refusal.errno in CROWDED:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        reason += f" (this process may open {limit}): raise the limit, as with `ulimit -n 4096`, and start again"
    return reason if refusal.filename is None else f"{os.fsdecode(refusal.filename)}: {reason}"


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Turn what libraries raise inside for a full, read-only or forbidden disk into the OSError behind it. It has the
    name of the file, or that of `place` where the file isn't known."""
    try:
        yield
    except Exception as error:
        refusal = disk_refusal(error)
        if refusal is None or refusal.filename is not None:
            raise
        raise OSError(refusal.errno, refusal.strerror, str(place)) from error


def atomic_write(file: Path, write: Callable[[BufferedWriter], object]) -> None:
    """Let `write` fill a new file, flush it to the disk and rename it to `file`.

    A reader sees the old file or the complete new one, even after a power cut. Raises OSError with the file's name
    where the disk refuses; the old file stays.
    """
    fresh = fresh_name(file)
    try:
        with naming(file):
            with open(fresh, "xb") as stream:  # noqa: PTH123 - "x" follows no link
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(file)
    except OSError as error:
        if error.filename != str(fresh):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error  # not the temporary name
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill inside. On exit its files are flushed to the disk and it is renamed to `folder`, in place
    of an older one; if anything fails it is removed."""
    fresh, old = fresh_folder(folder), fresh_name(folder)
    try:
        with naming(folder):
            yield fresh
            for path in (*fresh.rglob("*"), fresh):
                flush(path)
            if os.path.lexists(folder):
                folder.rename(old)
            fresh.rename(folder)
            flush(folder.parent)
    finally:
        for left in (fresh, old):
            with suppress(OSError):
                remove(left)


def is_lfs_pointer(file: Path) -> bool:
    """Whether `file` is a git-lfs pointer in place of its content. Raises OSError where it can't be read."""
    with file.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def fresh_folder(place: Path) -> Path:
    """Create an empty folder with a random name, in the same folder as `place`."""
    fresh = fresh_name(place)
    fresh.mkdir()
    return fresh


def fresh_name(place: Path) -> Path:
    """A random temporary name in the same folder as `place`, for what is renamed to `place` when it is complete."""
    return place.with_name(f".{place.name[:80]}.{secrets.token_hex(8)}{NEW}")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left in `folder`, where no other process writes now."""
    for left in folder.glob(f".*{NEW}"):
        with suppress(OSError):
            remove(left)


def remove(place: Path) -> None:
    """Remove a file, a folder with its content, or a link (not its target), if it exists."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def refuse_links(*places: Path) -> None:
    """Raise OSError for the first of these places that is a link: what is written there would be written to its
    target."""
    for place in places:
        if place.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(place))


def ensure_folder(folder: Path) -> Path:
    """Create `folder` in its parent, unless it exists. Raises OSError for a link in its place."""
    refuse_links(folder)
    folder.mkdir(exist_ok=True)
    return folder


def open_append(file: Path) -> BufferedWriter:
    """Open a file to append to, creating it unless it exists. Raises OSError for a link in its place."""
    number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(number, "ab")


def flush(place: Path) -> None:
    """Flush the content of a file, or the names in a folder, to the disk."""
    number = os.open(place, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(file: Path, text: str) -> None:
    atomic_write(file, lambda stream: stream.write(text.encode()))


def write_json(file: Path, content: Any) -> None:
    """Write `content` as JSON. Numbers that aren't finite (a metric without data is NaN) become null, since JSON has
    none."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(file, text + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
