"""Similarities of movies, and the histories that are chosen by them, against dense loops over users and films."""

import math
import pickle
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlens.data.split import Split
from mlens.errors import UserError
from mlens.history import by_similarity, similarity
from mlens.history.fit import fit
from mlens.history.recent_similar import RecentSimilar
from mlens.history.similar import Similar
from mlens.history.similarity import fit_similarity, load_similarity, save_similarity, user_folds
from mlens.history.spread import Spread
from mlens.history.strategy import fit_strategy
from tests.helpers.budgets import assert_fits, budgets, section
from tests.helpers.reference import HALF_STARS, make_table, stage_of, tables

TITLES = ["The Matrix (1999)", "Matrix, The (2003)", "The", "A Film of 1999", "", "Emma (1996–)", "Emma", "Up & Down"]
GENRES = ["Action, Sci-Fi", "Drama", "", "Sci-Fi"]


@st.composite
def rated_tables(draw):
    """Draw a table whose movies have texts, and which of its ratings are training ratings."""
    table = draw(tables(most_users=8))
    titles, genres = (
        draw(st.lists(st.sampled_from(texts), min_size=len(table.movies), max_size=len(table.movies)))
        for texts in (TITLES, GENRES)
    )
    movies = table.movies.with_columns(title=pl.Series(titles), genres=pl.Series(genres))
    trained = np.random.default_rng(draw(st.integers(0, 10**6))).random(len(table)) < draw(st.sampled_from([0, 0.6, 1]))
    return replace(table, movies=movies), trained


@contextmanager
def small_blocks(cells, targets):
    with pytest.MonkeyPatch.context() as patched:
        for module in (similarity, by_similarity):
            patched.setattr(module, "CELLS", cells)
        patched.setattr(by_similarity, "TARGETS_AT_ONCE", targets)
        yield


BLOCKS = st.sampled_from([(similarity.CELLS, by_similarity.TARGETS_AT_ONCE), (3, 2), (40, 1), (100, 5)])


def naive_by_ratings(table, trained, user):
    """The similarity of every two films for one user, [movies, movies]."""
    folds, films = user_folds(table), len(table.movies)
    centred = []
    for other in range(len(table.users)):
        if folds[other] == folds[user]:
            continue
        rated = {int(table.movie[i]): float(table.rating[i]) for i in np.flatnonzero((table.user == other) & trained)}
        if rated:
            mean = sum(rated.values()) / len(rated)
            centred.append({film: rating - mean for film, rating in rated.items()})
    found = np.zeros((films, films))
    for i in range(films):
        for j in range(films):
            both = [rated for rated in centred if i in rated and j in rated]
            norms = [math.sqrt(sum(rated[film] ** 2 for rated in centred if film in rated)) for film in (i, j)]
            if both and min(norms) > 0:
                cosine = sum(rated[i] * rated[j] for rated in both) / math.prod(norms)
                found[i, j] = cosine * len(both) / (len(both) + 25)
    return found


def naive_by_text(table):
    """The similarity of every two films, [movies, movies]."""
    bags = []
    for title, genres in table.movies.select("title", "genres").iter_rows():
        words = re.sub(r"\(\d{4}–?\)$", "", title).lower().replace(",", " ").replace("&", " ").split()
        bags.append(words + [f"genre {genre}" for genre in genres.lower().split(", ") if genre])
    terms = sorted({term for bag in bags for term in bag})
    df = np.array([sum(term in bag for bag in bags) for term in terms])
    vectors = np.array([[bag.count(term) for term in terms] for bag in bags], dtype=float).reshape(len(bags), -1)
    vectors *= np.log((1 + len(bags)) / (1 + df)) + 1
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    vectors = np.divide(vectors, lengths, out=vectors, where=lengths > 0)
    return vectors @ vectors.T


def naive_similarity(by, table, trained, user):
    return naive_by_text(table) if by == "text" else naive_by_ratings(table, trained, user)


def every_pair(found, table, user):
    films = np.arange(len(table.movies))
    return found.between(user, films, films)


@given(rated_tables(), st.sampled_from(["text", "ratings"]), BLOCKS)
def test_similarities_are_those_of_dense_loops(drawn, by, blocks):
    table, trained = drawn
    with small_blocks(*blocks):
        found = fit_similarity(by, table, trained)
        for user in range(len(table.users)):
            expected = naive_similarity(by, table, trained, user)
            assert every_pair(found, table, user) == pytest.approx(expected, abs=1e-6)
            assert found.between(user, np.array([2, 0]), np.array([1])) == pytest.approx(
                expected[[2, 0], 1:2], abs=1e-6
            )


@given(rated_tables(), st.data())
def test_a_users_similarities_depend_on_no_rating_of_his_fold_and_on_no_held_out_rating(drawn, data):
    table, trained = drawn
    user = data.draw(st.integers(0, len(table.users) - 1))
    unused = ~trained | (user_folds(table) == user_folds(table)[user])[table.user]
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    other = replace(table, rating=np.where(unused, random.choice(HALF_STARS, len(table)), table.rating).astype("f4"))
    before, after = (every_pair(fit_similarity("ratings", one, trained), one, user) for one in (table, other))
    assert (before == after).all()


