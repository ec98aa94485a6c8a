"""torchrun, ended with the sweep that started it: `python _agent.py TORCHRUN_ARGUMENTS`.

The launcher holds the other end of standard input. When it goes, however it does, the pipe ends, and this process
ends its whole group: no rank trains on in a folder that the next sweep wants.
"""

from __future__ import annotations

import os
import signal
import threading


def end_with_launcher() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would abort the interpreter's end
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_launcher, daemon=True).start()
    from torch.distributed.run import main

    main()
