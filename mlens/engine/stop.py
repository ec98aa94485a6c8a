"""Requests to stop a run, which signals make: deferred until all ranks agree on where to stop, or honoured at once."""

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

    requested: whether this process received a signal to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._interrupted = False
        self._reason = "asked to stop before the first step: start it again"

    def defer(self) -> None:
        """From now on only record a signal: ranks that work in step stop where all of them call `agreed`."""
        self._deferred = True

    def interrupt(self, reason: str) -> None:
        """From now on, since nothing is left to save, a signal raises Stopped(reason) wherever this process is; one
        that was recorded before raises it immediately."""
        self._deferred, self._reason = False, reason
        if self.requested:
            self._raise()

    def agreed(self, ranks: Ranks) -> bool:
        """Whether any rank received a signal to stop. All ranks call this together and get the same answer."""
        return ranks.any(self.requested)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handle a signal. Raises KeyboardInterrupt for a second Ctrl-C."""
        # A rank of torchrun may receive one Ctrl-C twice: from the terminal, and forwarded by torchrun.
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
        self._deferred = True  # another signal doesn't interrupt the shutdown
        raise Stopped(self._reason)


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Inside, SIGNALS and Ctrl-C request that the run stops instead of killing the process; until `defer` is called
    they stop it immediately. A second Ctrl-C raises KeyboardInterrupt.

    After the run has finished or was Stopped, the signals are ignored until the process ends, so that its exit code
    stays. After any other exception the previous handlers are restored.
    """
    stop = StopRequest()
    handled = [number for number in (*SIGNALS, signal.SIGINT) if not _stays_ignored(number)]
    before = {number: signal.signal(number, stop.handle) for number in handled}
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


def _stays_ignored(number: int) -> bool:
    """Whether the process was started to ignore this signal: under nohup a run survives its terminal, and in a script's
    background Ctrl-C. A rank of torchrun handles all signals: torchrun forwards them, and kills a rank that doesn't
    end."""
    ignored = number in (signal.SIGHUP, signal.SIGINT) and signal.getsignal(number) == signal.SIG_IGN
    return ignored and TORCHRUN not in os.environ


def _ignore(numbers: Iterable[signal.Signals]) -> None:
    # Not a handler in Python, which the interpreter removes before it exits.
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
