"""Pairing of runs on the same test targets; runs with other targets are left out, with a line on how they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.comparison.finished_runs import Arm, Run
from mlens.errors import UserError
from mlens.evaluation.metrics import auc, level, mae, rmse, taste

TARGET = ("user", "movie", "t", "rating")
# Relative tolerance; sums in another order or on another machine differ by less.
ROUNDING = 1e-9
PER_RUN = ("expected", "history_used", "history_dropped", "history_hash")


@dataclass(frozen=True)
class Paired:
    """The test targets that all of `arms` predicted, and each run's columns on them.

    A draw is one draw of histories of one run.

    arms: the compared arms.
    targets: [t] frame with the columns user, movie, t and rating.
    user: [t] index of the target's user.
    expected: [draws, t] expected rating.
    used: [draws, t] number of ratings shown.
    dropped: [draws, t] number of ratings cut by the budget.
    history: [draws, t] hash of the ratings shown.
    run: [draws] index of the draw's run.
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
        """The runs of all arms, in order."""
        return [run for arm in self.arms for run in arm.runs]

    @property
    def arm(self) -> np.ndarray:
        """[runs] index of each run's arm."""
        return np.repeat(np.arange(len(self.arms)), [len(arm.runs) for arm in self.arms])

    @property
    def rating(self) -> np.ndarray:
        """[t] true rating of each target."""
        return self.targets["rating"].to_numpy()

    def draws_of(self, arm: int) -> np.ndarray:
        """Return the draws of an arm's first run; in evaluation all of its runs show the same histories."""
        return np.flatnonzero(self.run == np.flatnonzero(self.arm == arm)[0])

    def same_history(self, one: int, other: int) -> float:
        """Return the share of targets for which two arms showed the same ratings, averaged over the draws of both."""
        pairs = zip(self.draws_of(one), self.draws_of(other), strict=False)
        return float(np.mean([np.mean(self.history[i] == self.history[j]) for i, j in pairs]))

    def trimmed(self, arm: int) -> np.ndarray:
        """Return whether the budget cut an arm's history in at least one draw: [t] bool."""
        return (self.dropped[self.draws_of(arm)] > 0).any(axis=0)

    def over_draws(self, values: np.ndarray) -> np.ndarray:
        """Average values [draws, ..] over the draws of each run: [runs, ..]."""
        return np.stack([values[self.run == run].mean(axis=0) for run in range(len(self.arm))])


def pair(arms: Sequence[Arm]) -> tuple[Paired, list[str]]:
    """Pair the arms that were tested on the first arm's targets, and explain in a line why each other arm is left out.

    Raises UserError if the predictions of a run don't match its summary.
    """
    kept, refused, columns = [], [], []
    targets: pl.DataFrame | None = None
    first = arms[0].runs[0]
    for arm in arms:
        of_arm = []
        for run in arm.runs:
            drawn = [frame.sort("user", "t") for frame in run.predictions("test", (*TARGET, *PER_RUN))]
            if targets is None:
                targets = drawn[0].select(TARGET)
            other = next((frame for frame in drawn if not frame.select(TARGET).equals(targets)), None)
            if other is not None:
                refused.append(f"{arm.label} ({run.name}): {_difference(first, targets, run, other)}")
                break
            _require_summarised(run, drawn)
            of_arm.append([frame.select(PER_RUN) for frame in drawn])
        else:
            kept.append(arm)
            columns += of_arm
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
    """Raise UserError if a metric of the predictions, averaged over draws, differs from that in summary.json.

    Summaries of earlier versions lack some of the metrics; null stands for NaN.
    """
    columns = [[frame[name].to_numpy() for name in ("expected", "rating", "user")] for frame in drawn]
    metrics = {
        "rmse": lambda predicted, rating, _: rmse(predicted, rating),
        "mae": lambda predicted, rating, _: mae(predicted, rating),
        "level": level,
        "taste": taste,
        "auc": auc,
    }
    for name in metrics:
        summarised = run.summary["metrics"]["test"].get(name)
        if summarised is None:
            continue
        found = float(np.mean([metrics[name](*of_draw) for of_draw in columns]))
        if not math.isclose(found, summarised, rel_tol=ROUNDING, abs_tol=ROUNDING):
            raise UserError(
                f"predictions and summary differ: {run.folder}: predictions/test.parquet has {name} {found:.6f}, "
                f"summary.json {summarised:.6f}. One of them was changed, or the summary is of averaged draws, as in "
                "earlier versions: run it again"
            )


def _difference(first: Run, targets: pl.DataFrame, run: Run, frame: pl.DataFrame) -> str:
    """Say how the test targets of two runs differ."""
    keys = list(TARGET[:3])
    targets, frame = (one.with_columns(pl.col(keys).cast(pl.String)) for one in (targets, frame))
    only_first = len(targets.join(frame, on=keys, how="anti"))
    only_this = len(frame.join(targets, on=keys, how="anti"))
    line = f"its targets aren't those of {first.name}: {only_this:,} are its alone, {only_first:,} the other's alone"
    if not only_this and not only_first:
        line = f"the ratings of its targets aren't those of {first.name}"
    settings = [
        f"{key}: {run.settings.get(key)} against {first.settings.get(key)}"
        for key in sorted({*run.settings, *first.settings})
        if key.startswith(("data.", "split.", "evaluation.")) and run.settings.get(key) != first.settings.get(key)
    ]
    return f"{line} ({'; '.join(settings) or 'the data differ'})"
