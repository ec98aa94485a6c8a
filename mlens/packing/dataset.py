"""The dataset: target i of a stage -> its prompt and answer as tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.history.budget import Budget
from mlens.history.none import NoHistory
from mlens.history.selection import Strategy
from mlens.prompt.renderer import Renderer


@dataclass(frozen=True)
class Sample:
    """One target. target, history [h]: ratings of the table; prompt [p], answer [a]: token ids, the answer with its
    end token; dropped: how many ratings the strategy chose that the budget cut."""

    target: int
    history: np.ndarray
    dropped: int
    prompt: np.ndarray
    answer: np.ndarray


class RatingDataset(Dataset[Sample]):
    """The targets of `stage`, each with the history that `strategy` chooses for it under (seed, epoch).

    `dataset[i]` only joins pieces: nothing is tokenised here (unless the renderer says that pieces don't join).
    Raises UserError where a target doesn't fit into prompt.max_tokens alone.
    """

    def __init__(
        self, table: RatingTable, stage: Stage, strategy: Strategy, renderer: Renderer, seed: int, epoch: int = 0
    ) -> None:
        self.table, self.stage, self.strategy, self.renderer = table, stage, strategy, renderer
        self.seed, self.epoch = seed, epoch
        self.budget: Budget = renderer.budget(stage)
        self._draw()

    def _draw(self) -> None:
        strategy = self.strategy if self.renderer.ablation.history else NoHistory()
        trim = self.renderer.style.trim
        self.selection = strategy.select(self.table, self.stage, self.budget, trim, self.seed, self.epoch)

    def at(self, epoch: int) -> RatingDataset:
        """The same targets with the histories of another epoch (in evaluation: of another draw)."""
        other = copy.copy(self)
        other.epoch = epoch
        other._draw()
        return other

    def __len__(self) -> int:
        return len(self.stage)

    def __getitem__(self, i: int) -> Sample:
        target = int(self.stage.targets[i])
        history = self.history(i)
        wanted = int(self.selection.wanted(np.array([i]))[0])
        prompt = self.renderer.tokens(target, history)
        return Sample(target, history, wanted - len(history), prompt, self.renderer.answer(target))

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def history(self, i: int) -> np.ndarray:
        """[h] the chosen ratings of target i, as indices into the table, in time order."""
        chosen = self.stage.visible_to(i)[self.selection.chosen(i)]
        return self.renderer.fitting(int(self.stage.targets[i]), chosen)

    def text(self, i: int) -> str:
        """The prompt of target i as it reads."""
        return self.renderer.text(int(self.stage.targets[i]), self.history(i))

    def prompt_lengths(self, targets: np.ndarray) -> np.ndarray:
        """[n] tokens of the prompts of these targets, without their answers."""
        renderer = self.renderer
        if not renderer.joins or renderer.context is not None:
            return np.array([len(self[i].prompt) for i in targets], dtype=np.int64)
        return renderer.bare_lengths(self.stage.targets[targets]) + self.selection.sections(targets)
