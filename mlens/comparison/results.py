"""The figures of a comparison, for each arm and each pair of arms, and the answer in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from mlens.comparison import digits
from mlens.comparison.finished_runs import Arm, strategy_label
from mlens.comparison.pairing import Paired
from mlens.comparison.run_files import SUMMARISED
from mlens.comparison.statistics import ALPHA, Difference, Estimate, differences, estimates, part_differences
from mlens.comparison.summed_errors import METRICS, Errors, sum_errors
from mlens.errors import UserError
from mlens.evaluation.quality import quality_warnings

# Margin of equivalence, in stars of RMSE.
MARGIN = 0.01
# Metrics whose differences are tested.
TESTED = ("rmse", "mae", "taste", "auc")
# Of these a larger value is better.
HIGHER_IS_BETTER = ("auc",)
# Metrics of baselines in the table of arms.
OF_BASELINES = ("rmse", "level", "taste", "auc")


@dataclass(frozen=True)
class PairResult:
    """The comparison of two arms.

    differences: difference of each of TESTED on test (without AUC if too few users have targets to order).
    same_history: share of targets with identical histories.
    untrimmed: difference of RMSE on the targets that neither arm trimmed (None: too few).
    untrimmed_targets: number of these targets.
    trimmed: difference of RMSE on the targets that both arms trimmed (None: too few).
    trimmed_targets: number of these targets.
    """

    differences: dict[str, Difference]
    same_history: float
    untrimmed: Estimate | None
    untrimmed_targets: int
    trimmed: Estimate | None
    trimmed_targets: int


@dataclass(frozen=True)
class Results:
    """The figures of a comparison.

    paired: the paired runs.
    of_arms: by metric of mlens.comparison.summed_errors.METRICS, the value on test of each arm (without AUC if too few
        users have targets to order).
    between: comparison of each pair of arms (i, j), i < j.
    """

    paired: Paired
    of_arms: dict[str, list[Estimate]]
    between: dict[tuple[int, int], PairResult]

    @property
    def rmse(self) -> list[Estimate]:
        """Test RMSE of each arm."""
        return self.of_arms["rmse"]

    @property
    def order(self) -> list[int]:
        """The arms by ascending RMSE."""
        return sorted(range(len(self.rmse)), key=lambda arm: self.rmse[arm].value)


def compare(paired: Paired) -> Results:
    """Compute the figures of a comparison.

    The metrics of an arm are those in its runs' summaries, which `pair` has checked against the predictions; those that
    summaries of earlier versions lack are computed. Raises UserError if all targets are of one user: then nothing is
    known about other users.
    """
    if paired.user.max() < 1:
        raise UserError("too few users for a comparison: all test targets are of one user. Raise evaluation.max_users")
    errors = sum_errors(paired.expected, paired.rating, paired.user, paired.arm, paired.run)
    of_arms = {metric: _summarised(paired, estimates(errors, metric), metric) for metric in errors.sums}
    tested = {metric: differences(errors, metric) for metric in TESTED if metric in errors.sums}
    pairs = tested["rmse"]
    trimmed = [paired.trimmed(arm) for arm in range(len(paired.arms))]
    parts = {(i, j, True): ~trimmed[i] & ~trimmed[j] for i, j in pairs}
    parts |= {(i, j, False): trimmed[i] & trimmed[j] for i, j in pairs}
    of_parts = _on_parts(paired, parts)
    between = {}
    for i, j in pairs:
        neither, both = (i, j, True), (i, j, False)
        between[i, j] = PairResult(
            {metric: found[i, j] for metric, found in tested.items()},
            paired.same_history(i, j),
            of_parts.get(neither),
            int(parts[neither].sum()),
            of_parts.get(both),
            int(parts[both].sum()),
        )
    return Results(paired, of_arms, between)


def _summarised(paired: Paired, found: list[Estimate], metric: str) -> list[Estimate]:
    """Replace the values by those of summary.json, where it has them: sums in another order differ in the last bits."""
    figures = [arm.mean("metrics", "test", metric) for arm in paired.arms]
    return [one if figure is None else replace(one, value=figure) for one, figure in zip(found, figures, strict=True)]


def _on_parts(paired: Paired, parts: dict[tuple[int, int, bool], np.ndarray]) -> dict[tuple[int, int, bool], Estimate]:
    """Return the difference of RMSE of arms i and j on the targets [t] of each part (i, j, ..).

    Parts with targets of fewer than two users are left out.
    """
    errors = {}
    for (i, j, untrimmed), targets in parts.items():
        if len(np.unique(paired.user[targets])) > 1:
            errors[i, j, untrimmed] = errors_on(paired, (i, j), targets)
    return dict(zip(errors, part_differences(list(errors.values()), "rmse"), strict=True))


def errors_on(paired: Paired, arms: Sequence[int], targets: np.ndarray) -> Errors:
    """Return the squared errors of these arms (ascending) on these targets [t], over all users."""
    users, runs = int(paired.user.max()) + 1, np.flatnonzero(np.isin(paired.arm, arms))
    user, draws = paired.user[targets], np.flatnonzero(np.isin(paired.run, runs))
    squares = (paired.expected[np.ix_(draws, targets)] - paired.rating[targets]) ** 2
    sums = np.stack([np.bincount(user, of_draw, users) for of_draw in squares])
    counts = np.bincount(user, minlength=users)
    arm = np.searchsorted(arms, paired.arm[runs])
    return Errors({"rmse": sums}, {"rmse": counts}, arm, np.searchsorted(runs, paired.run[draws]))


def answer(results: Results) -> str:
    """Return the comparison's outcome in words: arms that learned nothing, arms that beat the best baseline, the arm
    with the lowest RMSE, and arms that rank a user's movies better than the one without history or the movie mean."""
    sentences = [*_failures(results), *_against_baselines(results), _outcome(results), *_ranking(results)]
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
    return sentences


