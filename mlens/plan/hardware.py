"""The config node `hardware`: the machine that a run is planned for. Planning takes no time on it, except for a second
of this machine's processor or first GPU if its rate has to be measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import psutil

from mlens.checks import require_choice, require_number
from mlens.errors import UserError

# Fraction of the memory that a plan leaves free for CUDA's context, NCCL's buffers and fragmentation.
RESERVE = 0.08


@dataclass(frozen=True)
class Hardware:
    """The hardware as configured; null means: detect it on this machine (`resolve_machine`).

    device: `cuda` or `cpu`.
    ranks: number of processes, one for each GPU.
    memory_gib: GiB of each GPU, or of the machine on a CPU.
    tflops: peak rate of each GPU, or of the machine on a CPU, in 10¹² operations a second.
    utilisation: fraction of tflops that training reaches.
    """

    device: str | None = None
    ranks: int | None = None
    memory_gib: float | None = None
    tflops: float | None = None
    utilisation: float = 0.3

    def __post_init__(self) -> None:
        require_choice("hardware.device", self.device, ("cuda", "cpu", None))
        require_number("hardware.ranks", self.ranks, at_least=1, null=True)
        require_number("hardware.memory_gib", self.memory_gib, above=0, null=True)
        require_number("hardware.tflops", self.tflops, above=0, null=True)
        require_number("hardware.utilisation", self.utilisation, above=0, at_most=1)


@dataclass(frozen=True)
class Machine:
    """Hardware with every value known.

    device: `cuda` or `cpu`.
    ranks: number of processes.
    memory: bytes that a run may use of each GPU, or of the machine on a CPU.
    rate: operations a second that training reaches on all GPUs, or on the machine.
    description: memory and rate in words, and where they are from.
    """

    device: str
    ranks: int
    memory: int
    rate: float
    description: str

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"


def resolve_machine(hardware: Hardware, dtype: str) -> Machine:
    """Detect on this machine what `hardware` leaves open; the rate is measured in `dtype`."""
    import torch

    device = hardware.device or ("cuda" if torch.cuda.is_available() else "cpu")
    here = device == "cpu" or torch.cuda.is_available()
    if not here and None in (hardware.ranks, hardware.memory_gib, hardware.tflops):
        raise UserError(
            "hardware.device=cuda can't be detected: this machine has no GPU. "
            "Give hardware.ranks, hardware.memory_gib and hardware.tflops"
        )
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
        description=f"{units}; {rate}",
    )


def _memory(device: str) -> int:
    """Return the bytes of the smallest GPU, or of the machine."""
    import torch

    if device == "cuda":
        return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
    return psutil.virtual_memory().total


def measured_flops(device: str, dtype: str, seconds: float = 0.5) -> float:
    """Measure the operations a second of a large matrix product in `dtype`: the best of repeated runs in `seconds`."""
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
