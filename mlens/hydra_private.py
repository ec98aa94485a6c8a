"""What mlens takes from Hydra and Hydra doesn't document; tests/test_hydra_private.py checks it with each new version.

Everything else comes from Hydra's public modules, and nothing is read from the texts of its messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

# The flags of a script that select config folders, by the names that Hydra gives these folders as sources.
SOURCE_FLAGS = {"main": "--config-path", "command-line": "--config-dir"}


def unknown_key(error: Exception) -> str | None:
    """Return the dotted key that a composed config doesn't have, as the cause of Hydra's error names it."""
    cause = error.__cause__
    return cause.full_key if isinstance(cause, ConfigAttributeError | ConfigKeyError) else None


def missing_option(error: Exception) -> tuple[str, Sequence[str]] | None:
    """Return `GROUP/OPTION` that there is no file for, and the options of this group."""
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file:
        return None
    return error.missing_cfg_file, error.options or ()
