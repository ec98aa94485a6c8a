"""Sections of the report apart from its tables and plots: prompts and notes, made from the runs' files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.comparison import digits
from mlens.comparison.finished_runs import Arm, differing_keys
from mlens.comparison.pairing import Paired
from mlens.comparison.results import Results, difference, is_without_history, signs_of_failure, without_history
from mlens.evaluation.quality import CHANCE_AUC

# Share of the test targets above which one user dominates the errors.
LARGE_SHARE = 0.2
# Share of an arm's test prompts above which trimming, rather than the strategy, chose the history.
MOSTLY = 0.5
# Number of items shown: targets shared by all arms, each arm's worst predictions, and the largest differences.
EXAMPLES, WORST, APART = 3, 3, 10


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt that the report shows.

    arm: label of the arm.
    prompt: its record in prompts.json.
    """

    arm: str
    prompt: dict


def examples(paired: Paired) -> list[list[ShownPrompt]]:
    """Return, for some targets, the prompt of each arm."""
    by_arm = [
        {_key(prompt): prompt for prompt in arm.runs[0].prompts if prompt["kind"] == "example"} for arm in paired.arms
    ]
    shared = [key for key in by_arm[0] if all(key in prompts for prompts in by_arm)][:EXAMPLES]
    return [[ShownPrompt(arm.label, by_arm[i][key]) for i, arm in enumerate(paired.arms)] for key in shared]


def worst(paired: Paired) -> list[ShownPrompt]:
    """Return the prompts of the worst predictions of each arm's first run."""
    found = []
    for arm in paired.arms:
        kept = [prompt for prompt in arm.runs[0].prompts if prompt["kind"] == "worst"]
        found += [ShownPrompt(arm.label, prompt) for prompt in kept[:WORST]]
    return found


def _key(prompt: dict) -> tuple:
    return prompt["user"], prompt["movie"], prompt["t"]


def farthest_apart(paired: Paired) -> list[dict]:
    """Return the targets on which the mean expected ratings of two arms differ most."""
    one, other = (paired.over_draws(paired.expected)[paired.arm == arm].mean(axis=0) for arm in (0, 1))
    order = np.argsort(-np.abs(one - other), kind="stable")[:APART]
    titles = {_movie(p): p["title"] for run in paired.runs for p in run.prompts}
    rows = paired.targets[order].to_dicts()
    return [
        row | {"title": titles.get(str(row["movie"]), f"movie {row['movie']}"), "one": one[i], "other": other[i]}
        for row, i in zip(rows, order, strict=True)
    ]


def _movie(prompt: dict) -> str:
    return str(prompt["movie"])


def ties(results: Results) -> list[tuple[str, str, float]]:
    """Return labels and difference of RMSE of each pair of arms that differ only in split.ties."""
    found = []
    for (i, j), between in results.between.items():
        one, other = results.paired.arms[i], results.paired.arms[j]
        if differing_keys([one.runs[0], other.runs[0]]) == ["split.ties"]:
            found.append((one.label, other.label, between.differences["rmse"].value))
    return found


def fairness(arms: tuple[Arm, ...]) -> list[str]:
    """Return lines on what a fair comparison needs to be equal; a line begins with NOTE if it isn't."""
    runs = [arm.runs[0] for arm in arms]
    other = [key for key in differing_keys(runs) if not key.startswith("history.")]
    lines = []
    if other:
        lines.append(f"NOTE: besides the history the arms differ in {', '.join(other)}")
    equal = runs[0].config.get("comparison", {}).get("equal", "targets")
    targets = sorted({run.summary["training"]["targets"] for arm in arms for run in arm.runs})
    if equal == "time":
        lines.append("All arms trained for the same time, as long as trainer.max_minutes says.")
    elif len(targets) == 1:
        lines.append(f"All arms trained on the same number of targets: {targets[0]:,}.")
    else:
        lines.append(
            f"NOTE: the arms trained on {targets[0]:,} to {targets[-1]:,} targets (early stopping, or other steps)"
        )
    shown = ("trainer.optimizer", "trainer.learning_rate", "trainer.loss")
    rates = {key: runs[0].settings[key] for key in shown if key in runs[0].settings}
    same = [f"{key}={value}" for key, value in rates.items() if key not in other]
    weight = runs[0].settings.get("trainer.history_loss_weight", 0)
    lines.append(
        f"The same start, split, targets and evaluation seed; {', '.join(same)}; "
        + ("loss on the answers alone." if not weight else f"history loss of weight {weight}.")
    )
    method = runs[0].settings.get("split.method", "global_time")
    if method != "global_time":
        lines.append(
            f"With split={method}, prompts show only earlier ratings of their user, but weights and baselines may have "
            "learned from training ratings that are later than a target; split=global_time split.min_ratings=1 "
            "excludes this."
        )
    return lines


