"""Load the token rows of training, which worker processes build ahead of time."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from mlens.engine.ending import leave_signals_to_parent
from mlens.errors import RunFailed, UserError
from mlens.packing.epoch_plan import PlannedRow, RowLoader
from mlens.packing.row import Row


def load_rows(
    builder: RowLoader, planned: Iterable[PlannedRow], workers: int, pin_memory: bool
) -> Iterator[tuple[PlannedRow, Row]]:
    """Yield each planned row with its tensors, in order.

    workers: processes that build the rows; 0: this process does

    Raises RunFailed where a worker dies, and UserError where /dev/shm can't be used for the workers' semaphores.
    """
    loader = DataLoader(
        builder,
        sampler=planned,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_signals_to_parent,
    )
    try:
        rows = iter(loader)
    except OSError as error:
        if error.filename is not None:
            raise
        # The queues to and from the workers need semaphores, which are files in /dev/shm.
        raise UserError(
            f"/dev/shm can't be used for trainer.loader_workers={workers}: {str(error.strerror).lower()}. Enlarge it "
            "(docker run --shm-size=64m), or set trainer.loader_workers=0"
        ) from error
    try:
        yield from _watched(rows) if workers else rows
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunFailed(
            "a loader worker (trainer.loader_workers) was killed, perhaps since the machine ran out of memory. Resume "
            "from the last checkpoint with resume=true; with trainer.loader_workers=0 there are no workers"
        ) from error


def _watched(rows: Iterator) -> Iterator:
    """Yield from `rows`; raises RuntimeError for a worker that died, but only before or while waiting for a row.

    torch's SIGCHLD handler raises it at any point of this process, even in the middle of an update or where no
    exception can be raised. While waiting for a row it is needed: a row that its worker didn't finish never arrives.
    """
    check: Any = signal.getsignal(signal.SIGCHLD)
    waiting = False

    def check_if_waiting(*signal_and_frame: Any) -> None:
        if waiting:
            check(*signal_and_frame)

    signal.signal(signal.SIGCHLD, check_if_waiting)
    try:
        while True:
            waiting = True
            check(signal.SIGCHLD, None)  # one that died since the last row
            row = next(rows, None)
            waiting = False
            if row is None:
                return
            yield row
    finally:
        waiting = False
        signal.signal(signal.SIGCHLD, check)
