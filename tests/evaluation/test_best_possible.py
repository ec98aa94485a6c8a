"""The best possible RMSE of a run on the made-up sample is that of the Bayes prediction from what it showed."""

from dataclasses import replace

import numpy as np
import pytest

from mlens.data.sample import Sample
from mlens.data.sample_bayes import BayesPredictions, bayes_rmse
from mlens.data.sources import load_table
from mlens.data.split import Split, assign_roles
from mlens.data.stage import make_stage
from mlens.evaluation import best_possible
from mlens.evaluation.baselines import measure_baselines
from mlens.evaluation.best_possible import measure_best_possible
from mlens.pipeline import open_inputs
from tests.helpers.runs import checked
from tests.helpers.shown_lists import last_visible


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


@pytest.fixture
def computed(monkeypatch):
    """Replace the Bayes prediction by the mean of what is shown, and record the number of targets of each call."""
    recorded = []

    def counted(truth, targets, histories):
        recorded.append(len(targets))
        means = np.array([truth.rating[shown].mean() if len(shown) else 3 for shown in histories])
        return BayesPredictions(means, np.zeros(len(means)))

    monkeypatch.setattr(best_possible, "bayes_predictions", counted)
    return recorded


SAMPLE = Sample(users=12, movies=60)


def measured(sample=SAMPLE, newest=1000, test_ratio=0.2):
    """Measure it on the sample's test targets, each of which is shown its `newest` visible ratings."""
    table, split = load_table(sample), Split("temporal", val_ratio=0.2, test_ratio=test_ratio)
    stage = make_stage(table, assign_roles(table, split), split, "test")
    return measure_best_possible(sample.truth(), last_visible(stage, newest))


def test_equal_histories_are_computed_once(computed):
    found = measured()
    assert found["own_history"] == found["full_history"] and len(computed) == 1
    assert measured() == found and len(computed) == 1
    newest = measured(newest=3)
    assert newest["full_history"] == found["full_history"] != newest["own_history"] and len(computed) == 2


@pytest.mark.parametrize("change", [{"noise": 0.6}, {"drift": 0.1}, {"seed": 1}])
def test_another_truth_is_computed_anew(computed, change):
    assert measured() != measured(replace(SAMPLE, **change)) and len(computed) == 2


def test_other_targets_or_another_version_are_computed_anew(computed, monkeypatch):
    assert measured() != measured(test_ratio=0.3) and len(computed) == 2
    monkeypatch.setattr(best_possible, "VERSION", -1)
    measured()
    assert len(computed) == 3
