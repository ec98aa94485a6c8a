"""The plan of one job: what train.py would do before its first step, without the model's weights."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from mlens.compose import compose_config
from mlens.config import Settings, check_config
from mlens.engine.engine import uses_bf16_parameters
from mlens.engine.settings import STATE_BYTES, checkpoint_bytes
from mlens.model.flops import forward_flops, training_flops
from mlens.model.settings import Lora
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import steps_per_epoch
from mlens.packing.lengths import Lengths, measure_lengths
from mlens.packing.row import Row
from mlens.pipeline import open_inputs
from mlens.plan.configs import model_config
from mlens.plan.hardware import Machine
from mlens.plan.rank_memory import Memory, static_memory
from mlens.plan.sketch import ModelCounts, RowBytes, Sketch, largest
from mlens.plan.work import Work, scoring_work, training_work
from mlens.training.loop import total_steps


@dataclass(frozen=True)
class PlannedJob:
    """A job's checked settings and what train.py would build from them.

    settings: the checked config.
    datasets: the dataset of each stage.
    config: the model's config (transformers).
    sizes_from: where the model's sizes are from, in words.
    """

    settings: Settings
    datasets: dict[str, RatingDataset]
    config: Any
    sizes_from: str

    @property
    def steps(self) -> int:
        """Steps of the run without early stopping."""
        return total_steps(self.settings.trainer, len(self.datasets["train"]))

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(len(self.datasets["train"]), self.settings.trainer.targets_per_step)

    @property
    def sketch(self) -> Sketch:
        """The model in training form, without weights."""
        settings = self.settings
        bf16 = uses_bf16_parameters(settings.model.dtype, settings.deepspeed.zero_optimization.stage)
        autocast = settings.model.dtype == "bfloat16" and not bf16
        return Sketch(self.config, settings.model, settings.peft, bf16, autocast)


@dataclass(frozen=True)
class Disk:
    """Disk space in bytes.

    checkpoint: one checkpoint.
    checkpoints: all checkpoints that exist at once.
    model: the exported model.
    free: free space on the disk of the run's folder.
    """

    checkpoint: int
    checkpoints: int
    model: int
    free: int

    @property
    def total(self) -> int:
        return self.checkpoints + self.model

    @property
    def fits(self) -> bool:
        return self.total <= self.free


@dataclass(frozen=True)
class RowPeaks:
    """Peak memory of rows.

    training: the heaviest training rows (0 without a training step).
    scoring: the heaviest rows of an evaluation.
    """

    training: RowBytes
    scoring: RowBytes


@dataclass(frozen=True)
class Plan:
    """What a job will take.

    lengths: prompt lengths by stage.
    counted: sizes of the model.
    sizes_from: where these are from, in words.
    training: work of one epoch.
    evaluations: work of one evaluation, by stage.
    validations: number of validations of the run.
    steps: updates of the run.
    epoch_steps: updates of an epoch.
    epoch_seconds: seconds of an epoch.
    validation_seconds: seconds of one validation.
    run_seconds: seconds of the run, at most: a single validation shares prefixes with the test, which isn't counted.
    rows: peak memory of rows.
    memory: memory of a rank.
    room: bytes that `memory` may take.
    disk: disk space.
    """

    lengths: dict[str, Lengths]
    counted: ModelCounts
    sizes_from: str
    training: Work
    evaluations: dict[str, Work]
    validations: int
    steps: int
    epoch_steps: int
    epoch_seconds: float
    validation_seconds: float
    run_seconds: float
    rows: RowPeaks
    memory: Memory
    room: int
    disk: Disk

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.room


def prepare(overrides: Sequence[str]) -> PlannedJob:
    """Build a job from overrides of train.py.

    Raises UserError where train.py would, except for a model's folder without weights.
    """
    config = compose_config(overrides)
    tokenizer_folder = _folder_of_tokenizer_alone(config.model)
    if tokenizer_folder is not None:
        config.model.path = None
    settings = check_config(config)
    inputs = open_inputs(settings, tokenizer_folder=tokenizer_folder)
    datasets = {name: inputs.dataset(name) for name in inputs.stages}
    sizes, sizes_from = model_config(settings.model, inputs.tokenizer, settings.prompt.max_tokens)
    return PlannedJob(settings, datasets, sizes, sizes_from)


def _folder_of_tokenizer_alone(model: Mapping[str, Any]) -> Path | None:
    """Return model.path if it holds a tokenizer and no model, while the model's name says its sizes."""
    if model.get("path") is None or model.get("name") is None:
        return None
    folder = Path(model["path"]).expanduser()
    if (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
        return None
    return folder


def plan(job: PlannedJob, machine: Machine, process: int) -> Plan:
    """Plan the job on the machine.

    process: bytes of the program itself, on a CPU.
    """
    settings, trainer = job.settings, job.settings.trainer
    counted = job.sketch.count()
    training, evaluations = count_work(job, machine.ranks)
    rows = heaviest_rows(job, training, evaluations)
    rate, sizes = machine.rate, counted.sizes
    epoch = training_flops(sizes, training.passes, settings.model.gradient_checkpointing) / rate
    seconds = {
        name: settings.evaluation.draws * forward_flops(sizes, work.passes) / rate for name, work in evaluations.items()
    }
    validations = _validations(job) if "val" in evaluations else 0
    once = seconds.get("val", 0.0)
    trained = epoch * job.steps / job.epoch_steps
    if trainer.max_minutes is not None:
        trained = min(trained, 60 * trainer.max_minutes)
    return Plan(
        lengths={name: measure_lengths(dataset) for name, dataset in job.datasets.items()},
        counted=counted,
        sizes_from=job.sizes_from,
        training=training,
        evaluations=evaluations,
        validations=validations,
        steps=job.steps,
        epoch_steps=job.epoch_steps,
        epoch_seconds=epoch,
        validation_seconds=once,
        run_seconds=trained + validations * once + seconds["test"],
        rows=rows,
        memory=rank_memory(job, counted, rows, machine, process),
        room=machine.memory if machine.cuda else machine.memory // machine.ranks,
        disk=_disk(job, counted),
    )


def count_work(job: PlannedJob, ranks: int) -> tuple[Work, dict[str, Work]]:
    """Count the work of one epoch of training, and of each evaluation by stage."""
    steps, datasets = job.settings.trainer.steps(), job.datasets
    training = training_work(datasets["train"], job.settings.packing, steps, ranks, job.steps)
    others = {name: dataset for name, dataset in datasets.items() if name != "train"}
    return training, {name: scoring_work(dataset, job.settings.packing, ranks) for name, dataset in others.items()}


def heaviest_rows(job: PlannedJob, training: Work, evaluations: dict[str, Work]) -> RowPeaks:
    """Measure the heaviest rows; each part is the maximum over these rows."""
    scored = [row for work in evaluations.values() for row in work.heaviest]
    most = {id(row): row for row in (max(scored, key=_tokens), max(scored, key=_logits))}
    return RowPeaks(
        largest([job.sketch.training(row) for row in training.heaviest] if job.steps else []),
        largest([job.sketch.scoring(row) for row in most.values()]),
    )


def _tokens(row: Row) -> int:
    return row.input_ids.numel()


def _logits(row: Row) -> int:
    return len(row.input_ids) * len(row.keep)


def rank_memory(job: PlannedJob, counted: ModelCounts, rows: RowPeaks, machine: Machine, process: int) -> Memory:
    """Estimate the memory of a rank.

    process: bytes of the program itself, on a CPU.
    """
    settings = job.settings
    static = static_memory(
        counted,
        settings.deepspeed,
        settings.model.dtype,
        settings.trainer.optimizer,
        machine.ranks,
        machine.cuda,
    )
    return replace(
        static,
        activations=rows.training.activations,
        logits=rows.training.logits,
        scoring=rows.scoring.total,
        process=process,
    )


def _validations(job: PlannedJob) -> int:
    every = job.settings.trainer.validate_every_steps or job.epoch_steps
    return max(1, math.ceil(job.steps / every))


def _disk(job: PlannedJob, counted: ModelCounts) -> Disk:
    settings = job.settings
    size = 2 if uses_bf16_parameters(settings.model.dtype, settings.deepspeed.zero_optimization.stage) else 4
    stored = counted.trained if counted.quantised else counted.parameters
    one = checkpoint_bytes(stored, counted.trained, size, STATE_BYTES[settings.trainer.optimizer])
    # The newest ones, the best model's, and the one that is being written.
    at_once = min(settings.trainer.checkpoint.keep + 2, _validations(job) + 1)
    adapters_alone = isinstance(settings.peft, Lora) and not settings.peft.merge
    exported = counted.trained if adapters_alone else counted.parameters
    folder = Path(settings.output_dir or "outputs").absolute()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return Disk(one, at_once * one, exported * size, shutil.disk_usage(there).free)


def process_bytes() -> int:
    """Return the resident memory of this process, which has loaded the modules and data that a run loads."""
    import deepspeed  # noqa: F401
    import wandb  # noqa: F401

    import mlens.training.finish  # noqa: F401

    return psutil.Process().memory_info().rss
