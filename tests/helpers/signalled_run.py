"""`signalled_run.py OVERRIDES` runs train.py, which sends itself a signal.

Environment variables:
SIGNALLED: MODULE:FUNCTION:SIGNAL[:RANK], the call before which the signal is sent, and the rank (default: all).
MARK: path of a file that is created with the signal; if it exists, no signal is sent.
"""

import os
import signal
from importlib import import_module
from pathlib import Path


def signal_in(module: str, function: str, name: str, rank: str = "") -> None:
    """Have this process send itself a signal when the function is called."""
    patched = import_module(module)
    original = getattr(patched, function)
    mark = Path(f"{os.environ['MARK']}.{os.environ.get('RANK', '0')}")

    def signalled(*arguments, **named):
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), getattr(signal, name))
        return original(*arguments, **named)

    if not rank or rank == os.environ.get("RANK"):
        setattr(patched, function, signalled)


if __name__ == "__main__":
    signal_in(*os.environ["SIGNALLED"].split(":"))
    train = Path(__file__).parents[2] / "train.py"
    # Not runpy, which changes sys.argv[0]: a sweep starts its jobs with it.
    exec(compile(train.read_text(), train, "exec"), {"__name__": "__main__", "__file__": str(train)})
