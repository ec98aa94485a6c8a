"""The best possible RMSE of a run on the made-up sample is that of the Bayes prediction from what it showed."""

import numpy as np
import pytest

from mlens.data.sample_bayes import bayes_rmse
from mlens.evaluation.baselines import measure_baselines
from mlens.evaluation.best_possible import measure_best_possible
from mlens.pipeline import open_inputs
from tests.helpers.runs import checked


@pytest.mark.parametrize("max_users", ["null", "30"])
def test_it_is_the_bayes_rmse_of_the_ratings_shown(max_users):
    overrides = ("data.users=60", f"data.max_users={max_users}", "history=fixed_count", "history.count=3")
    settings = checked(*overrides, "evaluation.max_users=null")
    inputs, truth = open_inputs(settings), settings.data.truth()
    dataset = inputs.dataset("test")
    found = measure_best_possible(truth, dataset)
    targets = dataset.stage.targets
    shown = [dataset.history(i) for i in range(len(dataset))]
    assert max(map(len, shown)) == 3
    assert found["own_history"]["rmse"] == pytest.approx(bayes_rmse(truth, targets, shown).observed, abs=0.005)
    baselines = measure_baselines(inputs.table, inputs.roles, {"test": dataset})["test"]
    for column, metrics in found.items():
        assert metrics["rmse"] < min(of["rmse"] for of in baselines[column].values())
    assert found["full_history"]["rmse"] < found["own_history"]["rmse"]
    assert np.array_equal(np.asarray(inputs.table.rating)[targets], truth.rating[targets])
