"""Which share of this machine's arithmetic a training step turns into useful work.

    python benchmarks/arithmetic.py --data DIR [--threads 2]                   DIR: the folder of ml-latest-small

Forward and backward passes over a row of model=tiny and of a 4-layer model of hidden size 512 (history=all_previous at
2,048 tokens, shared prefixes, at most 8,192 tokens a row), against the product of two matrices of 2048 x 2048 in the
same run; in float32 and in bfloat16, with one thread and with as many as --threads says.

Counted are useful FLOPs only. Forward, a multiplication and an addition each being one:

    2 x (weights of the linear layers, without the output layer) x tokens
    + 4 x heads x head size x (pairs of tokens, one of which sees the other, in each layer)
    + 2 x hidden size x vocabulary x (places whose logits are needed)

and twice as many backward. In the last layer only the pairs count of tokens that our rows let look there: a trunk
without labels doesn't (its linear layers are computed, and count). Padding, pairs that a mask hides, norms, softmax and
rotary embeddings count nothing.

A processor without bfloat16 instructions imitates them hundreds of times slower. Where a product is as slow as that,
both sides are measured on less, a smaller product and a row of two targets, and the table says `imitated`.

About two minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import ours
import torch
from rich.table import Table
from setting import Setting, command, console, make_setting, start

from mlens.packing.row import Row

MODELS = {
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
# Below so many FLOP/s a product is imitated: the slowest cores of today do a hundred times as many.
IMITATED = 5e9
REPEATS = 3


@dataclass(frozen=True)
class Work:
    """What the rows of a measurement hold. tokens; pairs: of a token and one that it sees (itself too); last_pairs:
    those of the last layer; kept: places whose logits are needed."""

    tokens: int
    pairs: int
    last_pairs: int
    kept: int


def work_of(rows: list[Row]) -> Work:
    pairs = last_pairs = 0
    for row in rows:
        assert row.spans is not None
        seen = torch.nn.functional.pad((row.spans[..., 1] - row.spans[..., 0]).long().sum(dim=1), (0, 1))
        pairs += int(seen.sum())
        last_pairs += sum(int(seen[product.query].sum()) for product in row.layout.products if product.read)
    return Work(sum(row.useful for row in rows), pairs, last_pairs, sum(len(row.keep) for row in rows))


def useful_flops(model: torch.nn.Module, work: Work) -> float:
    """FLOPs of the forward and the backward pass, by the formula above."""
    config = model.config
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    )
    pairs = (config.num_hidden_layers - 1) * work.pairs + work.last_pairs
    attention = 4 * config.num_attention_heads * config.head_dim * pairs
    return 3.0 * (2 * linear * work.tokens + attention + 2 * config.hidden_size * config.vocab_size * work.kept)


def product_rate(size: int, dtype: torch.dtype) -> float:
    """FLOP/s of a product of two square matrices of this size."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2.0 * size**3 / _median_seconds(lambda: a @ b)


def _median_seconds(act: Callable[[], object]) -> float:
    act()  # first calls allocate
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def rows_of(setting: Setting, imitated: bool) -> list[Row]:
    """A random row of a training epoch; one of two targets where arithmetic is imitated."""
    dataset, collator = setting.datasets["train"], setting.collator
    if imitated:
        return ours.rows_of(dataset, collator, np.arange(2))
    return [collator.train_row([dataset.tree(tree) for tree in row.trees]) for row in ours.drawn_rows(setting)[:1]]


def main(options: argparse.Namespace) -> None:
    table = Table(title="Useful arithmetic of a training step (forward and backward)")
    table.add_column("model")
    table.add_column("numbers")
    for column in ("threads", "tokens", "step, GFLOP/s", "product, GFLOP/s", "of it", "share"):
        table.add_column(column, justify="right")
    for dtype in ("float32", "bfloat16"):
        torch_dtype = getattr(torch, dtype)
        imitated = product_rate(SMALL_PRODUCT, torch_dtype) < IMITATED
        size, numbers = (SMALL_PRODUCT, f"{dtype}, imitated") if imitated else (PRODUCT, dtype)
        for name, sizes in MODELS.items():
            overrides = (f"model.dtype={dtype}", "packing.row_tokens=8192", *sizes)
            setting = make_setting(options.data, "model=tiny", *overrides)
            engine, rows = ours.make_engine(setting), rows_of(setting, imitated)
            work, labels = work_of(rows), sum(len(row.label) for row in rows)
            flops = useful_flops(setting.model("rows"), work)

            def step(engine=engine, rows=rows, labels=labels) -> None:
                for row in rows:
                    engine.backward(row, labels, last=row is rows[-1])

            for threads in sorted({1, options.threads}):
                torch.set_num_threads(threads)
                rate, product = flops / _median_seconds(step), product_rate(size, torch_dtype)
                cells = (
                    f"{work.tokens:,}",
                    f"{rate / 1e9:.1f}",
                    f"{product / 1e9:.1f}",
                    f"{size}³",
                    f"{rate / product:.0%}",
                )
                table.add_row(name, numbers, str(threads), *cells)
        table.add_section()
    console().print(table)


if __name__ == "__main__":
    start(main, command(__doc__))
