"""`torchrun … failing_ranks.py HOW`: two ranks that work in lockstep until rank 1 fails in a chosen way."""

import os
import signal
import sys
import time

import torch

import mlens.engine.ending as ending_module
from mlens.engine.ending import end_ranks_together
from mlens.engine.ranks import join_ranks
from mlens.engine.stop import stoppable
from mlens.errors import RunFailed, Stopped, UserError, exit_on_user_error

ending_module.DEADLINE = 6.0


def work(how: str) -> None:
    ranks = join_ranks()
    with stoppable() as stop, end_ranks_together(ranks, stop):
        for step in range(10**6):
            if step == 5:
                if how == "signal" and ranks.rank == 1:
                    os.kill(os.getpid(), signal.SIGUSR1)
                if how == "both":
                    raise UserError("the same on both")
                if ranks.rank == 1:
                    fail(how)
            if stop.agreed(ranks):
                raise Stopped(f"after step {step}")
            ranks.sum(torch.ones(1))
            time.sleep(0.01)


def fail(how: str) -> None:
    if how == "error":
        raise RunFailed("no room for a row")
    if how == "bug":
        raise KeyError("left")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    with exit_on_user_error():
        work(sys.argv[1])
