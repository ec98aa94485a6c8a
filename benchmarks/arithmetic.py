"""The share of this machine's peak arithmetic rate that a training step uses.

    python benchmarks/arithmetic.py --data DIR [--threads 2]                   DIR: the folder of ml-latest-small

Forward and backward passes over a row of model=tiny and of a 4-layer model of hidden size 512 (history=all_previous at
2,048 tokens, shared prefixes, at most 8,192 tokens a row), against the product of two matrices of 2048 x 2048 in the
same run; in float32 and in bfloat16, with one thread and with --threads threads.

Only useful FLOPs are counted (mlens/model/flops.py). In the last layer these are the pairs of tokens whose attention
our rows compute there, so not those of a prefix without labels (whose linear layers are computed and counted). Padding,
masked pairs, norms, softmax and rotary embeddings aren't counted.

A processor without bfloat16 instructions emulates them hundreds of times slower. Then both sides are measured on a
smaller problem, a smaller product and a row of two targets, and the table says `emulated`.

About two minutes on two cores. --profile instead prints the operators that take most of the tiny model's step in
float32 on one thread, as torch's profiler counts them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import numpy as np
import ours
import torch
from rich.table import Table
from setting import Setting, command, console, make_setting, start
from transformers.modeling_utils import PreTrainedModel

from mlens.model.attention.cpu_layout import cpu_layout
from mlens.model.flops import Passes, Sizes, training_flops
from mlens.packing.row import Row

MODELS: dict[str, tuple[str, ...]] = {
    "tiny": (),
    "4 x 512": (
        "model.layers=4",
        "model.hidden_size=512",
        "model.heads=8",
        "model.head_size=64",
        "model.kv_heads=2",
        "model.intermediate_size=1536",
    ),
}
PRODUCT = 2048
SMALL_PRODUCT = 256
# Below this rate (FLOP/s) arithmetic is emulated: the slowest cores of today are a hundred times as fast.
EMULATED = 5e9
REPEATS = 3
# Operators that --profile prints.
SHOWN = 15


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Return the sizes of a dense model of which all parameters are trained."""
    config, output = model.config, model.get_output_embeddings()
    body = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output)
    width = config.num_attention_heads * config.head_dim
    return Sizes(config.num_hidden_layers, width, body, body, output.weight.numel())


def passes_of(rows: list[Row], layers: int) -> Passes:
    """Return the work of these rows. In the last layer only computed pairs count; `pairs` is the mean over layers."""
    pairs = 0.0
    for row in rows:
        assert row.spans is not None
        seen = torch.nn.functional.pad((row.spans[..., 1] - row.spans[..., 0]).long().sum(dim=1), (0, 1))
        layout = cpu_layout(row.spans.numpy(), row.keep.numpy())
        last = sum(int(seen[product.query].sum()) for product in layout.products if product.read)
        pairs += int(seen.sum()) * (layers - 1) / layers + last / layers
    return Passes(sum(row.useful for row in rows), pairs, sum(len(row.keep) for row in rows))


def product_rate(size: int, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a product of two square matrices of this size."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2.0 * size**3 / _median_seconds(lambda: a @ b)


def _median_seconds(function: Callable[[], object]) -> float:
    function()  # first calls allocate
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def rows_of(setting: Setting, emulated: bool) -> list[Row]:
    """Return a random row of a training epoch, or one of two targets where arithmetic is emulated."""
    dataset, collator = setting.datasets["train"], setting.collator
    if emulated:
        return ours.rows_of(dataset, collator, np.arange(2))
    return [
        collator.train_row([dataset.prefix_group(group) for group in row.groups])
        for row in ours.drawn_rows(setting)[:1]
    ]


def profile(data: Path) -> None:
    """Print the operators that take most of a step of the tiny model, with their shares of its CPU time."""
    torch.set_num_threads(1)
    setting = make_setting(data, "model=tiny", "model.dtype=float32", "packing.row_tokens=8192")
    engine, rows = ours.make_engine(setting), rows_of(setting, emulated=False)
    labels = sum(len(row.label) for row in rows)
    engine.backward(rows[0], labels, last=True)  # the first call allocates
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        engine.backward(rows[0], labels, last=True)
    found = sorted(profiled.key_averages(), key=lambda one: one.self_cpu_time_total, reverse=True)
    total = sum(one.self_cpu_time_total for one in found)
    table = Table(title=f"The step of the tiny model on one thread: {rows[0].useful:,} tokens, {total / 1e6:.2f} s")
    table.add_column("operator")
    table.add_column("share", justify="right")
    for one in found[:SHOWN]:
        table.add_row(one.key, f"{one.self_cpu_time_total / total:.1%}")
    console().print(table)


def main(options: argparse.Namespace) -> None:
    if options.profile:
        profile(options.data)
        return
    table = Table(title="Useful arithmetic of a training step (forward and backward)")
    table.add_column("model")
    table.add_column("numbers")
    for column in ("threads", "tokens", "step, GFLOP/s", "product, GFLOP/s", "of it", "share"):
        table.add_column(column, justify="right")
    for dtype in ("float32", "bfloat16"):
        torch_dtype = getattr(torch, dtype)
        emulated = product_rate(SMALL_PRODUCT, torch_dtype) < EMULATED
        size, numbers = (SMALL_PRODUCT, f"{dtype}, emulated") if emulated else (PRODUCT, dtype)
        for name, model_overrides in MODELS.items():
            overrides = (f"model.dtype={dtype}", "packing.row_tokens=8192", *model_overrides)
            setting = make_setting(options.data, "model=tiny", *overrides)
            engine, rows = ours.make_engine(setting), rows_of(setting, emulated)
            sizes, labels = sizes_of(setting.model("rows")), sum(len(row.label) for row in rows)
            passes = passes_of(rows, sizes.layers)
            flops = training_flops(sizes, passes)

            def step(engine=engine, rows=rows, labels=labels) -> None:
                for row in rows:
                    engine.backward(row, labels, last=row is rows[-1])

            for threads in sorted({1, options.threads}):
                torch.set_num_threads(threads)
                rate, product = flops / _median_seconds(step), product_rate(size, torch_dtype)
                cells = (
                    f"{passes.tokens:,}",
                    f"{rate / 1e9:.1f}",
                    f"{product / 1e9:.1f}",
                    f"{size}³",
                    f"{rate / product:.0%}",
                )
                table.add_row(name, numbers, str(threads), *cells)
        table.add_section()
    console().print(table)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--profile", action="store_true", help="print where the time of the tiny model's step goes")
    start(main, parser)
