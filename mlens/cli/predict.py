"""mlens predict RUN --history FILE --movies FILE: predict users' ratings of movies, the highest first."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlens import __version__
from mlens.errors import UserError, exit_on_interrupt, exit_on_user_error
from mlens.predict.output import writer_for

if TYPE_CHECKING:
    import polars as pl

    from mlens.predict.predictor import Prompter
    from mlens.predict.request import PredictionRequest

# Rows of each user on the terminal.
SHOWN = 10
# More predictions need --all.
MOST = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens predict",
        description="Predict users' ratings of movies from their histories, with the model of a run: the probability "
        "of every legal rating and the expected rating, the highest first.",
        epilog="example: mlens predict outputs/2026-01-31/12-00-00 --history ratings.csv --movies movies.csv "
        "--output predictions.csv",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run, or its folder model/")
    parser.add_argument(
        "--history",
        required=True,
        type=Path,
        metavar="FILE",
        help="CSV or JSON: rating, title and genres (or movie, with titles in the other file), and optionally user, "
        "timestamp (without it, lines are in time order), profile, task; MovieLens' ratings.csv is such a file",
    )
    parser.add_argument(
        "--movies",
        required=True,
        type=Path,
        metavar="FILE",
        help="CSV or JSON: title and genres, and optionally movie, user (without it, every movie is for all users who "
        "haven't rated it), context, timestamp (when it is to be rated, for a model with prompt.dates=true); "
        "MovieLens' movies.csv is such a file",
    )
    parser.add_argument(
        "--user",
        nargs="+",
        action="extend",
        metavar="ID",
        help="predict for these users of the history only, by their ids",
    )
    parser.add_argument("--all", action="store_true", help=f"allow more than {MOST:,} predictions")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".csv, .json or .parquet (without it, a table on the terminal)"
    )
    parser.add_argument(
        "--top", type=int, metavar="N", help=f"the best N movies of each user only (on the terminal {SHOWN})"
    )
    parser.add_argument(
        "--prompts",
        action="store_true",
        help="write the prompts instead, as text and token ids, to --output, for a server; no weights are loaded",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="allow RUN to run code: a history strategy from outside mlens, code that comes with a base model",
    )
    options = parser.parse_args()
    with exit_on_interrupt(), exit_on_user_error(result_on_stdout=options.output is None):
        run(options)


def run(options: argparse.Namespace) -> None:
    """Predict, and print or write the result. Raises UserError, where possible before the weights are loaded."""
    if options.top is not None and options.top < 1:
        raise UserError(f"--top must be at least 1, not {options.top}")
    if options.prompts and (options.output is None or options.top is not None):
        raise UserError("--prompts needs --output FILE, and can't be combined with --top")
    if options.output is not None:
        writer_for(options.output)
    from rich.console import Console

    with Console(stderr=True).status("reading the model's settings and the files …"):
        from mlens.predict.predictor import Prompter

        prompter = Prompter.from_run(options.run, options.trust)
        request = prompter.request(options.history, options.movies, options.user, None if options.all else MOST)
    users = len(set(request.stage.user.tolist()))
    counted = f"{len(request.stage):,} predictions for {users:,} user{'s' * (users != 1)}"
    print(counted, file=sys.stderr, flush=True)
    if options.prompts:
        with Console(stderr=True).status("writing the prompts …"):
            frame = prompter.prompts(request)
    else:
        frame = _rank(prompter, request)
    if options.top is not None or options.output is None:
        frame = frame.filter(frame["rank"] <= (options.top or SHOWN))
    if options.output is None:
        _show(frame, request)
    else:
        from mlens.files import atomic_write

        options.output.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(options.output, lambda stream: writer_for(options.output)(frame, stream))
        print(options.output)


def _rank(prompter: Prompter, request: PredictionRequest) -> pl.DataFrame:
    from rich.console import Console

    from mlens.evaluation.quality import quality_warnings
    from mlens.predict.predictor import Predictor
    from mlens.predict.progress import progress_bar

    with Console(stderr=True).status("loading the model …"):
        predictor = Predictor.of(prompter)
    total = len(request.stage) * prompter.exported.evaluation.draws
    with progress_bar("predicting", total) as scored:
        frame = predictor.rank(request, scored)
    for line in quality_warnings({"illegal_mass": frame["illegal_mass"].mean()}):
        print(f"NOTE: {line}", file=sys.stderr, flush=True)
    return frame


def _show(frame: pl.DataFrame, request: PredictionRequest) -> None:
    """Print the best movies as a table. Titles are plain text, not markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mlens.text import one_line

    table = Table()
    names = [name for name in ("user", "rank", "title", "expected", "argmax", "history_used") if name in frame.columns]
    for name in names:
        table.add_column(name.replace("_", " "), justify="left" if name in ("user", "title") else "right")
    for row in frame.iter_rows(named=True):
        cells = (f"{row[name]:.3f}" if name == "expected" else str(row[name]) for name in names)
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    console = Console()
    console.print(table)
    if request.left_out:
        console.print(f"{request.left_out:,} movies that their users have rated are left out.")
