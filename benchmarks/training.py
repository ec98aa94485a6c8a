"""Training targets a second, against other trainers on the same model and the same samples.

    python benchmarks/training.py --data DIR [--threads 2] [--targets 48]      DIR: the folder of ml-latest-small
    python benchmarks/training.py --data DIR --cases all_previous --model model=hf model.path=FOLDER model.dtype=float32

model=tiny in float32 on the CPU, 512 targets an update (2,048 at 8,192 tokens). To limit the time, each peer trains on
a random subset of the training targets (stratified by length); the table shows its size, and the peer's best batch
size. mlens trains on random packed rows of an epoch's first steps with the engine of train.py, with and without shared
prefixes (packing.share).

All have a learning rate of 0, so that the mean losses over the answer tokens of the subset can be compared.
`difference` is relative to the loss of packing.share=auto; `times` is the targets/s of packing.share=auto relative to
those of the line.

- Trainer: Hugging Face's, padded, grouped by length, labels on the answer only.
- SFTTrainer: TRL's, with its packing (best fit decreasing). Position ids mark where each sample of a row starts. The
  loss shows that no sample sees another; the loss if each sample saw the one before it is printed for comparison.

Needs the extra `bench`. About five minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import numpy as np
import ours
import torch
from peers import Trained, best, hf_trainer, trl_sft_trainer
from rich.table import Table
from setting import Setting, add_model, command, console, drawn, make_setting, require, samples_of, start

from mlens.packing.dataset import Example

SECONDS = 15  # of training by mlens


@dataclass(frozen=True)
class Case:
    """One comparison.

    name: in the title of the table, and after --cases.
    overrides: of the config.
    share: the number of targets that the peers train on, relative to --targets.
    batches: the batch sizes of Trainer.
    trl: whether to run SFTTrainer.
    never: whether to run packing.share=never.
    """

    name: str
    overrides: tuple[str, ...]
    share: float
    batches: tuple[int, ...]
    trl: bool = False
    never: bool = False


CASES = (
    Case("all_previous, 1,024", ("prompt.max_tokens=1024",), 1, (1, 2, 4), trl=True),
    Case("all_previous, 2,048", ("prompt.max_tokens=2048",), 1, (1, 2, 4), trl=True, never=True),
    # Windows have four times as many lines, so four times as many targets share one.
    Case("all_previous, 8,192", ("prompt.max_tokens=8192", "trainer.targets_per_step=2048"), 1 / 2, (1, 2), never=True),
    Case("fixed_count 10", ("history=fixed_count", "history.count=10"), 5, (1, 4, 16)),
    Case("fixed_count 10, stride 10", ("history=fixed_count", "history.count=10", "history.stride=10"), 5, (1, 4, 16)),
    Case("random per_target, 2,048", ("history=random", "history.draw=per_target"), 1, (1, 2, 4)),
    Case("random per_user, 2,048", ("history=random", "history.draw=per_user"), 1, (1, 2, 4)),
)


def train_peers(case: Case, setting: Setting, targets: np.ndarray, batch: int | None) -> dict[str, Trained]:
    """Train the peers on these training targets [n], each with this batch size (None: with its best)."""
    samples = samples_of(setting.datasets["train"], targets)
    common = setting.model("sdpa"), setting.inputs.tokenizer, samples
    step = setting.inputs.settings.trainer.targets_per_step
    trained = {"Trainer": best(partial(hf_trainer, *common, step=step), (batch,) if batch else case.batches)}
    if case.trl:
        row_tokens = setting.inputs.settings.prompt.max_tokens
        trained["SFTTrainer"] = best(
            partial(trl_sft_trainer, *common, step=step, row_tokens=row_tokens), (batch,) if batch else (1, 2)
        )
    return trained


@torch.no_grad()
def leaking_loss(setting: Setting, samples: Sequence[Example]) -> float:
    """Return the mean loss over answer tokens if each sample saw the one before it (the first sees the last)."""
    model, total = setting.model("sdpa"), 0.0
    for before, sample in zip([samples[-1], *samples], samples, strict=False):
        ids = torch.from_numpy(np.concatenate([before.prompt, before.answer, sample.prompt, sample.answer]).astype(int))
        kept = len(sample.answer) + 1
        logits = model(input_ids=ids[None], logits_to_keep=kept).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[1 - kept :], reduction="sum"))
    return total / sum(len(sample.answer) for sample in samples)


def main(options: argparse.Namespace) -> None:
    for module in ("trl", "datasets"):
        require(module)
    for case in [case for case in CASES if case.name.startswith(options.cases)]:
        setting = make_setting(options.data, *options.model, *case.overrides)
        subset = drawn(setting.datasets["train"], max(2, round(options.targets * case.share)))
        others = train_peers(case, setting, subset, options.batch)
        mine = {"packing.share=auto": train_ours(setting, subset)}
        if case.never:
            unshared = make_setting(options.data, *options.model, "packing.share=never", *case.overrides)
            mine["packing.share=never"] = train_ours(unshared, subset)
        console().print(results(case, mine | others, options))
        if case.trl:
            leak = leaking_loss(setting, samples_of(setting.datasets["train"], subset)) / others["SFTTrainer"].loss - 1
            console().print(f"SFTTrainer's loss would differ by {leak:.0e} if each sample saw the one before it.")


def train_ours(setting: Setting, subset: np.ndarray) -> Trained:
    engine = ours.make_engine(setting)
    loss = ours.mean_loss(engine, ours.rows_of(setting.datasets["train"], setting.collator, subset))
    return ours.train(setting, engine, SECONDS, loss)


def results(case: Case, trained: dict[str, Trained], options: argparse.Namespace) -> Table:
    table = Table(title=f"Training, {case.name}, {options.model[0]}, float32, {options.threads} threads")
    table.add_column("trainer")
    for column in ("batch", "targets", "targets/s", "times", "tokens a target", "useful", "loss", "difference"):
        table.add_column(column, justify="right")
    first = next(iter(trained.values()))
    for name, one in trained.items():
        table.add_row(
            name,
            str(one.batch),
            f"{one.targets:,}",
            f"{one.speed:,.2f}",
            f"{first.speed / one.speed:,.1f}",
            f"{one.tokens / one.targets:,.0f}",
            f"{one.useful:.1%}",
            f"{one.loss:.6f}",
            f"{one.loss / first.loss - 1:.0e}",
        )
    return table


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument(
        "--targets", type=int, default=48, help="the number of targets that a peer trains on at 2,048 tokens (48)"
    )
    parser.add_argument("--cases", default="", help="only those whose name starts so, such as all_previous (all)")
    parser.add_argument(
        "--batch", type=int, help="the only batch size of the peers, where a larger one needs too much memory (several)"
    )
    add_model(parser)
    start(main, parser)
