"""What helps a tiny model to learn from scratch, and the effect of sharing: arms of equal time, with several seeds.

    python benchmarks/learning.py separation data.users=500 data.ratings_per_user=40 [--seconds 60] [--seeds 0 1 2]
    python benchmarks/learning.py mixing --source ml_100k --data DIR [--jobs 2]

`separation` is an ablation study of loss on the ratings in the histories, short histories first, and the optimizer.
`mixing` varies the number of users in a step, starting from one base model (model=tiny_base). With more users a step
shares less, and trains on fewer targets in the same time; the last arm shares nothing.

An arm trains for --seconds of CPU time on one thread, so that other work on the machine doesn't affect it, with a
cosine schedule over that time. It is then evaluated on validation and test; nothing is selected on test.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import numpy as np
import torch
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table
from setting import compose_setting

from mlens.engine.engine import Engine
from mlens.engine.ranks import join_ranks
from mlens.engine.settings import OptimizerSettings
from mlens.evaluation.evaluate import evaluate
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import plan_epoch
from mlens.packing.row import Row
from mlens.packing.steps import Steps
from mlens.training.base_model import base_weights, cut_excerpts, plan_excerpts


@dataclass(frozen=True)
class Arm:
    """One arm of a study.

    name: in the table.
    phases: (share of the time, what is trained on), with shares that sum to 1: `targets` (those of the strategy),
        `short` (the same, with at most SHORT tokens of history), or the number of ratings of an excerpt, all of which
        carry loss.
    optimizer: `muon` or `adamw`.
    steps: the composition of a step on targets.
    model: a choice of conf/model.
    """

    name: str
    phases: tuple[tuple[float, str], ...] = ((1.0, "targets"),)
    optimizer: str = "muon"
    steps: Steps = field(default_factory=lambda: Steps(32, 8))
    model: str = "tiny"


SHORT = 512
EXCERPTS_FIRST = ((1 / 3, "24"), (1 / 3, "48"), (1 / 3, "targets"))
STUDIES = {
    "separation": [
        Arm("targets only"),
        Arm("history loss", steps=Steps(32, 8, history_loss_weight=1.0)),
        Arm("short histories first", ((2 / 3, "short"), (1 / 3, "targets"))),
        Arm("history loss on short excerpts first", EXCERPTS_FIRST),
        Arm("history loss on short excerpts first, AdamW", EXCERPTS_FIRST, optimizer="adamw"),
    ],
    "mixing": [
        Arm("128 targets of 2 users", steps=Steps(128, 2), model="tiny_base"),
        Arm("128 targets of 8 users", steps=Steps(128, 8), model="tiny_base"),
        Arm("128 targets of 128 users", steps=Steps(128, 128), model="tiny_base"),
    ],
}
RATES = {"muon": (0.02, 0.003), "adamw": (0.0015, 0.0015)}
# A base model is fine-tuned as trainer=from_base does.
BASE_RATES = (0.003, 0.0005)
# Of excerpts of consecutive ratings.
RATINGS_PER_STEP, TARGET_SHARE, INTERLEAVED = 96, 0.25, 1


def run_arm(
    arm: Arm, source: str, data: str | None, seconds: float, seed: int, users: int, overrides: list[str]
) -> dict:
    """Train one arm and evaluate it: on validation after every quarter of the time, and on test at the end."""
    torch.set_num_threads(1)
    common = [f"data={source}", f"model={arm.model}", "history=all_previous", f"seed={seed}"]
    common += [f"evaluation.max_users={users}", *([f"data.path={data}"] if data else []), *overrides]
    setting = compose_setting(*common)
    short = compose_setting(*common, f"prompt.history_tokens={SHORT}").datasets["train"]
    settings, datasets, collator = setting.inputs.settings, setting.datasets, setting.collator
    train, ranks = datasets["train"], join_ranks()
    weights = base_weights(setting.inputs, ranks)
    model = setting.model("rows", weights)
    rates = BASE_RATES if arm.model == "tiny_base" else RATES[arm.optimizer]
    rule = OptimizerSettings(arm.optimizer, *rates, weight_decay=0.0, gradient_clipping=0.0)
    engine = instantiate(settings.config["deepspeed"], model, ranks, rule, settings.model.dtype, _convert_="all")

    spent, seen = 0.0, 0
    points: list[dict] = []
    for share, what in arm.phases:
        end = spent + share * seconds
        if what in ("targets", "short"):
            steps = _target_steps(train if what == "targets" else short, collator, arm.steps, seed)
        else:
            steps = _excerpt_steps(train, collator, int(what), seed)
        for step, targets in steps:
            started = time.process_time()
            engine.set_learning_rate(max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, spent / seconds)))))
            for row, labels, last in step:
                engine.backward(row(), labels, last)
            spent += time.process_time() - started
            seen += targets
            if spent >= len(points) * seconds / 4 and spent < seconds:
                points.append(_point(engine, datasets["val"], collator, spent, seen))
            if spent >= end:
                break
    points.append(_point(engine, datasets["val"], collator, spent, seen))
    test = evaluate(engine, [datasets["test"]], collator)[0].metrics
    return {"arm": arm.name, "seed": seed, "points": points, "test": test["rmse"], "mae": test["mae"], "seen": seen}


def _point(engine: Engine, val: RatingDataset, collator, spent: float, seen: int) -> dict:
    rmse = evaluate(engine, [val], collator)[0].metrics["rmse"]
    return {"seconds": spent, "supervised": seen, "val": rmse}


def _target_steps(dataset: RatingDataset, collator, steps: Steps, seed: int) -> Iterator[tuple[list, int]]:
    """Yield steps without end, each a list of (function that builds a row, labels, last) and its number of targets."""
    make_row, epoch = partial(collator.train_row, history_loss_weight=steps.history_loss_weight), 0
    while True:
        rows: list = []
        drawn = dataset.with_epoch(epoch)
        for planned in plan_epoch(drawn, collator, steps, seed, epoch, 0, 1):

            def row(planned=planned, drawn=drawn) -> Row:
                return make_row([drawn.prefix_group(group) for group in planned.groups])

            rows.append((row, planned.labels, planned.last))
            if planned.last:
                yield rows, planned.step_targets
                rows = []
        epoch += 1


def _excerpt_steps(dataset: RatingDataset, collator, lines: int, seed: int) -> Iterator[tuple[list, int]]:
    """Yield steps as `_target_steps` does, on excerpts of `lines` ratings."""
    epoch = 0
    while True:
        cut = cut_excerpts(dataset.renderer.template, dataset.stage, lines, INTERLEAVED, TARGET_SHARE, seed, epoch)
        for step in plan_excerpts(cut, collator, RATINGS_PER_STEP, seed, epoch, 0, 1):
            rows = [(partial(collator.train_row, groups, 1.0), labels, last) for groups, labels, last in step]
            yield rows, RATINGS_PER_STEP
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--source", default="sample", help="a choice of conf/data (sample: made-up data)")
    parser.add_argument("--data", help="the folder of the data of --source; not for sample")
    parser.add_argument("--seconds", type=float, default=60, help="training time of each arm and seed (60)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=150, help="the number of users in validation and test (150)")
    parser.add_argument("--jobs", type=int, default=2, help="arms that are trained in parallel, each on one thread (2)")
    parser.add_argument("--arm", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="overrides of the config, for all arms")
    options = parser.parse_intermixed_args()
    data, arms = options.data and str(Path(options.data).resolve()), STUDIES[options.study]
    if options.arm is not None:
        (seed,) = options.seeds
        result = run_arm(
            arms[options.arm], options.source, data, options.seconds, seed, options.users, options.overrides
        )
        print(json.dumps(result))
        return

    def child(job: tuple[int, int]) -> dict:
        arm, seed = job
        command = [sys.executable, __file__, options.study, *options.overrides, *(["--data", data] if data else [])]
        command += ["--source", options.source, "--seconds", str(options.seconds)]
        command += ["--users", str(options.users), "--arm", str(arm), "--seeds", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{arms[arm].name}, seed {seed}: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(done.stdout.splitlines()[-1])

    jobs = [(arm, seed) for seed in options.seeds for arm in range(len(arms))]
    results: dict[str, list[dict]] = {arm.name: [] for arm in arms}
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(child, jobs):
            results[result["arm"]].append(result)
            print(json.dumps(result), file=sys.stderr, flush=True)
    print_results(options, results)


def print_results(options: argparse.Namespace, results: dict[str, list[dict]]) -> None:
    """Print the mean over seeds, with the lowest and the highest test RMSE."""
    table = Table(title=f"{options.study} on {options.source}, {options.seconds:.0f} s of one thread per arm")
    parts = [f"val at {part}/4" for part in range(1, 5)]
    for column in ("arm", "supervised ratings", *parts, "test RMSE", "lowest … highest"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, runs in results.items():
        if not runs:
            continue
        # There are fewer points if a step takes longer than a quarter of the time.
        points = [[run["points"][min(part, len(run["points"]) - 1)]["val"] for run in runs] for part in range(1, 5)]
        vals = [f"{np.mean(point):.4f}" for point in points]
        tests = [run["test"] for run in runs]
        seen = f"{np.mean([run['seen'] for run in runs]):,.0f}"
        table.add_row(name, seen, *vals, f"{np.mean(tests):.4f}", f"{min(tests):.4f} … {max(tests):.4f}")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
