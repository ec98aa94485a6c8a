"""Training on packed rows: what train.py does, without its evaluations and files."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch
from hydra.utils import instantiate
from peers import Trained
from setting import Setting
from torch.utils.data import DataLoader

from mlens.engine.engine import Engine
from mlens.engine.ranks import join_ranks
from mlens.packing.dataset import RatingDataset
from mlens.packing.plan import Collator, PlannedRow, RowLoader, answer_lengths, plan_epoch
from mlens.packing.row import Row

# Rows before the clock starts: first calls allocate, and the loader's worker has to start.
WARM_UP = 2
# Of an epoch, from which rows are drawn.
STEPS = 16


def make_engine(setting: Setting) -> Engine:
    """The engine as train.py makes it, with a learning rate of 0: every step has the weights that it began with.

    To be called after all peers have run: they would take the variables of a process group for those of a launcher.
    """
    settings = setting.inputs.settings
    engine = instantiate(
        setting.inputs.settings.config["deepspeed"],
        setting.model("rows"),
        join_ranks(),
        settings.trainer.optimizer_settings(),
        settings.model.dtype,
        _convert_="all",
    )
    engine.set_learning_rate(0.0)
    return engine


def train(setting: Setting, engine: Engine, seconds: float, loss: float) -> Trained:
    """Rows of an epoch's first steps, until the first after so many seconds; `loss` is passed on."""
    targets = tokens = useful = 0
    began = done = 0.0
    for i, (planned, row) in enumerate(load_rows(setting, drawn_rows(setting))):
        engine.backward(row, planned.labels, planned.last)
        if i < WARM_UP:
            began = time.perf_counter()
            continue
        done = time.perf_counter() - began
        targets, tokens, useful = targets + len(planned.targets), tokens + row.input_ids.numel(), useful + row.useful
        if done >= seconds:
            break
    return Trained(targets, done, loss, tokens, useful / tokens, batch=1)


def mean_loss(engine: Engine, rows: list[Row]) -> float:
    """The mean loss (nats) over the answer tokens of these rows, as one step trains on them."""
    labels = sum(len(row.label) for row in rows)
    return sum(float(engine.backward(row, labels, last=row is rows[-1])) for row in rows) / labels


def rows_of(dataset: RatingDataset, collator: Collator, targets: np.ndarray) -> list[Row]:
    """The rows that train on these targets [n] (ascending) together."""
    (packed,) = collator.pack(dataset.shapes(targets, answer_tokens=_read_answers(dataset, targets)), 1)
    return [collator.train_row([dataset.prefix_group(targets[group]) for group in row]) for row in packed]


def drawn_rows(setting: Setting) -> list[PlannedRow]:
    """The rows of an epoch's first steps in a random order: within a step the longest come first."""
    rows = list(itertools.takewhile(lambda planned: planned.step < STEPS, _planned(setting)))
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def load_rows(setting: Setting, planned: list[PlannedRow]) -> Iterator[tuple[PlannedRow, Row]]:
    """These rows, built ahead by the loader's workers."""
    workers = setting.inputs.settings.trainer.loader_workers
    return iter(
        DataLoader(
            RowLoader(setting.datasets["train"], setting.collator.train_row),
            sampler=planned,
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if workers else None,
        )
    )


def epoch_tokens(setting: Setting) -> tuple[int, int]:
    """How many tokens a training epoch has: one sample at a time, and in its rows."""
    dataset, alone, packed = setting.datasets["train"], 0, 0
    for planned in _planned(setting):
        targets = np.concatenate(planned.groups)
        shapes = dataset.shapes(targets, answer_tokens=_read_answers(dataset, targets))
        begins = np.cumsum([0, *map(len, planned.groups[:-1])])
        alone += int(shapes.prompts.sum())
        packed += int(np.maximum.reduceat(shapes.prefix, begins).sum() + shapes.suffix.sum())
    return alone, packed


def _planned(setting: Setting) -> Iterator[PlannedRow]:
    dataset = setting.datasets["train"]
    return plan_epoch(
        dataset, setting.collator, setting.inputs.settings.trainer.steps(), dataset.seed, 0, rank=0, world=1
    )


def _read_answers(dataset: RatingDataset, targets: np.ndarray) -> np.ndarray:
    """[n] tokens of the answers that a row reads: all but the end token."""
    return answer_lengths(dataset)[dataset.table.rating_index[dataset.stage.targets[targets]]] - 1
