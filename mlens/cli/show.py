"""mlens show [RUN] user=ID [t=N | movie=ID] [stage=…] OVERRIDES…: show the model's input for one target."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlens import __version__
from mlens.errors import UserError, exit_on_interrupt, exit_on_user_error

TARGET_KEYS = ("user", "t", "movie", "stage")
HELP = """\
user=, movie=  ids as in the data
t=             the index among the user's ratings in time order, from 0 (as in predictions/*.parquet)
stage=         without t and movie: the user's last target of train, val or test
RUN            the folder of a finished run: uses its config and tokenizer, and shows its prediction

examples:
  mlens show user=1001
  mlens show user=1 t=100 data=ml_latest_small data.path=DIR history=fixed_count history.count=10
  mlens show outputs/2026-01-31/12-00-00 user=1 stage=test
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens show",
        usage="%(prog)s [RUN] user=ID [t=N | movie=ID] [stage=train|val|test] [OVERRIDE ...] [--all] [--trust]",
        description="Show the model's input for one target: which earlier ratings are selected, trimmed or hidden\n"
        "and why, the prompt, its token ids, and its row. No model is loaded.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument(
        "words", nargs="+", metavar="WORD", help="RUN, user=, t=, movie=, stage=, and overrides of train.py"
    )
    parser.add_argument("--all", action="store_true", help="every rating of the user and every piece of the prompt")
    parser.add_argument("--trust", action="store_true", help="allow RUN to run code: a class from outside mlens")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with options for the groups of conf/")
    options = parser.parse_intermixed_args()
    with exit_on_interrupt(), exit_on_user_error(result_on_stdout=True):
        from mlens.compose import config_dir_overrides

        show([*options.words, *config_dir_overrides(options.config_dir)], options.all, options.trust)


def show(words: list[str], everything: bool = False, trust: bool = False) -> None:
    """Print the page for a target.

    words: the command line: RUN, the keys of the target, and overrides
    everything: list all ratings and pieces
    trust: allow the run's config to name classes from outside mlens, whose code runs

    Raises UserError where the target doesn't exist, or the run would run code without `trust`.
    """
    target, run, overrides = read_words(words)

    from rich.console import Console

    from mlens.compose import compose_config, run_config
    from mlens.config import PATHS, check_config
    from mlens.identity import read_identity
    from mlens.pipeline import open_inputs
    from mlens.show.find import TargetQuery
    from mlens.show.inspection import inspect_target
    from mlens.show.page import print_inspection
    from mlens.training.folder import RunFolder

    config = compose_config(overrides) if run is None else run_config(run, overrides, PATHS, trust)
    with Console(stderr=True).status("reading the data, planning the row …"):
        model, identity = (None, None) if run is None else (RunFolder(run).model, read_identity(run))
        inputs = open_inputs(check_config(config), tokenizer_folder=model, identity=identity)
        inspection = inspect_target(inputs, TargetQuery(**target), run)
    print_inspection(inputs, inspection, everything)


def read_words(words: list[str]) -> tuple[dict, Path | None, list[str]]:
    """Split the command line into the keys of the target, the run's folder, and the overrides."""
    pairs = {
        key: value for key, _, value in (word.partition("=") for word in words if "=" in word) if key in TARGET_KEYS
    }
    rest = [word for word in words if word.partition("=")[0] not in TARGET_KEYS]
    # A sweep's jobs have folders such as history=random.
    folders = [word for word in rest if ("=" not in word and not word.startswith("~")) or Path(word).is_dir()]
    if len(folders) > 1:
        raise UserError(f"{folders[1]} is no KEY=VALUE, and the run's folder is given already: {folders[0]}")
    if not pairs.get("user"):
        raise UserError("the user is missing. Give user=ID, an id as in the data (data=sample: user=1001)")
    if "t" in pairs and not pairs["t"].isdecimal():
        raise UserError(f"t={pairs['t']} must be an index among the user's ratings, counted from 0")
    target = pairs | ({"t": int(pairs["t"])} if "t" in pairs else {})
    return target, Path(folders[0]) if folders else None, [word for word in rest if word not in folders]
