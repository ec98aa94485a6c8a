"""torchrun, ended with the sweep that started it: `python _agent.py TORCHRUN_ARGUMENTS`.

The launcher holds the other end of standard input. When it goes, however it does, the pipe ends, and this process
ends its ranks and itself: no rank trains on in a folder that the next sweep wants.

SIGUSR1, SIGTERM and SIGHUP reach the ranks as SIGUSR1: they save and end in their own time (torchrun itself would leave
them 30 seconds), and this process ends with CONTINUE where all of them were stopped like this.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress

import psutil

# mlens.errors.CONTINUE and mlens.engine.stop.SIGNALS, which this script can't import from everywhere.
CONTINUE = os.EX_TEMPFAIL
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def end_with_launcher() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would abort the interpreter's end
        pass
    # torchrun gives every rank a session of its own, so there is no group to end.
    for rank in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            rank.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def pass_on(*_: object) -> None:
    ranks = psutil.Process().children()
    if not ranks:
        sys.exit(CONTINUE)
    for rank in ranks:
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(signal.SIGUSR1)


def take_signals_from_torchrun() -> None:
    """What torchrun handles itself replaces these handlers; newer ones read the second name, older ones the first."""
    for name in ("TORCHELASTIC_SIGNALS_TO_HANDLE", "PET_SIGNALS_TO_HANDLE"):
        os.environ[name] = "SIGINT,SIGQUIT"
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # SIGHUP under nohup
            signal.signal(number, pass_on)


if __name__ == "__main__":
    threading.Thread(target=end_with_launcher, daemon=True).start()
    take_signals_from_torchrun()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        # Without a folder for logs: torchrun would leave one among the temporary files.
        main([f"--log-dir={os.devnull}", *sys.argv[1:]])
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        # A rank that had only just started doesn't handle the signals yet, and torchrun ends the last ones by SIGTERM.
        if codes <= {CONTINUE, *(-number for number in SIGNALS)}:
            sys.exit(CONTINUE)
        raise
