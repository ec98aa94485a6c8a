"""How train.py is started: by python, torchrun or the deepspeed launcher."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import OmegaConf

from mlens import __version__
from mlens.errors import JobFailed, UserError, exit_on_interrupt, told_in_one_line
from mlens.streams import guarded_streams


def start(main: Callable[[], object]) -> None:
    """Call Hydra's `main` with the command line; what Hydra or a sweep refuses in it is one line and exit code 2 too,
    a sweep with a failed job ends with exit code 1, and Ctrl-C with 130. `--version` is mlens', not Hydra's."""
    if "--version" in sys.argv[1:]:
        print(f"mlens {__version__}")
        return
    sys.argv = drop_local_rank(sys.argv)
    # Else Hydra prints its refusals itself, over many lines, and cuts the traceback of anything else.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # A run is for its files: a message that can't be printed must not end it.
    with guarded_streams(), exit_on_interrupt("resume=true continues a run, the same command a sweep"):
        try:
            with told_in_one_line(), hydras_refusals():
                main()
        except JobFailed as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(1)


@contextmanager
def hydras_refusals() -> Iterator[None]:
    """What Hydra refuses in a command line becomes a UserError."""
    try:
        yield
    except (ConfigCompositionException, OverrideParseException) as error:
        raise UserError(_one_line(error)) from error
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # of `group=null`, which has no class of its own
            raise
        raise UserError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    """Hydra's message without its search path, and without the advice to add a key: an added one is refused too.

    >>> _one_line(ValueError("Could not find 'history/x'\\nAvailable options in 'history':\\n\\tnone\\n\\trandom"))
    "Could not find 'history/x' Available options in 'history': none, random"
    >>> _one_line(ValueError("Could not override 'x'.\\nTo append to your default list use +x=8"))
    "Could not override 'x'."
    """
    message = str(error).partition("Config search path:")[0]
    lines = [line for line in message.splitlines() if line.strip() and not line.startswith("To append to your")]
    text = " ".join(line.strip() + "," * line.startswith("\t") for line in lines).rstrip(",")
    return text if error.__cause__ is None else f"{text} {str(error.__cause__).splitlines()[0]}"


def register_resolvers() -> None:
    """`${first:a,b}` in a config: the first value that is not null."""
    OmegaConf.register_new_resolver("first", _first, replace=True)


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def drop_local_rank(arguments: list[str]) -> list[str]:
    """The command line without the `--local_rank=N` that the deepspeed launcher adds: Hydra would refuse it.

    >>> drop_local_rank(["train.py", "--local_rank=1", "seed=2"])
    ['train.py', 'seed=2']
    """
    return [argument for argument in arguments if not argument.startswith(("--local_rank", "--local-rank"))]
