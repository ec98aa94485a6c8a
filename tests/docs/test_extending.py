"""The examples of docs/extending.md, put into a copy of mlens, do what the text says."""

import importlib.util
import json
import re
import sys

import pytest

from mlens.data.sources import load_table
from mlens.errors import UserError
from tests.helpers.documents import document_files, extended_copy, use_copy
from tests.helpers.runs import command, run_here

FILES = document_files("extending.md")
EXAMPLE = """visible ratings: 2, shown: 1, cut: 0
prompt tokens: 28, answer tokens: 2
--- input, decoded ---
[TASK]
Rate the film.

[HISTORICAL_RATINGS]
1. Film 1 (1995) (Drama): 1.5

[RECENT_DIALOGUE]
User: Film 2 (1995) (Action):

Rating:
--- labels, decoded ---
2.0<|endoftext|>
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of mlens with the examples in it."""
    return extended_copy(tmp_path_factory.mktemp("extended"))


def lines(users=8):
    """Ratings as docs/extending.md writes them: each user rates ten films in turn, the newest first in the file."""
    for user in range(users):
        for n in reversed(range(10)):
            movie = (3 * user + n) % 12
            about = {"movie": movie, "title": f"Film {movie} (1995)", "genres": [("Action", "Drama")[movie % 2]]}
            yield {"user": f"u{user}", **about, "rating": 1 + (movie + user) % 8 / 2, "timestamp": 1000 + n}


def written(folder, records):
    file = folder / "ratings.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def test_the_document_shows_a_strategy_a_source_a_prompt_and_an_experiment():
    assert sorted(FILES) == [
        "conf/data/json_lines.yaml",
        "conf/experiment/words.yaml",
        "conf/history/liked.yaml",
        "conf/prompt/terse.yaml",
        "mlens/data/json_lines.py",
        "mlens/history/liked.py",
    ]


def test_strategy_source_and_prompt_of_ones_own_in_one_run(extended, tmp_path, monkeypatch):
    use_copy(extended, monkeypatch)
    file, run = written(tmp_path, lines()), tmp_path / "run"
    own = ("data=json_lines", f"data.path={file}", "history=liked", "history.count=1", "prompt=terse")
    run_here(run, "debug=fast", *own, "trainer.max_steps=1")
    log = (run / "training_logs" / "detailed_training_log.txt").read_text(encoding="utf-8")
    # Of the two films seen before, the second was rated higher.
    assert EXAMPLE in log


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"rating": 4.2}, "ratings.jsonl:81: the rating is not on the scale 0.5, 1.0,"),
        ({"rating": None}, "ratings.jsonl:81: one of user, movie, title, genres, rating, timestamp is missing"),
        ({"timestamp": "noon"}, "ratings.jsonl: "),
    ],
)
def test_the_source_refuses_what_is_no_rating(extended, tmp_path, monkeypatch, record, message):
    spec = importlib.util.spec_from_file_location("json_lines", extended / "mlens" / "data" / "json_lines.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "json_lines", module)  # its dataclass looks for it there
    spec.loader.exec_module(module)
    (first, *_) = lines()
    file = written(tmp_path, [*lines(), first | {"user": "z", **record}])
    with pytest.raises(UserError, match=re.escape(message)):
        load_table(module.JsonLines(str(file)))


@pytest.mark.slow
def test_the_experiment_of_ones_own_ends_with_a_report_of_its_six_arms(extended, tmp_path):
    words = ("train.py", "+experiment=words", "debug=fast", f"output_dir={tmp_path / 'sweep'}")
    done = command(*words, cwd=extended, PYTHONPATH=str(extended))
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "sweep" / "results.csv").read_text().splitlines()
    assert len(rows) == 7
