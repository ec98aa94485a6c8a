"""Sections of the report apart from its tables: plots, prompts and notes, made from the runs' files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from mlens.comparison import digits, figures
from mlens.comparison.figures import Curve
from mlens.comparison.finished_runs import Arm, Run, differing_keys
from mlens.comparison.pairing import Paired
from mlens.comparison.results import Results, difference, is_without_history, signs_of_failure, without_history

# Groups of targets by the number of the user's earlier ratings, whether the strategy shows them or not.
HISTORY_EDGES = (0, 10, 20, 50, 100, 200, 500, 1000)
CALIBRATION_BINS = 10
# Share of the test targets above which one user dominates the errors.
LARGE_SHARE = 0.2
# Share of an arm's test prompts above which trimming, rather than the strategy, chose the history.
MOSTLY = 0.5
# Number of items shown: targets shared by all arms, each arm's worst predictions, and the largest differences.
EXAMPLES, WORST, APART = 3, 3, 10


@dataclass(frozen=True)
class Plot:
    """A plot of the report, with its title and an optional note below it."""

    title: str
    svg: str
    note: str = ""


def plots(results: Results) -> Iterator[Plot]:
    """Yield the plots in the report's order; an arm has the same colour in all, assigned by ascending RMSE."""
    order = results.order
    arms = tuple(results.paired.arms[arm] for arm in order)
    labels = [arm.label for arm in arms]
    points = [(results.rmse[arm].value, results.rmse[arm].low, results.rmse[arm].high) for arm in order]
    yield Plot("Test RMSE", figures.intervals(labels, points, "test RMSE, 95% interval"))
    for x, what in (("epoch", "epochs"), ("seconds", "seconds of training")):
        lines = list(_validations(arms, x))
        if lines:
            yield Plot(f"Validation RMSE by {what}", figures.curves(lines, what, "validation RMSE"))
    yield Plot(
        "RMSE by earlier ratings",
        figures.groups(labels, _by_earlier(results.paired, order), "earlier ratings of the user", "RMSE"),
        "All of the user's earlier ratings, shown or not.",
    )
    for group, what in (("by_user_activity", "the user"), ("by_movie_popularity", "the movie")):
        values = [_grouped(arm, group) for arm in arms]
        yield Plot(
            f"RMSE by training ratings of {what}",
            figures.groups(labels, values, f"training ratings of {what}", "RMSE"),
        )
    lines = [Curve(arm.label, *_calibration(arm.runs[0]), group=i) for i, arm in enumerate(arms)]
    yield Plot(
        "Calibration",
        figures.curves(lines, "probability of the most probable rating", "how often it is right", diagonal=True),
        "On the grey line a model is right as often as it says. Each arm's first run.",
    )


def _validations(arms: tuple[Arm, ...], x: str) -> Iterator[Curve]:
    """Yield each run's validation RMSE over epochs or seconds."""
    for number, arm in enumerate(arms):
        for run in arm.runs:
            per_epoch = run.plan["steps_per_epoch"]
            records = [record for record in run.records if record["kind"] == "val"]
            if records:
                at = [record["step"] / per_epoch if x == "epoch" else record["seconds"] for record in records]
                yield Curve(arm.label, at, [record["rmse"] for record in records], number)


def _by_earlier(paired: Paired, order: list[int]) -> list[dict[str, float]]:
    """Return the RMSE of each arm by the number of earlier ratings of the target's user."""
    earlier = paired.targets["t"].to_numpy()
    group = np.searchsorted(HISTORY_EDGES, earlier, side="right") - 1
    names = [f"{low}-{high - 1}" for low, high in pairwise(HISTORY_EDGES)]
    names.append(f"{HISTORY_EDGES[-1]}+")
    counts = np.bincount(group, minlength=len(names))
    found = []
    for arm in order:
        draws = np.flatnonzero(paired.arm[paired.run] == arm)
        squares = np.zeros((len(paired.run), len(names)))
        for draw in draws:
            squares[draw] = np.bincount(group, (paired.expected[draw] - paired.rating) ** 2, minlength=len(names))
        with np.errstate(invalid="ignore"):  # groups without targets
            means = paired.over_draws(np.sqrt(squares / counts))[paired.arm == arm].mean(axis=0)
        found.append({names[g]: float(means[g]) for g in np.flatnonzero(counts)})
    return found


def _grouped(arm: Arm, group: str) -> dict[str, float]:
    """Return an arm's RMSE by a group of the summary, averaged over runs."""
    names = arm.runs[0].summary["metrics"]["test"].get(group, {})
    values = {name: arm.mean("metrics", "test", group, name, "rmse") for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _calibration(run: Run) -> tuple[list[float], list[float]]:
    """Return mean confidence and accuracy of the most probable rating in equal-width bins of confidence, over all draws
    of histories."""
    frame = pl.concat(run.predictions("test"))
    probability = frame.select(name for name in frame.columns if name.startswith("p_")).to_numpy()
    confidence, right = probability.max(axis=1), (frame["argmax"] == frame["rating"]).to_numpy()
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    full = counts > 0
    means = (np.bincount(bins, value, minlength=CALIBRATION_BINS)[full] / counts[full] for value in (confidence, right))
    x, y = (mean.tolist() for mean in means)
    return x, y


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
        lines.append(f"NOTE: beside the history the arms differ in {', '.join(other)}")
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
    rates = {
        key: runs[0].settings[key] for key in ("trainer.optimizer", "trainer.learning_rate") if key in runs[0].settings
    }
    same = [f"{key}={value}" for key, value in rates.items() if key not in other]
    weight = runs[0].settings.get("trainer.history_loss_weight", 0)
    lines.append(
        f"The same start, split, targets and evaluation seed; {', '.join(same)}; "
        + ("loss on the answers alone." if not weight else f"history loss of weight {weight}.")
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
