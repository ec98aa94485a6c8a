"""Standard output and standard error, which may be closed, full, or a pipe whose reader has gone.

Messages of a run or command that can't be written are dropped, and the work continues. Where the output is the result,
losing it is an error.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class OutputLost(Exception):
    """The result of a command couldn't be written to standard output.

    error: why.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class _Stream(io.FileIO):
    """A file descriptor that drops what it can't write; with `must_arrive` it raises OutputLost the first time."""

    def __init__(self, number: int, must_arrive: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self._must_arrive, self._lost = must_arrive, False

    def write(self, data: Any, /) -> int:
        if not self._lost:
            try:
                return super().write(data)
            except OSError as error:
                self._lost = True
                if self._must_arrive:
                    # Not an OSError, which libraries would handle.
                    raise OutputLost(error) from error
        return memoryview(data).nbytes


@contextmanager
def guarded_streams(result_on_stdout: bool = False) -> Iterator[None]:
    """Inside, printing never fails, with one exception: if `result_on_stdout`, standard output that can't be written
    raises OutputLost when it is flushed."""
    _open_closed()
    before = sys.stdout, sys.stderr
    # Streams that a test or an outer guard has replaced stay.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout, 1, result_on_stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr, 2, False)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OutputLost):
                stream.flush()
        sys.stdout, sys.stderr = before


def _guarded(stream: TextIO | None, number: int, must_arrive: bool) -> TextIO:
    """A guarded stream for a descriptor.

    stream: the one that it replaces; None where Python found the descriptor closed.
    """
    if stream is not None:
        stream.flush()
    buffer = io.BufferedWriter(_Stream(number, must_arrive))
    line_buffering = number == 2 or buffer.isatty() or getattr(stream, "write_through", False)
    encoding, errors = getattr(stream, "encoding", "utf-8"), getattr(stream, "errors", "replace")
    return io.TextIOWrapper(buffer, encoding, errors, line_buffering=line_buffering)


def _open_closed() -> None:
    """Open the standard descriptors that are closed. Otherwise a file that is opened later would get their numbers and
    receive the output. They are opened for the opposite direction, so that using them fails as if they were closed."""
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
