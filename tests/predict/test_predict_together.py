"""Movies that are asked about together: the history is read once, and none of them changes what is said of another."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.history.same_genre import SameGenre
from mlens.packing.packed import PackedRows
from mlens.packing.reference import ReferenceRows
from mlens.predict import Predictor
from tests.helpers.prefix_groups import chains_of

STRATEGIES = [
    AllPrevious(),
    FixedCount(4),
    FixedRatio(0.6),
    NoHistory(),
    Random(0.7, "per_target"),
    Random(0.7, "per_user"),
    SameGenre(4),
]
LINES = [
    {"movie": i, "title": f"Film {i} ({1950 + i})", "genres": "Drama", "rating": 0.5 + i % 10 / 2} for i in range(30)
]
# Titles of many lengths: where the budget cuts, histories differ.
MOVIES = [
    {"movie": 100 + i, "title": " ".join(["The"] * (i % 4 * 12) + [f"Long Way {i}"]), "genres": "Comedy"}
    for i in range(12)
]


def changed(run, **fields) -> Predictor:
    """The run's predictor with other settings of the export, which has read nothing yet."""
    prompter = replace(run.predictor.prompter, exported=replace(run.predictor.prompter.exported, **fields))
    return Predictor(prompter, replace(run.predictor.scorer, prefix=None))


def tokens_read(predictor, history, movies) -> int:
    """How many tokens go through the model."""
    read = []
    model = predictor.scorer.model
    handle = model.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    predictor.predict(history, movies)
    handle.remove()
    return sum(read)


@pytest.mark.parametrize(("row_tokens", "order"), [(300, "time"), (500, "newest_first"), (8192, "time")])
def test_the_history_is_read_once_however_many_rows_the_movies_take(all_previous, row_tokens, order):
    history, movies = LINES[:6], MOVIES
    style = replace(all_previous.predictor.prompter.exported.prompt, order=order)
    predictor = changed(all_previous, packing=PackedRows(row_tokens=row_tokens), prompt=style)
    prompter = predictor.prompter
    dataset = prompter.dataset(prompter.request(history, movies))
    shapes = dataset.shapes(np.arange(len(movies)))
    chains = sum(length for length, *_ in chains_of(dataset.renderer.template.answers))
    assert len(set(shapes.prefix)) == 1 and shapes.prefix[0] > 100
    expected = int(shapes.prefix[0]) + int(shapes.suffix.sum()) + chains * len(movies)
    assert tokens_read(predictor, history, movies) == expected
    assert tokens_read(predictor, history, movies[::-1]) == expected - int(shapes.prefix[0])
    alone = changed(all_previous, packing=PackedRows(share="never"), prompt=style)
    assert tokens_read(alone, history, movies) == expected + 11 * int(shapes.prefix[0])


def said(predictor, movies, history=LINES) -> np.ndarray:
    frame = predictor.predict(history, movies)
    names = [name for name in frame.columns if name.startswith("p_")]
    return frame.sort("movie").select(*names, "illegal_mass", "history_used", "history_dropped").to_numpy()


def test_another_history_of_as_many_tokens_is_not_taken_for_the_last_one(all_previous):
    liked, disliked = ([line | {"rating": rating} for line in LINES[:6]] for rating in (5.0, 1.0))
    predictor = changed(all_previous)
    first = said(predictor, MOVIES, liked)
    second = said(predictor, MOVIES, disliked)
    np.testing.assert_allclose(second, said(changed(all_previous), MOVIES, disliked), atol=2e-6)
    assert np.abs(first - second).max() > 1e-5


@settings(max_examples=4)
@example(AllPrevious(), list(range(12)), "strided", 300, 1000, "time")
@given(
    strategy=st.sampled_from(STRATEGIES),
    order=st.permutations(range(len(MOVIES))),
    trim=st.sampled_from(["strided", "exact"]),
    tokens=st.integers(250, 420),
    row_tokens=st.sampled_from([500, 1000, 8192]),
    lines=st.sampled_from(["time", "newest_first"]),
)
def test_each_movie_is_rated_as_if_it_were_the_only_one(all_previous, strategy, order, trim, tokens, row_tokens, lines):
    style = replace(all_previous.predictor.prompter.exported.prompt, trim=trim, max_tokens=tokens, order=lines)
    fields = {"history": strategy, "prompt": style, "packing": PackedRows(row_tokens=row_tokens)}
    predictor = changed(all_previous, **fields)
    movies = [MOVIES[i] for i in order]
    few = movies[-3:]
    places = np.searchsorted(sorted(movie["movie"] for movie in movies), sorted(movie["movie"] for movie in few))
    together = said(predictor, movies)
    assert together[:, -2].max() <= len(LINES)
    for place, movie in zip(places, sorted(few, key=lambda movie: movie["movie"]), strict=True):
        alone = said(predictor, [movie])
        np.testing.assert_allclose(together[place], alone[0], atol=2e-6)


def test_rows_of_any_kind_say_the_same(all_previous):
    """The reference is one sample a row, each rating as a whole sequence."""
    packed = said(all_previous.predictor, MOVIES)
    reference = changed(all_previous, packing=ReferenceRows())
    model = reference.scorer.model
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        np.testing.assert_allclose(said(reference, MOVIES), packed, atol=2e-6)
    finally:
        model.set_attn_implementation(before)
