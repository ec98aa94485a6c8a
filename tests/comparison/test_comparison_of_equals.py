"""Comparison of real runs of one config over seeds under two labels, and tracking of a report."""

from itertools import combinations

import numpy as np
import pytest

from mlens.comparison.finished_runs import find_runs, make_arms
from mlens.comparison.pairing import pair
from mlens.comparison.report import report
from mlens.comparison.statistics import differences
from mlens.comparison.summed_errors import sum_errors
from mlens.comparison.tracking import track
from mlens.tracking.settings import NONE, Wandb, enabled_trackers
from tests.helpers.made_up_runs import make_sweep
from tests.helpers.runs import run_here

SEEDS = 6


@pytest.mark.slow
def test_one_strategy_under_two_labels_differs_no_more_often_than_nominal(tmp_path):
    """Six seeds of one config, in all ten partitions into two arms of three runs.

    At the level of 5% at most one of the ten differences may be significant: two or more would have a probability of
    0.09 if the ten were independent.
    """
    for seed in range(SEEDS):
        settings = ("debug=fast", "data.max_users=null", "evaluation.max_users=null", "trainer.max_steps=60")
        run_here(
            tmp_path / str(seed), *settings, "history=fixed_count", "trainer.validate_every_steps=null", f"seed={seed}"
        )
    paired, _ = pair(make_arms(find_runs([tmp_path])))
    assert len(paired.arms) == 1 and len(paired.runs) == SEEDS
    found = 0
    for members in combinations(range(1, SEEDS), SEEDS // 2 - 1):
        arm = np.ones(SEEDS, dtype=np.int64)
        arm[[0, *members]] = 0
        errors = sum_errors(paired.expected, paired.rating, paired.user, arm)
        found += differences(errors, "rmse")[0, 1].p < 0.05
    assert found <= 1


@pytest.mark.slow
def test_the_report_and_its_table_are_tracked_unless_tracking_is_disabled(tmp_path):
    written = report([make_sweep(tmp_path / "sweep")], tmp_path / "sweep")
    for tracker, mode in ((NONE, "offline"), ("wandb", "disabled"), ("wandb", "offline")):
        assert not (tmp_path / "sweep" / "wandb").exists()
        settings = Wandb(mode=mode)
        track(written, enabled_trackers(tracker, settings), settings, tmp_path / "sweep")
    (run,) = (tmp_path / "sweep" / "wandb").glob("offline-run-*")
    assert list(run.glob("files/media/html/report_*.html")) and list(run.glob("files/media/table/results_*.json"))
