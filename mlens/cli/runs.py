"""mlens runs DIR …: list the runs below some folders, and free disk space by removing checkpoints."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlens import __version__
from mlens.errors import UserError, exit_on_interrupt, exit_on_user_error
from mlens.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from mlens.runs.listing import ListedRun

STYLES = {"finished": "green", "running": "cyan", "failed": "red", "broken": "red"}
# The width of a table that isn't printed to a terminal, in characters.
PIPED = 200
UNITS = ("B", "kB", "MB", "GB", "TB")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens runs",
        description="List the runs and sweeps below folders: state, result, time and size. With --clean, remove\n"
        "the checkpoints of finished runs: models and predictions are kept; the checkpoints are needed only to\n"
        "train a run longer.",
        epilog="examples:\n  mlens runs outputs multirun --sort rmse\n"
        "  mlens runs outputs --clean --keep best --dry-run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--sort", choices=("time", "rmse"), default="time", help="newest last, or best test RMSE first")
    parser.add_argument("--clean", action="store_true", help="remove checkpoints of finished runs, after confirmation")
    parser.add_argument("--keep", choices=("best",), help="with --clean: keep the checkpoint of the best model")
    parser.add_argument("--dry-run", action="store_true", help="with --clean: only list what would be removed")
    parser.add_argument("--yes", action="store_true", help="with --clean: don't ask for confirmation")
    options = parser.parse_args()
    if not options.clean and (options.keep or options.dry_run or options.yes):
        parser.error("--keep, --dry-run and --yes go with --clean")
    with exit_on_interrupt(), exit_on_user_error(result_on_stdout=True):
        if options.clean:
            clean(options.folders, options.keep == "best", options.dry_run, options.yes)
        else:
            show(options.folders, options.sort)


def show(folders: list[Path], sort: str) -> None:
    from rich.console import Console

    from mlens.runs.listing import list_runs

    runs = sorted(list_runs(folders), key=_by_rmse if sort == "rmse" else _by_time)
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, markup=False, emoji=False, width=PIPED)
    console.print(_table(runs))
    for run in runs:
        if run.note:
            console.print(one_line(f"{run.folder}: {run.state}: {run.note}"), soft_wrap=True)
    finished = [run for run in runs if run.state == "finished"]
    removable = sum(run.sizes.checkpoints for run in finished)
    console.print(
        f"{len(finished)} of {len(runs)} runs finished; {format_bytes(sum(run.sizes.all for run in runs))}, of which "
        f"{format_bytes(removable)} are checkpoints of finished runs (--clean --dry-run lists those it would remove)",
        soft_wrap=True,
    )


def _by_time(run: ListedRun) -> tuple:
    return run.written, str(run.folder)


def _by_rmse(run: ListedRun) -> tuple:
    return run.test is None, run.test or 0.0, str(run.folder)


def _table(runs: list[ListedRun]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    # In a narrow table text is wrapped, and numbers are not.
    for name in ("folder", "state", "history", "data", "model"):
        table.add_column(name, overflow="fold", no_wrap=name == "state")
    for name in ("seed", "step", "val\nRMSE", "test\nRMSE", "minutes", "check-\npoints", "model\nsize", "all"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fingerprint", overflow="fold")
    for run in runs:
        words = (str(run.folder), run.state, run.history, run.data, run.model)
        numbers = (
            *("" if value is None else f"{value:,}" for value in (run.seed, run.step)),
            *("" if value is None else f"{value:.4f}" for value in (run.val, run.test)),
            "" if run.minutes is None else f"{run.minutes:.1f}",
            *(format_bytes(size) for size in (run.sizes.checkpoints, run.sizes.model, run.sizes.all)),
        )
        cells = [Text(one_line(cell)) for cell in (*words, *numbers, run.fingerprint)]
        table.add_row(*cells, style=STYLES.get(run.state, "yellow"))
    return table


def format_bytes(size: float) -> str:
    """Format a number of bytes.

    >>> format_bytes(0), format_bytes(999), format_bytes(1_234_567)
    ('0 B', '999 B', '1.2 MB')
    """
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def clean(folders: list[Path], keep_best: bool, dry_run: bool, yes: bool) -> None:
    """List removable checkpoints and, after confirmation, remove them.

    Raises UserError where confirmation is needed and stdin isn't a terminal.
    """
    from mlens.runs.clean import find_removable, remove
    from mlens.runs.listing import FINISHED, list_runs

    removable = []
    for listed in sorted(list_runs(folders), key=lambda listed: listed.folder):
        if listed.state != FINISHED:
            if listed.sizes.checkpoints:
                print_line(f"{listed.folder}: kept, the run is {listed.state}")
            continue
        try:
            found = find_removable(listed.folder, keep_best)
        except UserError as error:
            print_line(f"{listed.folder}: kept: {error}")
            continue
        for kept in found.kept:
            print_line(f"kept: {kept}")
        if found.checkpoints:
            names = ", ".join(path.name for path in reversed(found.checkpoints))
            print_line(f"{listed.folder}: {names}: {format_bytes(found.bytes)}")
            removable.append(found)
    total = sum(found.bytes for found in removable)
    number = sum(len(found.checkpoints) for found in removable)
    print_line(f"removable checkpoints: {number} of {len(removable)} finished runs, {format_bytes(total)}")
    if dry_run or not removable:
        print_line("nothing was removed")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(
                "nothing was removed: can't ask for confirmation without a terminal. Give --yes or --dry-run"
            )
        if input("These runs can't be trained longer then. Remove the checkpoints? [y/N] ").strip().lower() != "y":
            print_line("nothing was removed")
            return
    removed = 0
    for found in removable:
        try:
            for _, size in remove(found.run, keep_best):
                removed += size
        except UserError as error:
            print_line(f"{found.run}: kept: {error}")
    print_line(f"removed {format_bytes(removed)}")


def print_line(line: str) -> None:
    """Print a line without the control characters that a folder's name may have."""
    print(one_line(line), flush=True)
