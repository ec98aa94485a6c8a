"""Training on one GPU: model FLOPs utilisation, and how much of building rows overlaps with computing them.

    python benchmarks/gpu.py --data DIR [OVERRIDE …]                           DIR: the folder of ml-latest-small
    python benchmarks/gpu.py --data DIR --trace FILE.json       writes a trace of some rows, for Perfetto or a browser
    python benchmarks/gpu.py --data DIR --anywhere model.layers=2 model.hidden_size=64 …    tests the program on a CPU

A random Qwen3 with the sizes of Qwen3-0.6B (its weights don't matter to speed; its tokenizer is made from the titles,
so that the output layer is small), in bfloat16 with AdamW at ZeRO stage 2, FlexAttention over packed rows of 16,384
tokens, at 2,048 tokens a prompt; with shared histories (all_previous) and without (fixed_count), with gradient
checkpointing and without. Next to them, Hugging Face's Trainer on a subset of all_previous' targets. Overrides are
train.py's.

The columns:

- `MFU`: the FLOP/s that the model needs (mlens/model/flops.py: matrix products only, without recomputation), relative
  to the FLOP/s of a product of two large matrices on the same device;
- `compile s`: seconds of the first rows, in which FlexAttention is compiled;
- `waiting`: the share of the time in which no row was ready. A worker process builds rows while others are computed;
- `kernels`: the share of the time in which a kernel ran.

Exits with an error if there is no GPU. A few minutes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import ours
import torch
from arithmetic import passes_of, sizes_of
from peers import Trained, best, hf_trainer
from rich.table import Table
from setting import Setting, command, console, drawn, make_setting, samples_of, start
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
# Rows before timing (FlexAttention compiles at the first ones), rows that are timed, and rows of the trace.
WARM_UP, ROWS, TRACED = 6, 40, 8
# The targets that Trainer trains on, its batch sizes of which the fastest counts, and the targets of an update.
PEER_TARGETS, PEER_BATCHES, PEER_STEP = 96, (4, 8, 16), 32


@dataclass(frozen=True)
class Measured:
    """The training of ROWS rows.

    warm_up: seconds of the rows before them.
    targets: of these rows.
    passes: the work of these rows.
    seconds: of these rows.
    waiting: seconds in which the next row wasn't ready.
    busy: the share of the time of the traced rows in which a kernel ran.
    memory: the peak of allocated memory, in bytes.
    """

    warm_up: float
    targets: int
    passes: Passes
    seconds: float
    waiting: float
    busy: float
    memory: int


def measure(setting: Setting, engine: Engine, layers: int, trace: Path | None) -> Measured:
    device = engine.ranks.device
    rows = ours.load_rows(setting, ours.drawn_rows(setting)[: WARM_UP + ROWS + TRACED])
    began = time.perf_counter()
    for _ in range(WARM_UP):
        planned, row = next(rows)
        engine.backward(row, planned.labels, planned.last)
    _finish(device)
    warm_up = time.perf_counter() - began
    targets, passes, waiting, began = 0, Passes(), 0.0, time.perf_counter()
    for _ in range(ROWS):
        requested = time.perf_counter()
        planned, row = next(rows)
        waiting += time.perf_counter() - requested
        float(engine.backward(row, planned.labels, planned.last))  # training reads every row's loss too
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
    return Measured(warm_up, targets, passes, seconds, waiting, busy, memory)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_peer(setting: Setting) -> Trained:
    """Train with Trainer on some of the targets, at its best batch size."""
    samples = samples_of(setting.datasets["train"], drawn(setting.datasets["train"], PEER_TARGETS))
    # Its parameters are in float32, under autocast: the parameters of our side have float32 copies.
    model, bf16 = setting.model("sdpa").float(), setting.inputs.settings.model.dtype == "bfloat16"
    train = partial(hf_trainer, model, setting.inputs.tokenizer, samples, step=PEER_STEP, bf16=bf16)
    return best(train, PEER_BATCHES)


def main(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available() and not options.anywhere:
        raise UserError("there is no CUDA device: benchmarks/gpu.py was not run")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    common = ("model=tiny", "model.dtype=bfloat16", *QWEN3_0_6B, *options.overrides)
    shared = make_setting(options.data, "history=all_previous", *common)
    dtype = shared.inputs.settings.model.dtype
    product = measured_flops(device, dtype)
    table = Table(title=f"Qwen3 of 0.6B on {torch.cuda.get_device_name() if device == 'cuda' else 'a CPU'}, {dtype}")
    for column in ("history", "checkpointing"):
        table.add_column(column)
    for column in ("targets/s", "tokens/s", "TFLOP/s", "MFU", "compile s", "waiting", "kernels", "peak GiB"):
        table.add_column(column, justify="right")
    # First: Trainer would take the environment of a process group for that of a launcher.
    peer = train_peer(shared)
    table.add_row(
        "all_previous, Trainer", "false", f"{peer.speed:,.1f}", f"{peer.tokens / peer.seconds:,.0f}", *[""] * 6
    )
    for history, checkpointing in CASES:
        overrides = (f"history={history}", *common, f"model.gradient_checkpointing={checkpointing}")
        setting = make_setting(options.data, *overrides)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        engine = ours.make_engine(setting)
        sizes = sizes_of(setting.model("rows"))
        measured = measure(setting, engine, sizes.layers, options.trace)
        rate = training_flops(sizes, measured.passes) / measured.seconds
        table.add_row(
            history,
            checkpointing,
            f"{measured.targets / measured.seconds:,.1f}",
            f"{measured.passes.tokens / measured.seconds:,.0f}",
            f"{rate / 1e12:,.3f}",
            f"{rate / product:.0%}",
            f"{measured.warm_up:.0f}",
            f"{measured.waiting / measured.seconds:.0%}",
            f"{measured.busy:.0%}",
            f"{measured.memory / 2**30:.1f}",
        )
        del engine
    console().print(table)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a trace of the last case's last rows")
    parser.add_argument("--anywhere", action="store_true", help="run without a GPU, to test the program")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of train.py")
    start(main, parser, gpu=True)
