"""Build the inputs of a run from its settings, in one place for train.py, the commands, benchmarks and tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hydra.utils import instantiate

from mlens.config import Settings
from mlens.data.dates import require_dates
from mlens.data.rating_table import RatingTable
from mlens.data.sources import load_table
from mlens.data.split import TRAIN, assign_roles
from mlens.data.stage import Stage, make_stages
from mlens.engine.ranks import Ranks
from mlens.history.strategy import Strategy, fit_strategy
from mlens.identity import Identity, identify
from mlens.model.exported_tokenizer import load_exported_tokenizer
from mlens.packing.dataset import RatingDataset
from mlens.prompt.renderer import Renderer, make_renderer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run, without the model.

    settings: the checked config.
    table: the ratings.
    roles: [ratings] int8, the role of each rating: training, validation or test.
    stages: the targets of train, val and test; a stage without targets is left out, except train.
    tokenizer: the model's.
    identity: what identifies the run besides its config; None where nothing is trained.
    """

    settings: Settings
    table: RatingTable
    roles: np.ndarray
    stages: dict[str, Stage]
    tokenizer: PreTrainedTokenizerBase
    identity: Identity | None = None

    @cached_property
    def renderer(self) -> Renderer:
        """The renderer of prompts about this table, created on first use."""
        frame = None if self.identity is None else self.identity.chat_frame
        return make_renderer(self.table, self.settings.prompt, self.settings.ablation, self.tokenizer, frame)

    @cached_property
    def strategy(self) -> Strategy:
        """The history strategy, fitted on the training ratings on first use if it has to be."""
        return fit_strategy(self.settings.history, self.table, self.roles == TRAIN)

    @property
    def fingerprint(self) -> str:
        """A hash of all that the result of the run depends on."""
        assert self.identity is not None
        return self.identity.fingerprint(self.settings)

    def model(self, ranks: Ranks, weights: Path | None = None) -> PreTrainedModel | PeftModel:
        """Build the model to be trained, with parameters placed as the engine needs them.

        ranks: the processes that train it
        weights: the folder of the initial weights; None: those that the settings name
        """
        # Imports transformers' models, which takes seconds; inputs alone don't need them.
        from mlens.engine.engine import param_placement
        from mlens.model.load import build_model

        settings = self.settings
        placement = param_placement(settings.deepspeed, settings.model.dtype, ranks)
        longest, seed = settings.prompt.max_tokens, settings.seed
        return build_model(settings.model, settings.peft, self.tokenizer, longest, seed, placement, weights)

    def dataset(self, stage: str, chosen: np.ndarray | None = None) -> RatingDataset:
        """Return the dataset of a stage, with the histories of the first epoch or of the evaluation's first draw.

        chosen: keep only these targets of the stage (indices, ascending); None: all
        """
        settings, targets = self.settings, self.stages[stage]
        node, seed = settings.config["dataset"], settings.seed_of(stage)
        kept = targets if chosen is None else targets.keep(chosen)
        return instantiate(node, self.table, kept, self.strategy, self.renderer, seed)


def open_inputs(
    settings: Settings,
    ranks: Ranks | None = None,
    tokenizer_folder: Path | None = None,
    identity: Identity | None = None,
    table: RatingTable | None = None,
) -> RunInputs:
    """Read the data, split them, and load the tokenizer.

    ranks: the processes that call this together, of which the main one fills the caches first; None: this process
    tokenizer_folder: where a run has saved its tokenizer; None: the tokenizer that the settings name
    identity: of a finished run; None: no run
    table: the ratings; None: read from the data source that the settings name

    Raises UserError where the data, the split or the tokenizer can't be used, or prompt.dates=true has no dates.
    """
    main_first = (lambda make: make()) if ranks is None else ranks.main_first
    if table is None:
        table = main_first(lambda: load_table(settings.data))
    if settings.prompt.dates:
        require_dates(table)
    roles = assign_roles(table, settings.split)
    stages = make_stages(table, roles, settings.split, settings.evaluation.max_users, settings.evaluation.seed)
    if tokenizer_folder is None:
        from mlens.model.load import load_tokenizer

        tokenizer = main_first(lambda: load_tokenizer(settings.model, table, settings.prompt, settings.ablation))
    else:
        tokenizer = main_first(lambda: load_exported_tokenizer(tokenizer_folder))
    return RunInputs(settings, table, roles, stages, tokenizer, identity)


def build_inputs(settings: Settings, ranks: Ranks, resumed: Path | None = None) -> RunInputs:
    """Build the inputs of a run that is trained, with its identity.

    resumed: the folder of the run that is resumed; None for a new run

    Raises UserError as `open_inputs` does, and where the data or the model aren't those of the resumed run.
    """
    inputs = open_inputs(settings, ranks)
    data = inputs.table.content_hash()
    identity = ranks.on_main(lambda: identify(settings, data, lambda: inputs.tokenizer, resumed))
    return replace(inputs, identity=identity)
