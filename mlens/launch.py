"""Starting train.py, with python, torchrun or the deepspeed launcher."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.errors import ConfigCompositionException, OverrideParseException, SearchPathException
from omegaconf import OmegaConf

from mlens import __version__
from mlens.errors import JobFailed, UserError, exit_on_interrupt, exit_on_user_error
from mlens.overrides import explain, explain_null, refuse_flags, refuse_unused
from mlens.streams import guarded_streams
from mlens.text import first_line

CONTINUES = "resume=true continues a run from its last checkpoint, the same command a sweep"


def start(main: Callable[[], object]) -> None:
    """Call Hydra's `main` with the command line.

    What Hydra or a sweep refuses is printed in one line, with exit code 2. A sweep with a failed job ends with exit
    code 1, and a run that Ctrl-C ends immediately with 130. `--version` prints the version of mlens, not Hydra's.
    """
    if "--version" in sys.argv[1:]:
        print(f"mlens {__version__}")
        return
    sys.argv = drop_local_rank(sys.argv)
    # Otherwise Hydra prints its refusals itself, over many lines, and truncates other tracebacks.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # The result of a run is its files: a message that can't be printed must not end it.
    with guarded_streams(), exit_on_interrupt(CONTINUES):
        try:
            with exit_on_user_error(), hydra_errors_explained(sys.argv[1:]):
                _refuse(sys.argv[1:])
                main()
        except JobFailed as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(1)


@contextmanager
def hydra_errors_explained(overrides: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's errors about these overrides into UserErrors."""
    try:
        yield
    except (ConfigCompositionException, OverrideParseException) as error:
        raise UserError(explain(error, overrides)) from error
    except SearchPathException as error:
        raise UserError(first_line(error)) from error
    except ValueError as error:  # raised without a specific class
        refusal = None if isinstance(error, UserError) else explain_null(overrides)
        if refusal is None:
            raise
        raise UserError(refusal) from error


def _refuse(arguments: list[str]) -> None:
    """Raise UserError for arguments that Hydra would refuse over many lines, or that would have no effect."""
    refusal = refuse_flags(arguments) or refuse_unused(arguments)
    if refusal is not None:
        raise UserError(refusal)


def register_resolvers() -> None:
    """Register the resolvers of configs.

    `${first:a,b}`: the first value that is not null.
    `${by_item:{film: a, book: b}}`: the text for data.item (film where the data source has no such field).
    `${wandb_mode:}`: the mode that the environment sets, as wandb reads it.
    """
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver("by_item", _by_item, replace=True)
    OmegaConf.register_new_resolver("wandb_mode", _wandb_mode, replace=True)


def _wandb_mode() -> str:
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "on", "yes", "true"):
        return "disabled"
    mode = os.environ.get("WANDB_MODE") or "offline"
    return {"dryrun": "offline", "run": "online"}.get(mode, mode)  # names of older versions


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _by_item(texts: Mapping[str, str], _root_: Mapping[str, Any]) -> str:
    item = _root_["data"].get("item", "film")
    if item not in texts:
        raise ValueError(f"has no text for data.item={item}, only for {', '.join(map(str, texts))}")
    return texts[item]


def drop_local_rank(arguments: list[str]) -> list[str]:
    """The command line without the `--local_rank=N` that the deepspeed launcher adds: Hydra would refuse it.

    >>> drop_local_rank(["train.py", "--local_rank=1", "seed=2"])
    ['train.py', 'seed=2']
    """
    return [argument for argument in arguments if not argument.startswith(("--local_rank", "--local-rank"))]
