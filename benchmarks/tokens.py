"""The tokens of a training epoch for every strategy: one sample at a time, and with shared prefixes.

    python benchmarks/tokens.py --data DIR                                     DIR: the folder of ml-latest-small

Computed from lengths, with the tokenizer of model=tiny. A step has a quarter as many targets as a prompt may have
tokens (512, 2,048), at most an eighth of them consecutive targets of one user. A sample is its prompt and its answer
without the end token, which is only predicted.

About a minute.
"""

from __future__ import annotations

import argparse

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import ours
from rich.table import Table
from setting import command, console, make_setting, start

BUDGETS = (2048, 8192)
STRATEGIES = (
    *("none", "all_previous", "random", "random history.draw=per_target", "fixed_ratio", "fixed_count"),
    "fixed_count history.stride=10",
)


def main(options: argparse.Namespace) -> None:
    table = Table("history", title="Tokens of a training epoch, ml-latest-small")
    for budget in BUDGETS:
        for column in (f"{budget:,}: one at a time", "shared", "times fewer"):
            table.add_column(column, justify="right")
    for strategy in STRATEGIES:
        cells = []
        for budget in BUDGETS:
            overrides = f"model=tiny prompt.max_tokens={budget} history={strategy}".split()
            overrides.append(f"trainer.targets_per_step={budget // 4}")
            separate, shared = ours.epoch_tokens(make_setting(options.data, *overrides))
            cells += [f"{separate:,}", f"{shared:,}", f"{separate / shared:.1f}"]
        table.add_row(strategy.replace("history.", ""), *cells)
    console().print(table)


if __name__ == "__main__":
    start(main, command(__doc__))
