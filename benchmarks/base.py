"""The ratings a second on which the training of model=tiny_base computes loss.

    python benchmarks/base.py --data DIR [--threads 2]                         DIR: the folder of ml-latest-small
    torchrun --nproc_per_node=2 benchmarks/base.py --data DIR --threads 1

Steps of the base model, planned, built and trained on as in a run, on excerpts of each of its lengths: once with loss
on every rating in its line of a prefix, and once with the configured share of ratings as the targets of prompts.

A minute on two cores.
"""

from __future__ import annotations

import argparse
import time

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import ours
import torch
from rich.table import Table
from setting import command, console, make_setting, start

from mlens.engine.ranks import Ranks, join_ranks
from mlens.packing.packed import PackedRows
from mlens.training.base_model import cut_excerpts, plan_excerpts

# First calls allocate, or compile.
WARM_UP = 5


def main(options: argparse.Namespace) -> None:
    setting = make_setting(options.data, "model=tiny_base", *options.overrides)
    base, dataset = setting.inputs.settings.model.base, setting.datasets["train"]
    ranks, engine = join_ranks(), ours.make_engine(setting)
    collator = PackedRows(row_tokens=base.row_tokens)
    table = Table(title=f"Supervised ratings, {ranks.world} ranks of {options.threads} threads")
    for column in ("lines", "as targets", "ratings/s", "tokens/s"):
        table.add_column(column, justify="right")
    template = dataset.renderer.template
    (rating_tokens,) = set(template.pieces.lengths[template.pieces.rating].tolist())  # each of them is a label
    for lines in base.lines:
        for target_share in (0.0, base.target_share):
            cut = cut_excerpts(template, dataset.stage, lines, base.interleaved, target_share, base.seed, epoch=0)
            steps = plan_excerpts(cut, collator, base.ratings_per_step, base.seed, 0, ranks.rank, ranks.world)
            ratings, tokens, seconds = _train(engine, collator, steps, options.steps, rating_tokens)
            ratings, tokens = (_sum_over_ranks(ranks, count) for count in (ratings, tokens))
            table.add_row(str(lines), f"{target_share:.0%}", f"{ratings / seconds:,.0f}", f"{tokens / seconds:,.0f}")
    if ranks.main:
        console().print(table)


def _train(engine, collator: PackedRows, steps, count: int, rating_tokens: int) -> tuple[int, int, float]:
    """Train on `count` steps. rating_tokens: the labels of a rating in its line.

    Returns the ratings that carried loss on this rank, the tokens that it read, and the seconds.
    """
    ratings = tokens = 0
    began = time.perf_counter()
    for step, rows in zip(range(count + WARM_UP), steps, strict=False):
        if step == WARM_UP:
            ratings, tokens, began = 0, 0, time.perf_counter()
        for groups, labels, last in rows:
            row = collator.train_row(groups, history_loss_weight=1.0)
            engine.backward(row, labels, last)
            ratings += sum(len(group.lines) // rating_tokens + len(group.suffixes) for group in groups)
            tokens += row.useful
    return ratings, tokens, time.perf_counter() - began


def _sum_over_ranks(ranks: Ranks, count: int) -> int:
    """Return the sum of `count` over all ranks."""
    return int(ranks.sum(torch.tensor(float(count), dtype=torch.float64)))


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--steps", type=int, default=40, help="training steps for each line of the table (40)")
    parser.add_argument("overrides", nargs="*", help="overrides of the config")
    start(main, parser)
