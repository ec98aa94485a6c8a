"""The baselines on the real ml-latest-small, if it is in ../shared/data."""

from pathlib import Path

import pytest

from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.sources import load_table
from mlens.data.split import Split, assign_roles
from mlens.data.stage import make_stage
from mlens.evaluation.baselines import measure_baselines
from mlens.evaluation.lenskit_models import lenskit_version
from tests.helpers.shown_lists import last_visible

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data/ml-latest-small")

# Test RMSE and MAE with the full history, computed by an independent program (its factorisation isn't LensKit's, and
# has 20 factors).
INDEPENDENT = {
    "global_mean": (1.076, 0.847),
    "movie_mean": (1.001, 0.778),
    "user_mean_so_far": (0.955, 0.744),
    "biases": (0.883, 0.682),
    "recent_biases": (0.832, 0.631),
    "factors": (0.875, 0.675),
}
# Test RMSE with the last ten ratings: lower than with all, except for item kNN, which finds few neighbours among them.
LAST_TEN = {"user_mean_so_far": 0.899, "biases": 0.844, "recent_biases": 0.838, "factors": 0.848, "item_knn": 0.868}


def test_baselines_on_ml_latest_small():
    table = load_table(MovieLensCsv("ml-latest-small", path=str(FOLDER)))
    split = Split("temporal")
    roles = assign_roles(table, split)
    dataset = last_visible(make_stage(table, roles, split, "test"), 10)
    measured = measure_baselines(table, roles, {"test": dataset})["test"]
    names = [name for name in INDEPENDENT if lenskit_version() or name != "factors"]
    full, last_ten = measured["full_history"], measured["own_history"]
    assert set(full) - {"item_knn"} == set(names)
    for name in names:
        assert (full[name]["rmse"], full[name]["mae"]) == pytest.approx(INDEPENDENT[name], abs=0.003)
    for name in set(LAST_TEN) & set(last_ten):
        assert last_ten[name]["rmse"] == pytest.approx(LAST_TEN[name], abs=0.002)
    assert min(full, key=lambda name: full[name]["rmse"]) == "recent_biases"
