"""The guide's strategy of one's own does what the guide says, in both languages."""

import importlib
import re

import numpy as np
import pytest
from budgets import assert_trunks, budgets, section
from hypothesis import given
from hypothesis import strategies as st
from runs import ROOT

from mlens.errors import UserError


def told(guide: str) -> str:
    """The guide's program, which a user puts into mlens/history/same_genre.py."""
    text = (ROOT / "docs" / guide).read_text(encoding="utf-8")
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class SameGenre" in block]
    return program


@pytest.fixture(scope="module")
def same_genre(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "same_genre.py").write_text(told("guide.md"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        yield importlib.import_module("same_genre").SameGenre


def test_both_languages_tell_one_program():
    assert told("guide.md") == told("guide.zh.md")


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
