"""Training on given samples by others: Hugging Face's Trainer and TRL's SFTTrainer.

Both run with a learning rate of 0: all the work of a step is done, and every step has the weights that it began with,
so the mean loss can be compared. Both compute what they compute by default, float32 and no checkpointing apart.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from setting import require
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_utils import PreTrainedModel

from mlens.packing.dataset import Example


@dataclass(frozen=True)
class Trained:
    """targets: how many were trained on, once each; seconds: from the first step to the end of the last; loss: the mean
    over their answer tokens (nats); tokens: that the model computed; useful: the share of these that is no padding;
    batch: samples (TRL: packed rows) of a forward pass."""

    targets: int
    seconds: float
    loss: float
    tokens: int
    useful: float
    batch: int

    @property
    def speed(self) -> float:
        """Targets a second."""
        return self.targets / self.seconds


@dataclass
class Watched:
    """What went through a model: tokens, summed label loss, and when training began and ended."""

    tokens: int = 0
    loss: float = 0.0
    began: float = 0.0
    ended: float = 0.0


class Clock(TrainerCallback):
    """Notes when training begins and ends: what a trainer sets up before is no part of its speed."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def on_train_begin(self, *_, **__) -> None:
        self.watched.began = time.perf_counter()

    def on_train_end(self, *_, **__) -> None:
        self.watched.ended = time.perf_counter()


def hf_trainer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Example], batch: int, step: int
) -> Trained:
    """One epoch of Trainer over `samples`: batches of `batch` grouped by length and padded, an update every `step`
    samples. Its model computes the logits of every token, as Trainer's loss does by default."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, step // batch),
            train_sampling_strategy="group_by_length",
            **_plain_run(),
        )
        loss_of_forward: Callable = lambda given, output: output.loss * given["num_items_in_batch"]  # noqa: E731
        with _watch(model, loss_of_forward) as (model, watched):
            trainer = Trainer(
                model,
                arguments,
                data_collator=DataCollatorForSeq2Seq(tokenizer),
                train_dataset=[_labelled(sample) for sample in samples],
            )
            _train(trainer, watched)
    return _trained(samples, watched, batch)


def trl_sft_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Example],
    batch: int,
    step: int,
    row_tokens: int,
) -> Trained:
    """One epoch of SFTTrainer over `samples`, packed into rows of at most `row_tokens` tokens by its own packing
    (best fit decreasing); `batch` rows a forward pass, an update about every `step` samples.

    The rows of a batch become one sequence without an attention mask whose position ids begin anew with each sample.
    With sdpa transformers makes from these a dense block-diagonal mask, so no sample sees another, and the masked pairs
    are computed too. Flash attention, which would skip them, needs a GPU.
    """
    trl, datasets = require("trl"), require("datasets")
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        rows = max(1, sum(len(s.prompt) + len(s.answer) for s in samples) // row_tokens)
        arguments = trl.SFTConfig(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, rows * step // (len(samples) * batch)),
            packing=True,
            packing_strategy="bfd",
            max_length=row_tokens,
            gradient_checkpointing=False,
            **_plain_run(),
        )
        with _watch(model, lambda given, output: -output.log_probs.sum()) as (model, watched):
            trainer = trl.SFTTrainer(
                model,
                arguments,
                train_dataset=datasets.Dataset.from_list([_labelled(sample) for sample in samples]),
                processing_class=tokenizer,
            )
            _train(trainer, watched)
    return _trained(samples, watched, batch)


def best(train: Callable[[int], Trained], batches: Sequence[int]) -> Trained:
    """The fastest of these batch sizes."""
    return max((train(batch) for batch in batches), key=lambda trained: trained.speed)


def _plain_run() -> dict:
    return {
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "num_train_epochs": 1,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


@contextmanager
def _watch(model: PreTrainedModel, loss_of_forward: Callable) -> Iterator[tuple[PreTrainedModel, Watched]]:
    """A copy of the model whose forward passes are counted; `loss_of_forward` tells the summed label loss of one from
    its keyword arguments and its output."""
    model, watched = copy.deepcopy(model), Watched()

    def count(_, __, given: dict, output) -> None:
        watched.tokens += given["input_ids"].numel()
        watched.loss += float(loss_of_forward(given, output).detach())

    handle = model.register_forward_hook(count, with_kwargs=True)
    yield model, watched
    handle.remove()


def _train(trainer: Trainer, watched: Watched) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock(watched))
    trainer.train()


def _labelled(sample: Example) -> dict[str, list[int]]:
    """Prompt and answer as one sequence, with labels on the answer alone."""
    prompt, answer = sample.prompt.tolist(), sample.answer.tolist()
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def _trained(samples: Sequence[Example], watched: Watched, batch: int) -> Trained:
    return Trained(
        targets=len(samples),
        seconds=watched.ended - watched.began,
        loss=watched.loss / sum(len(sample.answer) for sample in samples),
        tokens=watched.tokens,
        useful=sum(len(sample.prompt) + len(sample.answer) for sample in samples) / watched.tokens,
        batch=batch,
    )
