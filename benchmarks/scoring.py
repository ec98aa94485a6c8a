"""Evaluated targets a second: the probabilities of all legal ratings, against generating one answer.

    python benchmarks/scoring.py --data DIR [--threads 2] [--users 40]         DIR: the folder of ml-latest-small

model=tiny in float32 on the CPU, history=all_previous, all validation and test targets of --users users: both stages
together, as at the end of a run, and one after the other. The peer is `generate` of the same model with transformers'
sdpa attention: greedy, with its cache, left-padded prompts in batches sorted by length, at its best batch size, on a
random subset of the targets (half of them of each stage, stratified by length). It returns only the most probable
answer; mlens returns the probability of each.

The columns:

- `times`: the targets/s relative to those of `generate`;
- `difference`: the largest difference between our probabilities and those of ordinary forward passes, one for each
  legal rating, on some targets (in brackets: their number);
- `between targets`: the standard deviation of the probabilities over targets, to which the difference must be small.

About four minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import numpy as np
import ours
import torch
from rich.table import Table
from setting import Setting, add_model, command, console, drawn, make_setting, samples_of, start
from transformers import GenerationMixin
from transformers.modeling_utils import PreTrainedModel

from mlens.evaluation.score import Predictions, predict, predict_together
from mlens.packing.dataset import Example


@dataclass(frozen=True)
class Case:
    """One comparison.

    budget: prompt.max_tokens.
    generated: the number of targets for which an answer is generated.
    compared: the number of targets that are compared with ordinary forward passes.
    batches: the batch sizes of `generate`.
    """

    budget: int
    generated: int
    compared: int
    batches: tuple[int, ...]


CASES = (Case(2048, 128, 16, (1, 4, 16)), Case(8192, 32, 4, (1, 4)))


@dataclass(frozen=True)
class Generated:
    """The generation of answers.

    batch: prompts at a time.
    seconds: for all prompts.
    """

    batch: int
    seconds: float


@torch.no_grad()
def generate(model: PreTrainedModel, samples: Sequence[Example], batch: int, longest: int, pad: int) -> Generated:
    """Generate at most `longest` tokens after every prompt, `batch` prompts at a time, longest prompts first.

    pad: the padding token and the end token.
    """
    ordered = sorted((sample.prompt for sample in samples), key=len, reverse=True)
    began = time.perf_counter()
    for first in range(0, len(ordered), batch):
        prompts = ordered[first : first + batch]
        width = len(prompts[0])
        ids, mask = np.full((len(prompts), width), pad), np.zeros((len(prompts), width), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
        cast(GenerationMixin, model).generate(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            max_new_tokens=longest,
            do_sample=False,
            use_cache=True,
            pad_token_id=pad,
            eos_token_id=pad,
        )
    return Generated(batch, time.perf_counter() - began)


@torch.no_grad()
def plain_probability(model: PreTrainedModel, sample: Example, answers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probabilities of the legal answers, normalised over them, by one forward pass each: [scale]."""
    scores = []
    for answer in answers:
        ids = torch.from_numpy(np.concatenate([sample.prompt, answer]).astype(np.int64))
        logits = model(input_ids=ids[None], logits_to_keep=len(answer) + 1).logits[0, :-1]
        scores.append(-torch.nn.functional.cross_entropy(logits.double(), ids[-len(answer) :], reduction="sum"))
    return torch.stack(scores).softmax(dim=0).numpy()


@dataclass(frozen=True)
class Scored:
    """The scoring of all targets.

    predictions: of each stage.
    together: the seconds for both stages together.
    apart: the seconds for one stage after the other.
    """

    predictions: list[Predictions]
    together: float
    apart: float


def score(setting: Setting) -> Scored:
    """Score all validation and test targets, together and apart."""
    engine, stages = ours.make_engine(setting), [setting.datasets["val"], setting.datasets["test"]]
    for dataset in stages:
        predict(engine, dataset, setting.collator)  # first calls allocate
    began = time.perf_counter()
    predictions = predict_together(engine, stages, setting.collator)
    middle = time.perf_counter()
    for dataset in stages:
        predict(engine, dataset, setting.collator)
    return Scored(predictions, middle - began, time.perf_counter() - middle)


def main(options: argparse.Namespace) -> None:
    title = f"Scoring validation and test, {options.model[0]}, float32, all_previous, {options.threads} threads"
    table = Table(title=title)
    for column in ("tokens", "by", "batch", "targets", "targets/s", "times", "difference", "between targets"):
        table.add_column(column, justify="left" if column == "by" else "right")
    for case in CASES:
        overrides = (*options.model, f"prompt.max_tokens={case.budget}", f"evaluation.max_users={options.users}")
        setting = make_setting(options.data, *overrides)
        stages, model = [setting.datasets["val"], setting.datasets["test"]], setting.model("sdpa").eval()
        subsets = [drawn(dataset, case.generated // 2) for dataset in stages]
        samples = [samples_of(dataset, subset) for dataset, subset in zip(stages, subsets, strict=True)]
        template, end = stages[0].renderer.template, setting.inputs.tokenizer.eos_token_id
        prompts = [sample for of_stage in samples for sample in of_stage]
        tried = [generate(model, prompts, batch, template.longest_answer, end) for batch in case.batches]
        peer = min(tried, key=lambda one: one.seconds)
        scored = score(setting)
        probability = np.concatenate(
            [one.probability[subset] for one, subset in zip(scored.predictions, subsets, strict=True)]
        )
        checked = range(0, len(prompts), -(-len(prompts) // case.compared))
        difference = max(
            np.abs(probability[i] - plain_probability(model, prompts[i], template.answers)).max() for i in checked
        )
        spread = np.concatenate([one.probability for one in scored.predictions]).std(axis=0).max()
        targets, theirs = sum(map(len, stages)), len(prompts) / peer.seconds
        compared = (f"{difference:.0e} ({len(checked)})", f"{spread:.0e}")
        for name, seconds, more in (
            ("together", scored.together, compared),
            ("one stage after the other", scored.apart, ()),
        ):
            speed = targets / seconds
            row = (f"mlens, {name}", "", f"{targets:,}", f"{speed:,.2f}", f"{speed / theirs:,.1f}", *more)
            table.add_row(f"{case.budget:,}", *row)
        table.add_row("", "generate", str(peer.batch), str(len(prompts)), f"{theirs:,.2f}", "1.0")
        table.add_section()
    console().print(table)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--users", type=int, default=40, help="the number of users whose targets are scored (40)")
    add_model(parser)
    start(main, parser)
