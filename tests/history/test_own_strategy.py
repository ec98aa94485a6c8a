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
def liked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "liked.py").write_text(document_files("extending.md")["mlens/history/liked.py"], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        yield importlib.import_module("liked").Liked


@given(budgets(), st.integers(1, 6))
def test_it_shows_the_highest_ratings_that_fit(liked, case, count):
    histories = fit(liked(count), case.table, case.stage, case.budget, "exact", seed=0, epoch=0)
    for t in range(len(case.stage)):
        ratings = [float(case.table.rating[rating]) for rating in case.stage.visible_to(t)]
        kept = sorted(range(len(ratings)), key=lambda i: (ratings[i], i), reverse=True)[:count]
        assert histories.wanted(t).tolist() == sorted(kept)
        while section(case, t, sorted(kept)) > case.budget.room[t]:
            kept.pop()
        assert histories.shown(t).tolist() == sorted(kept)


def test_the_document_keeps_its_promise_of_twenty_lines():
    text = document_files("extending.md")["mlens/history/liked.py"]
    assert len([line for line in text.splitlines() if line]) <= 20


def test_a_count_below_one_is_refused(liked):
    with pytest.raises(UserError, match=r"history\.count"):
        liked(0)
