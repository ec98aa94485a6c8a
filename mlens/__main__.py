"""mlens COMMAND … and python -m mlens COMMAND …: the command line."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from mlens import __version__

# Each command, which is a module of mlens/cli/, with its description.
COMMANDS = {
    "train": "train and evaluate a model, or with --multirun a sweep of them: train.py",
    "plan": "estimate the cost of a run: tokens, steps, memory, time and disk",
    "show": "show the model's input for one target, and why",
    "probe": "test whether a pretrained model has memorised the data set",
    "predict": "predict users' ratings of movies with a trained model",
    "runs": "list runs and sweeps, and remove checkpoints that finished runs don't need",
    "evaluate": "evaluate a finished run's model with other histories",
    "compare": "write the report that compares finished runs",
    "push": "upload a finished run's model to the Hugging Face hub",
}


def main() -> None:
    """Import the command and pass it the rest of the command line."""
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
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    options = parser.parse_args()
    sys.argv = [f"mlens {options.command}", *options.arguments]
    import_module(f"mlens.cli.{options.command}").main()


if __name__ == "__main__":
    main()
