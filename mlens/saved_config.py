"""A run's saved config (.hydra/config.yaml) as plain data. The run may be somebody else's, so the file is refused where
reading it could take long, fetch something, or make anything but data."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlens.errors import UserError

# A run's config is 2 to 4 kB, and half as deep; a long task text may be added.
MOST_BYTES = 1 << 16
DEEPEST = 20
# Keys, values, and beginnings and ends of nodes: a run's config has some 400. PyYAML takes 0.3 ms for each.
MOST_EVENTS = 4000


def read_saved_config(file: Path) -> dict:
    """The nested config. It was resolved before it was saved, so what looks like a reference (`${oc.env:…}`) is text,
    and stays so: it must not fetch from this machine's environment.

    Raises UserError where the file can't be read, is no config, is too large or nested too deep, or has anchors or
    aliases, a few bytes of which unfold to any size.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{file} can't be read: a run's config has at most {MOST_BYTES:,} bytes")
        text = content.decode()
        _require_plain(text, file)
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
        # Half of a character pair is written as an escape, and no file can hold it.
        json.dumps(config, ensure_ascii=False, default=repr).encode()
    except UserError:
        raise
    except (OSError, ValueError, TypeError, RecursionError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{file} can't be read: {error}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{file} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} can't be read: it is no run's config")
    return {str(key): value for key, value in config.items()}


def _require_plain(text: str, file: Path) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        anchored = isinstance(event, yaml.NodeEvent) and event.anchor is not None
        if depth > DEEPEST or number > MOST_EVENTS or anchored:
            raise UserError(
                f"{file} can't be read: a run's config has no anchors or aliases, and is at most {DEEPEST} levels deep "
                f"and {MOST_EVENTS:,} parts long"
            )
