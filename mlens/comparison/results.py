"""The figures of a comparison: each arm's, with intervals, and each difference's; and the answer in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.comparison.forms import SUMMARISED
from mlens.comparison.pairing import Paired
from mlens.comparison.runs import Arm
from mlens.comparison.statistics import Difference, Errors, Estimate, differences, estimates, sum_errors
from mlens.errors import UserError

# Below this corrected p a difference is called one.
LEVEL = 0.05
# Resamples for differences on a part of the targets, of which intervals alone are shown: two for each pair of arms.
ON_A_PART = 999


@dataclass(frozen=True)
class Between:
    """What lies between two arms: the difference of their test RMSE, the share of targets with the identical history,
    and the difference on the targets that neither trimmed, and that both did (None: there are none)."""

    rmse: Difference
    mae: Difference
    same_history: float
    untrimmed: Difference | None
    untrimmed_targets: int
    trimmed: Difference | None
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
    """Raises UserError where all targets are one user's: nothing is known then of other users."""
    if paired.user.max() < 1:
        raise UserError("the test targets are those of one user: a comparison needs two (raise evaluation.max_users)")
    errors = sum_errors(paired.expected, paired.rating, paired.user, paired.arm)
    of_arms = estimates(errors, "rmse"), estimates(errors, "mae")
    rmse, mae = differences(errors, "rmse"), differences(errors, "mae")
    between = {}
    for i, j in rmse:
        neither = paired.untrimmed(i, j)
        both = (paired.dropped[paired.first_run(i)] > 0) & (paired.dropped[paired.first_run(j)] > 0)
        between[i, j] = Between(
            rmse[i, j],
            mae[i, j],
            paired.same_history(i, j),
            _on(paired, i, j, neither),
            int(neither.sum()),
            _on(paired, i, j, both),
            int(both.sum()),
        )
    return Results(paired, *of_arms, between)


def _on(paired: Paired, i: int, j: int, targets: np.ndarray) -> Difference | None:
    """The difference of two arms' RMSE on some of the targets (None on fewer than two users')."""
    user = np.unique(paired.user[targets], return_inverse=True)[1]
    if not len(user) or user.max() < 1:
        return None
    runs = np.flatnonzero((paired.arm == i) | (paired.arm == j))
    arm = (paired.arm[runs] == j).astype(np.int64)
    errors: Errors = sum_errors(paired.expected[np.ix_(runs, targets)], paired.rating[targets], user, arm)
    return differences(errors, "rmse", resamples=ON_A_PART)[0, 1]


def answer(results: Results) -> str:
    """The comparison's outcome in a sentence or two."""
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
    return f"{said}. {scope(results)}"


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
    return f"95% interval {estimate.low:.4f} to {estimate.high:.4f}"


def _listed(arms: tuple[Arm, ...], chosen: list[int]) -> str:
    names = [arms[arm].label for arm in chosen]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def table(results: Results) -> pl.DataFrame:
    """One row an arm, from the lowest test RMSE up; what is measured in seconds comes last."""
    rows = []
    for number in results.order:
        arm, paired = results.paired.arms[number], results.paired
        rmse, mae = results.rmse[number], results.mae[number]
        first = paired.first_run(number)
        row: dict[str, object] = {"arm": arm.label, "seeds": len(arm.runs), "targets": len(paired.targets)}
        row |= {"rmse": rmse.value, "rmse_low": rmse.low, "rmse_high": rmse.high}
        row |= {"mae": mae.value, "mae_low": mae.low, "mae_high": mae.high}
        row |= {name: arm.mean("metrics", "test", name) for name in SUMMARISED}
        row["val_rmse"] = arm.mean("metrics", "val", "rmse")
        row |= {
            f"{name}_{column}": arm.mean("baselines", "test", column, name, "rmse")
            for column in ("full_history", "own_history")
            for name in baseline_names(results)
        }
        row["share_trimmed"] = float(np.mean(paired.dropped[first] > 0))
        row["mean_history"] = float(np.mean(paired.used[first]))
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
