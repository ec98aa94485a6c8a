"""The strategy history=same_genre, compared with lists made from its rule."""

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.errors import UserError
from mlens.history.fit import fit
from mlens.history.same_genre import SameGenre
from tests.helpers.budgets import Case, assert_fits, assert_groups, budgets, section

GENRES = st.sampled_from(["", "", "Drama", "Comedy, Drama", "Comedy,Sci-Fi", "Sci-Fi", "Film-Noir, ", "Sci"])
# As many that there are several bytes of bits.
MANY = st.integers(0, 30).map(lambda n: f"Genre {n}, Genre {n + 1}")


@st.composite
def cases_with_genres(draw):
    case = draw(budgets())
    genres = draw(st.lists(draw(st.sampled_from([GENRES, MANY])), min_size=9, max_size=9))
    movies = case.table.movies.with_columns(genres=pl.Series(genres, dtype=pl.String))
    return Case(replace(case.table, movies=movies), case.stage, case.budget, case.lines, case.numbers)


def naive_order(case, t, count):
    """The visible ratings that share a genre, the newest first, and then the others, the newest first."""
    genres = [[part.strip() for part in text.split(",") if part.strip()] for text in case.table.movies["genres"]]
    own = genres[case.table.movie[case.stage.targets[t]]]
    newest_first = list(enumerate(case.table.movie[rating] for rating in case.stage.visible_to(t)))[::-1]
    same = [i for i, movie in newest_first if any(genre in own for genre in genres[movie])]
    return (same + [i for i, _ in newest_first if i not in same])[:count]


@given(cases_with_genres(), st.sampled_from([1, 2, 5, 10**30]))
def test_it_shows_the_newest_of_the_same_genre_then_the_newest_others_that_fit(case, count):
    histories = fit(SameGenre(count), case.table, case.stage, case.budget, "exact", seed=0, epoch=0)
    for t in range(len(case.stage)):
        kept = naive_order(case, t, count)
        assert histories.wanted(t).tolist() == sorted(kept)
        while kept and section(case, t, sorted(kept)) > case.budget.room[t]:
            kept.pop()
        assert histories.shown(t).tolist() == sorted(kept)
    assert_fits(case, histories)
    assert_groups(histories, [None] * len(case.stage))


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(UserError, match=r"history\.count"):
        SameGenre(count)
