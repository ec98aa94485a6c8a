"""The made-up sample: what it promises about its table and its planted truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from mlens.data.raw import HALF_STARS
from mlens.data.sample import GENRES, MOVIE_SPREAD, SPREAD, Sample, to_scale
from mlens.data.sources import load_table
from mlens.errors import UserError

SMALL = Sample(users=40, movies=50, ratings_per_user=20, drift=0.2)


def frames(sample):
    raw = sample.read(sample.files())
    return raw.ratings, raw.movies, raw.users, raw.tags


def test_a_seed_is_one_table():
    assert all(one.equals(other) for one, other in zip(frames(SMALL), frames(replace(SMALL)), strict=True))
    assert load_table(SMALL).content_hash() == load_table(replace(SMALL)).content_hash()


def test_another_seed_is_another_table():
    assert not any(one.equals(other) for one, other in zip(frames(SMALL), frames(replace(SMALL, seed=1)), strict=True))


def test_the_draws_are_pinned():
    # Runs are compared by what they ran on: a changed stream would pass for the same data.
    ratings, movies, _, tags = frames(Sample())
    assert ratings.head(4).select("user", "movie", "rating", "timestamp").rows() == [
        (1001, 203, 3.0, 1014186696),
        (1001, 101, 2.5, 1014186788),
        (1001, 50, 1.5, 1014186890),
        (1001, 239, 3.0, 1014186947),
    ]
    assert movies["title"].head(2).to_list() == ["The Lonely City (1975)", "The Lost Moon (2013)"]
    assert len(ratings) == 11_928
    assert len(tags) == 1_128


def test_drift_and_noise_change_ratings_alone():
    one, other = Sample(), Sample(drift=0.5, noise=0.8)
    for column in ("user", "movie", "timestamp"):
        assert frames(one)[0][column].equals(frames(other)[0][column])
    assert all(a.equals(b) for a, b in zip(frames(one)[1:], frames(other)[1:], strict=True))
    assert not frames(one)[0]["rating"].equals(frames(other)[0]["rating"])


def test_more_users_leave_the_earlier_ones_as_they_are():
    few, many = frames(SMALL)[0], frames(replace(SMALL, users=60))[0]
    assert many.head(len(few)).equals(few)


def test_the_table_is_what_was_asked_for():
    table = load_table(Sample())
    lengths = np.diff(table.user_offsets)
    assert len(table.users) == 300
    assert len(table.movies) == 120
    assert lengths.min() >= 20
    assert lengths.max() <= 60
    assert abs(lengths.mean() - 40) < 3
    assert table.scale == HALF_STARS
    assert set(np.unique(table.rating)) == set(HALF_STARS)
    assert table.made_up
    assert table.movies["title"].n_unique() == len(table.movies)
    assert {genre for genres in table.movies["genres"] for genre in genres.split(", ")} == set(GENRES)
    assert table.users["profile"].str.contains(r"^gender: [FM]; age: \d+; occupation: \w+$").all()
    assert table.users["id"].min() > len(table.users)  # raw ids can't be taken for numbers in the table
    assert np.array_equal(np.unique(table.movie), np.arange(120))
    pairs = set(zip(table.user.tolist(), table.movie.tolist(), strict=True))
    assert len(pairs) == len(table)  # nobody rates a movie twice
    assert 0.05 < np.mean(np.diff(table.timestamp)[np.diff(table.user) == 0] == 0) < 0.15  # some share their second


def test_titles_are_unique_up_to_the_last():
    assert Sample(movies=2400).read([]).movies["title"].n_unique() == 2400


def test_tags_speak_of_the_genre():
    table = load_table(Sample(users=2000))
    genre = np.array([genres.split(", ")[0] for genres in table.movies["genres"]])[table.tags["movie"].to_numpy()]
    tag = table.tags["tag"].to_numpy()
    assert np.mean(np.isin(tag[genre == "Horror"], ["scary", "haunted house", "blood"])) > 0.7
    assert not np.isin(tag[genre == "Comedy"], ["scary", "haunted house", "blood"]).any()


@pytest.mark.parametrize("max_users", [None, 7])
def test_the_truth_lines_up_with_the_table(max_users):
    sample = replace(SMALL, max_users=max_users)
    table, truth = load_table(sample), sample.truth()
    assert len(table.users) == (max_users or 40)
    for column in ("user", "movie", "rating"):
        assert np.array_equal(getattr(table, column), getattr(truth, column))
    assert np.array_equal(truth.step, np.arange(len(table)) - table.user_offsets[table.user])
    genres = np.array([[genre in names.split(", ") for genre in GENRES] for names in table.movies["genres"]])
    assert np.array_equal(truth.loading[:, 1:] > 0, genres)


def test_a_subset_keeps_each_users_truth():
    sample = replace(SMALL, max_users=7)
    whole, part = SMALL.truth(), sample.truth()
    ids = load_table(sample).users["id"].to_numpy()
    for number, raw_id in enumerate(ids):
        of_whole = whole.user == np.flatnonzero(load_table(SMALL).users["id"].to_numpy() == raw_id)[0]
        assert np.array_equal(whole.state[of_whole], part.state[part.user == number])


@pytest.mark.parametrize("drift", [0.0, 0.3, 1.0])
def test_the_planted_variances(drift):
    truth = Sample(users=4000, movies=400, drift=drift, noise=0.7).truth()
    first, second = truth.state[truth.step == 0], truth.state[truth.step == 1]
    late = truth.state[truth.step == 19]
    assert first.std(axis=0) == pytest.approx(SPREAD, rel=0.05)
    assert late.std(axis=0) == pytest.approx(SPREAD, rel=0.05)
    assert (first * second).mean(axis=0) / SPREAD**2 == pytest.approx(np.full(7, np.sqrt(1 - drift**2)), abs=0.08)
    assert truth.movie_offset.std() == pytest.approx(MOVIE_SPREAD, rel=0.15)
    # Away from the ends nothing is clipped, and rounding adds its own variance.
    inner = np.abs(truth.latent_mean - 2.75) < 0.3
    residual = (truth.rating - truth.latent_mean)[inner]
    assert residual.mean() == pytest.approx(0, abs=0.02)
    assert residual.std() == pytest.approx(np.sqrt(0.7**2 + 1 / 48), rel=0.02)


def test_without_drift_tastes_stay():
    truth = Sample().truth()
    assert np.array_equal(truth.state, truth.state[truth.step == 0][truth.user])


def test_rounding_and_clipping():
    latent = np.array([-3, 0.7, 0.8, 3.24, 3.26, 4.74, 4.76, 9])
    assert to_scale(latent).tolist() == [0.5, 0.5, 1.0, 3.0, 3.5, 4.5, 5.0, 5.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("users", 0),
        ("movies", 59),
        ("movies", 2401),
        ("ratings_per_user", 1),
        ("ratings_per_user", 81),
        ("drift", -0.1),
        ("drift", 1.1),
        ("drift", float("nan")),
        ("noise", 0.0),
        ("noise", float("nan")),
        ("seed", -1),
        ("max_users", 0),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value):
    named = "movies" if field == "ratings_per_user" and value > 1 else field
    with pytest.raises(UserError, match=rf"data\.{named} must be"):
        Sample(**{field: value})


def test_the_yaml_is_the_dataclass():
    node = OmegaConf.load(Path(__file__).parents[2] / "conf/data/sample.yaml")
    assert node.pop("_target_") == "mlens.data.sample.Sample"
    assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Sample), node)) == Sample()