def _against_baselines(results: Results) -> list[str]:
    """Return a sentence on which arms have a lower RMSE than the best baseline; none if no baseline was measured."""
    baseline = best_baseline(results)
    if baseline is None:
        return []
    name, rmse = baseline[0].replace("_", " "), f"{baseline[1]:.4f}"
    better = [arm for arm in results.order if results.rmse[arm].value < baseline[1]]
    if not better:
        return [f"No arm beats {name} ({rmse})."]
    if len(better) == len(results.order) > 1:
        return [f"All arms have a lower RMSE than the best baseline, {name} ({rmse})."]
    have = "has" if len(better) == 1 else "have"
    lower = f"{have} a lower RMSE than the best baseline, {name} ({rmse})"
    return [f"{_join_labels(results.paired.arms, better)} {lower}."]


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
    found = {arm: conclusion(difference(results, "rmse", best, arm), "rmse") for arm in order[1:]}
    worse = [arm for arm in order[1:] if found[arm] == "different"]
    alike = [arm for arm in order[1:] if found[arm] != "different"]
    equivalent = [arm for arm in alike if found[arm] == "equivalent"]
    if worse:
        sentence += f"; it is better than {_join_labels(arms, worse)} (corrected p < {ALPHA})"
    if alike:
        sentence += f"{', and' if worse else '; it'} doesn't differ significantly from {_join_labels(arms, alike)}"
    if equivalent == alike:
        sentence += f" (equivalent within {MARGIN})" if alike else ""
    elif equivalent:
        verb = "is" if len(equivalent) == 1 else "are"
        sentence += f" ({_join_labels(arms, equivalent)} {verb} equivalent within {MARGIN})"
    return f"{sentence}."


def _ranking(results: Results) -> list[str]:
    """Return sentences on the arms that rank a user's movies better than the arm without history (p_holm < ALPHA), and
    than the movie mean (the interval is above it); none if neither is there, or if too few users have movies to rank.
    """
    if "auc" not in results.of_arms:
        return []
    sentences = []
    arms, auc, none = results.paired.arms, results.of_arms["auc"], without_history(results)
    others = [arm for arm in results.order if not is_without_history(arms[arm])]
    if none is not None and others:
        better = [arm for arm in others if auc[arm].value > auc[none].value]
        certain = [arm for arm in better if difference(results, "auc", arm, none).p_holm < ALPHA]
        than = f"a user's movies better than {arms[none].label}"
        sentences.append(_ranked(results, others, better, certain, than, auc[none].value))
    mean = arms[results.order[0]].mean("baselines", "test", "full_history", "movie_mean", "auc")
    if mean is not None:
        better = [arm for arm in results.order if auc[arm].value > mean]
        certain = [arm for arm in better if auc[arm].low > mean]
        than = "a user's movies better than the movie mean"
        sentences.append(_ranked(results, results.order, better, certain, than, mean))
    return sentences


def _ranked(
    results: Results, compared: list[int], better: list[int], certain: list[int], than: str, value: float
) -> str:
    """Return a sentence on which of the compared arms have a higher AUC than `value`.

    better: arms with a higher AUC.
    certain: those of them whose difference is significant.
    than: what is ranked better than what, in words.
    """
    arms, auc = results.paired.arms, results.of_arms["auc"]
    if certain:
        subject = "All arms" if len(certain) == len(arms) > 1 else _join_labels(arms, certain)
        values = [f"{auc[arm].value:.4f}" for arm in certain]
        shown = f"{min(values)} to {max(values)}" if len(values) > 2 else _join(values)
        return f"{subject} rank{_s(certain)} {than} (AUC {shown} against {value:.4f})."
    best = max(compared, key=lambda arm: auc[arm].value)
    verb = "is certain to rank" if better else "ranks"
    highest = f"the highest, of {arms[best].label}, is {auc[best].value:.4f}, {_interval(auc[best])}"
    return f"No arm {verb} {than} (AUC {value:.4f}; {highest})."


