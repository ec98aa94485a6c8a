"""The tables of a study: finished sweeps of several data sets and splits, each compared by itself.

    python benchmarks/study.py FOLDER [FOLDER …] --out FOLDER

A FOLDER holds the runs of one data set and split, as this command writes them:
    python train.py "+experiment=[ten_way,seeds]" data=ml_100k data.path=DIR split=temporal prompt.max_tokens=512

--out gets study.csv, with one row a figure: of an arm or a baseline, of a difference between two arms (`against`), or
of a group of targets. The tables of results are printed as Markdown.

Intervals are 95%. p_best and p_none are Holm-adjusted p-values of the difference from the arm with the lowest RMSE and
from history=none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mlens.comparison import digits
from mlens.comparison.finished_runs import find_runs, make_arms
from mlens.comparison.markdown import markdown_table
from mlens.comparison.pairing import Paired, pair
from mlens.comparison.pairs import detectable, pair_table
from mlens.comparison.plots import by_earlier_ratings, grouped
from mlens.comparison.results import (
    MARGIN,
    OF_BASELINES,
    TESTED,
    Results,
    baseline_names,
    compare,
    conclusion,
    difference,
    table,
    without_history,
)
from mlens.comparison.statistics import Estimate, estimates
from mlens.comparison.summed_errors import Errors
from mlens.data.delimited import without_formulas
from mlens.errors import UserError, exit_on_user_error
from mlens.evaluation.metrics import ndcg_shares
from mlens.files import atomic_write

# Metrics of the printed table, by title.
METRICS = {"RMSE": "rmse", "level": "level", "taste": "taste", "AUC": "auc", "NDCG@10": "ndcg_10"}
# Columns of results.csv that are figures without an interval.
PLAIN = (
    *("seeds", "targets", "val_rmse", "accuracy", "nll", "calibration_error", "user_rmse", "averaging_gain"),
    *("share_trimmed", "mean_history", "training_targets", "training_tokens", "seconds_training", "seconds_evaluation"),
)
# Groups of targets in summary.json, by what they count.
GROUPS = {
    "ratings shown": "by_history_length",
    "training ratings of the user": "by_user_activity",
    "training ratings of the movie": "by_movie_popularity",
}
# The columns of study.csv.
TEXTS = ("data", "protocol", "arm", "against", "group", "bin", "metric", "conclusion")
NUMBERS = ("value", "low", "high", "low_90", "high_90", "p_holm", "p_best", "p_none", "detectable", "detectable_first")
SCHEMA = {name: pl.String if name in TEXTS else pl.Float64 for name in (*TEXTS, *NUMBERS)}


@dataclass(frozen=True)
class Part:
    """The comparison of one folder.

    data, protocol: names of the data set and of the split, with split.ties unless it is the default.
    results: the comparison's figures.
    of_arms: by metric, the value on test of each arm, NDCG@10 included.
    """

    data: str
    protocol: str
    results: Results
    of_arms: dict[str, list[Estimate]]


def read_part(folder: Path) -> Part:
    """Compare the finished runs of a folder, and report those that can't be compared on stderr."""
    paired, refused = pair(make_arms(find_runs([folder])))
    for line in refused:
        print(f"not compared: {line}", file=sys.stderr)
    run = paired.runs[0]
    chosen = [text.partition("=")[2] for text in run.summary["overrides"] if text.startswith("data=")]
    data = chosen[-1] if chosen else run.config["data"]["_target_"].split(".")[-2]
    method, ties = (run.config["split"][name] for name in ("method", "ties"))
    results = compare(paired)
    return Part(
        data,
        method if ties == "order" else f"{method}, ties={ties}",
        results,
        results.of_arms | {"ndcg_10": of_ndcg(paired)},
    )


def of_ndcg(paired: Paired) -> list[Estimate]:
    """Estimate each arm's NDCG@10; none if fewer than two users have targets to rank."""
    shares = np.stack([ndcg_shares(expected, paired.rating, paired.user) for expected in paired.expected])
    some = ~np.isnan(shares[0])
    if some.sum() < 2:
        return []
    # Like AUC it is a mean over users, and so has its statistics.
    errors = Errors({"auc": np.where(some, shares, 0)}, {"auc": some.astype(int)}, paired.arm, paired.run)
    return estimates(errors, "auc")


