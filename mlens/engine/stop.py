"""A signal's request to stop a run: noted until all ranks agree on where, or honoured at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from mlens.errors import Stopped

if TYPE_CHECKING:
    from mlens.engine.ranks import Ranks

# SIGTERM: torchrun and most queues. SIGUSR1: SLURM's warning before a time limit (sbatch --signal=USR1@300). SIGHUP: a
# terminal that is closed.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
TORCHRUN = "TORCHELASTIC_RUN_ID"
STOPPING = b"stopping: the run ends as soon as it has saved a checkpoint (Ctrl-C again ends it at once)\n"


class StopRequest:
    """A request to stop that all ranks of a run honour.

    requested: whether a signal asked this process.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._interrupted = False
        self._reason = "asked to stop before the first step: start it again"

    def defer(self) -> None:
        """From here on a signal is only noted: ranks that work in step stop where all of them ask `agreed`."""
        self._deferred = True

    def interrupt(self, reason: str) -> None:
        """From here on, since nothing is left to save, a signal raises Stopped(reason) wherever this process is; one
        that was noted before raises it now."""
        self._deferred, self._reason = False, reason
        if self.requested:
            self._raise()

    def agreed(self, ranks: Ranks) -> bool:
        """Whether a signal asked any rank to stop. All ranks call this at the same place and get the same answer."""
        return ranks.any(self.requested)

    def note(self, number: int, _: FrameType | None) -> None:
        """The handler of the signals. Raises KeyboardInterrupt for a second Ctrl-C."""
        # A rank of torchrun may get one Ctrl-C twice: from the terminal, and passed on.
        if number == signal.SIGINT and TORCHRUN not in os.environ:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            if self._deferred:
                os.write(2, STOPPING)  # print may be what was interrupted
        self.requested = True
        if not self._deferred:
            self._raise()

    def _raise(self) -> None:
        self._deferred = True  # another signal doesn't interrupt the end
        raise Stopped(self._reason)


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Inside, SIGNALS and Ctrl-C ask the run to stop instead of killing the process: at first at once. A second Ctrl-C
    raises KeyboardInterrupt.

    When the run has finished or was Stopped, they are ignored until the process ends: its exit code stays what it is.
    After any other exception their handlers are what they were.
    """
    stop = StopRequest()
    taken = [number for number in (*SIGNALS, signal.SIGINT) if not _is_kept_ignored(number)]
    before = {number: signal.signal(number, stop.note) for number in taken}
    try:
        yield stop
    except Stopped:
        _ignore(before)
        raise
    except BaseException:
        for number, handler in before.items():
            signal.signal(number, handler)
        raise
    _ignore(before)


def _is_kept_ignored(number: int) -> bool:
    """Under nohup a run survives its terminal, and in a script's background its Ctrl-C. A rank of torchrun never gets
    a terminal's signals: torchrun, which handles them in any case, passes them on, and kills a rank that doesn't
    end."""
    ignored = number in (signal.SIGHUP, signal.SIGINT) and signal.getsignal(number) == signal.SIG_IGN
    return ignored and TORCHRUN not in os.environ


def _ignore(numbers: Iterable[signal.Signals]) -> None:
    # Not a handler in Python, which the interpreter removes before it has ended.
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
