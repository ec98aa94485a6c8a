"""How many training targets a second, against others on the same model and the same samples.

    python benchmarks/training.py --data DIR [--threads 2] [--targets 48]      DIR: the folder of ml-latest-small

model=tiny in float32 on the CPU, 512 targets an update (at 8,192 tokens 2,048). Each peer trains on a random subset of
the training targets (stratified by length), so that it ends: the table says on how many, and shows the peer's best
batch size. Ours are packed rows through the engine as train.py trains on them, with and without shared prefixes
(packing.share): random rows of an epoch's first steps.

All have a learning rate of 0, so that the mean loss over the answer tokens of the subset can be compared: `difference`
is relative to that of packing.share=auto. `times`: how many times a line's targets/s packing.share=auto reaches.

- Trainer: Hugging Face's, padded, grouped by length, labels on the answer alone.
- SFTTrainer: TRL's, with its packing (best fit decreasing). Position ids tell where a sample of a row begins. That no
  sample sees another shows in the loss; how it would differ if each saw the one before it is printed too.

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
from setting import Setting, command, console, drawn, make_setting, require, samples_of, start

from mlens.packing.dataset import Example

SECONDS = 15  # for which our side trains


@dataclass(frozen=True)
class Case:
    """One comparison. share: of --targets that the peers train on; batches: those that Trainer tries."""

    name: str
    overrides: tuple[str, ...]
    share: float
    batches: tuple[int, ...]
    trl: bool = False
    never: bool = False


CASES = (
    Case("all_previous, 2,048", ("prompt.max_tokens=2048",), 1, (1, 2, 4), trl=True, never=True),
    # Four times as many lines in a window: four times as many targets to share it.
    Case("all_previous, 8,192", ("prompt.max_tokens=8192", "trainer.targets_per_step=2048"), 1 / 2, (1, 2), never=True),
    Case("fixed_count 10", ("history=fixed_count", "history.count=10"), 5, (1, 4, 16)),
    Case("random per_target, 2,048", ("history=random", "history.draw=per_target"), 1, (1, 2, 4)),
)


def train_peers(case: Case, setting: Setting, targets: np.ndarray) -> dict[str, Trained]:
    """The peers on these training targets [n], each at its best batch size."""
    samples = samples_of(setting.datasets["train"], targets)
    given = setting.model("sdpa"), setting.inputs.tokenizer, samples
    step = setting.inputs.settings.trainer.targets_per_step
    trained = {"Trainer": best(partial(hf_trainer, *given, step=step), case.batches)}
    if case.trl:
        row_tokens = setting.inputs.settings.prompt.max_tokens
        trained["SFTTrainer"] = best(partial(trl_sft_trainer, *given, step=step, row_tokens=row_tokens), (1, 2))
    return trained


@torch.no_grad()
def leaking_loss(setting: Setting, samples: Sequence[Example]) -> float:
    """The mean loss over answer tokens if a sample saw the whole sample before it (the first sees the last)."""
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
    for case in CASES:
        setting = make_setting(options.data, "model=tiny", *case.overrides)
        subset = drawn(setting.datasets["train"], max(2, round(options.targets * case.share)))
        others = train_peers(case, setting, subset)
        mine = {"packing.share=auto": train_ours(setting, subset)}
        if case.never:
            unshared = make_setting(options.data, "model=tiny", "packing.share=never", *case.overrides)
            mine["packing.share=never"] = train_ours(unshared, subset)
        console().print(results(case, mine | others, options.threads))
        if case.trl:
            leak = leaking_loss(setting, samples_of(setting.datasets["train"], subset)) / others["SFTTrainer"].loss - 1
            console().print(f"SFTTrainer's loss would differ by {leak:.0e} if each sample saw the one before it.")


def train_ours(setting: Setting, subset: np.ndarray) -> Trained:
    engine = ours.make_engine(setting)
    loss = ours.mean_loss(engine, ours.rows_of(setting.datasets["train"], setting.collator, subset))
    return ours.train(setting, engine, SECONDS, loss)


def results(case: Case, trained: dict[str, Trained], threads: int) -> Table:
    table = Table(title=f"Training, {case.name}, model=tiny, float32, {threads} threads")
    table.add_column("trained by")
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
        "--targets", type=int, default=48, help="how many targets a peer trains on at 2,048 tokens (48)"
    )
    start(main, parser)
