"""benchmarks/study.py: one table of several sweeps, with the figures that their own comparisons have."""

import runpy

import polars as pl
import pytest

from mlens.comparison.report import report
from mlens.errors import UserError
from tests.helpers.made_up_runs import leave_out_figures, make_run
from tests.helpers.runs import ROOT

STUDY = ROOT / "benchmarks" / "study.py"


def make_study(folder, method, ties="order"):
    """Make a sweep of three arms and two seeds, in which the base model's seed is the run's."""
    for seed in (0, 1):
        settings = {"split.method": method, "split.ties": ties, "model.base": {"seed": seed}}
        make_run(folder / f"none_{seed}", "none", seed=seed, error=1.0, settings=settings)
        make_run(folder / f"all_{seed}", "all_previous", seed=seed, error=0.6, settings=settings)
        make_run(folder / f"count_{seed}", "fixed_count", {"count": 10}, seed=seed, error=0.62, settings=settings)
    return folder


def test_a_study_has_the_figures_of_each_sweeps_report(tmp_path, monkeypatch):
    leave_out_figures(monkeypatch)
    splits = {"temporal": ("temporal",), "temporal, ties=day": ("temporal", "day"), "random": ("random",)}
    folders = [make_study(tmp_path / name, *split) for name, split in splits.items()]
    write_study = runpy.run_path(str(STUDY))["write_study"]
    lines = write_study(folders, tmp_path / "out")
    frame = pl.read_csv(tmp_path / "out" / "study.csv", infer_schema_length=None)
    assert [line for line in lines if line.startswith("###")] == [
        "### sample, split temporal",
        "### sample, split temporal, ties=day",
        "### sample, split random",
    ]
    for folder in folders:
        report([folder], tmp_path / folder.name / "report")
        own = frame.filter(pl.col("protocol") == folder.name, pl.col("group") == "all")
        arms, pairs = (pl.read_csv(tmp_path / folder.name / "report" / name) for name in ("results.csv", "pairs.csv"))
        for row in arms.to_dicts():
            of_arm = own.filter(pl.col("arm") == row["arm"], pl.col("against").is_null())
            found = {one["metric"]: one for one in of_arm.to_dicts()}
            assert row["seeds"] == found["seeds"]["value"] == 2
            for metric in ("rmse", "taste", "auc"):
                assert [found[metric][end] for end in ("value", "low", "high")] == pytest.approx(
                    [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]]
                )
            ndcg = found["ndcg_10"]
            assert ndcg["low"] < ndcg["value"] < ndcg["high"]
            assert ndcg["value"] == pytest.approx(row["ndcg_10"])
        of_pairs = own.filter(pl.col("against").is_not_null())
        columns = {"arm": "first", "against": "second", "p_holm": "p_holm", "conclusion": "conclusion"}
        assert of_pairs.select(*columns).rows() == pairs.select(*columns.values()).rows()
        best, none = arms["arm"][0], "none"
        p = of_pairs.filter(pl.col("metric") == "rmse", pl.col("against") != "fixed_count 10")["p_holm"].to_list()
        of_best = own.filter(pl.col("arm") == best, pl.col("metric") == "rmse", pl.col("against").is_null())
        assert none in arms["arm"] and of_best["p_none"][0] in p and of_best["p_best"][0] is None


def test_two_sweeps_of_one_split_are_refused(tmp_path):
    folders = [make_study(tmp_path / name, "temporal") for name in ("a", "b")]
    with pytest.raises(UserError, match="several folders have data=sample and split=temporal"):
        runpy.run_path(str(STUDY))["write_study"](folders, tmp_path / "out")
