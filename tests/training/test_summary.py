"""The table at the end of a run."""

import pytest

from mlens.training import summary
from mlens.training.summary import WITHOUT_LENSKIT, print_table, versions


def errors(rmse):
    return {"rmse": rmse, "mae": rmse - 0.2}


def column(of_user):
    return {"global_mean": errors(1.1), "movie_mean": errors(1.0), "recent_biases": errors(of_user)}


@pytest.fixture
def printed(capsys, monkeypatch):
    """printed(baseline, lenskit) -> the cells of each row, and the lines after the table."""

    def printed(baseline, lenskit=None, **metrics):
        monkeypatch.setattr(summary, "lenskit_version", lambda: lenskit)
        baselines = {"full_history": column(0.85), "own_history": column(baseline)}
        print_table("a title", {"test": errors(0.9) | metrics}, {"test": baselines}, made_up=False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "a title"
        rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
        return rows, [line for line in lines[1:] if line[0] not in "┏┃┡│├└"]

    return printed


def test_baselines_in_two_sections_above_the_model(printed):
    rows, _ = printed(0.875)
    assert rows == [
        ["global mean", "1.1000", "0.9000"],
        ["movie mean", "1.0000", "0.8000"],
        ["given the whole history", "", ""],
        ["recent biases", "0.8500", "0.6500"],
        ["given this run's history", "", ""],
        ["recent biases", "0.8750", "0.6750"],
        ["this model", "0.9000", "0.7000"],
    ]


def test_one_section_where_the_run_saw_the_full_history(printed):
    rows, _ = printed(0.85)
    assert [row[0] for row in rows] == [
        *("global mean", "movie mean", "given the whole history", "recent biases", "this model")
    ]


def test_how_to_get_the_missing_baselines(printed):
    assert printed(0.875)[1][1:] == [WITHOUT_LENSKIT]
    assert printed(0.875, lenskit="2025.8")[1][1:] == []


def test_a_model_that_is_no_result_is_reported_as_such(printed):
    beaten = "NOTE: the model doesn't beat recent biases on test (RMSE 0.9000 against 0.8500)"
    assert printed(0.85, lenskit="x", illegal_mass=0.01, expected_std=0.5)[1] == [beaten]
    assert printed(0.85, lenskit="x", rmse=0.84)[1] == []
    _, (format_, same, worse) = printed(0.85, lenskit="x", illegal_mass=0.9999, expected_std=0.0, rmse=1.2)
    assert format_.startswith("NOTE: the model has not learned the answer format: 100.0% of its probability")
    assert same.startswith("NOTE: the model predicts the same rating for everything")
    assert "worse than predicting the global mean (RMSE 1.2000 against 1.1000)" in worse


def test_the_version_of_lenskit_is_reported_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(summary, "lenskit_version", lambda: "2025.8")
    assert versions()["lenskit"] == "2025.8"
    monkeypatch.setattr(summary, "lenskit_version", lambda: None)
    assert "lenskit" not in versions()