def without_history(results: Results) -> int | None:
    """Return the arm without history (of several, that with the highest AUC); None if there is none."""
    arms, auc = results.paired.arms, results.of_arms["auc"]
    found = [arm for arm in results.order if is_without_history(arms[arm])]
    return max(found, key=lambda arm: auc[arm].value, default=None)


def is_without_history(arm: Arm) -> bool:
    """Return whether this is an arm of history=none."""
    return strategy_label(arm.runs[0].config["history"]) == "none"


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
    own_base = all(run.base_follows and "base" in run.config.get("model", {}) for run in results.paired.runs)
    return f"Over {many} seeds of {'base model and ' if own_base else ''}training an arm, on {users:,} users."


def difference(results: Results, metric: str, one: int, other: int) -> Difference:
    """Return the difference of `metric` between two arms: the first one's minus the second one's."""
    found = results.between[min(one, other), max(one, other)].differences[metric]
    if one < other:
        return found
    turned = replace(found, value=-found.value, low=-found.high, high=-found.low)
    return replace(turned, low_90=-found.high_90, high_90=-found.low_90)


def verdict(found: Difference, metric: str) -> str:
    """Return whether the first of two arms is `better` or `worse` in this metric; `` if the interval of the difference
    holds 0 as it is printed."""
    if not digits.excludes_zero(found.low, found.high, found.error):
        return ""
    return "better" if (found.value < 0) != (metric in HIGHER_IS_BETTER) else "worse"


def conclusion(found: Difference, metric: str) -> str:
    """Return whether two arms are `different` in this metric (p_holm < ALPHA), `equivalent` (of RMSE: the 90% interval
    lies within MARGIN for any seed of the resamples), or `undecided`."""
    if found.p_holm < ALPHA:
        return "different"
    farthest = max(-found.low_90, found.high_90) + digits.ERRORS * found.error
    return "equivalent" if metric == "rmse" and farthest < MARGIN else "undecided"


def _interval(estimate: Estimate) -> str:
    return f"95% interval {digits.interval(estimate.low, estimate.high, estimate.error)}"


def _join_labels(arms: tuple[Arm, ...], chosen: list[int]) -> str:
    return _join([arms[arm].label for arm in chosen])


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _s(subjects: list[int]) -> str:
    """Return the ending of a verb whose subjects these are."""
    return "s" if len(subjects) == 1 else ""


def table(results: Results) -> pl.DataFrame:
    """Return the table of arms, one row an arm by ascending test RMSE; columns measured in seconds are last.

    `best_possible` is among them only where an arm has it: on made-up data.
    """
    rows = []
    for number in results.order:
        arm, paired = results.paired.arms[number], results.paired
        draws = paired.draws_of(number)
        row: dict[str, object] = {"arm": arm.label, "seeds": len(arm.runs), "targets": len(paired.targets)}
        for name in METRICS:
            found = results.of_arms[name][number] if name in results.of_arms else None
            row[name] = None if found is None else found.value
            row |= {f"{name}_{end}": None if found is None else getattr(found, end) for end in ("low", "high")}
            row[f"{name}_interval_error"] = None if found is None else found.error
        averaged = arm.mean("metrics", "test", "averaged", "rmse")
        row["averaging_gain"] = None if averaged is None else results.rmse[number].value - averaged
        row |= {name: arm.mean("metrics", "test", name) for name in SUMMARISED}
        row["val_rmse"] = arm.mean("metrics", "val", "rmse")
        row |= {
            f"{name}_{column}{'' if metric == 'rmse' else f'_{metric}'}": arm.mean(
                "baselines", "test", column, name, metric
            )
            for column in ("full_history", "own_history")
            for name in baseline_names(results)
            for metric in OF_BASELINES
        }
        row["best_possible"] = arm.mean("best_possible", "test", "own_history", "rmse")
        row["share_trimmed"] = float(np.mean(paired.dropped[draws] > 0))
        row["mean_history"] = float(np.mean(paired.used[draws]))
        row["training_targets"] = arm.mean("training", "targets")
        row["training_tokens"] = arm.mean("training", "tokens")
        row |= {f"seconds_{name}": arm.mean("seconds", name) for name in ("training", "evaluation")}
        rows.append(row)
    frame = pl.DataFrame(rows)
    return frame.drop("best_possible") if frame["best_possible"].is_null().all() else frame


def baseline_names(results: Results) -> list[str]:
    """Return the names of the baselines that any run measured, in their order."""
    found: dict[str, None] = {}
    for run in results.paired.runs:
        found |= dict.fromkeys(run.summary["baselines"]["test"]["full_history"])
    return list(found)
