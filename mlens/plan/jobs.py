"""Which jobs a command line stands for, split as Hydra's own sweeper splits them; nothing is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.mlens_launcher._ledger import job_names
from mlens.compose import CONF, compose_config
from mlens.config import strictly
from mlens.errors import UserError
from mlens.launch import hydras_refusals, register_resolvers
from mlens.plan.hardware import Hardware

GROUP = "hardware"
DEFAULT = "this_machine"


@dataclass(frozen=True)
class Asked:
    """hardware: what to plan for; jobs: for each its name and the overrides that train.py would get."""

    hardware: Hardware
    jobs: list[tuple[str, list[str]]]


def asked(overrides: Sequence[str], multirun: bool) -> Asked:
    """Raises UserError for what Hydra or the node `hardware` refuses, and for a sweep without --multirun."""
    register_resolvers()
    with hydras_refusals(overrides):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    own = [o for o in parsed if o.key_or_group.split(".")[0] == GROUP]
    others = [o for o in parsed if o not in own]
    swept = [o for o in others if o.is_sweep_override()]
    sweep = _hydra_of([str(o.input_line) for o in others if o not in swept])
    if swept and not (multirun or sweep.mode == RunMode.MULTIRUN):
        raise UserError(f"{swept[0].input_line} is a sweep: add --multirun")
    if multirun or sweep.mode == RunMode.MULTIRUN:
        params = [f"{key}={value}" for key, value in (sweep.sweeper.params or {}).items()]
        with hydras_refusals(overrides):
            others = OverridesParser.create().parse_overrides([*params, *(str(o.input_line) for o in others)])
    (batch,) = BasicSweeper.split_arguments(others, None)
    # The sweep's own settings say where and how its jobs run.
    jobs = [[text for text in job if not text.startswith("hydra.")] for job in batch]
    return Asked(_hardware([str(o.input_line) for o in own]), list(zip(job_names(jobs, 0), jobs, strict=True)))


def _hydra_of(overrides: list[str]) -> DictConfig:
    """Hydra's own node, in which an experiment may ask for a sweep."""
    with hydras_refusals(overrides), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides, return_hydra_config=True).hydra


def _hardware(overrides: list[str]) -> Hardware:
    # It is no node of a run's config, so it is added, and taken out again.
    if not any(text.startswith(f"{GROUP}=") for text in overrides):
        overrides = [f"{GROUP}={DEFAULT}", *overrides]
    config = compose_config([f"+{text}" if text.startswith(f"{GROUP}=") else text for text in overrides])
    node = OmegaConf.to_container(config[GROUP], resolve=True)
    if not isinstance(node, dict):
        raise UserError(f"hardware must be a choice of conf/hardware/, not {node!r}")
    return strictly(GROUP, Hardware, {str(key): value for key, value in node.items()})
