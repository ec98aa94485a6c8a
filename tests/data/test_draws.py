"""Whatever is drawn is drawn by raw ids: other users, another numbering and other lines of a file change nothing of it.

Each drawn thing is a dict from what it was drawn for (a tuple that begins with its user) to what was drawn, by raw ids.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlens.data.rating_table import raw_id_keys
from mlens.data.raw import HALF_STARS, RawTables, build_table
from mlens.data.sources import _subset
from mlens.data.split import Split, assign_roles
from mlens.data.stage import sample_users
from mlens.evaluation.kept_prompts import kept_prompts
from mlens.history.all_previous import AllPrevious
from mlens.history.random import Random
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import epoch_order
from mlens.packing.packed import PackedRows
from mlens.packing.prefix_group import PrefixGroup
from mlens.packing.steps import Steps
from mlens.probe.questions import CSV, EXAMPLES, context_questions, rating_questions, title_questions
from mlens.prompt.renderer import make_renderer
from mlens.training.base_model import cut_excerpts, plan_excerpts
from tests.helpers.reference import make_table, stage_of
from tests.helpers.tokenizers_for_tests import HISTORY, style, tiny

MOVIES = 60


@dataclass(frozen=True)
class Source:
    """users: raw id -> (raw movie, rating, time) in order of time; movies: raw ids in the order of their numbers."""

    users: dict
    movies: list

    def table(self):
        number = {movie: i for i, movie in enumerate(self.movies)}
        return make_table(
            [[(number[movie], rating, time) for movie, rating, time in own] for own in self.users.values()],
            user_ids=list(self.users),
            movie_ids=self.movies,
            titles=[f"Film {movie} ({1990 + movie % 2})" for movie in self.movies],
            genres=["Drama"] * len(self.movies),
        )

    def without(self, user):
        return Source({own: rows for own, rows in self.users.items() if own != user}, self.movies)

    def renumbered(self, random):
        users, movies = list(self.users), list(self.movies)
        random.shuffle(users)
        random.shuffle(movies)
        return Source({user: self.users[user] for user in users}, movies)


def make_source(seed, text=False):
    """Users of a few to many ratings, at times of their own; with `text`, ids of which most are numbers."""
    random = np.random.default_rng(seed)
    ids = random.choice(400, random.integers(14, 30), replace=False).tolist()
    names = [str(i) if text else i for i in ids]
    if text:
        names[0] = "somebody"
    users = {}
    for name in names:
        n = int(random.integers(2, 40))
        movies, times = random.choice(MOVIES, n, replace=False), np.sort(random.choice(10_000, n, replace=False))
        ratings = random.choice(HALF_STARS, n)
        users[name] = [(int(m) + 500, float(r), int(t)) for m, r, t in zip(movies, ratings, times, strict=True)]
    return Source(users, list(range(500, 500 + MOVIES)))


def named(table, rating):
    return table.users["id"][int(table.user[rating])], table.movies["id"][int(table.movie[rating])]


def dataset_of(table, strategy=None, stage="train", seed=3):
    renderer = make_renderer(table, style(max_tokens=10**6), HISTORY, tiny())
    return RatingDataset(
        table, stage_of(table, Split("temporal"), stage), strategy or Random(draw="per_target"), renderer, seed, 2
    )


# What is drawn for each user or target alone.


def roles_of_ratings(table):
    roles = assign_roles(table, Split("random", 0.2, 0.2, seed=5))
    return {named(table, i): int(role) for i, role in enumerate(roles)}


def capped_targets(table):
    targets = stage_of(table, Split("temporal", max_train_targets_per_user=3), "train").targets
    return {(user,): [named(table, i) for i in targets if named(table, i)[0] == user] for user in table.users["id"]}


def histories(draw):
    def of(table):
        dataset = dataset_of(table, Random(0.4, draw))
        return {
            named(table, target): [named(table, i) for i in dataset.history(t)]
            for t, target in enumerate(dataset.stage.targets)
        }

    return of


def excerpts(table):
    dataset = dataset_of(table)
    cut, found = cut_excerpts(dataset.renderer.template, dataset.stage, 3, 3, 0.5, 1, 2), {}
    for start, stop, user in zip(cut.start, cut.stop, cut.user, strict=True):
        own = [(named(table, cut.stage.visible[at])[1], bool(cut.as_target[at])) for at in cut.indices[start:stop]]
        found.setdefault((table.users["id"][int(user)],), []).append(own)
    return found


ALONE = {
    "split=random": roles_of_ratings,
    "split.max_train_targets_per_user": capped_targets,
    "history.draw=per_target": histories("per_target"),
    "history.draw=per_user": histories("per_user"),
    "excerpts of the base model": excerpts,
}

# What is a sample of users, or of what belongs to them: -> name: set of members, each of which begins with its user.


def roles_of_users(table):
    roles = assign_roles(table, Split("user", 0.2, 0.3, seed=5))[table.user_offsets[:-1]]
    ids = table.users["id"].to_list()
    return {name: {(ids[u],) for u in np.flatnonzero(roles == role)} for role, name in ((1, "val"), (2, "test"))}


def evaluated_users(table):
    stage = sample_users(table, stage_of(table, Split("temporal"), "test"), 6, seed=4)
    return {"users": {(table.users["id"][int(user)],) for user in stage.user}}


def kept_examples(table):
    dataset = dataset_of(table, stage="test")
    targets, n = dataset.stage.targets, len(dataset)
    frame = pl.DataFrame(
        {
            "user": [named(table, i)[0] for i in targets],
            "movie": [named(table, i)[1] for i in targets],
            **{name: np.zeros(n) for name in ("t", "rating", "expected", "history_used")},
        }
    )
    return {"examples": {(p["user"], p["movie"]) for p in kept_prompts(dataset, frame) if p["kind"] == "example"}}


def subset(table):
    """data.max_users, of the ratings as a source reads them."""
    raw = raw_of([(*named(table, i), float(table.rating[i]), int(table.timestamp[i])) for i in range(len(table))])
    return {"users": {(user,) for user in _subset(raw, 8).ratings["user"]}}


def raw_of(rows):
    """rows: of user, movie, rating and time, in the order of a file's lines."""
    schema = ["user", "movie", "rating", "timestamp"]
    ratings = pl.DataFrame(rows, schema=schema, orient="row").with_row_index("line", offset=1)
    movies = pl.DataFrame({"movie": range(500, 500 + MOVIES), "title": "Film", "genres": ""})
    return RawTables(ratings, movies, None, HALF_STARS)


