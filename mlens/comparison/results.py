"""The figures of a comparison: each arm's, with intervals, and each difference's; and the answer in one sentence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import polars as pl

from mlens.comparison import digits
from mlens.comparison.forms import SUMMARISED
from mlens.comparison.pairing import Paired
from mlens.comparison.runs import Arm
from mlens.comparison.statistics import (
    Difference,
    Errors,
    Estimate,
    differences,
    estimates,
    part_differences,
    sum_errors,
    user_sums,
)
from mlens.errors import UserError
from mlens.evaluation.quality import warnings_of

# Below this corrected p a difference is called one.
LEVEL = 0.05


@dataclass(frozen=True)
class Between:
    """What lies between two arms: the difference of their test RMSE, the share of targets with the identical history,
    and the difference on the targets that neither trimmed, and that both did (None: there are none)."""

    rmse: Difference
    mae: Difference
    same_history: float
    untrimmed: Estimate | None
    untrimmed_targets: int
    trimmed: Estimate | None
    trimmed_targets: int


@dataclass(frozen=True)
class Results:
    """rmse, mae: of each arm; between: of each pair of arms (i < j); order: the arms from the lowest RMSE up."""

    paired: Paired
    rmse: list[Estimate]
    mae: list[Estimate]
    between: dict[tuple[int, int], Between]

    @property
    def order(self) -> list[int]:
        return sorted(range(len(self.rmse)), key=lambda arm: self.rmse[arm].value)


def compare(paired: Paired) -> Results:
    """The figures of arms are those of their runs' summaries, which `pair` found to be those of the predictions. Raises
    UserError where all targets are one user's: nothing is known then of other users."""
    if paired.user.max() < 1:
        raise UserError("the test targets are those of one user: a comparison needs two (raise evaluation.max_users)")
    errors = sum_errors(paired.expected, paired.rating, paired.user, paired.arm, paired.run)
    of_arms = {metric: _summarised(paired, estimates(errors, metric), metric) for metric in ("rmse", "mae")}
    rmse, mae = differences(errors, "rmse"), differences(errors, "mae")
    trimmed = [paired.trimmed(arm) for arm in range(len(paired.arms))]
    parts = {(i, j, True): ~trimmed[i] & ~trimmed[j] for i, j in rmse}
    parts |= {(i, j, False): trimmed[i] & trimmed[j] for i, j in rmse}
    of_parts = _on_parts(paired, parts)
    between = {}
    for i, j in rmse:
        neither, both = (i, j, True), (i, j, False)
        between[i, j] = Between(
            rmse[i, j],
            mae[i, j],
            paired.same_history(i, j),
            of_parts.get(neither),
            int(parts[neither].sum()),
            of_parts.get(both),
            int(parts[both].sum()),
        )
    return Results(paired, of_arms["rmse"], of_arms["mae"], between)


def _summarised(paired: Paired, found: list[Estimate], metric: str) -> list[Estimate]:
    """The estimates with the very figures of summary.json: sums in another order differ in the last bits."""
    # `arm.mean` has None where a figure is missing; a summary without these isn't read.
    figures = [cast(float, arm.mean("metrics", "test", metric)) for arm in paired.arms]
    return [replace(one, value=figure) for one, figure in zip(found, figures, strict=True)]


def _on_parts(paired: Paired, parts: dict[tuple[int, int, bool], np.ndarray]) -> dict[tuple[int, int, bool], Estimate]:
    """For (i, j, ..), the difference of the RMSE of arms i and j on these targets [t] (left out on fewer than two
    users')."""
    errors = {}
    for (i, j, untrimmed), targets in parts.items():
        if len(np.unique(paired.user[targets])) > 1:
            errors[i, j, untrimmed] = _errors_on(paired, i, j, targets)
    return dict(zip(errors, part_differences(list(errors.values()), "rmse"), strict=True))


def _errors_on(paired: Paired, i: int, j: int, targets: np.ndarray) -> Errors:
    """The errors of arms i and j on these targets, over all users."""
    users, runs = int(paired.user.max()) + 1, np.flatnonzero((paired.arm == i) | (paired.arm == j))
    user, draws = paired.user[targets], np.flatnonzero(np.isin(paired.run, runs))
    sums = user_sums(paired.expected[np.ix_(draws, targets)], paired.rating[targets], user, users)
    arm = (paired.arm[runs] == j).astype(np.int64)
    return Errors(*sums, np.bincount(user, minlength=users), arm, np.searchsorted(runs, paired.run[draws]))


def answer(results: Results) -> str:
    """The comparison's outcome in some sentences; the first says where no arm has learned anything, or beats a
    baseline."""
    said = [*_failures(results), _outcome(results)]
    return " ".join([*said, scope(results)] if len(results.order) > 1 else said)


