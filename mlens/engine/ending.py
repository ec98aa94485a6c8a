"""How a run's ranks end together: when a signal asks them to stop, or when one of them can't go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from mlens.engine.ranks import Ranks
from mlens.engine.stop import StopRequest
from mlens.errors import RunFailed, Stopped, UserError

# What torchrun passes on to its ranks, and kills them a while later.
PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# torchrun kills a rank 30 s after it has asked it to end. One that hangs in a collective, whose peer is gone, can't
# see the question: it is ended a little earlier, and says why.
DEADLINE = 25.0
# How long a rank that lost another waits for that one's reason.
LAST_WORDS = 3.0
REASON = "mlens/reason"


@contextmanager
def ending_together(ranks: Ranks, stop: StopRequest) -> Iterator[None]:
    """Inside, the ranks work in step: a signal is noted until they agree to stop, and a rank that fails tells the
    others why.

    All ranks raise the first one's UserError or RunFailed; a rank that finds another gone without a word raises
    RunFailed. At the end all raise Stopped where a signal came since they agreed last. Two ranks or more that are asked
    to end and don't within DEADLINE seconds are ended.
    """
    over = threading.Event()
    stop.defer()
    watch, wake = os.pipe()
    os.set_blocking(wake, False)
    fd_before = signal.set_wakeup_fd(wake)
    if ranks.world > 1:
        threading.Thread(target=_end_late, args=(watch, ranks, over), daemon=True).start()
    try:
        yield
        if stop.agreed(ranks):
            raise Stopped("asked to stop; resume=true continues it")
    except (UserError, RunFailed) as error:
        first = _tell(ranks, str(error))
        raise (error if first == str(error) else RunFailed(first)) from error
    except Exception as error:
        if ranks.world == 1 or not _lost_a_peer(error):
            _tell(ranks, f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise
        reason = _told(ranks, LAST_WORDS) or "another rank ended without a word: it was killed, or its machine failed"
        raise RunFailed(f"{reason}; resume=true continues from the last checkpoint") from error
    finally:
        signal.set_wakeup_fd(fd_before)
        over.set()
        os.close(wake)  # the thread reads the end
        if ranks.world == 1:
            os.close(watch)


def leave_signals_to_parent(_: int) -> None:
    """For a worker process that was forked inside `ending_together`: it works until its rank ends it, though a signal
    may be sent to the whole process group, and doesn't wake the rank's thread.

    torch lets it die of any SIGTERM; its rank would then lack the rows of the step that it finishes before it saves.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is sent to all of them
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_parent, daemon=True).start()


def _end_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _end_late(watch: int, ranks: Ranks, over: threading.Event) -> None:
    """Wait for a signal of torchrun's (its number comes through the pipe), and end this process if it is still inside
    much later."""
    while (number := os.read(watch, 1)) and not over.is_set():
        if number[0] in PASSED_ON and not over.wait(DEADLINE):
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