def dominance(paired: Paired) -> list[str]:
    """Return a line that begins with NOTE if one user has a large share of the test targets."""
    counts = np.bincount(paired.user)
    share = counts.max() / counts.sum()
    if share <= LARGE_SHARE:
        return []
    user = paired.targets["user"][int(np.argmax(paired.user == counts.argmax()))]
    return [f"NOTE: user {user} has {share:.0%} of the test targets: RMSE and MAE are largely about that one"]


def failures(results: Results) -> list[str]:
    """Return lines that begin with NOTE for each arm whose model seems to have learned nothing."""
    arms = results.paired.arms
    return [f"NOTE: {arms[arm].label}: {sign}" for arm in results.order for sign in signs_of_failure(results, arm)]


def worse_than_chance(arms: tuple[Arm, ...]) -> list[str]:
    """Return a line that begins with NOTE if models of some seeds rank a user's test movies worse than chance: their
    arm's mean over seeds hides it."""
    found = []
    for arm in arms:
        aucs = [(run.seed, run.summary["metrics"]["test"].get("auc")) for run in arm.runs]
        below = [f"{seed} ({auc:.4f})" for seed, auc in aucs if auc is not None and auc < CHANCE_AUC]
        if below:
            found.append(f"{arm.label} with seed {', '.join(below)}")
    if not found:
        return []
    return [
        f"NOTE: some models rank a user's movies worse than chance (AUC below {CHANCE_AUC}), so they say next "
        f"to nothing about movies: {'; '.join(found)}"
    ]


def ranking(results: Results) -> list[str]:
    """Return a line that begins with NOTE if the arm with the lowest RMSE has a lower AUC than the one without
    history."""
    if "auc" not in results.of_arms:
        return []
    arms, auc = results.paired.arms, results.of_arms["auc"]
    best, none = results.order[0], without_history(results)
    if none is None or is_without_history(arms[best]) or auc[best].value >= auc[none].value:
        return []
    found = difference(results, "auc", best, none)
    interval = digits.interval(found.low, found.high, found.error, "+")
    return [
        f"NOTE: {arms[best].label} has the lowest RMSE, but ranks a user's movies worse than {arms[none].label} (AUC "
        f"{auc[best].value:.4f} against {auc[none].value:.4f}; difference {interval}, corrected "
        f"{digits.p_value(found.p_holm, found.p_error)}): compare their level and taste"
    ]


def trimming(frame: pl.DataFrame) -> list[str]:
    """Return a line that begins with NOTE if the budget cut most prompts of some arms; `frame` is the table of arms."""
    cut = [f"{row['arm']} {row['share_trimmed']:.0%}" for row in frame.to_dicts() if row["share_trimmed"] > MOSTLY]
    if not cut:
        return []
    return [f"NOTE: most test prompts are cut ({', '.join(cut)}): what is compared there is mostly prompt.max_tokens"]


def audits(arms: tuple[Arm, ...]) -> list[str]:
    """Return a line for each arm: what its runs' leak audits checked before training, and what they found."""
    lines = []
    for arm in arms:
        missing = [run.name for run in arm.runs if "audit" not in run.summary]
        if missing:
            lines.append(f"{arm.label}: not audited" + (f" ({', '.join(missing)})" if len(arm.runs) > 1 else ""))
            continue
        audited = [run.summary["audit"] for run in arm.runs]
        stages = [stage for audit in audited for stage in audit["stages"].values()]
        leaks = sum(count for audit in audited for count in audit["leaks"].values())
        prompts, visible = (sum(stage[name] for stage in stages) for name in ("targets", "visible"))
        drawn = sum(stage["shown"]["prompts"] for stage in stages)
        lines.append(
            f"{arm.label}: {leaks} leaks in {prompts:,} prompts (all {visible:,} ratings that they may show, and the "
            f"histories that are drawn for {'all' if drawn == prompts else f'{drawn:,}'} of them)"
        )
    return lines
