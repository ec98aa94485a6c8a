"""Read a run's saved config (.hydra/config.yaml) as plain data.

The run may come from another user, so a file is refused if reading it could take long, fetch something, or create
anything but data.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlens.errors import UserError

# A run's config has 2 to 4 kB, and half this depth; a long task text may be added.
MAX_BYTES = 1 << 16
MAX_DEPTH = 20
# YAML events (keys, values, starts and ends of nodes): a run's config has about 400. PyYAML takes 0.3 ms for each.
MAX_EVENTS = 4000


def read_saved_config(file: Path) -> dict:
    """Return the nested config.

    References (`${oc.env:…}`) aren't resolved: the config was resolved before it was saved, so what looks like a
    reference is text, and must not read this machine's environment.

    Raises UserError where the file can't be read, isn't a config, is too large or nested too deep, or has anchors or
    aliases, a few bytes of which can expand to any size.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{file} can't be read: a run's config has at most {MAX_BYTES:,} bytes")
        text = content.decode()
        _require_plain(text, file)
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
        # YAML can express half of a surrogate pair as an escape, which can't be encoded.
        json.dumps(config, ensure_ascii=False, default=repr).encode()
    except UserError:
        raise
    except (OSError, ValueError, TypeError, RecursionError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{file} can't be read: {error}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{file} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} can't be read: it isn't a run's config")
    return {str(key): value for key, value in config.items()}


def _require_plain(text: str, file: Path) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        anchored = isinstance(event, yaml.NodeEvent) and event.anchor is not None
        if depth > MAX_DEPTH or number > MAX_EVENTS or anchored:
            raise UserError(
                f"{file} can't be read: a run's config has no anchors or aliases, at most {MAX_DEPTH} levels, and "
                f"at most {MAX_EVENTS:,} YAML events"
            )
