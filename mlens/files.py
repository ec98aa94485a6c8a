"""Files and folders that are intact or not there; and what a disk refuses, in words.

A folder may come from somebody else, with links planted in it. So what is written gets a random name that no link can
have been made for, and then its own name; and where a name is written through (a folder, a file that is appended to, a
lock), a link in its place is refused.
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

# What no program can mend: the disk has no room, or doesn't let itself be written or read.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EISDIR, errno.EEXIST),
)
# Or too many files are open: in this process, or on the machine.
CROWDED = (errno.EMFILE, errno.ENFILE)
# How the temporary name of what is being written ends.
NEW = ".new"
# How the small text file begins that git-lfs leaves in place of a file that wasn't downloaded.
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"


def disk_refusal(error: BaseException) -> OSError | None:
    """The OSError of a full, read-only or forbidden place, or of too many open files, that `error` is or, in the words
    of a library, reports.

    >>> disk_refusal(RuntimeError("I/O error: No space left on device (os error 28)"))
    OSError(28, 'No space left on device')
    """
    if isinstance(error, OSError) and error.errno is not None:
        known = error.errno in FULL + CROWDED or (error.errno in CLOSED and error.filename is not None)
        return error if known else None
    # How torch and the loader of shared libraries say it.
    if "too many open files" in str(error).lower():
        return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    # How libraries written in Rust (polars, safetensors, tokenizers) pass it on.
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None or int(number[1]) not in FULL + CLOSED + CROWDED:
        return None
    return OSError(int(number[1]), os.strerror(int(number[1])))


def in_words(refusal: OSError) -> str:
    """One line: which file or folder, and why.

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
    """What a full, read-only or forbidden disk makes libraries raise inside becomes the OSError that it was, with the
    name of the file where it is known and of `place` where it isn't."""
    try:
        yield
    except Exception as error:
        refusal = disk_refusal(error)
        if refusal is None or refusal.filename is not None:
            raise
        raise OSError(refusal.errno, refusal.strerror, str(place)) from error


def atomic_write(file: Path, write: Callable[[BufferedWriter], object]) -> None:
    """Let `write` fill a new file, flush it to the disk and rename it to `file`: a reader sees the old file or the
    complete new one, after a power cut too. Raises OSError with the file's name where the disk refuses, and leaves the
    old one."""
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
        raise OSError(error.errno, error.strerror, str(file)) from error  # nobody knows the temporary name
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new empty folder, whose files are flushed to the disk and which takes the name `folder`, in place of an older
    one, when it was filled inside; removed where that fails."""
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
    """Make an empty folder with a random name in the folder of `place`."""
    fresh = fresh_name(place)
    fresh.mkdir()
    return fresh


def fresh_name(place: Path) -> Path:
    """A random name in the folder of `place`, for what takes that one's name when it is complete."""
    return place.with_name(f".{place.name[:80]}.{secrets.token_hex(8)}{NEW}")


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in `folder`, where nobody writes now."""
    for left in folder.glob(f".*{NEW}"):
        with suppress(OSError):
            remove(left)


def remove(place: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link itself, where there is one."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def refuse_links(*places: Path) -> None:
    """Raises OSError, which names it, for the first of these places that is a link: what is written there would land
    wherever it leads."""
    for place in places:
        if place.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(place))


def ensure_folder(folder: Path) -> Path:
    """Make `folder` in its parent, where it isn't there yet. Raises OSError for a link in its place."""
    refuse_links(folder)
    folder.mkdir(exist_ok=True)
    return folder


def open_append(file: Path) -> BufferedWriter:
    """Open a file to append to, and make it where it isn't there yet. Raises OSError for a link in its place."""
    number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(number, "ab")


def flush(place: Path) -> None:
    """Have what was written to a file, or the names in a folder, lie on the disk."""
    number = os.open(place, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(file: Path, text: str) -> None:
    atomic_write(file, lambda stream: stream.write(text.encode()))


def write_json(file: Path, content: Any) -> None:
    """Numbers that aren't finite (a metric of nothing is NaN) become null: JSON has no word for them."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(file, text + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
