"""The processes of a run: who this one is, and what they tell one another."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from mlens.errors import RunFailed, UserError
from mlens.files import disk_refusal

Value = TypeVar("Value")

# Deprecated calls: DeepSpeed's to torch, and mlens' and peft's to transformers, which older versions need.
NOISE = (
    r"`torch\.distributed\.\w+` is deprecated",
    r"`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated",
)
# Modules that warn of the same thing on every rank; train.py is __main__.
ALIKE = r"(torch|transformers|deepspeed|peft|wandb|mlens|__main__)(\.|$)"


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `world`, and computes on `device`."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is rank 0, the one that writes and speaks."""
        return self.rank == 0

    def broadcast(self, value: Value) -> Value:
        """What rank 0 gave as `value`, on every rank; what the others give doesn't matter."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def on_main(self, act: Callable[[], Value]) -> Value:
        """`act()` on rank 0; every rank gets its value, or raises the UserError or RunFailed that it raised there, or
        the OSError of a full or closed disk."""
        value: Value | None = None
        error: Exception | None = None
        if self.main:
            try:
                value = act()
            except (UserError, RunFailed) as raised:
                error = raised
            except Exception as raised:
                error = disk_refusal(raised)
                if error is None:
                    raise
        value, error = self.broadcast((value, error))
        if error is not None:
            raise error
        return cast(Value, value)

    def main_first(self, act: Callable[[], Value]) -> Value:
        """`act()` on every rank, but on rank 0 before the others (it fills caches). What `on_main` would
        raise on all of them is raised on all of them."""
        values: list[Value] = []
        self.on_main(lambda: values.append(act()))
        return values[0] if values else act()

    def gather(self, value: Value) -> list[Value]:
        """What every rank gave, in the order of ranks."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' tensors (in place)."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank; every rank gets the same answer."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def barrier(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            dist.barrier()


def join_ranks() -> Ranks:
    """Start this process's part of the process group: as torchrun or the deepspeed launcher says, else alone."""
    # Without these DeepSpeed looks for MPI.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    alone = os.environ["WORLD_SIZE"] == "1" and "TORCHELASTIC_RUN_ID" not in os.environ
    if alone or "MASTER_PORT" not in os.environ:  # nobody else meets a single process there
        os.environ["MASTER_PORT"] = str(_free_port())
    quiet_libraries(main=os.environ["RANK"] == "0")
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        _warn_of_shared_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    import deepspeed

    if os.environ["RANK"] == "0":
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not cuda:
        _skip_compiled_communication(deepspeed)
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        try:
            deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
        except RuntimeError as error:  # of older versions of torch, no subclass
            if "EADDRINUSE" not in str(error):
                raise
            port = os.environ["MASTER_PORT"]
            raise UserError(
                f"MASTER_PORT={port} is in use by another program: give the launcher another one"
            ) from error
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def quiet_libraries(main: bool) -> None:
    """Drop warnings of other libraries that no user can act on, and on ranks other than 0 those that rank 0 shows."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    if not main:
        warnings.filterwarnings("ignore", module=ALIKE)
        for name in ("DeepSpeed", "transformers"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _warn_of_shared_cores(ranks: int) -> None:
    """Rank 0 says once that several ranks of this machine find no GPU, where more was probably expected."""
    if ranks > 1 and os.environ["RANK"] == "0":
        cores = len(os.sched_getaffinity(0))
        print(
            f"WARNING: torch finds no GPU: {ranks} ranks share {cores} processor cores. On a CPU start one process "
            "(python instead of torchrun); where there are GPUs, check nvidia-smi and CUDA_VISIBLE_DEVICES",
            file=sys.stderr,
            flush=True,
        )


def _skip_compiled_communication(deepspeed) -> None:
    """On a CPU DeepSpeed compiles a shared-memory all-reduce at its first start: up to 42 s, and it fails without a
    compiler. gloo does the same work. The switch is no public API, so its absence is no error."""
    ops = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(ops, dict):
        ops["deepspeed_shm_comm"] = False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
