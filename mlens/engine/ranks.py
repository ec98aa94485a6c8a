"""The ranks of a run: this process's rank, and collective operations of all of them."""

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

# Deprecated calls of DeepSpeed to torch, and of mlens and peft to transformers, which older versions need.
DEPRECATIONS = (
    r"`torch\.distributed\.\w+` is deprecated",
    r"`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated",
)
# Modules whose warnings are the same on every rank; train.py is __main__.
SAME_ON_EVERY_RANK = r"(torch|transformers|deepspeed|peft|wandb|mlens|__main__)(\.|$)"


@dataclass(frozen=True)
class Ranks:
    """The ranks of a run, seen from one of them.

    rank: of this process, from 0.
    world: the number of ranks.
    device: what this process computes on.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is rank 0, the main process, which writes and prints."""
        return self.rank == 0

    def broadcast(self, value: Value) -> Value:
        """The `value` of rank 0, on every rank; the values of the others are ignored."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def on_main(self, act: Callable[[], Value]) -> Value:
        """Call `act` on rank 0 and return its value on every rank.

        A UserError, RunFailed, or OSError of a full or closed disk that it raises there is raised on every rank.
        """
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
        """Call `act` on rank 0, which may fill a cache, then on the others; raises as `on_main` does."""
        values: list[Value] = []
        self.on_main(lambda: values.append(act()))
        return values[0] if values else act()

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in their order."""
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
        """Whether `flag` is true on any rank; the same answer on every rank."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.world > 1:
            dist.barrier()


def join_ranks() -> Ranks:
    """Join the process group that torchrun or the deepspeed launcher set up; without one, create a group of one."""
    # Without these variables DeepSpeed looks for MPI.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    alone = os.environ["WORLD_SIZE"] == "1" and "TORCHELASTIC_RUN_ID" not in os.environ
    if alone or "MASTER_PORT" not in os.environ:  # a single process needs no agreed port
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
        except RuntimeError as error:  # older versions of torch raise no subclass
            if "EADDRINUSE" not in str(error):
                raise
            port = os.environ["MASTER_PORT"]
            raise UserError(
                f"MASTER_PORT={port} is in use by another program: give the launcher another one"
            ) from error
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def quiet_libraries(main: bool) -> None:
    """Suppress warnings of libraries that no user can act on, and on other ranks than 0 those that rank 0 shows."""
    for message in DEPRECATIONS:
        warnings.filterwarnings("ignore", message)
    if not main:
        warnings.filterwarnings("ignore", module=SAME_ON_EVERY_RANK)
        for name in ("DeepSpeed", "transformers"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _warn_of_shared_cores(ranks: int) -> None:
    """Warn once, on rank 0, where several ranks of this machine find no GPU, which is probably a mistake."""
    if ranks > 1 and os.environ["RANK"] == "0":
        cores = len(os.sched_getaffinity(0))
        print(
            f"WARNING: torch finds no GPU: {ranks} ranks share {cores} processor cores. On a CPU start one process "
            "(python instead of torchrun); where there are GPUs, check nvidia-smi and CUDA_VISIBLE_DEVICES",
            file=sys.stderr,
            flush=True,
        )


def _skip_compiled_communication(deepspeed) -> None:
    """Let gloo do the all-reduce on a CPU. DeepSpeed would compile an extension for it at its first start, which takes
    up to 42 s and fails without a compiler. The switch isn't a public API, so its absence is no error."""
    ops = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(ops, dict):
        ops["deepspeed_shm_comm"] = False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
