"""The table at the end of a run."""

import math
import re

import pytest

from mlens.training import summary
from mlens.training.summary import WITHOUT_LENSKIT, print_table, versions


def errors(rmse, auc=0.6):
    return {"rmse": rmse, "mae": rmse - 0.2, "level": 0.3, "taste": 0.8, "auc": auc, "ndcg_10": 0.9}


def column(of_user):
    return {"global_mean": errors(1.1, None), "movie_mean": errors(1.0), "recent_biases": errors(of_user)}


@pytest.fixture
def printed(capsys, monkeypatch):
    """printed(baseline, lenskit) -> the cells of each row, and the lines after the table."""

    def printed(baseline, lenskit=None, **metrics):
        monkeypatch.setattr(summary, "lenskit_version", lambda: lenskit)
        baselines = {"full_history": column(0.85), "own_history": column(baseline)}
        print_table("a title", {"test": errors(0.9) | metrics}, {"test": baselines}, {}, made_up=False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "a title"
        assert max(map(len, lines)) <= 80 or "NOTE" in max(lines, key=len)
        rows = [re.split(" {2,}", line.strip()) for line in lines[1:] if line.startswith("  ") and line.strip()][2:]
        return rows, [line for line in lines[1:] if line and not line.startswith(" ")]

    return printed


def test_baselines_in_two_sections_above_the_model(printed):
    rows, _ = printed(0.875)
    others = ["0.3000", "0.8000", "0.6000", "0.9000"]
    assert rows == [
        ["global mean", "1.1000", "0.3000", "0.8000", "0.9000", "0.9000"],  # no AUC
        ["movie mean", "1.0000", *others, "0.8000"],
        ["full history"],
        ["recent biases", "0.8500", *others, "0.6500"],
        ["this run's history"],
        ["recent biases", "0.8750", *others, "0.6750"],
        ["this model", "0.9000", *others, "0.7000"],
    ]


def test_other_stages_have_a_column_of_rmse(capsys, monkeypatch):
    monkeypatch.setattr(summary, "lenskit_version", lambda: "x")
    baselines = {"full_history": column(0.85), "own_history": column(0.85)}
    print_table("", {"val": errors(0.8), "test": errors(0.9)}, {"val": baselines, "test": baselines}, {}, made_up=False)
    lines = capsys.readouterr().out.splitlines()
    (model,) = [line.split() for line in lines if "this model" in line]
    assert model == ["this", "model", "0.8000", "0.9000", "0.3000", "0.8000", "0.6000", "0.9000", "0.7000"]


def test_one_section_where_the_run_saw_the_full_history(printed):
    rows, _ = printed(0.85)
    assert [row[0] for row in rows] == [*("global mean", "movie mean", "full history", "recent biases", "this model")]


def test_made_up_data_have_a_best_possible_row_for_each_history(capsys):
    baselines = {"full_history": column(0.85), "own_history": column(0.875)}
    best = {"full_history": errors(0.5), "own_history": errors(0.6)}
    print_table("", {"test": errors(0.9)}, {"test": baselines}, {"test": best}, made_up=True)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "best possible" in line]
    assert [row[2] for row in rows] == ["0.5000", "0.6000"]


def test_how_to_get_the_missing_baselines(printed):
    assert printed(0.875)[1][1:] == [WITHOUT_LENSKIT]
    assert printed(0.875, lenskit="2025.8")[1][1:] == []


def test_a_model_that_is_no_result_is_reported_as_such(printed):
    beaten = "NOTE: the model doesn't beat recent biases on test (RMSE 0.9000 against 0.8500)"
    assert printed(0.85, lenskit="x", illegal_mass=0.01, expected_std=0.5)[1] == [beaten]
    assert printed(0.85, lenskit="x", rmse=0.84)[1] == []
    films = "NOTE: the model ranks a user's movies worse than the movie mean on test (AUC 0.5000 against 0.6000)"
    assert printed(0.85, lenskit="x", rmse=0.84, auc=0.5)[1] == [f"{films}: compare its level and taste"]
    assert printed(0.85, lenskit="x", rmse=0.84, auc=math.nan)[1] == []
    (chance,) = printed(0.85, lenskit="x", rmse=0.84, auc=0.386)[1]
    assert chance.startswith("NOTE: the model says next to nothing about movies")
    assert "(AUC 0.3860; chance is 0.5)" in chance
    _, (format_, same, worse) = printed(0.85, lenskit="x", illegal_mass=0.9999, expected_std=0.0, rmse=1.2)
    assert format_.startswith("NOTE: the model has not learned the answer format: 100.0% of its probability")
    assert same.startswith("NOTE: the model predicts the same rating for everything")
    assert "worse than predicting the global mean (RMSE 1.2000 against 1.1000)" in worse


def test_the_version_of_lenskit_is_reported_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(summary, "lenskit_version", lambda: "2025.8")
    assert versions()["lenskit"] == "2025.8"
    monkeypatch.setattr(summary, "lenskit_version", lambda: None)
    assert "lenskit" not in versions()
