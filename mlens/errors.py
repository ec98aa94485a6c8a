"""The one exception that stands for a mistake of the user's, not of the program's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class UserError(ValueError):
    """Something the user gave can't be used: a setting, a file, a folder.

    The message is one readable line: what was wrong, where, and what to do. The entry points print it without a
    traceback and exit with code 2.
    """


class JobFailed(Exception):
    """A job of a sweep failed; the message says which and how it ended. The entry point exits with code 1."""


# A launcher ends all ranks when the first one fails: the others leave rank 0 so many seconds to fail first.
GRACE = 20.0


def exit_with(error: UserError) -> NoReturn:
    """End the process with exit code 2 and the error's one line on stderr; on several ranks, once a machine: another
    rank speaks only where rank 0 didn't meet the same error."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(GRACE)
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the process as `exit_with` does where a UserError is raised inside, or was while Hydra made an object."""
    try:
        yield
    except Exception as error:
        given = error if isinstance(error, UserError) else error.__cause__
        if isinstance(given, UserError):
            exit_with(given)
        raise
