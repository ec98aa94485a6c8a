"""All there is to see of one target, made from the objects that a run with the same config works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from mlens.config import Settings, check
from mlens.data.load import load_table
from mlens.data.split import TRAIN, assign_roles
from mlens.data.stage import Stage, make_stages
from mlens.data.table import RatingTable
from mlens.model.load import load_exported_tokenizer, load_tokenizer
from mlens.packing.dataset import RatingDataset
from mlens.prompt.renderer import Renderer, make_renderer
from mlens.show.fates import Fate, fates_of
from mlens.show.find import Asked, find_target, why_role
from mlens.show.landing import Landing, land_in_evaluation, land_in_training
from mlens.show.pieces import Piece, prompt_pieces
from mlens.show.prediction import Prediction, read_prediction
from mlens.training.folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inside:
    """A run's objects but for the model. roles [n]: of every rating of the table; run: the folder of the finished run
    whose config this is, or None."""

    config: DictConfig
    settings: Settings
    table: RatingTable
    roles: np.ndarray
    stages: Mapping[str, Stage]
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    run: Path | None

    def dataset(self, stage: str) -> RatingDataset:
        """Of the stage's targets, in the first epoch or of the evaluation's first draw."""
        seed, strategy = self.settings.seed_of(stage), self.settings.history
        return instantiate(self.config.dataset, self.table, self.stages[stage], strategy, self.renderer, seed)


@dataclass(frozen=True)
class Look:
    """Of target i of `dataset`: why its rating is of this stage; what became of each of its user's ratings; the prompt
    as it reads, and piece by piece; where it lands; and what the run predicted (None without a run, and in
    training)."""

    dataset: RatingDataset
    i: int
    why: str
    fates: list[Fate]
    text: str
    pieces: list[Piece]
    landing: Landing
    prediction: Prediction | None

    @property
    def target(self) -> int:
        """As an index into the table."""
        return int(self.dataset.stage.targets[self.i])


def open_inside(config: DictConfig, run: Path | None = None) -> Inside:
    """Check the config and make what train.py makes of it before the model. Raises UserError as it does."""
    settings = check(config)
    table = load_table(settings.data)
    roles = assign_roles(table, settings.split)
    stages = make_stages(table, roles, settings.split, settings.evaluation.max_users, settings.evaluation.seed)
    if run is None:
        tokenizer = load_tokenizer(settings.model, table, settings.prompt, settings.ablation)
    else:
        tokenizer = load_exported_tokenizer(RunFolder(run).model)
    renderer = make_renderer(table, settings.prompt, settings.ablation, tokenizer)
    return Inside(config, settings, table, roles, stages, tokenizer, renderer, run)


def look_at(inside: Inside, asked: Asked) -> Look:
    """Raises UserError where there is no such target, or the run has no prediction for it."""
    settings, table, roles = inside.settings, inside.table, inside.roles
    name, i = find_target(table, roles, settings.split, inside.stages, asked)
    dataset = inside.dataset(name)
    target = int(dataset.stage.targets[i])
    training = roles[target] == TRAIN
    if training:
        landing = land_in_training(dataset, settings.packing, settings.trainer.steps(), i)
    else:
        landing = land_in_evaluation(dataset, settings.packing, i)
    return Look(
        dataset=dataset,
        i=i,
        why=why_role(table, roles, settings.split, target),
        fates=fates_of(dataset, roles, settings.split, i),
        text=dataset.text(i),
        pieces=prompt_pieces(dataset, inside.tokenizer, i),
        landing=landing,
        prediction=None if inside.run is None or training else read_prediction(inside.run, dataset, i),
    )
