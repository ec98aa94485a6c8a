"""Make the config of a command: composed from conf/ as in train.py, or that of a finished run with overrides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from mlens.errors import UserError
from mlens.launch import hydra_errors_explained, register_resolvers
from mlens.overrides import CONF, quoted
from mlens.saved_config import read_saved_config
from mlens.trust import refuse_foreign

# The override that adds folders with groups.
SEARCH_PATH = "hydra.searchpath="


def config_dir_overrides(config_dir: Path | None) -> list[str]:
    """Return the override that adds the groups in a folder to those of conf/, as train.py's --config-dir does.

    Raises UserError where there is no such folder.
    """
    if config_dir is None:
        return []
    if not config_dir.is_dir():
        raise UserError(f"--config-dir={config_dir}: there is no such folder")
    return [f"{SEARCH_PATH}[{quoted(f'file://{config_dir.resolve()}')}]"]


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose the config as train.py does with these overrides. Raises UserError for what Hydra refuses."""
    register_resolvers()
    with hydra_errors_explained(overrides), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def compose_node(group: str, overrides: Sequence[str]) -> DictConfig:
    """Compose one group that isn't part of a run's config. Raises UserError for what Hydra refuses.

    overrides: the choice of the group, and its values
    """
    with hydra_errors_explained(overrides), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(None, [f"+{text}" if text.startswith(f"{group}=") else text for text in overrides])[group]


def compose_hydra(overrides: Sequence[str]) -> HydraConf:
    """Compose Hydra's settings, in which an experiment may turn on a sweep. Raises UserError for what Hydra refuses."""
    with hydra_errors_explained(overrides), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True).hydra


def run_config(run: Path, overrides: Sequence[str], may_differ: Sequence[str], trust: bool = False) -> DictConfig:
    """Return the config of a finished run with these overrides.

    run: its folder
    overrides: choices of groups, which are taken from conf/, and single keys
    may_differ: the keys that may be overridden, with all below them
    trust: allow the config to name classes from outside mlens, whose code runs

    Raises UserError where the run isn't finished, another key is overridden, or the config names such a class without
    `trust`.
    """
    if not (run / "summary.json").is_file():
        raise UserError(f"{run} holds no finished run: summary.json is missing")
    file = run / ".hydra" / "config.yaml"
    content = read_saved_config(file)
    if "${" in json.dumps(content, default=repr):
        raise UserError(f"{file} refers to another value with ${{…}}, which is not resolved")
    config = OmegaConf.create(content)
    with hydra_errors_explained(overrides):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        key = override.key_or_group
        if not any(key == name or key.startswith(f"{name}.") for name in may_differ):
            raise UserError(f"{key} can't differ from the run's: only {', '.join(may_differ)} can")
    groups = [str(override.input_line) for override in parsed if "." not in override.key_or_group]
    chosen = compose_config(groups) if groups else {}
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
