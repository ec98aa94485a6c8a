"""End a process after an error of the user, a failure of the run, or a signal."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mlens.files import disk_refusal, in_words
from mlens.streams import OutputLost, guarded_streams
from mlens.text import one_line

# The longest message, in characters: a message may quote a file.
MAX_LENGTH = 2000


class UserError(ValueError):
    """A setting, a file or a folder that the user gave can't be used.

    The message is one printable line, whatever text from a file it quotes: what is wrong, where, and what to do. The
    entry points print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        shown = one_line(message)
        super().__init__(shown if len(shown) <= MAX_LENGTH else f"{shown[: MAX_LENGTH - 3]}...")


class RunFailed(Exception):
    """A run with valid input can't continue: a loss that isn't finite, a full disk, a dead worker.

    The message is one line that says what was saved. The entry point exits with code 1.
    """


class Stopped(BaseException):
    """A signal stopped the run, and everything is saved. The entry point exits with code EXIT_RESUMABLE.

    Like KeyboardInterrupt it may be raised anywhere, so it isn't an Exception that a library could swallow.
    """


class JobFailed(Exception):
    """A job of a sweep failed. The message says which job, and how it ended. The entry point exits with code 1."""


# Exit code of a run that was stopped and can be resumed: 75, "temporary failure" of sysexits.h.
EXIT_RESUMABLE = os.EX_TEMPFAIL

# Exit code of a command whose output pipe was closed: what a shell reports for a program that SIGPIPE ended.
READER_GONE = 128 + signal.SIGPIPE

# Exit code after Ctrl-C: what a shell reports for a program that SIGINT ended.
INTERRUPTED = 128 + signal.SIGINT

# Seconds that other ranks wait for rank 0 to report an error first, since a launcher ends all ranks when one fails.
# Ranks may meet a UserError at different times; in training they are synchronised.
GRACE = {UserError: 20.0, RunFailed: 3.0}


def exit_with(error: UserError | RunFailed) -> NoReturn:
    """Print the error as one line on stderr, and exit with code 2 for a UserError, 1 for RunFailed.

    Of several ranks on a machine, the first one reports; another one only reports an error that the first didn't meet.
    """
    kind = UserError if isinstance(error, UserError) else RunFailed
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(GRACE[kind])
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2 if kind is UserError else 1)


@contextmanager
def exit_on_interrupt(message: str = "Ctrl-C was pressed") -> Iterator[None]:
    """On Ctrl-C, print `message` in one line (once a machine) and exit with code INTERRUPTED."""
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"stopped: {message}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


@contextmanager
def exit_on_user_error(result_on_stdout: bool = False) -> Iterator[None]:
    """End the process with one line, and without a traceback, for the errors that a user can act on.

    UserError and RunFailed exit as `exit_with` does, also where Hydra wraps them while it creates an object. So do a
    full disk, and files or folders that can't be accessed. Stopped exits with code EXIT_RESUMABLE (and one line a
    machine).

    result_on_stdout: stdout is the result. Where it can't be written, exit with one line and code 2; where its reader
        has closed the pipe, exit silently with code READER_GONE. Other output that can't be written is dropped.
    """
    with guarded_streams(result_on_stdout), _one_line_errors():
        yield
        sys.stdout.flush()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except JobFailed:  # its cause is an error of the job, not of this process
        raise
    except OutputLost as lost:
        if isinstance(lost.error, BrokenPipeError):
            sys.exit(READER_GONE)
        exit_with(UserError(f"standard output: {in_words(lost.error)}"))
    except Stopped as stopped:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"stopped: {stopped}", file=sys.stderr, flush=True)
        sys.exit(EXIT_RESUMABLE)
    except Exception as error:
        given = error if isinstance(error, UserError | RunFailed) else error.__cause__
        if isinstance(given, UserError | RunFailed):
            exit_with(given)
        refusal = disk_refusal(error)
        if refusal is not None:
            exit_with(UserError(in_words(refusal)))
        raise
