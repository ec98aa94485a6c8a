"""mlens COMMAND …: the commands other than train.py, each of which is `python -m mlens.PACKAGE` too."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from mlens import __version__

# Command -> the package that holds it, and what it does.
COMMANDS = {
    "plan": ("plan", "what a run will take, before it takes it: tokens, steps, memory, time and disk"),
    "show": ("show", "what the model sees of one rating, and why"),
    "probe": ("probe", "does a pretrained model remember the data set?"),
    "predict": ("predict", "rate movies for users with a trained model"),
    "runs": ("runs", "list runs and sweeps, and remove checkpoints that finished runs don't need"),
    "evaluate": ("evaluation", "evaluate a finished run's model with other histories"),
    "compare": ("comparison", "compare finished runs: the report"),
}


def main() -> None:
    """Give the rest of the command line to a command, which is imported only then."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="mlens",
        description="commands:\n" + "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items()),
        epilog="`mlens COMMAND --help` describes a command. Runs are trained by train.py: `python train.py --help`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the above")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="what the command takes")
    options = parser.parse_args()
    package, _ = COMMANDS[options.command]
    prog = f"mlens {options.command}"
    sys.argv = [prog, *options.arguments]
    import_module(f"mlens.{package}.__main__").main(prog)


if __name__ == "__main__":
    main()
