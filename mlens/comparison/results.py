"""The figures of a comparison, for each arm and each pair of arms, and the answer in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import polars as pl

from mlens.comparison import digits
from mlens.comparison.finished_runs import Arm
from mlens.comparison.pairing import Paired
from mlens.comparison.run_files import SUMMARISED
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
from mlens.evaluation.quality import quality_warnings

# Significance level of Holm-adjusted p-values.
LEVEL = 0.05


@dataclass(frozen=True)
class PairResult:
    """The comparison of two arms.

    rmse: difference of test RMSE.
    mae: difference of test MAE.
    same_history: share of targets with identical histories.
    untrimmed: difference of RMSE on the targets that neither arm trimmed (None: too few).
    untrimmed_targets: number of these targets.
    trimmed: difference of RMSE on the targets that both arms trimmed (None: too few).
    trimmed_targets: number of these targets.
    """

    rmse: Difference
    mae: Difference
    same_history: float
    untrimmed: Estimate | None
    untrimmed_targets: int
    trimmed: Estimate | None
    trimmed_targets: int


@dataclass(frozen=True)
class Results:
    """The figures of a comparison.

    paired: the paired runs.
    rmse: test RMSE of each arm.
    mae: test MAE of each arm.
    between: comparison of each pair of arms (i, j), i < j.
    """

    paired: Paired
    rmse: list[Estimate]
    mae: list[Estimate]
    between: dict[tuple[int, int], PairResult]

    @property
    def order(self) -> list[int]:
        """The arms by ascending RMSE."""
        return sorted(range(len(self.rmse)), key=lambda arm: self.rmse[arm].value)


def compare(paired: Paired) -> Results:
    """Compute the figures of a comparison.

    RMSE and MAE of an arm are those in its runs' summaries, which `pair` has checked against the predictions. Raises
    UserError if all targets are of one user: then nothing is known about other users.
    """
    if paired.user.max() < 1:
        raise UserError("too few users for a comparison: all test targets are of one user. Raise evaluation.max_users")
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
        between[i, j] = PairResult(
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
    """Replace the values by those of summary.json: sums in another order differ in the last bits."""
    # `arm.mean` returns None for a missing figure; a summary without these is rejected when it is read.
    figures = [cast(float, arm.mean("metrics", "test", metric)) for arm in paired.arms]
    return [replace(one, value=figure) for one, figure in zip(found, figures, strict=True)]


def _on_parts(paired: Paired, parts: dict[tuple[int, int, bool], np.ndarray]) -> dict[tuple[int, int, bool], Estimate]:
    """Return the difference of RMSE of arms i and j on the targets [t] of each part (i, j, ..).

    Parts with targets of fewer than two users are left out.
    """
    errors = {}
    for (i, j, untrimmed), targets in parts.items():
        if len(np.unique(paired.user[targets])) > 1:
            errors[i, j, untrimmed] = _errors_on(paired, i, j, targets)
    return dict(zip(errors, part_differences(list(errors.values()), "rmse"), strict=True))


def _errors_on(paired: Paired, i: int, j: int, targets: np.ndarray) -> Errors:
    """Return the errors of arms i and j on these targets, over all users."""
    users, runs = int(paired.user.max()) + 1, np.flatnonzero((paired.arm == i) | (paired.arm == j))
    user, draws = paired.user[targets], np.flatnonzero(np.isin(paired.run, runs))
    sums = user_sums(paired.expected[np.ix_(draws, targets)], paired.rating[targets], user, users)
    arm = (paired.arm[runs] == j).astype(np.int64)
    return Errors(*sums, np.bincount(user, minlength=users), arm, np.searchsorted(runs, paired.run[draws]))


def answer(results: Results) -> str:
    """Return the comparison's outcome in words, beginning with arms that learned nothing or beat no baseline."""
    sentences = [*_failures(results), _outcome(results)]
    return " ".join([*sentences, scope(results)] if len(results.order) > 1 else sentences)


def _failures(results: Results) -> list[str]:
    arms = results.paired.arms
    signs = {arm: found for arm in results.order if (found := signs_of_failure(results, arm))}
    sentences = []
    if len(signs) == len(arms):
        sentences.append(
            f"No arm has learned to rate: of {arms[results.order[0]].label}, {signs[results.order[0]][0]}."
        )
    elif signs:
        sentences.append(f"Not learned to rate: {_join_labels(arms, list(signs))} (see the notes).")
    baseline = best_baseline(results)
    if baseline is not None and results.rmse[results.order[0]].value >= baseline[1]:
        sentences.append(f"No arm beats {baseline[0].replace('_', ' ')} ({baseline[1]:.4f}).")
    return sentences


def signs_of_failure(results: Results, arm: int) -> list[str]:
    """Return a sentence for each sign that an arm's model has learned nothing."""
    found = results.paired.arms[arm]
    metrics = {name: found.mean("metrics", "test", name) for name in ("illegal_mass", "expected_std")}
    mean = found.mean("baselines", "test", "full_history", "global_mean", "rmse")
    return quality_warnings(metrics | {"rmse": results.rmse[arm].value}, mean, best_baseline(results))


def best_baseline(results: Results) -> tuple[str, float] | None:
    """Return name and test RMSE of the best baseline given the full history; None if there is none."""
    arm = results.paired.arms[results.order[0]]
    found = ((name, arm.mean("baselines", "test", "full_history", name, "rmse")) for name in baseline_names(results))
    return min(((name, rmse) for name, rmse in found if rmse is not None), key=lambda pair: pair[1], default=None)


def _outcome(results: Results) -> str:
    arms, order = results.paired.arms, results.order
    best = order[0]
    estimate = results.rmse[best]
    sentence = f"{arms[best].label} has the lowest test RMSE, {estimate.value:.4f} ({_interval(estimate)})"
    if len(order) == 1:
        return f"{sentence}: there is nothing to compare it with."
    worse = [arm for arm in order[1:] if _difference(results, best, arm).p_holm < LEVEL]
    alike = [arm for arm in order[1:] if arm not in worse]
    if worse:
        sentence += f"; it is better than {_join_labels(arms, worse)} (corrected p < {LEVEL})"
    if alike:
        sentence += f"{', and' if worse else '; it'} can't be told from {_join_labels(arms, alike)}"
    return f"{sentence}."


def scope(results: Results) -> str:
    """Say whether the answer is about strategies or only about these models."""
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


def _difference(results: Results, one: int, other: int) -> Difference:
    """Return the difference of RMSE between two arms; its sign depends on their order."""
    return results.between[min(one, other), max(one, other)].rmse


def _interval(estimate: Estimate) -> str:
    return f"95% interval {digits.interval(estimate.low, estimate.high, estimate.error)}"


def _join_labels(arms: tuple[Arm, ...], chosen: list[int]) -> str:
    names = [arms[arm].label for arm in chosen]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def table(results: Results) -> pl.DataFrame:
    """Return the table of arms, one row an arm by ascending test RMSE; columns measured in seconds are last."""
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
    """Return the names of the baselines that any run measured, in their order."""
    found: dict[str, None] = {}
    for run in results.paired.runs:
        found |= dict.fromkeys(run.summary["baselines"]["test"]["full_history"])
    return list(found)