def test_the_fold_of_a_user_depends_on_the_raw_id_alone():
    rows = [[(0, 3.0, 0)]] * 300
    table = make_table(rows)
    folds = user_folds(table)
    assert (np.bincount(folds, minlength=10) > 15).all()
    assert (user_folds(make_table(rows[:7], user_ids=["5", *"abcd", "90", "1"]))[[0, 5, 6]] == folds[[4, 89, 0]]).all()


def test_of_many_users_a_sample_is_used_that_a_larger_one_contains(monkeypatch):
    table = make_table([[(0, 3.0, 0), (1, float(1 + user % 4), 1)] for user in range(50)])
    trained, used = np.ones(len(table), dtype=bool), []
    for most in (10, 20, 50):
        monkeypatch.setattr(similarity, "MOST_RATERS", most)
        found = fit_similarity("ratings", table, trained)
        assert len(found.ratings.fold) == most and len(found.ratings.rating) == 2 * most
        used.append(set(np.flatnonzero(similarity._drawn_users(table))))
    assert used[0] < used[1] < used[2]


def naive_order(rule, relevance, pairs):
    """The ratings that a rule wants, the most wanted first.

    relevance: the similarity of each to the target.
    pairs: of each to each.
    """
    every = range(len(relevance))
    if isinstance(rule, Similar):
        return sorted(every, key=lambda i: (-relevance[i], -i))[: rule.count]
    if isinstance(rule, RecentSimilar):
        newest = list(every)[-rule.recent :][::-1]
        others = sorted(set(every) - set(newest), key=lambda i: (-relevance[i], -i))
        return newest + others[: rule.similar]
    chosen = []
    while len(chosen) < min(rule.count, len(relevance)):

        def value(i):
            if not chosen:
                return relevance[i]
            return rule.weight * relevance[i] - (1 - rule.weight) * max(pairs[i, j] for j in chosen)

        chosen.append(max((i for i in every if i not in chosen), key=lambda i: (value(i), i)))
    return chosen


BY = st.sampled_from(["ratings", "text"])
RULES = st.one_of(
    st.builds(Similar, st.integers(1, 6), BY),
    st.builds(RecentSimilar, st.integers(1, 3), st.integers(1, 3), BY),
    st.builds(Spread, st.integers(1, 6), st.sampled_from([0.0, 0.3, 0.5, 1.0]), BY),
)


def cut(case, t, order):
    """The first of `order` whose section fits."""
    while order and section(case, t, sorted(order)) > case.budget.room[t]:
        order = order[:-1]
    return sorted(order)


@given(budgets(), RULES, st.integers(0, 10**6), BLOCKS)
def test_a_strategy_ranks_the_visible_ratings_by_its_rule(case, rule, seed, blocks):
    table, stage = case.table, case.stage
    trained = np.random.default_rng(seed).random(len(table)) < 0.7
    with small_blocks(*blocks):
        strategy = fit_strategy(rule, table, trained)
        histories = fit(strategy, table, stage, case.budget, "exact", 0, 0)
        assert_fits(case, histories)
        wish = strategy.wish(table, stage, 0, 0)
        pairs = {
            user: np.round(naive_similarity(rule.by, table, trained, user), 6) for user in set(stage.user.tolist())
        }
        for t in np.random.default_rng(seed).permutation(len(stage)).tolist():
            films = table.movie[stage.visible_to(t)]
            of_user = pairs[int(stage.user[t])]
            relevance = of_user[table.movie[stage.targets[t]], films]
            expected = naive_order(rule, relevance, of_user[np.ix_(films, films)])
            assert wish.order(t).tolist() == expected
            assert histories.shown(t).tolist() == cut(case, t, expected)
            assert len(wish.reasons(t, wish.order(t))) == len(expected)


def test_spread_leaves_out_a_film_that_says_the_same_as_a_more_similar_one():
    """Of films with one genre each like the target's, it takes one of each genre first."""
    titles = ["Alpha Beta", "Alpha", "Alpha Gamma", "Beta", "Delta"]
    table = make_table(
        [[(film, 3.0, time) for time, film in enumerate([1, 2, 3, 4, 0])]], titles=titles, genres=[""] * 5
    )
    stage = stage_of(table, Split("leave_last", min_ratings=1), "test")
    trained = np.ones(len(table), dtype=bool)
    names = {
        type(rule): [
            titles[table.movie[i]] for i in fit_strategy(rule, table, trained).wish(table, stage, 0, 0).order(0)
        ]
        for rule in (Similar(3, "text"), Spread(3, 0.5, "text"))
    }
    assert names[Similar] == ["Beta", "Alpha", "Alpha Gamma"]
    assert names[Spread][:2] == ["Beta", "Alpha"] and names[Spread][2] == "Delta"
    orders = fit_strategy(Spread(3, 0.5, "text"), table, trained).wish(table, stage, 0, 0)
    reasons = orders.reasons(0, orders.order(0))
    assert reasons[0].startswith("similarity 0.7") and reasons[1].endswith(", at most 0.000 to those chosen before")


