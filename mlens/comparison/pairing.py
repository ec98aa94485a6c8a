"""Runs side by side on the same targets; runs with other targets aren't paired, and it is said in what they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.comparison.runs import Arm, Run
from mlens.errors import UserError
from mlens.evaluation.metrics import mae, rmse

TARGET = ("user", "movie", "t", "rating")
# Relative: sums in another order, on another machine, differ by less.
ROUNDING = 1e-9
PER_RUN = ("expected", "history_used", "history_dropped", "history_hash")


@dataclass(frozen=True)
class Paired:
    """The test targets that all of `arms` predicted, and each run's columns on them.

    targets [t]: user, movie, t, rating; user [t]: a number for each user; rating [t];
    expected, used, dropped [draws, t]: of each draw of histories of each run; history [draws, t]: equal where the same
    ratings were shown; run [draws]: which run each draw belongs to;
    runs, arm [runs]: the runs in order, and which arm each belongs to.
    """

    arms: tuple[Arm, ...]
    targets: pl.DataFrame
    user: np.ndarray
    expected: np.ndarray
    used: np.ndarray
    dropped: np.ndarray
    history: np.ndarray
    run: np.ndarray

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms for run in arm.runs]

    @property
    def arm(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.arms)), [len(arm.runs) for arm in self.arms])

    @property
    def rating(self) -> np.ndarray:
        return self.targets["rating"].to_numpy()

    def draws_of(self, arm: int) -> np.ndarray:
        """The draws of an arm's first run; which history is shown differs between its runs in training only."""
        return np.flatnonzero(self.run == np.flatnonzero(self.arm == arm)[0])

    def same_history(self, one: int, other: int) -> float:
        """The share of targets for which two arms showed the same ratings: the mean over as many draws as both have."""
        pairs = zip(self.draws_of(one), self.draws_of(other), strict=False)
        return float(np.mean([np.mean(self.history[i] == self.history[j]) for i, j in pairs]))

    def trimmed(self, arm: int) -> np.ndarray:
        """[t] bool: the targets at which the budget cut an arm's history, in one draw at least."""
        return (self.dropped[self.draws_of(arm)] > 0).any(axis=0)

    def over_draws(self, values: np.ndarray) -> np.ndarray:
        """[runs, ..] the mean over each run's draws of values [draws, ..]."""
        return np.stack([values[self.run == run].mean(axis=0) for run in range(len(self.arm))])


def pair(arms: Sequence[Arm]) -> tuple[Paired, list[str]]:
    """The arms that were tested on the first arm's targets, side by side; and for each other arm a line that says why
    it isn't among them. Raises UserError where a run's predictions aren't those that its summary is of."""
    kept, refused, columns = [], [], []
    targets: pl.DataFrame | None = None
    first = arms[0].runs[0]
    for arm in arms:
        own = []
        for run in arm.runs:
            drawn = [frame.sort("user", "t") for frame in run.predictions("test", (*TARGET, *PER_RUN))]
            if targets is None:
                targets = drawn[0].select(TARGET)
            other = next((frame for frame in drawn if not frame.select(TARGET).equals(targets)), None)
            if other is not None:
                refused.append(f"{arm.label} ({run.name}): {_difference(first, targets, run, other)}")
                break
            _require_summarised(run, drawn)
            own.append([frame.select(PER_RUN) for frame in drawn])
        else:
            kept.append(arm)
            columns += own
    assert targets is not None
    runs = np.repeat(np.arange(len(columns)), [len(drawn) for drawn in columns])
    frames = [frame for drawn in columns for frame in drawn]
    return (
        Paired(
            tuple(kept),
            targets,
            np.unique(targets["user"].to_numpy(), return_inverse=True)[1],
            np.stack([frame["expected"].to_numpy() for frame in frames]),
            np.stack([frame["history_used"].to_numpy() for frame in frames]),
            np.stack([frame["history_dropped"].to_numpy() for frame in frames]),
            np.stack([frame["history_hash"].hash().to_numpy() for frame in frames]),
            runs,
        ),
        refused,
    )


def _require_summarised(run: Run, drawn: Sequence[pl.DataFrame]) -> None:
    """Raises UserError where RMSE or MAE of the predictions, means over draws, aren't those of summary.json."""
    for name, metric in (("rmse", rmse), ("mae", mae)):
        own = float(np.mean([metric(frame["expected"].to_numpy(), frame["rating"].to_numpy()) for frame in drawn]))
        summarised = run.summary["metrics"]["test"][name]
        if not math.isclose(own, summarised, rel_tol=ROUNDING):
            raise UserError(
                f"{run.folder}: predictions/test.parquet has {name} {own:.6f}, summary.json {summarised:.6f}: one of "
                "them was changed, or evaluation.draws are averaged in it, as earlier versions did. Run it again"
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
