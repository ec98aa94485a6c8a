"""How a run's ranks end together: when a signal asks them to, or when one of them can't go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from mlens.engine.ranks import Ranks
from mlens.errors import RunFailed, Stopped, UserError

# SIGTERM: torchrun and most queues, SIGUSR1: SLURM's warning before a time limit (sbatch --signal=USR1@120).
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# torchrun kills a rank 30 s after it has asked it to end. One that hangs in a collective, whose peer is gone, can't
# see the question: it is ended a little earlier, and says why.
DEADLINE = 25.0
# How long a rank that lost another waits for that one's reason.
LAST_WORDS = 3.0
REASON = "mlens/reason"


class StopRequest:
    """A request to stop that all ranks of a run honour."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.requested = ranks, False

    def agreed(self) -> bool:
        """Whether a signal asked any rank to stop. All ranks call this at the same place and get the same answer."""
        return bool(self.ranks.sum(torch.tensor(float(self.requested), device=self.ranks.device)))


@contextmanager
def ending_together(ranks: Ranks) -> Iterator[StopRequest]:
    """Inside, SIGTERM and SIGUSR1 are taken note of, and a rank that fails tells the others why.

    All ranks raise the first one's UserError or RunFailed; a rank that finds another gone without a word raises
    RunFailed. Two ranks or more that are asked to end and don't within DEADLINE seconds are ended. After Stopped both
    signals stay without effect.
    """
    stop, over = StopRequest(ranks), threading.Event()

    def note(*_: int | FrameType | None) -> None:
        stop.requested = True

    before = {number: signal.signal(number, note) for number in SIGNALS}
    watch, wake = os.pipe()
    os.set_blocking(wake, False)
    fd_before = signal.set_wakeup_fd(wake)
    if ranks.world > 1:
        threading.Thread(target=_end_late, args=(watch, ranks, over), daemon=True).start()
    try:
        yield stop
        if stop.agreed():  # since it was looked at last
            raise Stopped("asked to end; resume=true goes on")
    except Stopped:
        # The first rank to leave makes torchrun ask the others to: they are leaving already, in their own time.
        before = {}
        raise
    except KeyboardInterrupt:
        raise
    except (UserError, RunFailed) as error:
        first = _tell(ranks, str(error))
        raise (error if first == str(error) else RunFailed(first)) from error
    except Exception as error:
        if ranks.world == 1 or not _lost_a_peer(error):
            _tell(ranks, f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise
        reason = _told(ranks, LAST_WORDS) or "another rank ended without a word: it was killed, or its machine failed"
        raise RunFailed(f"{reason}; resume=true goes on from the last checkpoint") from error
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        over.set()
        os.close(wake)  # the thread reads the end
        if ranks.world == 1:
            os.close(watch)


def forget_signals_of_parent(_: int) -> None:
    """For a worker process that was forked inside `ending_together`: it goes on until its rank ends it, though it
    belongs to the process group that a signal is sent to, and doesn't wake the rank's thread."""
    signal.set_wakeup_fd(-1)


def _end_late(watch: int, ranks: Ranks, over: threading.Event) -> None:
    """Wait for SIGTERM (its number comes through the pipe), and end this process if it is still inside much later."""
    while (number := os.read(watch, 1)) and not over.is_set():
        if number[0] == signal.SIGTERM and not over.wait(DEADLINE):
            reason = _told(ranks, 0) or "asked to end, it could not: it waits for another rank"
            print(f"error: {reason}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(watch)


def _tell(ranks: Ranks, reason: str) -> str:
    """Put down why this rank fails, unless another did first; returns what stands there."""
    if ranks.world == 1:
        return reason
    return _store().compare_set(REASON, "", reason).decode()


def _told(ranks: Ranks, seconds: float) -> str | None:
    """Why another rank failed, as soon as it says so, at most after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if _store().check([REASON]):
                return _store().get(REASON).decode()
        except (RuntimeError, dist.DistError):  # the store was the dead rank's
            return None
        if time.monotonic() > deadline:
            return None
        time.sleep(0.1)


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _lost_a_peer(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "closed by peer"))
