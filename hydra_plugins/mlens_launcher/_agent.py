"""A torchrun that ends with the sweep that started it: `python _agent.py TORCHRUN_ARGUMENTS`.

Standard input is a pipe from the launcher. When the launcher ends, in whatever way, the pipe closes, and this process
kills its ranks and itself: no rank continues to train in a folder that the next sweep needs.

SIGUSR1, SIGTERM and SIGHUP are forwarded to the ranks as SIGUSR1: they save and exit without a time limit (torchrun
itself would allow them 30 seconds), and this process exits with EXIT_RESUMABLE if all of them were stopped this way.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress

import psutil

# Copies of mlens.errors.EXIT_RESUMABLE and mlens.engine.stop.SIGNALS, which this script can't always import.
EXIT_RESUMABLE = os.EX_TEMPFAIL
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def end_with_launcher() -> None:
    """Wait until the launcher has ended, then kill the ranks and this process."""
    while os.read(0, 1):  # not sys.stdin, whose lock would abort the interpreter's shutdown
        pass
    # torchrun starts every rank in a new session, so there is no process group to kill.
    for rank in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            rank.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def forward_signal(*_: object) -> None:
    """Ask the ranks to save and exit; exit at once where there are none yet."""
    ranks = psutil.Process().children()
    if not ranks:
        sys.exit(EXIT_RESUMABLE)
    for rank in ranks:
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(signal.SIGUSR1)


def handle_signals_before_torchrun() -> None:
    """Install the handlers, and keep torchrun from replacing them.

    Newer versions of torchrun read the second variable, older ones the first.
    """
    for name in ("TORCHELASTIC_SIGNALS_TO_HANDLE", "PET_SIGNALS_TO_HANDLE"):
        os.environ[name] = "SIGINT,SIGQUIT"
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # SIGHUP under nohup
            signal.signal(number, forward_signal)


if __name__ == "__main__":
    threading.Thread(target=end_with_launcher, daemon=True).start()
    handle_signals_before_torchrun()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        # No log folder: torchrun would leave one among the temporary files.
        main([f"--log-dir={os.devnull}", *sys.argv[1:]])
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        # A rank that has just started doesn't handle the signals yet, and torchrun ends the last ones by SIGTERM.
        if codes <= {EXIT_RESUMABLE, *(-number for number in SIGNALS)}:
            sys.exit(EXIT_RESUMABLE)
        raise
