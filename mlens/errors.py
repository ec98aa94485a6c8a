"""How things end that go wrong: by a mistake of the user's, by what happened to a run, or by a signal."""

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

# Characters of a message: what a file holds may be longer than anybody wants to read.
LONGEST = 2000


class UserError(ValueError):
    """Something the user gave can't be used: a setting, a file, a folder.

    The message is one readable line, whatever a file or folder that it quotes holds: what was wrong, where, and what to
    do. The entry points print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        shown = one_line(message)
        super().__init__(shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}...")


class RunFailed(Exception):
    """What was given is right, and the run still can't go on: a loss that is no number, a full disk, a dead worker.

    The message is one readable line that says what was saved. The entry point exits with code 1.
    """


class Stopped(BaseException):
    """A signal asked the run to stop, and nothing is left to save. The entry point exits with code CONTINUE.

    Like KeyboardInterrupt it can be raised anywhere, so no `except Exception` may swallow it.
    """


class JobFailed(Exception):
    """A job of a sweep failed; the message says which and how it ended. The entry point exits with code 1."""


# What a run exits with that was stopped and can go on: 75, "temporary failure" of sysexits.h.
CONTINUE = os.EX_TEMPFAIL

# What a command exits with whose output nobody reads to the end, as a shell reports a program that SIGPIPE ended.
READER_GONE = 128 + signal.SIGPIPE

# The same of a program that Ctrl-C ended.
INTERRUPTED = 128 + signal.SIGINT

# A launcher ends all ranks when the first one fails: the others leave rank 0 so many seconds to fail first; by the
# user's mistake they may meet it at different times, in a run they work in step.
GRACE = {UserError: 20.0, RunFailed: 3.0}


def exit_with(error: UserError | RunFailed) -> NoReturn:
    """End the process with the error's one line on stderr, and exit code 2 for the user's mistake, 1 for a run that
    can't go on; on several ranks, once a machine: another rank speaks only where rank 0 didn't meet the same error."""
    kind = UserError if isinstance(error, UserError) else RunFailed
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(GRACE[kind])
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2 if kind is UserError else 1)


@contextmanager
def exit_on_interrupt(message: str = "Ctrl-C was pressed") -> Iterator[None]:
    """End the process on Ctrl-C with this message in one line (once a machine) and exit code INTERRUPTED."""
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"stopped: {message}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


@contextmanager
def exit_on_user_error(result_on_stdout: bool = False) -> Iterator[None]:
    """End the process as `exit_with` does where a UserError or RunFailed is raised inside, or was while Hydra made an
    object; and where the disk is full, or a file or folder can't be used. Where it was Stopped, end it with one line
    (once a machine) and exit code CONTINUE.

    result_on_stdout: what is printed is the result. Where it can't be written, end with one line and exit code 2; where
    its reader has gone, without a word and with exit code READER_GONE. Other messages that can't be written are
    dropped.
    """
    with guarded_streams(result_on_stdout), _one_line_errors():
        yield
        sys.stdout.flush()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except JobFailed:  # quotes what the job met, which isn't this process's
        raise
    except OutputLost as lost:
        if isinstance(lost.error, BrokenPipeError):
            sys.exit(READER_GONE)
        exit_with(UserError(f"standard output: {in_words(lost.error)}"))
    except Stopped as stopped:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"stopped: {stopped}", file=sys.stderr, flush=True)
        sys.exit(CONTINUE)
    except Exception as error:
        given = error if isinstance(error, UserError | RunFailed) else error.__cause__
        if isinstance(given, UserError | RunFailed):
            exit_with(given)
        refusal = disk_refusal(error)
        if refusal is not None:
            exit_with(UserError(in_words(refusal)))
        raise