SAMPLES = {
    "split=user": roles_of_users,
    "evaluation.max_users": evaluated_users,
    "examples of prompts": kept_examples,
    "data.max_users": subset,
}


# In which order a training visits what it visits: a list of what begins with its user.


def order_of_targets(strategy, pieces):
    def of(table):
        dataset = dataset_of(table, strategy)
        return [named(table, dataset.stage.targets[t]) for t in epoch_order(dataset, Steps(6, pieces), 3, 2)]

    return of


def order_of_excerpts(table):
    dataset, visited = dataset_of(table), []
    cut = cut_excerpts(dataset.renderer.template, dataset.stage, 3, 1, 0.5, 1, 2)
    with pytest.MonkeyPatch.context() as patched:
        group = PrefixGroup(np.zeros(4, dtype=np.int64), np.zeros(1, dtype=np.int64), ())
        patched.setattr(type(cut), "prefix_group", lambda _, i: visited.append(i) or group)
        list(plan_excerpts(cut, PackedRows(), 30, 1, 2, rank=0, world=1))
    shown = [cut.stage.visible[cut.indices[cut.start[i] : cut.stop[i]]] for i in visited]
    return [(named(table, own[0])[0], [named(table, i)[1] for i in own]) for own in shown]


ORDERS = {
    "targets that share nothing": order_of_targets(Random(draw="per_target"), 2),
    "targets that share": order_of_targets(AllPrevious(), 2),
    "excerpts of the base model": order_of_excerpts,
}


seeds = st.tuples(st.integers(0, 2**32 - 1), st.booleans())


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ALONE)
@settings(max_examples=3, deadline=None)
@given(seeds, st.integers(0, 13))
def test_what_is_drawn_for_a_user_does_not_depend_on_the_others(name, seed, left_out):
    source = make_source(*seed)
    user = list(source.users)[left_out]
    whole, part = ALONE[name](source.table()), ALONE[name](source.without(user).table())
    assert part == {key: value for key, value in whole.items() if key[0] != user}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(0, 13))
