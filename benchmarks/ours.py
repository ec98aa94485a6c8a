"""Training on packed rows as train.py does, without its evaluations and files."""

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
from mlens.packing.epoch_plan import Collator, PlannedRow, RowLoader, answer_lengths, plan_epoch
from mlens.packing.row import Row

# Rows before timing: first calls allocate, and the loader's worker has to start.
WARM_UP = 2
# The first steps of an epoch, from which rows are drawn.
STEPS = 16


def make_engine(setting: Setting) -> Engine:
    """Make the engine of train.py, with a learning rate of 0 so that all steps have the same weights.

    Call it after all peers have run: they would mistake the environment variables of its process group for those of a
    launcher.
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
    """Train on rows of an epoch's first steps for at least `seconds`; `loss` is passed on."""
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
    """Return the mean loss (nats) over the answer tokens of these rows, trained on as one step."""
    labels = sum(len(row.label) for row in rows)
    return sum(float(engine.backward(row, labels, last=row is rows[-1])) for row in rows) / labels


def rows_of(dataset: RatingDataset, collator: Collator, targets: np.ndarray) -> list[Row]:
    """Build the rows of one step on these targets [n], ascending."""
    (packed,) = collator.pack(dataset.shapes(targets, answer_tokens=_answer_tokens(dataset, targets)), 1)
    return [collator.train_row([dataset.prefix_group(targets[group]) for group in row]) for row in packed]


def drawn_rows(setting: Setting) -> list[PlannedRow]:
    """Return the rows of an epoch's first steps in a random order: within a step they are sorted by cost."""
    rows = list(itertools.takewhile(lambda planned: planned.step < STEPS, _planned(setting)))
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def load_rows(setting: Setting, planned: list[PlannedRow]) -> Iterator[tuple[PlannedRow, Row]]:
    """Yield these rows, which the loader's workers build in advance."""
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
    """Return the tokens of a training epoch, one sample at a time and in its rows."""
    dataset, separate, packed = setting.datasets["train"], 0, 0
    for planned in _planned(setting):
        targets = np.concatenate(planned.groups)
        shapes = dataset.shapes(targets, answer_tokens=_answer_tokens(dataset, targets))
        starts = np.cumsum([0, *map(len, planned.groups[:-1])])
        separate += int(shapes.prompts.sum())
        packed += int(np.maximum.reduceat(shapes.prefix, starts).sum() + shapes.suffix.sum())
    return separate, packed


def _planned(setting: Setting) -> Iterator[PlannedRow]:
    dataset = setting.datasets["train"]
    return plan_epoch(
        dataset, setting.collator, setting.inputs.settings.trainer.steps(), dataset.seed, 0, rank=0, world=1
    )


def _answer_tokens(dataset: RatingDataset, targets: np.ndarray) -> np.ndarray:
    """Return the tokens of each target's answer that a row reads, all but the end token: [n]."""
    return answer_lengths(dataset)[dataset.table.rating_index[dataset.stage.targets[targets]]] - 1
