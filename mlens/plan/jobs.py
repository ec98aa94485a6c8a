"""The jobs of a command line, split as by Hydra's sweeper, without starting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf

from hydra_plugins.mlens_launcher._ledger import job_names
from mlens.compose import SEARCH_PATH, compose_hydra, compose_node
from mlens.config import parse_node
from mlens.errors import UserError
from mlens.launch import hydra_errors_explained, register_resolvers
from mlens.plan.hardware import Hardware

GROUP = "hardware"
DEFAULT = "this_machine"


@dataclass(frozen=True)
class PlanRequest:
    """The jobs to plan, and the hardware to plan them for.

    hardware: the machine.
    jobs: name and overrides for train.py of each job.
    """

    hardware: Hardware
    jobs: list[tuple[str, list[str]]]


def plan_request(overrides: Sequence[str], multirun: bool) -> PlanRequest:
    """Parse a command line.

    Raises UserError for what Hydra or the node `hardware` rejects, and for a sweep without --multirun.
    """
    register_resolvers()
    with hydra_errors_explained(overrides):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    of_hardware = [o for o in parsed if o.key_or_group.split(".")[0] == GROUP]
    others = [o for o in parsed if o not in of_hardware]
    swept = [o for o in others if o.is_sweep_override()]
    sweep = compose_hydra([str(o.input_line) for o in others if o not in swept])
    if swept and not (multirun or sweep.mode == RunMode.MULTIRUN):
        raise UserError(f"an override is a sweep: {swept[0].input_line}. Add --multirun")
    if multirun or sweep.mode == RunMode.MULTIRUN:
        params = [f"{key}={value}" for key, value in (sweep.sweeper.params or {}).items()]
        with hydra_errors_explained(overrides):
            others = OverridesParser.create().parse_overrides([*params, *(str(o.input_line) for o in others)])
    # hydra.* says where and how the sweep's jobs run; it isn't an override of a job.
    search_path = [str(o.input_line) for o in others if str(o.input_line).startswith(SEARCH_PATH)]
    of_jobs = [o for o in others if not o.key_or_group.startswith(("hydra.", "hydra/"))]
    given = {o.get_key_element() for o in of_jobs if not _is_range(o)}
    of_jobs = [o for o in of_jobs if not (_is_range(o) and o.get_key_element() in given)]
    jobs = [[*job, *search_path] for job in product(*map(_values, of_jobs))]
    hardware = _hardware([*(str(o.input_line) for o in of_hardware), *search_path])
    return PlanRequest(hardware, list(zip(job_names(jobs, 0), jobs, strict=True)))


def _values(override: Override) -> list[str]:
    """Return the override once for each of its values, in the order in which Hydra's sweeper takes them."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if _is_range(override):
        raise UserError(f"{override.input_line} has no list of values to plan: give some of them, as {key}=A,B")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _is_range(override: Override) -> bool:
    """Whether a sampler chooses the values, from an interval."""
    return override.is_sweep_override() and not override.is_discrete_sweep()


def _hardware(overrides: list[str]) -> Hardware:
    """Compose and check the node `hardware`; it isn't part of a run's config, so it is added for this."""
    if not any(text.startswith(f"{GROUP}=") for text in overrides):
        overrides = [f"{GROUP}={DEFAULT}", *overrides]
    node = OmegaConf.to_container(compose_node(GROUP, overrides), resolve=True)
    if not isinstance(node, dict):
        raise UserError(f"hardware must be an option of conf/hardware/, not {node!r}")
    return parse_node(GROUP, Hardware, {str(key): value for key, value in node.items()})
