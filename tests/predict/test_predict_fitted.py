"""A model that was trained under a fitted strategy predicts with the histories that it was evaluated with."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mlens.errors import UserError
from mlens.history.recent_similar import RecentSimilar
from mlens.history.similar import Similar
from mlens.history.similarity import FILE
from mlens.history.spread import Spread
from mlens.pipeline import open_inputs
from mlens.predict import Prompter
from mlens.runs.push import find_upload
from mlens.training.exported import write_exported
from tests.helpers.predicting_runs import SHORT, PredictingRun, predicting_run
from tests.helpers.runs import IDENTITY, checked

STRATEGIES = [Similar(4), RecentSimilar(2, 3, "text"), Spread(4, 0.5)]


@pytest.fixture(scope="module")
def opened():
    return replace(open_inputs(checked(*SHORT, "history=similar", "prompt.max_tokens=400")), identity=IDENTITY)


def export(folder, opened, strategy):
    """Export everything but the weights; returns the inputs under the strategy, and the exported model's prompter."""
    node = {"_target_": f"{type(strategy).__module__}.{type(strategy).__name__}", **vars(strategy)}
    settings = replace(opened.settings, history=strategy, config=opened.settings.config | {"history": node})
    inputs = replace(opened, settings=settings)
    write_exported(folder, inputs)
    (folder / "config.json").write_text("{}")
    opened.tokenizer.save_pretrained(folder)
    return inputs, Prompter.from_run(folder)


def requests(inputs, folder):
    """Yield the index of some targets with the history and the movie that `mlens predict` is given for them."""
    table, stage = inputs.table, inputs.stages["test"]
    run = PredictingRun(folder, table, None, None)
    for i in range(0, len(stage), 5):
        target, user = int(stage.targets[i]), int(stage.user[i])
        ids = {"user": table.users["id"][user], "movie": table.movies["id"][int(table.movie[target])]}
        row = {**ids, "t": target - int(table.user_offsets[user])}
        yield i, run.history(row), run.movie(row)


def without(records, *names):
    return [{key: value for key, value in record.items() if key not in names} for record in records]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_the_prompts_are_those_of_the_evaluation(tmp_path, opened, strategy):
    inputs, prompter = export(tmp_path, opened, strategy)
    dataset = inputs.dataset("test")
    assert any((np.diff(dataset.histories.shown(i)) > 1).any() for i in range(len(dataset))), "no window"
    for i, history, movie in requests(inputs, tmp_path):
        (prompt,) = prompter.prompts(prompter.request(history, [movie]))["prompt"]
        assert prompt == dataset.text(i)
        # Without movie ids, films are known by their titles and genres.
        (same,) = prompter.prompts(prompter.request(without(history, "movie"), without([movie], "movie")))["prompt"]
        assert same == prompt


def test_a_user_and_a_film_that_the_training_did_not_know(tmp_path, opened):
    """The film is similar to none, so that the newest ratings are shown."""
    _, prompter = export(tmp_path, opened, Similar(2))
    history = [{"user": "new", "title": f"Unknown {i} (2000)", "genres": "Drama", "rating": 3} for i in range(5)]
    (prompt,) = prompter.prompts(prompter.request(history, [{"user": "new", "title": "Other"}]))["prompt"]
    assert re.findall(r"Unknown \d", prompt) == ["Unknown 3", "Unknown 4"]


def damage(name, value):
    def change(file):
        with np.load(file) as stored:
            arrays = dict(stored)
        arrays[name] = value(arrays[name])
        np.savez(file, **arrays)

    return change


DAMAGED = {
    "missing": lambda file: file.unlink(),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:1000]),
    "empty": lambda file: file.write_bytes(b""),
    "no archive": lambda file: file.write_text("x" * 100),
    "of another strategy": lambda file: np.savez(file, idf=np.ones(2)),
    "objects": damage("rating", lambda values: values.astype(object)),
    "an unknown movie": damage("movie", lambda values: values + 10**6),
    "a negative offset": damage("starts", lambda values: values - 1),
    "offsets of floats": damage("starts", lambda values: values.astype(float)),
    "an unknown fold": damage("fold", lambda values: values + 100),
    "not a number": damage("rating", lambda values: values * np.nan),
    "fewer keys": damage("text_keys", lambda values: values[1:]),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, opened, how):
    _, prompter = export(tmp_path, opened, Similar(2))
    DAMAGED[how](tmp_path / FILE)
    request = prompter.request([{"title": "A", "rating": 3}], [{"title": "B"}])
    with pytest.raises(UserError, match=f"{FILE} (is missing|can't be read)"):
        prompter.dataset(request)


def test_a_damaged_file_of_texts_is_refused(tmp_path, opened):
    _, prompter = export(tmp_path, opened, Similar(2, "text"))
    request = prompter.request([{"title": "A", "rating": 3}], [{"title": "B"}])
    prompter.dataset(request)
    for change in (damage("idf", lambda values: values[1:]), damage("terms", lambda values: values + 200)):
        change(tmp_path / FILE)
        with pytest.raises(UserError, match=f"{FILE} can't be read"):
            prompter.dataset(request)


@pytest.mark.slow
def test_a_run_predicts_as_it_was_evaluated(tmp_path):
    run = predicting_run(tmp_path / "run", "history=similar", "history.count=4")
    assert "without the ids of users" in (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    upload = find_upload(run.folder)
    assert FILE in upload.sizes and not upload.skipped and "training ratings" in upload.notes[0]
    for row in run.test[::4].iter_rows(named=True):
        (found,) = run.predict(row).rows(named=True)
        assert found["history_used"] == row["history_used"]
        assert found["expected"] == pytest.approx(row["expected"], abs=2e-6)
