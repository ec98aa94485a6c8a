"""`signalled_run.py OVERRIDES` is train.py, but for a signal that a run sends itself.

SIGNALLED=MODULE:FUNCTION:SIGNAL[:RANK] in the environment says in which call, and in which rank (else in all);
MARK: a file that is made then, and a process that finds it there sends no signal.
"""

import os
import signal
from importlib import import_module
from pathlib import Path


def signal_in(module: str, function: str, name: str, rank: str = "") -> None:
    """Have this process send itself the signal when the function is called."""
    made = import_module(module)
    original = getattr(made, function)
    mark = Path(f"{os.environ['MARK']}.{os.environ.get('RANK', '0')}")

    def signalled(*arguments, **named):
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), getattr(signal, name))
        return original(*arguments, **named)

    if not rank or rank == os.environ.get("RANK"):
        setattr(made, function, signalled)


if __name__ == "__main__":
    signal_in(*os.environ["SIGNALLED"].split(":"))
    train = Path(__file__).parents[2] / "train.py"
    # Not runpy: a sweep starts its jobs by sys.argv[0], which that changes.
    exec(compile(train.read_text(), train, "exec"), {"__name__": "__main__", "__file__": str(train)})