def test_histories_are_the_same_after_pickling_and_in_another_order():
    random = np.random.default_rng(0)
    users = [[(int(m), float(random.choice(HALF_STARS)), t) for t, m in enumerate(random.permutation(20))]] * 12
    table = make_table(users)
    stage = stage_of(table, Split("temporal"), "test")
    strategy = fit_strategy(Similar(3), table, np.ones(len(table), dtype=bool))
    order = strategy.wish(table, stage, 0, 0).order
    before = [order(t).tolist() for t in range(len(stage))]
    for again in (
        pickle.loads(pickle.dumps(order)),
        pickle.loads(pickle.dumps(strategy)).wish(table, stage, 1, 2).order,
    ):
        assert [again(t).tolist() for t in reversed(range(len(stage)))] == before[::-1]


@pytest.mark.parametrize("by", ["ratings", "text"])
def test_a_target_without_similar_films_gets_the_newest(by):
    """Such as one without training ratings, or without a title's word and a genre in common."""
    table = make_table(
        [[(film, 3.0 + film % 2, film) for film in range(6)], [(0, 1.0, 0), (1, 5.0, 1), (2, 2.0, 2)]],
        titles=[f"One{film}" for film in range(6)],
        genres=[""] * 6,
    )
    stage = stage_of(table, Split("leave_last"), "test")
    trained = table.movie != 5
    orders = fit_strategy(Similar(3, by), table, trained).wish(table, stage, 0, 0)
    assert table.movie[stage.targets[0]] == 5
    assert orders.order(0).tolist() == [4, 3, 2]
    assert orders.reasons(0, np.array([2, 4])) == ["similarity 0.000"] * 2


@pytest.mark.parametrize(
    "rule, message",
    [
        (lambda: Similar(0), "history.count"),
        (lambda: Similar(by="x"), "history.by"),
        (lambda: RecentSimilar(0), "history.recent"),
        (lambda: RecentSimilar(similar=0), "history.similar"),
        (lambda: RecentSimilar(by="x"), "history.by"),
        (lambda: Spread(0), "history.count"),
        (lambda: Spread(weight=1.1), "history.weight"),
        (lambda: Spread(weight=math.nan), "history.weight"),
        (lambda: Spread(by="x"), "history.by"),
    ],
)
def test_a_wrong_parameter_is_refused(rule, message):
    with pytest.raises(UserError, match=re.escape(message)):
        rule()


@settings(max_examples=5)
@given(rated_tables(), rated_tables(), st.sampled_from(["ratings", "text"]))
def test_what_is_saved_says_the_same_about_any_table(tmp_path_factory, drawn, drawn_other, by):
    """Films are known by id, or by text where ids differ; films that are unknown are similar to nothing by ratings."""
    (table, trained), (other, _) = drawn, drawn_other
    folder = tmp_path_factory.mktemp("saved")
    found = fit_similarity(by, table, trained)
    save_similarity(found, folder)
    again = load_similarity(by, folder, table)
    for user in range(len(table.users)):
        assert (every_pair(again, table, user) == every_pair(found, table, user)).all()
    if by == "ratings":
        ids, texts = table.movies["id"].to_list(), table.movies.select("title", "genres").rows()
        elsewhere = load_similarity(by, folder, other)
        for film, row in enumerate(other.movies.select("id", "title", "genres").iter_rows()):
            by_id = [i for i, known in enumerate(ids) if known == row[0]]
            expected = (by_id or [i for i, text in enumerate(texts) if text == row[1:]] or [-1])[0]
            assert elsewhere.known[film] == expected


def test_a_film_is_known_by_its_text_where_ids_are_missing(tmp_path):
    users = [[(film, float(1 + (film + user) % 5), film) for film in range(4)] for user in range(30)]
    table = make_table(users, titles=[f"Film {film}" for film in range(4)])
    found = fit_similarity("ratings", table, np.ones(len(table), dtype=bool))
    save_similarity(found, tmp_path)
    # As `mlens predict` names movies without ids.
    texts = [f"{title} ({genres})" for title, genres in table.movies.select("title", "genres").iter_rows()]
    nameless = make_table(
        users, titles=[*(f"Film {film}" for film in range(4)), "Other"], genres=[*table.movies["genres"], ""],
        movie_ids=[*texts, "Other"],
    )  # fmt: skip
    loaded = load_similarity("ratings", tmp_path, nameless)
    films = np.arange(4)
    assert (loaded.between(0, films, films) == found.between(0, films, films)).all()
    assert (loaded.between(0, np.array([4]), np.arange(5)) == 0).all() and (found.between(0, films, films) != 0).any()
