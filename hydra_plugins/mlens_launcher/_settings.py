"""The config node `hydra.launcher`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlens.checks import require_choice
from mlens.errors import UserError

BACKENDS = ("local", "slurm")


@dataclass(frozen=True)
class LauncherSettings:
    """The settings of the launcher.

    backend: `local` (this machine) or `slurm`.
    nproc_per_node: ranks of a job on each node (`auto`: one per GPU, or 1 without GPUs).
    nnodes: nodes of a job (slurm).
    max_parallel: jobs at once.
    slurm: the queue's parameters, as submitit's `update_parameters` names them.
    """

    backend: str = "local"
    nproc_per_node: int | str = "auto"
    nnodes: int = 1
    max_parallel: int = 1
    slurm: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require_choice("hydra.launcher.backend", self.backend, BACKENDS)
        if self.nproc_per_node != "auto" and not (isinstance(self.nproc_per_node, int) and self.nproc_per_node >= 1):
            raise UserError(f"hydra.launcher.nproc_per_node must be auto or at least 1, not {self.nproc_per_node}")
        for name in ("nnodes", "max_parallel"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise UserError(f"hydra.launcher.{name} must be at least 1, not {value}")
        if self.nnodes > 1 and self.backend == "local":
            raise UserError("hydra.launcher.nnodes above 1 needs backend=slurm: local jobs run on this machine only")
        if self.slurm and self.backend != "slurm":
            raise UserError("hydra.launcher.slurm needs backend=slurm")


@dataclass(frozen=True)
class Share:
    """The share of this machine of one of several parallel jobs.

    ranks: of the job.
    gpus: as CUDA_VISIBLE_DEVICES names them (empty: none).
    threads: of each rank.
    """

    ranks: int
    gpus: tuple[str, ...]
    threads: int


def divide(settings: LauncherSettings, gpus: list[str], cores: int) -> list[Share]:
    """Divide a machine with these GPUs and cores among `max_parallel` jobs.

    Raises UserError where there are fewer GPUs than ranks.

    >>> divide(LauncherSettings(max_parallel=2), ["0", "1", "2", "3"], cores=8)[1]
    Share(ranks=2, gpus=('2', '3'), threads=2)
    >>> divide(LauncherSettings(max_parallel=2), [], cores=8)[1]
    Share(ranks=1, gpus=(), threads=4)
    """
    parallel = settings.max_parallel
    auto = settings.nproc_per_node == "auto"
    ranks = max(1, len(gpus) // parallel) if auto else int(settings.nproc_per_node)
    if gpus and ranks * parallel > len(gpus):
        raise UserError(
            f"{parallel} jobs of {ranks} ranks need {parallel * ranks} GPUs, and there are {len(gpus)}. Lower "
            "hydra.launcher.max_parallel or hydra.launcher.nproc_per_node"
        )
    threads = max(1, cores // (ranks * parallel))
    return [Share(ranks, tuple(gpus[ranks * i : ranks * (i + 1)]), threads) for i in range(parallel)]
