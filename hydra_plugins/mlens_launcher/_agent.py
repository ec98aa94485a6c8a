"""torchrun, ended with the sweep that started it: `python _agent.py TORCHRUN_ARGUMENTS`.

The launcher holds the other end of standard input. When it goes, however it does, the pipe ends, and this process
ends its ranks and itself: no rank trains on in a folder that the next sweep wants.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import psutil


def end_with_launcher() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would abort the interpreter's end
        pass
    # torchrun gives every rank a session of its own, so there is no group to end.
    for rank in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            rank.kill()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_launcher, daemon=True).start()
    from torch.distributed.run import main

    main()
