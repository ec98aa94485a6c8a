"""Runs side by side on the same targets; runs with other targets aren't paired, and it is said in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.comparison.runs import Arm, Run

TARGET = ("user", "movie", "t", "rating")
PER_RUN = ("expected", "history_used", "history_dropped", "history_hash")


@dataclass(frozen=True)
class Paired:
    """The test targets that all of `arms` predicted, and each run's columns on them.

    targets [t]: user, movie, t, rating; user [t]: a number for each user; rating [t];
    expected, used, dropped [runs, t]; history [runs, t]: equal where two runs showed the same ratings;
    runs, arm [runs]: the runs in order, and which arm each belongs to.
    """

    arms: tuple[Arm, ...]
    targets: pl.DataFrame
    user: np.ndarray
    expected: np.ndarray
    used: np.ndarray
    dropped: np.ndarray
    history: np.ndarray

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms for run in arm.runs]

    @property
    def arm(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.arms)), [len(arm.runs) for arm in self.arms])

    @property
    def rating(self) -> np.ndarray:
        return self.targets["rating"].to_numpy()

    def first_run(self, arm: int) -> int:
        """The number of an arm's first run; which history is shown differs between its runs in training only."""
        return int(np.flatnonzero(self.arm == arm)[0])

    def same_history(self, one: int, other: int) -> float:
        """The share of targets for which two arms showed the same ratings."""
        return float(np.mean(self.history[self.first_run(one)] == self.history[self.first_run(other)]))

    def untrimmed(self, one: int, other: int) -> np.ndarray:
        """[t] bool: the targets at which neither arm's history was cut by the budget."""
        return (self.dropped[self.first_run(one)] == 0) & (self.dropped[self.first_run(other)] == 0)


def pair(arms: Sequence[Arm]) -> tuple[Paired, list[str]]:
    """The arms that were tested on the first arm's targets, side by side; and for each other arm a line that says why
    it isn't among them."""
    kept, refused, columns = [], [], []
    targets: pl.DataFrame | None = None
    first = arms[0].runs[0]
    for arm in arms:
        own = []
        for run in arm.runs:
            frame = run.predictions("test", (*TARGET, *PER_RUN)).sort("user", "t")
            if targets is None:
                targets = frame.select(TARGET)
            if not frame.select(TARGET).equals(targets):
                refused.append(f"{arm.label} ({run.name}): {_difference(first, targets, run, frame)}")
                break
            own.append(frame.select(PER_RUN))
        else:
            kept.append(arm)
            columns += own
    assert targets is not None
    hashes = [frame["history_hash"].hash().to_numpy() for frame in columns]
    return (
        Paired(
            tuple(kept),
            targets,
            np.unique(targets["user"].to_numpy(), return_inverse=True)[1],
            np.stack([frame["expected"].to_numpy() for frame in columns]),
            np.stack([frame["history_used"].to_numpy() for frame in columns]),
            np.stack([frame["history_dropped"].to_numpy() for frame in columns]),
            np.stack(hashes),
        ),
        refused,
    )


def _difference(first: Run, targets: pl.DataFrame, run: Run, frame: pl.DataFrame) -> str:
    """In what two runs' test targets differ."""
    keys = list(TARGET[:3])
    targets, frame = (own.with_columns(pl.col(keys).cast(pl.String)) for own in (targets, frame))
    only_first = len(targets.join(frame, on=keys, how="anti"))
    only_own = len(frame.join(targets, on=keys, how="anti"))
    said = f"its targets aren't those of {first.name}: {only_own:,} are its alone, {only_first:,} the other's alone"
    if not only_own and not only_first:
        said = f"the ratings of its targets aren't those of {first.name}"
    settings = [
        f"{key}: {run.settings.get(key)} against {first.settings.get(key)}"
        for key in sorted({*run.settings, *first.settings})
        if key.startswith(("data.", "split.", "evaluation.")) and run.settings.get(key) != first.settings.get(key)
    ]
    return f"{said} ({'; '.join(settings) or 'the data differ'})"
