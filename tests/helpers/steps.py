"""The parts of a run without its training loop, and training steps by the engine and by plain PyTorch.

`torchrun … -m tests.helpers.steps FOLDER OVERRIDES` trains for a few steps at every ZeRO stage, and exports the models
to FOLDER/stageN.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from mlens.config import Settings
from mlens.data.rating_table import RatingTable
from mlens.engine.engine import Engine
from mlens.engine.ranks import Ranks, join_ranks
from mlens.packing.dataset import Example, RatingDataset
from mlens.packing.epoch_plan import Collator, plan_epoch, train_row_builder
from mlens.packing.reference import ReferenceRows
from mlens.pipeline import RunInputs, open_inputs
from tests.helpers.rating_losses import plain_rating_loss
from tests.helpers.runs import checked

SMALL = (
    "debug=fast",
    "data.max_users=8",
    "prompt.max_tokens=256",
    "trainer.targets_per_step=6",
    "trainer.optimizer=adamw",
    "trainer.learning_rate=0.001",
    "trainer.weight_decay=0.1",
)
STEPS = 3


@dataclass(frozen=True)
class Parts:
    """The objects that train.py makes before training."""

    inputs: RunInputs
    ranks: Ranks
    datasets: dict[str, RatingDataset]
    model: torch.nn.Module

    @property
    def settings(self) -> Settings:
        return self.inputs.settings

    @property
    def table(self) -> RatingTable:
        return self.inputs.table

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.inputs.tokenizer

    @property
    def collator(self) -> Collator:
        return self.settings.packing

    def engine(self) -> Engine:
        settings = self.settings
        node, rule, dtype = settings.config["deepspeed"], settings.trainer.optimizer_settings(), settings.model.dtype
        return instantiate(node, self.model, self.ranks, rule, dtype, _convert_="all")


def parts(*overrides: str) -> Parts:
    """Make the parts of a small run."""
    # Reference rows have no row_tokens, which debug=fast sets.
    rows = "~packing.row_tokens" if "packing=reference" in overrides else "packing.row_tokens=512"
    settings, ranks = checked(*SMALL, rows, *overrides), join_ranks()
    inputs = open_inputs(settings, ranks)
    datasets = {name: inputs.dataset(name) for name in inputs.stages}
    return Parts(inputs, ranks, datasets, inputs.model(ranks))


def engine_steps(made: Parts, engine: Engine, steps: int = STEPS, first: int = 0) -> list[float]:
    """Train for steps `first` to `steps` - 1 of the first epoch; returns each step's loss over all ranks."""
    dataset, losses, loss = made.datasets["train"], [], 0.0
    per_step = made.settings.trainer.steps()
    make_row = train_row_builder(dataset, made.collator, per_step)
    rank, world = made.ranks.rank, made.ranks.world
    for planned in plan_epoch(dataset, made.collator, per_step, dataset.seed, 0, rank, world, first):
        if planned.step == steps:
            break
        row = make_row([dataset.prefix_group(group) for group in planned.groups])
        loss += float(engine.backward(row, planned.labels, planned.last)) / planned.labels
        if planned.last:
            losses.append(float(made.ranks.sum(torch.tensor(loss, dtype=torch.float64))))
            loss = 0.0
    return losses


def plain_steps(made: Parts, model: torch.nn.Module, steps: int = STEPS) -> list[float]:
    """Train for the same steps in plain PyTorch: one sample at a time, AdamW, and the mean loss of the step's answer
    tokens (with a loss over ratings, of its targets)."""
    rule = made.settings.trainer.optimizer_settings()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rule.learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=rule.weight_decay
    )
    dataset, losses = made.datasets["train"], []
    per_step = made.settings.trainer.steps()
    planned = list(plan_epoch(dataset, ReferenceRows(), per_step, dataset.seed, 0, rank=0, world=1))
    for step in range(steps):
        samples = [dataset[int(i)] for row in planned if row.step == step for i in row.targets]
        labels = sum(len(sample.answer) for sample in samples) if per_step.loss == "ce" else len(samples)
        optimizer.zero_grad()
        loss = 0.0
        for sample in samples:
            part = _plain_loss(made, model, sample) / labels
            part.backward()
            loss += part.item()
        if rule.gradient_clipping:
            torch.nn.utils.clip_grad_norm_(model.parameters(), rule.gradient_clipping)
        optimizer.step()
        losses.append(loss)
    return losses


def _plain_loss(made: Parts, model: torch.nn.Module, sample: Example) -> torch.Tensor:
    """Return the loss of one sample, summed over the tokens of its answer with `ce`."""
    if made.settings.trainer.loss == "ce":
        return -answer_log_probabilities(model, sample.prompt, sample.answer).sum()
    answers = made.datasets["train"].renderer.template.answers
    scores = torch.stack([answer_log_probabilities(model, sample.prompt, answer).sum() for answer in answers])
    truth = int(made.table.rating_index[sample.target])
    steps = made.settings.trainer.steps()
    return plain_rating_loss(steps.loss, steps.expected_loss_weight, scores, list(made.table.scale), truth)


def answer_log_probabilities(model: torch.nn.Module, prompt, answer) -> torch.Tensor:
    """Return [answer] the log-probability of each answer token after the prompt, from an ordinary forward pass."""
    ids = torch.tensor([[*map(int, prompt), *map(int, answer)]])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def exported(made: Parts, engine: Engine, folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights that the engine exports."""
    engine.export(folder, made.tokenizer)
    file = next(folder.glob("*.safetensors"))
    return load_file(file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for stage in range(4):
        given = parts(f"deepspeed=zero{stage}", *sys.argv[2:])
        losses = engine_steps(given, made_engine := given.engine())
        made_engine.export(Path(sys.argv[1]) / f"stage{stage}", given.tokenizer)
        if given.ranks.main:
            print(f"stage{stage}", *losses, flush=True)
