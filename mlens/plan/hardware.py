"""The config node `hardware`: what a run is planned for. Nothing is taken on it but, where this machine's own rate
isn't given, a second of its processor or first GPU."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import psutil

from mlens.errors import UserError

# The part of a memory that a plan leaves free: for CUDA's context, NCCL's buffers, and what the allocator can't use.
RESERVE = 0.08


@dataclass(frozen=True)
class Hardware:
    """device: `cuda` or `cpu`; ranks: processes, one for each GPU; memory_gib, tflops: of each GPU, or of the whole
    machine on a CPU (GiB, 10¹² operations a second at best); utilisation: the part of tflops that training reaches.
    null: looked up on this machine (`found`)."""

    device: str | None = None
    ranks: int | None = None
    memory_gib: float | None = None
    tflops: float | None = None
    utilisation: float = 0.3

    def __post_init__(self) -> None:
        if self.device not in (None, "cuda", "cpu"):
            raise UserError(f"hardware.device must be cuda, cpu or null, not {self.device}")
        if self.ranks is not None and self.ranks < 1:
            raise UserError(f"hardware.ranks must be at least 1 or null, not {self.ranks}")
        for name in ("memory_gib", "tflops"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"hardware.{name} must be above 0 or null, not {value}")
        if not 0 < self.utilisation <= 1:
            raise UserError(f"hardware.utilisation must be above 0 and at most 1, not {self.utilisation}")


@dataclass(frozen=True)
class Machine:
    """Hardware without anything left open. memory: bytes that a run may use of each GPU, or of the whole machine; rate:
    operations a second that training reaches on all of it together; told: where memory and rate are from, in words."""

    device: str
    ranks: int
    memory: int
    rate: float
    told: str

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"


def found(hardware: Hardware, dtype: str) -> Machine:
    """What is left open looked up on this machine; the rate is measured in `dtype`."""
    import torch

    device = hardware.device or ("cuda" if torch.cuda.is_available() else "cpu")
    here = device == "cpu" or torch.cuda.is_available()
    if not here and None in (hardware.ranks, hardware.memory_gib, hardware.tflops):
        raise UserError("hardware.device=cuda without a GPU here needs hardware.ranks, memory_gib and tflops")
    measured = hardware.tflops is None
    ranks = hardware.ranks or (torch.cuda.device_count() if device == "cuda" else 1)
    memory = hardware.memory_gib or _memory(device) / 2**30
    tflops = hardware.tflops or measured_flops(device, dtype) / 1e12
    units = f"{ranks} × {memory:,.0f} GiB" if device == "cuda" else f"{ranks} CPU process(es) in {memory:,.1f} GiB"
    rate = f"{hardware.utilisation:.0%} of {tflops:,.3g} TFLOP/s ({'measured here' if measured else 'as stated'})"
    return Machine(
        device=device,
        ranks=ranks,
        memory=int(memory * 2**30 * (1 - RESERVE)),
        rate=tflops * 1e12 * hardware.utilisation * (ranks if device == "cuda" else 1),
        told=f"{units}; {rate}",
    )


def _memory(device: str) -> int:
    import torch

    if device == "cuda":
        return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
    return psutil.virtual_memory().total


def measured_flops(device: str, dtype: str, seconds: float = 0.5) -> float:
    """Operations a second of a large matrix product in `dtype`, the best of those that fit into some `seconds`."""
    import torch

    n = 8192 if device == "cuda" else 1024
    a = torch.ones(n, n, dtype=getattr(torch, dtype), device=device)
    best, begun = math.inf, time.perf_counter()
    while time.perf_counter() - begun < seconds or best == math.inf:
        start = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2.0 * n**3 / best
