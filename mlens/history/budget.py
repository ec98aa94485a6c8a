"""Token prices of history sections, and the budget for each target's section."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.stage import Stage


@dataclass(frozen=True)
class Budget:
    """Token prices and budgets of the history sections of one stage, ordered as `Stage.visible` and `Stage.targets`.

    line_ends [v + 1]: cumulative tokens of the visible ratings' lines, without their numbers.
    number_ends [max_lines + 1]: cumulative tokens of the line numbers 1, 2, ….
    header: tokens of the section's heading, which an empty history doesn't have.
    room [t]: the most tokens of the section (heading, numbers, lines), given task, target and answer.
    room_after_context [t]: the same given the context too; a strided window that is cut takes at most half of it.

    Columns are int32 where their values, and the sum of both totals, fit, else int64.
    """

    line_ends: np.ndarray
    number_ends: np.ndarray
    header: int
    room: np.ndarray
    room_after_context: np.ndarray

    def lines(self, stage: Stage, t: int) -> np.ndarray:
        """Return the tokens of each line visible to target t, without its number: [c]."""
        start = stage.visible_offsets[stage.user[t]]
        return np.diff(self.line_ends[start : start + stage.count[t] + 1])

    def section(self, base: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Return the tokens of a section with lines start:stop of the list that begins at `base` in `Stage.visible`."""
        lines = self.line_ends[base + stop] - self.line_ends[base + start]
        return np.where(stop > start, self.header + lines + self.number_ends[stop - start], 0)

    def first_fitting(self, base: np.ndarray, start: np.ndarray, stop: np.ndarray, room: np.ndarray) -> np.ndarray:
        """Return the smallest start, at least `start`, of a window up to `stop` whose section fits in `room` tokens."""
        low, high = np.minimum(start, stop), stop.copy()  # the empty window at `stop` always fits
        while (low < high).any():
            middle = (low + high) // 2
            fits = self.section(base, middle, stop) <= room
            low, high = np.where(fits, low, np.minimum(middle + 1, high)), np.where(fits, middle, high)
        return low
