"""A strategy that is asked for each target by itself, as if its user had no other one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.history.budget import Budget
from mlens.history.selection import Strategy


@dataclass(frozen=True)
class EachAlone:
    """What `strategy` shows to a user's only target. Where a history is cut, a strategy may go on from the user's
    targets before (prompt.trim=strided does); here these are other movies of a list, whose order must not matter.
    `progress` is told of each target that a history was chosen for."""

    strategy: Strategy
    progress: Callable[[int], None] = lambda _: None

    def select(self, table: RatingTable, stage: Stage, budget: Budget, trim: str, seed: int, epoch: int) -> ChosenAlone:
        number = np.zeros(len(stage), dtype=np.int64)
        wanted, sections = np.zeros_like(number), np.zeros_like(number)
        histories: list[np.ndarray] = []
        known: dict[tuple[int, bytes], int] = {}
        only = np.zeros(1, dtype=np.int64)
        for t in range(len(stage)):
            here = slice(t, t + 1)
            own = replace(budget, room=budget.room[here], room_beside_context=budget.room_beside_context[here])
            selection = self.strategy.select(table, stage.keep(np.array([t])), own, trim, seed, epoch)
            places = selection.chosen(0)
            number[t] = known.setdefault((int(stage.user[t]), places.tobytes()), len(histories))
            if number[t] == len(histories):
                histories.append(places)
            wanted[t], sections[t] = selection.wanted(only)[0], selection.sections(only)[0]
            self.progress(1)
        return ChosenAlone(histories, number, wanted, sections)


@dataclass(frozen=True)
class ChosenAlone:
    """histories: the different ones; number [t]: which of them target t sees. Targets share one trunk where a user's
    history is the same to both."""

    histories: list[np.ndarray]
    number: np.ndarray
    wanted_: np.ndarray
    sections_: np.ndarray

    def chosen(self, t: int) -> np.ndarray:
        return self.histories[self.number[t]]

    def wanted(self, targets: np.ndarray) -> np.ndarray:
        return self.wanted_[targets]

    def sections(self, targets: np.ndarray) -> np.ndarray:
        return self.sections_[targets]

    def trunks(self, targets: np.ndarray) -> np.ndarray:
        return self.number[targets]
