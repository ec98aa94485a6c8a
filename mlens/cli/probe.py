"""mlens probe model=… data=…: test whether a pretrained model has memorised the data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlens import __version__
from mlens.errors import UserError, exit_on_interrupt, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens probe",
        description="Ask a pretrained model, before any fine-tuning, for titles and ratings of the data set by their "
        "ids. A model that recalls more than one in ten was trained on these files: its results on them don't carry "
        "over to new data.",
        epilog="example: mlens probe model=qwen3_0_6b data=ml_1m --questions 1000",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="model=… data=… and others of train.py")
    parser.add_argument("--questions", type=int, default=500, help="the largest number of questions of each kind (500)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of questions (0)")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with options for the groups of conf/")
    options = parser.parse_intermixed_args()
    with exit_on_interrupt(), exit_on_user_error(result_on_stdout=True):
        from mlens.compose import config_dir_overrides

        overrides = [*options.overrides, *config_dir_overrides(options.config_dir)]
        probe(overrides, options.questions, options.seed)


def probe(overrides: list[str], count: int, seed: int) -> None:
    """Probe the model and print a table. Raises UserError for bad overrides, and for data with too few questions."""
    if count < 1:
        raise UserError(f"--questions must be at least 1, not {count}")
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from mlens.compose import compose_config
    from mlens.config import check_config
    from mlens.probe.probe import probe_model
    from mlens.probe.questions import CHOICES

    settings = check_config(compose_config(overrides))
    recalled = probe_model(settings, count, seed, Progress(console=Console(stderr=True), transient=True))
    table = Table()
    for column in ("kind", "questions", "recalled", "95% interval", "p"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for found in recalled:
        interval = f"{found.low:.1%} to {found.high:.1%}"
        share = f"{found.recalled / found.questions:.1%}" if found.questions else ""
        table.add_row(found.kind, f"{found.questions:,}", share, interval, f"{found.p_value:.2g}")
    console = Console()
    console.print(table)
    console.print(
        f"By chance {1 / CHOICES:.0%} are recalled; p is the probability of at least as many by chance. In context, a "
        "model that recognises films by id and knows their reputation recalls more, too. What it knows about films by "
        "title isn't tested here: trainer.max_steps=0 history=none measures it.",
        soft_wrap=True,
    )
