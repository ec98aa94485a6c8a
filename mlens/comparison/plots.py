"""The plots of the report, made from the figures of a comparison and from the runs' files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from mlens.comparison import figures
from mlens.comparison.figures import Curve, Dot, PlotRow
from mlens.comparison.finished_runs import Arm, Run
from mlens.comparison.results import HIGHER_IS_BETTER, Results, baseline_names, difference, errors_on, verdict
from mlens.comparison.statistics import part_estimates

# Metrics of the plots of all arms and baselines, by title. The first one is larger and prints its values.
OVERVIEW = {"Test RMSE": "rmse", "Taste: RMSE within users": "taste", "AUC: higher is better": "auc"}
# Inches: width of the first plot of the overview and of the others, and of the plot of differences.
WIDE, NARROW, OF_DIFFERENCES = 5.4, 3.15, 6.2
# Characters in a line of the label of a pair of arms.
PAIR_LINE = 36
# Above this number of pairs only those of the arm with the lowest RMSE are drawn.
MOST_PAIRS = 30
# Groups of targets by the number of the user's earlier ratings, whether the strategy shows them or not.
HISTORY_EDGES = (0, 10, 20, 50, 100, 200, 500, 1000)
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Plot:
    """A plot of the report, with its title and an optional note below it."""

    title: str
    svg: str
    note: str = ""


def overview(results: Results) -> Iterator[Plot]:
    """Yield a plot of all arms and baselines for each metric that was measured, with the same rows, by ascending RMSE.

    An arm has the same colour and marker in all plots of the report, assigned by ascending RMSE.
    """
    rows = _overview_rows(results)
    for title, metric in OVERVIEW.items():
        if metric not in results.of_arms:
            continue
        of_metric = [PlotRow(label, dots.get(metric), look) for label, dots, look in rows]
        width, printed = (WIDE, ".4f") if metric == "rmse" else (NARROW, "")
        axis, line = title.partition(":")[0], _best(of_metric, metric)
        yield Plot(title, figures.intervals(title, of_metric, axis, line, width, printed=printed))


def _overview_rows(results: Results) -> list[tuple[str, dict[str, Dot], figures.Look]]:
    """Return label, metrics and look of each arm and baseline given the full history, by ascending RMSE."""
    rows = []
    for number, arm in enumerate(results.order):
        found = {metric: of_arms[arm] for metric, of_arms in results.of_arms.items()}
        dots = {metric: Dot(one.value, one.low, one.high) for metric, one in found.items()}
        rows.append((results.paired.arms[arm].label, dots, figures.look_of_arm(number)))
    first = results.paired.arms[results.order[0]]
    for name in baseline_names(results):
        measured = {m: first.mean("baselines", "test", "full_history", name, m) for m in OVERVIEW.values()}
        dots = {metric: Dot(value) for metric, value in measured.items() if value is not None}
        if "rmse" in dots:
            rows.append((name.replace("_", " "), dots, figures.BASELINE))
    return sorted(rows, key=lambda row: row[1]["rmse"].value)


def _best(rows: list[PlotRow], metric: str) -> float:
    """Return the best value of the baselines; of the arms if there is no baseline with this metric."""
    of_baselines = [row.dot.value for row in rows if row.dot and row.look is figures.BASELINE]
    values = of_baselines or [row.dot.value for row in rows if row.dot]
    return max(values) if metric in HIGHER_IS_BETTER else min(values)


def of_differences(results: Results) -> Plot | None:
    """Return the plot of the differences of RMSE between arms, in ascending order; None if there is only one arm."""
    pairs = list(results.between)
    if not pairs:
        return None
    note = ""
    if len(pairs) > MOST_PAIRS:
        best = results.order[0]
        pairs = [(best, other) for other in results.order[1:]]
        note = "Only the differences from the arm with the lowest RMSE: the table below has all."
    looks = {"better": figures.BETTER, "worse": figures.WORSE, "": figures.UNCERTAIN}
    rows = []
    for i, j in pairs:
        found = difference(results, "rmse", i, j)
        one, other = (results.paired.arms[arm].label for arm in (i, j))
        label = f"{one} - {other}" if len(one + other) < PAIR_LINE - 2 else f"{one} -\n{other}"
        rows.append(PlotRow(label, Dot(found.value, found.low, found.high), looks[verdict(found, "rmse")]))
    rows.sort(key=lambda row: row.dot.value if row.dot else 0.0)
    axis = "difference of RMSE, first arm minus second\n← first arm better | first arm worse →"
    title = "Differences of RMSE between arms"
    return Plot(
        title, figures.intervals(title, rows, axis, 0.0, OF_DIFFERENCES, labels=PAIR_LINE, printed="+.4f"), note
    )


def details(results: Results) -> Iterator[Plot]:
    """Yield the other plots in the report's order. Lines of a single point are left out."""
    order = results.order
    arms = tuple(results.paired.arms[arm] for arm in order)
    labels = [arm.label for arm in arms]
    for x, what in (("epoch", "epochs"), ("seconds", "seconds of training")):
        if lines := list(_validations(arms, x)):
            title = f"Validation RMSE by {what}"
            yield Plot(title, figures.curves(title, lines, what, "validation RMSE"))
    title = "RMSE by earlier ratings"
    yield Plot(
        title,
        figures.groups(title, labels, by_earlier_ratings(results), "earlier ratings of the user", "RMSE, 95% interval"),
        "All of the user's earlier ratings, shown or not.",
    )
    for group, what in (("by_user_activity", "the user"), ("by_movie_popularity", "the movie")):
        title = f"RMSE by training ratings of {what}"
        values = [grouped(arm, group) for arm in arms]
        yield Plot(title, figures.groups(title, labels, values, f"training ratings of {what}", "RMSE"))
    lines = [Curve(arm.label, *_calibration(arm.runs[0]), group=i) for i, arm in enumerate(arms)]
    if lines := [line for line in lines if len(line.x) > 1]:
        title = "Calibration"
        axes = "probability of the most probable rating", "how often it is right"
        yield Plot(
            title,
            figures.curves(title, lines, *axes, diagonal=True),
            "On the dashed line a model is right as often as it says. Each arm's first run.",
        )


