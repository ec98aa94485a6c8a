"""The cost of a training target as histories grow, with shared prefixes and without.

    python benchmarks/growth.py --data DIR [--out growth.png] [--threads 2]    DIR: the folder of ml-latest-small

model=tiny in float32, history=all_previous, nothing trimmed. For each length n the first n training targets of a few
users with long histories, so that they see 0 to n - 1 earlier ratings: all of them with shared prefixes, and some of
them, evenly spread, with packing.share=never. The table shows the tokens of their rows, and the seconds of forward and
backward passes over rows that were built before. The growth exponent is the slope of the least-squares line through
the logarithms of length and cost: 0 is constant, 1 is linear in the history. The plot shows the points and the lines.

On a GPU, if there is one, lengths of up to 2,048 are measured. About two minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import numpy as np
import ours
import torch
from rich.table import Table
from setting import command, console, make_setting, start

from mlens.engine.engine import Engine
from mlens.packing.dataset import RatingDataset
from mlens.packing.row import Row

LENGTHS = (16, 32, 64, 128, 192, 300)
GPU_LENGTHS = (*LENGTHS, 512, 1024, 2048)
USERS = 4
# The number of targets that are trained on without sharing.
UNSHARED = 24
# Passes over short rows are repeated for this time.
LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class Cost:
    """The mean cost of a target."""

    seconds: float
    tokens: float


def long_users(dataset: RatingDataset, length: int) -> np.ndarray:
    """Draw users who have a training target that sees `length` - 1 earlier ratings: [≤ USERS]."""
    stage = dataset.stage
    users = np.unique(stage.user[stage.count >= length - 1])
    return np.random.default_rng(0).permutation(users)[:USERS]


def first_targets(dataset: RatingDataset, users: np.ndarray, length: int) -> np.ndarray:
    """Return the targets of these users that see fewer than `length` ratings: [n], ascending."""
    stage = dataset.stage
    return np.flatnonzero(np.isin(stage.user, users) & (stage.count < length))


def spread_targets(dataset: RatingDataset, targets: np.ndarray) -> np.ndarray:
    """Select targets in even steps from the shortest history to the longest: [≤ UNSHARED], ascending."""
    ordered = targets[np.argsort(dataset.stage.count[targets], kind="stable")]
    few = min(UNSHARED, len(ordered))
    steps = (np.arange(few) + 0.5) * len(ordered) / few
    return np.sort(ordered[steps.astype(int)])


def measure(engine: Engine, rows: Sequence[Row], targets: int) -> Cost:
    """Return the mean cost over passes through these rows of `targets` targets; the first pass isn't counted."""
    labels = sum(len(row.label) for row in rows)

    def once() -> None:
        for row in rows:
            engine.backward(row, labels, last=row is rows[-1])
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    once()
    passes, began = 0, time.perf_counter()
    while passes == 0 or time.perf_counter() - began < LEAST_SECONDS:
        once()
        passes += 1
    return Cost((time.perf_counter() - began) / passes / targets, sum(row.useful for row in rows) / targets)


def exponent(lengths: Sequence[int], costs: Sequence[float]) -> tuple[float, float]:
    """Return slope and intercept of the least-squares line through (log length, log cost)."""
    slope, intercept = np.polyfit(np.log(lengths), np.log(costs), 1)
    return float(slope), float(intercept)


def main(options: argparse.Namespace) -> None:
    lengths = GPU_LENGTHS if torch.cuda.is_available() else LENGTHS
    most = 32 * max(lengths) + 1024  # tokens: a line has 27 on average
    overrides = (f"prompt.max_tokens={most}", f"packing.row_tokens={2 * most}")
    setting = make_setting(options.data, "model=tiny", "history=all_previous", *overrides)
    dataset, engine = setting.datasets["train"], ours.make_engine(setting)
    users = long_users(dataset, max(lengths))
    costs: dict[str, list[Cost]] = {"shared": [], "unshared": []}
    for length in lengths:
        targets = first_targets(dataset, users, length)
        costs["shared"].append(measure(engine, ours.rows_of(dataset, setting.collator, targets), len(targets)))
        few = spread_targets(dataset, targets)
        collator = replace(setting.collator, share="never")
        costs["unshared"].append(measure(engine, ours.rows_of(dataset, collator, few), len(few)))
    show(lengths, costs, len(users), options)
    plot(lengths, costs, options.out)


def show(lengths: Sequence[int], costs: dict[str, list[Cost]], users: int, options: argparse.Namespace) -> None:
    table = Table("ratings", title=f"Cost of a target, model=tiny, {users} users, {options.threads} threads")
    for what in ("tokens", "seconds"):
        for side in costs:
            table.add_column(f"{what}, {side}", justify="right")
    for i, length in enumerate(lengths):
        of = [side[i] for side in costs.values()]
        table.add_row(str(length), *(f"{one.tokens:,.0f}" for one in of), *(f"{one.seconds:.2e}" for one in of))
    table.add_section()
    grown = [
        exponent(lengths, [getattr(one, what) for one in side])[0]
        for what in ("tokens", "seconds")
        for side in costs.values()
    ]
    table.add_row("growth exponent", *(f"{one:z.2f}" for one in grown))
    console().print(table)


def plot(lengths: Sequence[int], costs: dict[str, list[Cost]], out: Path) -> None:
    """Plot both costs against the length on logarithmic axes, with the fitted lines."""
    import matplotlib

    matplotlib.use("Agg")  # a file, no window
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, what in zip(panels, ("tokens", "seconds"), strict=True):
        for side, color in zip(costs, ("tab:blue", "tab:orange"), strict=True):
            cost = [getattr(one, what) for one in costs[side]]
            slope, intercept = exponent(lengths, cost)
            panel.loglog(lengths, cost, "o", color=color)
            line = np.exp(intercept) * np.asarray(lengths, dtype=float) ** slope
            panel.loglog(lengths, line, color=color, label=f"{side}: growth exponent {slope:z.2f}")
        panel.set_xticks(lengths, [str(length) for length in lengths], minor=False)
        panel.minorticks_off()
        panel.set(xlabel="ratings of a user", ylabel=f"{what} a target")
        panel.legend()
    figure.savefig(out, dpi=150)
    console().print(f"plot: {out}")


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, default=Path("growth.png"), help="where the plot goes (growth.png)")
    start(main, parser, gpu=True)
