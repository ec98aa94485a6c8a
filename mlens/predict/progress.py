"""Show the progress of predicting: a bar on a terminal, else one line with the estimated time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Seconds of work after which the total time is estimated.
MEASURED = 5.0


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr; yields a function that adds its argument to the number of items done, of `total`."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(name, total=total, start=False)
        (task,) = progress.tasks
        reported = console.is_terminal

        def advance(done: int) -> None:
            nonlocal reported
            if not task.started:
                progress.start_task(bar)
            progress.advance(bar, done)
            if not reported and task.elapsed is not None and task.elapsed > MEASURED:
                reported = True
                seconds = task.elapsed / task.completed * total
                print(f"{name} {total:,} takes about {duration(seconds)}", file=sys.stderr, flush=True)

        yield advance


def duration(seconds: float) -> str:
    """Format a duration with one unit.

    >>> duration(31), duration(100), duration(9000)
    ('31 seconds', '2 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