def _validations(arms: tuple[Arm, ...], x: str) -> Iterator[Curve]:
    """Yield the validation RMSE over epochs or seconds of each run that was validated more than once."""
    for number, arm in enumerate(arms):
        for run in arm.runs:
            per_epoch = run.plan["steps_per_epoch"]
            records = [record for record in run.records if record["kind"] == "val"]
            if len(records) > 1:
                at = [record["step"] / per_epoch if x == "epoch" else record["seconds"] for record in records]
                yield Curve(arm.label, at, [record["rmse"] for record in records], number)


def by_earlier_ratings(results: Results) -> list[dict[str, Dot]]:
    """Return the RMSE of each arm, in order, by the number of earlier ratings of the target's user; groups of one user
    have no interval."""
    paired = results.paired
    group = np.searchsorted(HISTORY_EDGES, paired.targets["t"].to_numpy(), side="right") - 1
    names = [f"{low}-{high - 1}" for low, high in pairwise(HISTORY_EDGES)]
    names.append(f"{HISTORY_EDGES[-1]}+")
    arms = range(len(paired.arms))
    errors, found = {}, {}
    for number in np.unique(group):
        targets = group == number
        if len(np.unique(paired.user[targets])) > 1:
            errors[names[number]] = errors_on(paired, arms, targets)
        else:
            of_draws = np.sqrt(np.mean((paired.expected[:, targets] - paired.rating[targets]) ** 2, axis=1))
            of_runs = paired.over_draws(of_draws)
            found[names[number]] = [Dot(float(of_runs[paired.arm == arm].mean())) for arm in arms]
    for name, estimates in zip(errors, part_estimates(list(errors.values()), "rmse"), strict=True):
        found[name] = [Dot(one.value, one.low, one.high) for one in estimates]
    return [{name: dots[arm] for name, dots in found.items()} for arm in results.order]


def grouped(arm: Arm, group: str) -> dict[str, Dot]:
    """Return an arm's RMSE by a group of the summary, averaged over runs."""
    names = arm.runs[0].summary["metrics"]["test"].get(group, {})
    values = {name: arm.mean("metrics", "test", group, name, "rmse") for name in names}
    return {name: Dot(value) for name, value in values.items() if value is not None}


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
