"""mlens probe model=… data=…: does a pretrained model remember the data set?"""

from __future__ import annotations

import argparse

from mlens import __version__
from mlens.errors import UserError, exit_on_interrupt, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens probe",
        description="Ask a model, as it is before any training here, for titles and ratings of the data set by their "
        "ids. A model that recalls more than one in ten has read these files: its results on them are no results on "
        "new data.",
        epilog="example: mlens probe model=qwen3_0_6b data=ml_1m --questions 1000",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="model=… data=… and others of train.py's")
    parser.add_argument("--questions", type=int, default=500, help="how many of each kind (500)")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked (0)")
    options = parser.parse_intermixed_args()
    with exit_on_interrupt(), exit_on_user_error(result_on_stdout=True):
        probe(options.overrides, options.questions, options.seed)


def probe(overrides: list[str], count: int, seed: int) -> None:
    """Ask and print the table. Raises UserError for bad overrides, and where the data hold too little to ask for."""
    if count < 1:
        raise UserError(f"--questions must be at least 1, not {count}")
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from mlens.compose import compose_config
    from mlens.config import check
    from mlens.probe.probe import probe_model
    from mlens.probe.questions import CHOICES

    settings = check(compose_config(overrides))
    recalled = probe_model(settings, count, seed, Progress(console=Console(stderr=True), transient=True))
    table = Table()
    for column in ("asked for", "questions", "recalled", "95% interval", "p"):
        table.add_column(column, justify="left" if column == "asked for" else "right")
    for found in recalled:
        interval = f"{found.low:.1%} to {found.high:.1%}"
        share = f"{found.recalled / found.asked:.1%}"
        table.add_row(f"{found.kind} by id", f"{found.asked:,}", share, interval, f"{found.p_value:.2g}")
    console = Console()
    console.print(table)
    console.print(
        f"Without memory of these files {1 / CHOICES:.0%} are recalled; p is how probable so many are then. What a "
        "model knows of films by name (how good they are held to be) isn't asked: trainer.max_steps=0 history=none "
        "measures that.",
        soft_wrap=True,
    )
