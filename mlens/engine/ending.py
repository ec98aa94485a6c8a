"""How the ranks of a run end together: after a signal to stop, or after one of them has failed."""

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

# The signals that torchrun forwards to its ranks, which it kills a while later.
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# torchrun kills a rank 30 s after its signal. A rank that hangs in a collective operation, whose peer is gone, can't
# react to the signal: it is ended a little earlier, and reports why.
DEADLINE = 25.0
# How long a rank that lost its peer waits for the peer's reason, in seconds.
REASON_TIMEOUT = 3.0
REASON = "mlens/reason"
GONE = "another rank ended without a word: it was killed, or its machine failed"


@contextmanager
def end_ranks_together(ranks: Ranks, stop: StopRequest) -> Iterator[None]:
    """Inside, the ranks work in step: a signal is deferred until all agree to stop, and a rank that fails reports why.

    All ranks raise the UserError or RunFailed of the first one that failed; a rank whose peer has gone without a report
    raises RunFailed. On exit all raise Stopped if a signal arrived after they last agreed. With two ranks or more, one
    that hasn't ended DEADLINE seconds after a signal is ended.
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
        first = _report(ranks, str(error))
        raise (error if first == str(error) else RunFailed(first)) from error
    except Exception as error:
        if ranks.world == 1 or not _lost_a_peer(error):
            _report(ranks, f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise
        reason = _reported(ranks, REASON_TIMEOUT) or GONE
        raise RunFailed(f"{reason}; resume=true continues from the last checkpoint") from error
    finally:
        signal.set_wakeup_fd(fd_before)
        over.set()
        os.close(wake)  # the thread reads the end of the pipe
        if ranks.world == 1:
            os.close(watch)


def leave_signals_to_parent(_: int) -> None:
    """Ignore signals in a worker process that was forked inside `end_ranks_together`, until its rank ends it or is
    killed: a signal may be sent to the entire process group, and must not wake the rank's thread.

    torch lets a worker die of any SIGTERM; its rank would then lack rows of the step that it finishes before it saves.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes
    if hasattr(signal, "sigtimedwait"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_parent, daemon=True).start()


def _end_for_parent() -> None:
    """End this process when its parent asks for it, or within a second of the parent's death: torch's worker would wait
    forever for room in its queue."""
    parent = os.getppid()
    while os.getppid() == parent:
        sent = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if sent is not None and sent.si_pid == parent:
            break
    os._exit(0)


def _end_late(watch: int, ranks: Ranks, over: threading.Event) -> None:
    """Wait for a signal of torchrun, whose number comes through the pipe, and end this process if it is still inside
    DEADLINE seconds later."""
    while (number := os.read(watch, 1)) and not over.is_set():
        if number[0] in FORWARDED and not over.wait(DEADLINE):
            reason = _reported(ranks, 0) or "could not end after a signal: it waits for another rank"
            print(f"error: {reason}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(watch)


def _report(ranks: Ranks, reason: str) -> str:
    """Record why this rank fails, unless another did first; returns what is recorded."""
    if ranks.world == 1:
        return reason
    return _store().compare_set(REASON, "", reason).decode()


def _reported(ranks: Ranks, seconds: float) -> str | None:
    """Why another rank failed; None if it hasn't reported that after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if _store().check([REASON]):
                return _store().get(REASON).decode()
        except (RuntimeError, dist.DistError):  # the store was in the rank that died
            return None
        if time.monotonic() > deadline:
            return None
        time.sleep(0.1)


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _lost_a_peer(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "closed by peer"))
