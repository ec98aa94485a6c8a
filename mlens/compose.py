"""The config of a command beside train.py: composed from conf/ as train.py's, or a finished run's own with changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from mlens.errors import UserError
from mlens.launch import hydra_errors_explained, register_resolvers
from mlens.overrides import CONF
from mlens.saved_config import read_saved_config
from mlens.trust import refuse_foreign


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """What train.py's main would get with these overrides. Raises UserError for what Hydra refuses."""
    register_resolvers()
    with hydra_errors_explained(overrides), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def run_config(run: Path, overrides: Sequence[str], may_differ: Sequence[str], trust: bool = False) -> DictConfig:
    """A finished run's config with these overrides: a group's choice is taken from conf/, its keys are set one by one.

    Raises UserError where the run isn't finished, an override sets what isn't in or below `may_differ`, or, unless
    `trust` says that the run may run code as a program may, its config names classes from elsewhere.
    """
    if not (run / "summary.json").is_file():
        raise UserError(f"{run} holds no finished run: summary.json is missing")
    file = run / ".hydra" / "config.yaml"
    content = read_saved_config(file)
    if "${" in json.dumps(content, default=repr):
        raise UserError(f"{file} refers to a value elsewhere with ${{…}}, which is not looked up")
    config = OmegaConf.create(content)
    with hydra_errors_explained(overrides):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        key = override.key_or_group
        if not any(key == name or key.startswith(f"{name}.") for name in may_differ):
            raise UserError(f"{key} can't differ from the run's own: only {', '.join(may_differ)} can")
    chosen = compose_config([str(override.input_line) for override in parsed if "." not in override.key_or_group])
    with open_dict(config):
        for override in parsed:
            key = override.key_or_group
            OmegaConf.update(config, key, chosen[key] if "." not in key else override.value(), merge=False)
    if not trust:
        try:
            refuse_foreign(cast(dict, OmegaConf.to_container(config)), [override.key_or_group for override in parsed])
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
    return config