def rows(part: Part) -> Iterator[dict]:
    """Yield the rows of study.csv, without data and protocol."""
    results, arms = part.results, part.results.paired.arms
    best, none = results.order[0], without_history(results) if "auc" in results.of_arms else None
    plain = {row["arm"]: row for row in table(results).to_dicts()}
    for number in results.order:
        of_arm = {"arm": arms[number].label, "group": "all"}
        for metric, found in part.of_arms.items():
            p = {
                name: difference(results, metric, number, other).p_holm
                for name, other in (("p_best", best), ("p_none", none))
                if other not in (None, number) and metric in TESTED
            }
            if found:
                one = found[number]
                yield of_arm | {"metric": metric, "value": one.value, "low": one.low, "high": one.high} | p
        row = plain[arms[number].label]
        yield from (of_arm | {"metric": name, "value": row[name]} for name in PLAIN if row[name] is not None)
        for group, key in GROUPS.items():
            for name, dot in grouped(arms[number], key).items():
                yield of_arm | {"group": group, "bin": name, "metric": "rmse", "value": dot.value}
    for number, bins in zip(results.order, by_earlier_ratings(results), strict=True):
        of_group = {"arm": arms[number].label, "group": "earlier ratings of the user", "metric": "rmse"}
        yield from (of_group | {"bin": name} | vars(dot) for name, dot in bins.items())
    for name in baseline_names(results):
        for metric in (*OF_BASELINES, "mae", "ndcg_10"):
            value = arms[best].mean("baselines", "test", "full_history", name, metric)
            if value is not None:
                yield {"arm": name, "group": "baseline", "metric": metric, "value": value}
    for row in pair_table(results).to_dicts():
        yield row | {"arm": row["first"], "against": row["second"], "group": "all"}


def printed(part: Part) -> list[str]:
    """Return the tables of a comparison as Markdown: the arms, and what each pair of them shows."""
    results, arms = part.results, part.results.paired.arms
    measured = {title: part.of_arms[name] for title, name in METRICS.items() if part.of_arms.get(name)}
    plain = {row["arm"]: row for row in table(results).to_dicts()}
    of_arms, of_pairs = [], []
    for number in results.order:
        label, row = arms[number].label, plain[arms[number].label]
        figures = [_figure(found[number]) for found in measured.values()]
        tokens = "" if row["training_tokens"] is None else f"{row['training_tokens'] / 1e6:.1f} M"
        cost = [f"{row['training_targets']:,.0f}", tokens, f"{row['seconds_training'] / 60:.1f}"]
        of_arms.append([label, str(len(arms[number].runs)), *figures, *cost])
        concluded: dict[str, list[str]] = {"different": [], "equivalent": [], "undecided": []}
        for other in results.order:
            if other != number:
                found = difference(results, "rmse", number, other)
                concluded[conclusion(found, "rmse")].append(arms[other].label)
        of_pairs.append([label, *(", ".join(names) for names in concluded.values())])
    lines = [f"### {part.data}, split {part.protocol}", ""]
    lines += markdown_table(["arm", "seeds", *measured, "targets", "tokens", "minutes"], of_arms)
    if len(arms) > 1:
        pair_columns = ["RMSE of", "different from", f"equivalent within {MARGIN}", "undecided"]
        lines += ["", *markdown_table(pair_columns, of_pairs), "", " ".join(detectable(results))]
    return [*lines, ""]


def _figure(found: Estimate) -> str:
    return f"{found.value:.4f} ({digits.interval(found.low, found.high, found.error)})"


def write_study(folders: Sequence[Path], output: Path) -> list[str]:
    """Write study.csv into `output`, and return the lines of the printed tables.

    Raises UserError if two folders have the same data and split, or as `mlens compare` does.
    """
    parts = [read_part(folder) for folder in folders]
    names = [(part.data, part.protocol) for part in parts]
    for folder, name in zip(folders, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"several folders have data={name[0]} and split={name[1]}: {folder}. Give one of them")
    found = [{"data": part.data, "protocol": part.protocol} | row for part in parts for row in rows(part)]
    frame = pl.DataFrame([{name: row.get(name) for name in SCHEMA} for row in found], schema=SCHEMA)
    output.mkdir(parents=True, exist_ok=True)
    atomic_write(output / "study.csv", without_formulas(frame).write_csv)
    return [line for part in parts for line in printed(part)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="the folder of study.csv")
    options = parser.parse_args()
    with exit_on_user_error():
        print("\n".join(write_study(options.folders, options.out)))