def test_of_a_sample_one_member_is_replaced_where_it_must_be(name, seed, left_out):
    source = make_source(*seed)
    user = list(source.users)[left_out]
    whole, part = SAMPLES[name](source.table()), SAMPLES[name](source.without(user).table())
    for kind, before in whole.items():
        after = part[kind]
        gone = {member for member in before if member[0] != user} - after
        come = after - before
        assert len(gone) <= 1 and len(come) <= max(1, len([m for m in before if m[0] == user]))
        if name in ("data.max_users", "examples of prompts"):
            assert not gone and len(come) == len(before) - len(before & after)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", [*ALONE, *SAMPLES])
@settings(max_examples=3, deadline=None)
@given(seeds)
def test_another_numbering_draws_the_same(name, seed):
    source = make_source(*seed)
    other = source.renumbered(np.random.default_rng(seed[0]))
    drawn = (ALONE | SAMPLES)[name]
    assert drawn(source.table()) == drawn(other.table())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ORDERS)
@settings(max_examples=3, deadline=None)
@given(seeds, st.integers(0, 13))
def test_an_order_without_a_user_is_the_others_order(name, seed, left_out):
    source = make_source(*seed)
    user = list(source.users)[left_out]
    order, other = ORDERS[name], source.renumbered(np.random.default_rng(seed[0]))
    whole, part = order(source.table()), order(source.without(user).table())
    assert part == [item for item in whole if item[0] != user]
    assert order(other.table()) == whole
    assert [item[0] for item in whole] != sorted(item[0] for item in whole)


@settings(max_examples=5, deadline=None)
@given(seeds)
def test_permuted_lines_are_the_same_table_and_the_same_subset(seed):
    source, random = make_source(*seed), np.random.default_rng(seed[0])
    rows = [(user, *row) for user, own in source.users.items() for row in own]
    orders = range(len(rows)), random.permutation(len(rows))
    one, other = (build_table(_subset(raw_of([rows[i] for i in order]), 8)) for order in orders)
    assert one.users.equals(other.users) and one.content_hash() == other.content_hash()


# The probe


def questions_by_answerer(questions):
    """beginning of the true line -> the set of the others; and the examples."""
    return {own: set(others) for own, *others in questions.beginnings}, questions.contexts[0]


@settings(max_examples=6, deadline=None)
@given(seeds, st.integers(0, 13))
def test_questions_of_the_probe_change_one_by_one(seed, left_out):
    source = make_source(*seed)
    user = list(source.users)[left_out]
    table, part = source.table(), source.without(user).table()
    other = source.renumbered(np.random.default_rng(seed[0])).table()
    for ask in (title_questions, rating_questions, context_questions):
        assert ask(table, CSV, 100, 7) == ask(other, CSV, 100, 7)
    assert title_questions(table, CSV, 100, 7) == title_questions(part, CSV, 100, 7)
    in_context = [questions_of_users(context_questions(of, CSV, 100, 7)) for of in (table, part)]
    assert in_context[1] == [one for one in in_context[0] if not one[0].startswith(f"{user},")]
    asked = [rating_questions(of, CSV, 100, 7) for of in (table, part)]
    assume(all(questions.answers for questions in asked))
    (whole, shown), (suffix, shown_of_rest) = map(questions_by_answerer, asked)
    lines, lines_of_rest = (set(text.splitlines()) for text in (shown, shown_of_rest))
    assert len(lines - lines_of_rest) <= 1 and len(lines) == len(lines_of_rest) == EXAMPLES
    for own, others in suffix.items():
        if own in whole:
            # The one left out is replaced; and one of the others may have become an example.
            assert len(whole[own] - others) <= 2


def questions_of_users(questions):
    return list(zip(questions.contexts, questions.beginnings, questions.answers, strict=True))


# Keys


def test_a_number_among_texts_keeps_its_key():
    alone, among = raw_id_keys(pl.Series([7, -3, 10])), raw_id_keys(pl.Series(["7", "x", "-3", "10", "07", " 7"]))
    assert among[[0, 2, 3]].tolist() == alone.tolist()
    assert len(set(among.tolist())) == 6
    assert len(raw_id_keys(pl.Series([], dtype=pl.String))) == 0
