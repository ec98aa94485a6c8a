"""The strategy of docs/extending.md does what the text says."""

import importlib

import numpy as np
import pytest
from budgets import assert_trunks, budgets, section
from hypothesis import given
from hypothesis import strategies as st
from told import told_files

from mlens.errors import UserError


@pytest.fixture(scope="module")
def same_genre(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "same_genre.py").write_text(told_files("extending.md")["mlens/history/same_genre.py"], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        yield importlib.import_module("same_genre").SameGenre


@given(budgets(), st.integers(1, 6))
def test_it_shows_the_most_recent_ratings_of_the_targets_genres_that_fit(same_genre, case, count):
    selection = same_genre(count).select(case.table, case.stage, case.budget, "exact", seed=0, epoch=0)
    everyone = np.arange(len(case.stage))
    genres = [set(text.split(", ")) - {""} for text in case.table.movies["genres"]]
    wanted, chosen = [], []
    for t, target in enumerate(case.stage.targets):
        own = genres[case.table.movie[target]]
        asked = [i for i, rating in enumerate(case.stage.visible_to(t)) if own & genres[case.table.movie[rating]]]
        kept = asked[-count:]
        wanted.append(len(kept))
        while section(case, t, kept) > case.budget.room[t]:
            kept = kept[1:]
        chosen.append(kept)
    assert selection.wanted(everyone).tolist() == wanted
    assert [selection.chosen(t).tolist() for t in everyone] == chosen
    assert selection.sections(everyone).tolist() == [section(case, t, kept) for t, kept in enumerate(chosen)]
    assert_trunks(case, selection, [None] * len(everyone))


def test_a_count_below_one_is_refused(same_genre):
    with pytest.raises(UserError, match=r"history\.count"):
        same_genre(0)
