"""Describe a run before it starts: plan.json, the detailed log, and the banner on the terminal."""

from __future__ import annotations

from dataclasses import asdict

from transformers import PreTrainedTokenizerBase

from mlens.config import Settings
from mlens.files import write_json, write_text
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import steps_per_epoch
from mlens.packing.lengths import measure_lengths
from mlens.training.detailed_log import detailed_log, length_warnings, sharing_notes
from mlens.training.folder import RunFolder
from mlens.training.journal import Journal
from mlens.training.loop import total_steps


def describe_run(
    datasets: dict[str, RatingDataset],
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    folder: RunFolder,
    journal: Journal,
) -> None:
    """Measure the prompts of every stage, write plan.json and the detailed log, and log a short description."""
    if not journal.enabled:
        return
    train = datasets["train"]
    lengths = {name: measure_lengths(dataset) for name, dataset in datasets.items()}
    steps = total_steps(settings.trainer, len(train))
    per_epoch = steps_per_epoch(len(train), settings.trainer.targets_per_step)
    stages = {name: asdict(stage) for name, stage in lengths.items()}
    minutes = settings.trainer.max_minutes
    warnings = [
        *length_warnings(lengths, train),
        *(f"NOTE: {line}" for line in sharing_notes(train, settings.trainer.steps())),
    ]
    plan = {
        "stages": stages,
        "steps": steps,
        "steps_per_epoch": per_epoch,
        "max_minutes": minutes,
        "warnings": warnings,
        "data_notes": train.table.notes,
    }
    write_json(folder.plan, plan)
    write_text(folder.detailed_log, "\n".join(detailed_log(lengths, train, tokenizer, settings.trainer.loss)))
    table = train.table
    if table.made_up:
        journal.log("The data are made up (data=sample): results show how the program works, not how people rate.")
    journal.log(
        f"{len(table):,} ratings of {len(table.users):,} users; {type(settings.history).__name__}; "
        + ", ".join(f"{len(dataset):,} {name} targets" for name, dataset in datasets.items())
    )
    for note in table.notes:
        journal.log(note)
    journal.log(
        f"prompts of {lengths['train'].tokens_median} tokens (median; 99% {lengths['train'].tokens_p99}); "
        f"{lengths['train'].trimmed:.0%} trimmed; {steps:,} steps, {per_epoch:,} an epoch"
        + ("" if minutes is None else f", limited to {minutes:g} minutes")
    )
    for line in warnings:
        journal.log(line)
    journal.log(f"run folder: {folder.path}")
