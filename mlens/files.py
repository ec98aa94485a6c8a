"""Files that are whole or not there: written beside, then renamed; and what a disk refuses, in words."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# What no program can mend: the disk has no room, or doesn't let itself be written or read.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EMFILE)


def disk_refusal(error: BaseException) -> OSError | None:
    """The OSError of a full, read-only or forbidden place that `error` is or, in a library's words, tells of.

    >>> disk_refusal(RuntimeError("I/O error: No space left on device (os error 28)"))
    OSError(28, 'No space left on device')
    """
    if isinstance(error, OSError) and error.errno is not None:
        known = error.errno in FULL or (error.errno in CLOSED and error.filename is not None)
        return error if known else None
    # How libraries written in Rust (polars, safetensors, tokenizers) pass it on.
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None or int(number[1]) not in FULL + CLOSED:
        return None
    return OSError(int(number[1]), os.strerror(int(number[1])))


def in_words(refusal: OSError) -> str:
    """One line: which file or folder, and why.

    >>> in_words(OSError(28, "No space left on device", "/tmp/x"))
    '/tmp/x: the disk is full (no space left on device)'
    """
    assert refusal.errno is not None
    reason = os.strerror(refusal.errno).lower()
    where = "" if refusal.filename is None else f"{os.fsdecode(refusal.filename)}: "
    return where + (f"the disk is full ({reason})" if refusal.errno == errno.ENOSPC else reason)


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


def atomic_write(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside, flush it to the disk and rename it: a reader sees the old file or the whole new
    one, after a power cut too. Raises OSError with the file's name where the disk refuses, and leaves the old one."""
    beside = file.with_name(f".{file.name}.new")
    try:
        with naming(file):
            write(beside)
            flush(beside)
            beside.replace(file)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def flush(place: Path) -> None:
    """Have what was written to a file, or the names in a folder, lie on the disk."""
    number = os.open(place, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(file: Path, text: str) -> None:
    atomic_write(file, lambda beside: beside.write_text(text, encoding="utf-8"))


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
