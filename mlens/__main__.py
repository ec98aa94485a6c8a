"""mlens COMMAND … and python -m mlens COMMAND …: the command line."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from mlens import __version__

# Command, the module of mlens/cli/ that holds it -> what it does.
COMMANDS = {
    "train": "train a model and measure it, or with --multirun a sweep of them: train.py",
    "plan": "what a run will take, before it takes it: tokens, steps, memory, time and disk",
    "show": "what the model sees of one rating, and why",
    "probe": "does a pretrained model remember the data set?",
    "predict": "rate movies for users with a trained model",
    "runs": "list runs and sweeps, and remove checkpoints that finished runs don't need",
    "evaluate": "evaluate a finished run's model with other histories",
    "compare": "compare finished runs: the report",
}


def main() -> None:
    """Pass the rest of the command line to a command, which is imported only then."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="mlens",
        description="commands:\n" + "\n".join(f"  {name:{width}}  {line}" for name, line in COMMANDS.items()),
        epilog="`mlens COMMAND --help` describes a command. `torchrun --nproc_per_node=8 -m mlens train` trains on "
        "eight GPUs, as `torchrun --nproc_per_node=8 train.py` does in a checkout.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the above")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="what the command takes")
    options = parser.parse_args()
    sys.argv = [f"mlens {options.command}", *options.arguments]
    import_module(f"mlens.cli.{options.command}").main()


if __name__ == "__main__":
    main()
