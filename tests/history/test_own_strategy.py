"""The strategy of docs/extending.md does what the text says."""

import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.errors import UserError
from mlens.history.fit import fit
from tests.helpers.budgets import budgets, section
from tests.helpers.documents import document_files


@pytest.fixture(scope="module")
def same_genre(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "same_genre.py").write_text(
        document_files("extending.md")["mlens/history/same_genre.py"], encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        yield importlib.import_module("same_genre").SameGenre


@given(budgets(), st.integers(1, 6))
def test_it_shows_the_most_recent_ratings_of_the_targets_genres_that_fit(same_genre, case, count):
    histories = fit(same_genre(count), case.table, case.stage, case.budget, "exact", seed=0, epoch=0)
    everyone = range(len(case.stage))
    genres = [set(text.split(", ")) - {""} for text in case.table.movies["genres"]]
    wanted, chosen = [], []
    for t, target in enumerate(case.stage.targets):
        own = genres[case.table.movie[target]]
        asked = [i for i, rating in enumerate(case.stage.visible_to(t)) if own & genres[case.table.movie[rating]]]
        kept = asked[-count:]
        wanted.append(kept)
        while section(case, t, kept) > case.budget.room[t]:
            kept = kept[1:]
        chosen.append(kept)
    assert [histories.wanted(t).tolist() for t in everyone] == wanted
    assert [histories.shown(t).tolist() for t in everyone] == chosen


def test_the_document_keeps_its_promise_of_twenty_lines():
    text = document_files("extending.md")["mlens/history/same_genre.py"]
    assert len([line for line in text.splitlines() if line]) <= 20


def test_a_count_below_one_is_refused(same_genre):
    with pytest.raises(UserError, match=r"history\.count"):
        same_genre(0)