def _failures(results: Results) -> list[str]:
    arms = results.paired.arms
    signs = {arm: found for arm in results.order if (found := signs_of_failure(results, arm))}
    said = []
    if len(signs) == len(arms):
        said.append(f"No arm has learned to rate: of {arms[results.order[0]].label}, {signs[results.order[0]][0]}.")
    elif signs:
        said.append(f"Not learned to rate: {_listed(arms, list(signs))} (see the notes).")
    best = best_baseline(results)
    if best is not None and results.rmse[results.order[0]].value >= best[1]:
        said.append(f"No arm beats {best[0].replace('_', ' ')} ({best[1]:.4f}).")
    return said


def signs_of_failure(results: Results, arm: int) -> list[str]:
    """A sentence for each sign that an arm's model has learned nothing."""
    found = results.paired.arms[arm]
    metrics = {name: found.mean("metrics", "test", name) for name in ("illegal_mass", "expected_std")}
    mean = found.mean("baselines", "test", "full_history", "global_mean", "rmse")
    return warnings_of(metrics | {"rmse": results.rmse[arm].value}, mean, best_baseline(results))


def best_baseline(results: Results) -> tuple[str, float] | None:
    """Name and test RMSE of the best baseline that is given the full history; None where there is none."""
    arm = results.paired.arms[results.order[0]]
    found = ((name, arm.mean("baselines", "test", "full_history", name, "rmse")) for name in baseline_names(results))
    return min(((name, rmse) for name, rmse in found if rmse is not None), key=lambda pair: pair[1], default=None)


def _outcome(results: Results) -> str:
    arms, order = results.paired.arms, results.order
    best = order[0]
    estimate = results.rmse[best]
    said = f"{arms[best].label} has the lowest test RMSE, {estimate.value:.4f} ({_interval(estimate)})"
    if len(order) == 1:
        return f"{said}: there is nothing to compare it with."
    worse = [arm for arm in order[1:] if _apart(results, best, arm).p_holm < LEVEL]
    alike = [arm for arm in order[1:] if arm not in worse]
    if worse:
        said += f"; it is better than {_listed(arms, worse)} (corrected p < {LEVEL})"
    if alike:
        said += f"{', and' if worse else '; it'} can't be told from {_listed(arms, alike)}"
    return f"{said}."


def scope(results: Results) -> str:
    """What the answer is about: strategies, or these models alone."""
    seeds = sorted({len(arm.runs) for arm in results.paired.arms})
    if seeds[0] == 1:
        return (
            "With one seed this compares these trained models, not the strategies: another seed may turn it round."
            if seeds[-1] == 1
            else "Arms with one seed are compared as trained models, not as strategies: another seed may turn it round."
        )
    many = " to ".join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1])))
    users = int(results.paired.user.max()) + 1
    return f"Over {many} seeds of training an arm, on {users:,} users."


def _apart(results: Results, one: int, other: int) -> Difference:
    return results.between[min(one, other), max(one, other)].rmse


def _interval(estimate: Estimate) -> str:
    return f"95% interval {digits.interval(estimate.low, estimate.high, estimate.error)}"


def _listed(arms: tuple[Arm, ...], chosen: list[int]) -> str:
    names = [arms[arm].label for arm in chosen]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def table(results: Results) -> pl.DataFrame:
    """One row an arm, from the lowest test RMSE up; what is measured in seconds comes last."""
    rows = []
    for number in results.order:
        arm, paired = results.paired.arms[number], results.paired
        rmse, mae = results.rmse[number], results.mae[number]
        draws = paired.draws_of(number)
        row: dict[str, object] = {"arm": arm.label, "seeds": len(arm.runs), "targets": len(paired.targets)}
        for name, found in (("rmse", rmse), ("mae", mae)):
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            row[f"{name}_interval_error"] = found.error
        averaged = arm.mean("metrics", "test", "averaged", "rmse")
        row["averaging_gain"] = None if averaged is None else rmse.value - averaged
        row |= {name: arm.mean("metrics", "test", name) for name in SUMMARISED}
        row["val_rmse"] = arm.mean("metrics", "val", "rmse")
        row |= {
            f"{name}_{column}": arm.mean("baselines", "test", column, name, "rmse")
            for column in ("full_history", "own_history")
            for name in baseline_names(results)
        }
        row["share_trimmed"] = float(np.mean(paired.dropped[draws] > 0))
        row["mean_history"] = float(np.mean(paired.used[draws]))
        row["training_targets"] = arm.mean("training", "targets")
        row["training_tokens"] = arm.mean("training", "tokens")
        row |= {f"seconds_{name}": arm.mean("seconds", name) for name in ("training", "evaluation")}
        rows.append(row)
    return pl.DataFrame(rows)


def baseline_names(results: Results) -> list[str]:
    """The baselines that any run measured, in their order."""
    found: dict[str, None] = {}
    for run in results.paired.runs:
        found |= dict.fromkeys(run.summary["baselines"]["test"]["full_history"])
    return list(found)
