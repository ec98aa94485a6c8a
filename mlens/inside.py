"""What train.py makes of a config before it makes the model: for the commands and benchmarks beside it."""

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
from mlens.data.split import assign_roles
from mlens.data.stage import Stage, make_stages
from mlens.data.table import RatingTable
from mlens.model.load import load_exported_tokenizer, load_tokenizer
from mlens.packing.dataset import RatingDataset
from mlens.prompt.frame import ChatFrame
from mlens.prompt.renderer import Renderer, make_renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inside:
    """A run's objects but for the model. roles [n]: of every rating of the table."""

    config: DictConfig
    settings: Settings
    table: RatingTable
    roles: np.ndarray
    stages: Mapping[str, Stage]
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer

    def dataset(self, stage: str) -> RatingDataset:
        """Of the stage's targets, in the first epoch or of the evaluation's first draw."""
        seed, strategy = self.settings.seed_of(stage), self.settings.history
        return instantiate(self.config.dataset, self.table, self.stages[stage], strategy, self.renderer, seed)


def open_inside(
    config: DictConfig, tokenizer_folder: Path | None = None, chat_frame: ChatFrame | None = None
) -> Inside:
    """Check the config and make what train.py makes of it before the model, with the tokenizer that was saved in
    `tokenizer_folder` and the chat frame that a run keeps, where they are given. Raises UserError as train.py does."""
    settings = check(config)
    table = load_table(settings.data)
    roles = assign_roles(table, settings.split)
    stages = make_stages(table, roles, settings.split, settings.evaluation.max_users, settings.evaluation.seed)
    if tokenizer_folder is None:
        tokenizer = load_tokenizer(settings.model, table, settings.prompt, settings.ablation)
    else:
        tokenizer = load_exported_tokenizer(tokenizer_folder)
    renderer = make_renderer(table, settings.prompt, settings.ablation, tokenizer, chat_frame)
    return Inside(config, settings, table, roles, stages, tokenizer, renderer)
