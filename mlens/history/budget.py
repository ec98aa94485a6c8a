"""What a history may cost in tokens, and the section's one price formula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.data.stage import Stage

Places = np.ndarray | int


@dataclass(frozen=True)
class Budget:
    """Token prices of one stage's prompts, in the order of `Stage.visible` and `Stage.targets`.

    line_ends [v + 1]: running total of the tokens of the visible ratings' lines, without their numbers;
    number_ends [most + 1]: running total of the tokens of the line numbers 1, 2, …;
    header: tokens of the section's heading, paid once where the history isn't empty;
    room [t]: what the whole section (heading, numbers, lines) may take beside task, target and answer;
    room_beside_context [t]: the same beside the context too; a strided window that is cut takes at most half of it.

    Columns are int32 where their numbers, and a sum of both totals, fit into it, else int64.
    """

    line_ends: np.ndarray
    number_ends: np.ndarray
    header: int
    room: np.ndarray
    room_beside_context: np.ndarray

    def lines(self, stage: Stage, t: int) -> np.ndarray:
        """[c] tokens of each line visible to target t, without its number."""
        start = stage.visible_offsets[stage.user[t]]
        return np.diff(self.line_ends[start : start + stage.count[t] + 1])

    def section(self, base: Places, start: Places, stop: Places) -> np.ndarray:
        """Tokens of the section that shows lines start:stop of the lists that begin at `base` in `Stage.visible`."""
        lines = self.line_ends[base + stop] - self.line_ends[base + start]
        return np.where(stop > start, self.header + lines + self.number_ends[stop - start], 0)

    def first_fitting(self, base: np.ndarray, start: np.ndarray, stop: np.ndarray, room: np.ndarray) -> np.ndarray:
        """The smallest start (not below `start`) of a window ending at `stop` whose section takes at most `room`."""
        low, high = np.minimum(start, stop), stop.copy()  # the empty window at `stop` always fits
        while (low < high).any():
            middle = (low + high) // 2
            fits = self.section(base, middle, stop) <= room
            low, high = np.where(fits, low, np.minimum(middle + 1, high)), np.where(fits, middle, high)
        return low
