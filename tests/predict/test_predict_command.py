"""mlens predict: the same numbers as in Python, in every form."""

import json
import sys

import polars as pl
import pytest

from mlens.cli.predict import main
from mlens.predict import progress
from mlens.predict.predictor import Predictor

HISTORY = "user,title,genres,rating\n" + "".join(
    f"{user},Film {i} (19{i}0),Drama|War,{1 + (i + user) % 5}\n" for user in (1, 2) for i in range(1, 6)
)
MOVIES = "title,genres\n" + "".join(f"[red]Long Way {i}[/red],Comedy\n" for i in range(12)) + "=1+1,\n"


@pytest.fixture
def predict(all_previous, tmp_path, monkeypatch, capsys):
    """predict(*options) -> exit code, and what it printed."""
    (tmp_path / "history.csv").write_text(HISTORY)
    (tmp_path / "movies.csv").write_text(MOVIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def predict(*options):
        given = [str(all_previous.folder), "--history", "history.csv", "--movies", "movies.csv", *options]
        monkeypatch.setattr(sys, "argv", ["predict", *given])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr()

    return predict


def test_every_form_of_output_holds_what_python_gives(all_previous, predict, tmp_path):
    expected = all_previous.predictor.predict("history.csv", "movies.csv")
    assert expected.columns[:4] == ["rank", "user", "title", "expected"] and len(expected) == 26
    for user in (1, 2):
        own = expected.filter(pl.col("user") == user)
        assert own["rank"].to_list() == list(range(1, 14)) and own["expected"].is_sorted(descending=True)
    probabilities = expected.select(pl.sum_horizontal(pl.selectors.starts_with("p_"))).to_series()
    assert probabilities.to_list() == pytest.approx([1] * 26)
    for name in ("out.parquet", "out.json", "deep/out.csv"):
        code, printed = predict("--output", name)
        assert code == 0 and printed.out == f"{name}\n"
    assert pl.read_parquet("out.parquet").equals(expected)
    assert json.loads((tmp_path / "out.json").read_text()) == expected.to_dicts()
    found = pl.read_csv("deep/out.csv")
    assert found.drop("title").equals(expected.drop("title"))
    assert set(found["title"]) - set(expected["title"]) == {"'=1+1"}  # no formula


def test_the_best_on_the_screen(predict, all_previous):
    expected = all_previous.predictor.predict("history.csv", "movies.csv")
    code, printed = predict("--top", "2")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.out.splitlines() if line[:1] == "│"]
    best = expected.filter(pl.col("rank") <= 2)
    assert code == 0 and [row[2] for row in rows] == best["title"].to_list()
    assert [row[3] for row in rows] == [f"{value:.3f}" for value in best["expected"]]


def test_prompts(predict, all_previous, tmp_path):
    code, _ = predict("--prompts", "--output", "prompts.json")
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    tokenizer = all_previous.predictor.prompter.tokenizer
    assert code == 0 and len(prompts) == 26
    for prompt in prompts:
        assert prompt["text_is_enough"] and tokenizer.decode(prompt["prompt_token_ids"]) == prompt["prompt"]
        assert prompt["title"] in prompt["prompt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "out.xlsx"), "--output out.xlsx must end in .csv, .json, .parquet"),
        (("--top", "0"), "--top must be at least 1"),
        (("--prompts",), "--prompts needs --output"),
        (("--history", "none.csv"), "none.csv: no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(predict, options, message):
    code, printed = predict(*options)
    assert code == 2 and printed.err.startswith(f"error: {message}") and printed.err.count("\n") == 1


def test_many_predictions_are_refused_before_the_weights_are_loaded(predict, monkeypatch):
    monkeypatch.setattr("mlens.cli.predict.MOST", 25)
    monkeypatch.setattr(Predictor, "of", lambda *_: pytest.fail("the weights were loaded"))
    code, printed = predict()
    assert code == 2 and printed.err == (
        "error: 26 predictions for 2 users are more than 25: select users with --user ID, or make all predictions with "
        "--all\n"
    )
    code, printed = predict("--all", "--prompts", "--output", "all.json")
    assert code == 0 and printed.err == "26 predictions for 2 users\n"
    code, printed = predict("--user", "2", "--prompts", "--output", "one.json")
    assert code == 0 and printed.err == "13 predictions for 1 user\n"


def test_how_long_it_takes_is_said_and_that_the_answer_format_is_not_learned(predict, monkeypatch):
    monkeypatch.setattr(progress, "MEASURED", -1)
    _, printed = predict()
    # Rich 13.9 ends even a disabled bar with an empty line.
    number, predicting, note = filter(None, printed.err.splitlines())
    assert number == "26 predictions for 2 users"
    assert predicting.startswith("predicting 26 takes about ")
    assert note.startswith("NOTE: the model has not learned the answer format: ")


def test_text_that_holds_a_token_is_told(all_previous):
    prompter = all_previous.predictor.prompter
    asked = prompter.request([{"title": "Heat", "rating": 4}], [{"title": "A <|endoftext|> B"}, {"title": "C"}])
    assert prompter.prompts(asked)["text_is_enough"].to_list() == [False, True]
