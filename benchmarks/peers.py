"""Training on given samples by Hugging Face's Trainer and TRL's SFTTrainer.

Both run with a learning rate of 0: they do all the work of a step, and all steps have the same weights, so the mean
losses can be compared. Both have their default settings, except for float32 and no checkpointing.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
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
    """The training of one side.

    targets: the number of targets, each trained on once.
    seconds: from the start of the first step to the end of the last.
    loss: the mean over the answer tokens, in nats.
    tokens: the tokens that the model computed.
    useful: the share of these tokens that aren't padding.
    batch: the samples (TRL: packed rows) of a forward pass.
    """

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
    """The forward passes of a model: tokens, summed label loss, and when training began and ended."""

    tokens: int = 0
    loss: float = 0.0
    began: float = 0.0
    ended: float = 0.0


class Clock(TrainerCallback):
    """A callback that notes when training begins and ends, so that a trainer's set-up isn't timed."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def on_train_begin(self, *_, **__) -> None:
        self.watched.began = time.perf_counter()

    def on_train_end(self, *_, **__) -> None:
        self.watched.ended = time.perf_counter()


def hf_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Example],
    batch: int,
    step: int,
    bf16: bool = False,
) -> Trained:
    """Run one epoch of Trainer over `samples`.

    Batches of `batch` samples are grouped by length and padded; an update is made every `step` samples. The model
    computes the logits of every token, as it does for Trainer's loss by default.

    bf16: in bfloat16, on the GPU if there is one; else in float32 on the CPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, step // batch),
            train_sampling_strategy="group_by_length",
            **_plain_run(bf16),
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
    """Run one epoch of SFTTrainer over `samples`.

    TRL packs the samples into rows of at most `row_tokens` tokens (best fit decreasing). A forward pass has `batch`
    rows; an update is made about every `step` samples.

    The rows of a batch become one sequence without an attention mask, whose position ids restart at each sample. With
    sdpa transformers makes from these a dense block-diagonal mask, so no sample sees another, and the masked pairs are
    computed too. Flash attention, which would skip them, needs a GPU.
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
    """Train with each of these ascending batch sizes until one is slower than the one before; returns the fastest."""
    fastest = train(batches[0])
    for batch in batches[1:]:
        trained = train(batch)
        if trained.speed < fastest.speed:
            break
        fastest = trained
    return fastest


def _plain_run(bf16: bool = False) -> dict:
    return {
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "num_train_epochs": 1,
        "bf16": bf16,
        "use_cpu": not (bf16 and torch.cuda.is_available()),
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


@contextmanager
def _watch(model: PreTrainedModel, loss_of_forward: Callable) -> Iterator[tuple[PreTrainedModel, Watched]]:
    """Yield a copy of the model and the record of its forward passes.

    loss_of_forward: returns the summed label loss of a forward pass, given its keyword arguments and its output.
    """
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
    """Return prompt and answer as one sequence, with labels on the answer only."""
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
