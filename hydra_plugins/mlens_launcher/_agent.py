"""torchrun, ended with the sweep that started it: `python _agent.py TORCHRUN_ARGUMENTS`.

The launcher holds the other end of standard input. When it goes, however it does, the pipe ends, and this process
ends its ranks and itself: no rank trains on in a folder that the next sweep wants.

Beside torchrun it passes SIGUSR1 on to its ranks, which save and end (torchrun itself would leave them 30 seconds for
that), and it ends with a rank's own exit code where all of them were stopped like this.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress

import psutil

# mlens.errors.CONTINUE, which this script can't import from everywhere.
CONTINUE = os.EX_TEMPFAIL


def end_with_launcher() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would abort the interpreter's end
        pass
    # torchrun gives every rank a session of its own, so there is no group to end.
    for rank in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            rank.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def pass_on(number: int, _: object) -> None:
    for rank in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(number)


if __name__ == "__main__":
    threading.Thread(target=end_with_launcher, daemon=True).start()
    signal.signal(signal.SIGUSR1, pass_on)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main()
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        # Those that had not ended yet when the first one did were asked to by torchrun.
        if CONTINUE in codes and codes <= {CONTINUE, -signal.SIGTERM}:
            sys.exit(CONTINUE)
        raise
