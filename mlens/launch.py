"""How train.py is started: by python, torchrun or the deepspeed launcher, alone or in a sweep."""

from __future__ import annotations

import os

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mlens.errors import UserError


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


def refuse_sweep_under_torchrun(hydra_config: HydraConf) -> None:
    """Raises UserError for a sweep whose every rank would sweep for itself: when one of them failed, the next jobs'
    ranks would add up each other's gradients."""
    if hydra_config.mode == RunMode.MULTIRUN and "TORCHELASTIC_RUN_ID" in os.environ:
        overrides = " ".join(hydra_config.overrides.task)
        raise UserError(
            "a sweep doesn't run under torchrun: start it as `python train.py --multirun …`, or start each of its "
            f"jobs by itself: `torchrun … train.py {overrides}`"
        )


def folder_of(config: DictConfig) -> str | None:
    """The run's folder as the command says: a job's own folder in a sweep, else output_dir (maybe null)."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return config.output_dir
    sweep = HydraConfig.get().sweep
    return f"{sweep.dir}/{sweep.subdir}"
