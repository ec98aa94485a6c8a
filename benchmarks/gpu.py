"""Training on one GPU: model FLOPs utilisation, and how far building rows hides behind computing them.

    python benchmarks/gpu.py --data DIR [OVERRIDE …]                           DIR: the folder of ml-latest-small
    python benchmarks/gpu.py --data DIR --trace FILE.json       also a trace of some rows, for Perfetto or a browser
    python benchmarks/gpu.py --data DIR --anywhere model.layers=2 model.hidden_size=64 …    tries the program on a CPU

A random Qwen3 with the sizes of Qwen3-0.6B (its weights don't matter to speed; its tokenizer is made from the titles,
so that the output layer is small), in bfloat16 with AdamW at ZeRO stage 2, FlexAttention over packed rows of 16,384
tokens, at 2,048 tokens a prompt; with shared histories (all_previous) and without (fixed_count), with gradient
checkpointing and without. Overrides are train.py's.

`MFU`: operations that the model needs (mlens/model/flops.py: products alone, none twice) a second, of what the product
of two large matrices reaches on the same device. `waiting`: the share of the time in which no row was there to compute;
meanwhile a worker process builds the next rows. `kernels`: the share of the time in which a kernel ran.

Without a GPU it says so, and measures nothing. A few minutes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import ours
import torch
from arithmetic import passes_of, sizes_of
from rich.table import Table
from setting import Setting, command, console, make_setting, start
from torch.profiler import ProfilerActivity, profile

from mlens.engine.engine import Engine
from mlens.errors import UserError
from mlens.model.flops import Passes, training_flops
from mlens.plan.hardware import measured_flops

QWEN3_0_6B = (
    "model.hidden_size=1024",
    "model.layers=28",
    "model.heads=16",
    "model.kv_heads=8",
    "model.head_size=128",
    "model.intermediate_size=3072",
    "model.vocab_size=30000",
)
CASES = [(history, checkpointing) for history in ("all_previous", "fixed_count") for checkpointing in ("false", "true")]
# Rows before the clock starts (FlexAttention compiles at the first ones), on the clock, and in the trace.
WARM_UP, ROWS, TRACED = 6, 40, 8


@dataclass(frozen=True)
class Measured:
    """Of ROWS rows. waiting: seconds in which the next row wasn't there; busy: of all seconds of the traced rows, the
    share with a kernel at work."""

    targets: int
    passes: Passes
    seconds: float
    waiting: float
    busy: float
    memory: int


def measure(setting: Setting, engine: Engine, layers: int, trace: Path | None) -> Measured:
    device = engine.ranks.device
    rows = ours.load_rows(setting, ours.drawn_rows(setting)[: WARM_UP + ROWS + TRACED])
    for _ in range(WARM_UP):
        planned, row = next(rows)
        engine.backward(row, planned.labels, planned.last)
    _finish(device)
    targets, passes, waiting, began = 0, Passes(), 0.0, time.perf_counter()
    for _ in range(ROWS):
        asked = time.perf_counter()
        planned, row = next(rows)
        waiting += time.perf_counter() - asked
        float(engine.backward(row, planned.labels, planned.last))  # training asks for every row's loss too
        targets, passes = targets + len(planned.targets), passes + passes_of([row], layers)
    _finish(device)
    seconds = time.perf_counter() - began
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    began = time.perf_counter()
    with profile(activities=activities) as profiled:
        for planned, row in rows:
            float(engine.backward(row, planned.labels, planned.last))
        _finish(device)
    traced = time.perf_counter() - began
    if trace is not None:
        profiled.export_chrome_trace(str(trace))
    busy = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6 / traced
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Measured(targets, passes, seconds, waiting, busy, memory)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available() and not options.anywhere:
        raise UserError("no CUDA device here: benchmarks/gpu.py was not run")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    product = measured_flops(device, "bfloat16")
    table = Table(title=f"Qwen3 of 0.6B on {torch.cuda.get_device_name() if device == 'cuda' else 'a CPU'}, bfloat16")
    for column in ("history", "checkpointing"):
        table.add_column(column)
    for column in ("targets/s", "tokens/s", "TFLOP/s", "MFU", "waiting", "kernels", "peak GiB"):
        table.add_column(column, justify="right")
    for history, checkpointing in CASES:
        overrides = (f"history={history}", "model=tiny", "model.dtype=bfloat16", *QWEN3_0_6B, *options.overrides)
        setting = make_setting(options.data, *overrides, f"model.gradient_checkpointing={checkpointing}")
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        engine = ours.make_engine(setting)
        sizes = sizes_of(setting.model("rows"))
        found = measure(setting, engine, sizes.layers, options.trace)
        rate = training_flops(sizes, found.passes) / found.seconds
        table.add_row(
            history,
            checkpointing,
            f"{found.targets / found.seconds:,.1f}",
            f"{found.passes.tokens / found.seconds:,.0f}",
            f"{rate / 1e12:,.3f}",
            f"{rate / product:.0%}",
            f"{found.waiting / found.seconds:.0%}",
            f"{found.busy:.0%}",
            f"{found.memory / 2**30:.1f}",
        )
        del engine
    console().print(table)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a trace of the last case's last rows")
    parser.add_argument("--anywhere", action="store_true", help="without a GPU too, to try the program")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of train.py")
    start(main, parser, gpu=True)
