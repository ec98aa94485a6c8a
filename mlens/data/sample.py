"""The made-up sample: users with planted tastes, so that the best possible prediction is known.

The t-th rating of user u, of movie i, is

    latent = MEAN + offset_i + loading_i · state_ut + noise · N(0, 1)
    rating = latent rounded to halves and clipped to 0.5 .. 5.0

loading_i is (1, g_i): g_i has 1 / sqrt(k) at each of the movie's k genres, so that taste weighs the same in all movies.
state_ut is the user's offset, then their taste for each genre. It starts from N(0, SPREAD²) and follows

    state_u,t+1 = sqrt(1 - drift²) · state_ut + drift · SPREAD · N(0, 1)

a stationary AR(1) process per rating: the marginal distribution of a state doesn't depend on the drift, so that a
prediction without history is equally hard for every drift; only how fast the past goes out of date changes.
Which movies a user rates and when, their tags and their profile are independent of their taste.
`mlens.data.sample_bayes` computes the best predictions that this allows.

The draws use the raw stream of the Philox generator, which NumPy keeps stable between versions, and one stream for each
purpose: a sample with another drift or noise has the same users, movies and shocks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import polars as pl
from scipy.special import ndtri

from mlens.data.raw import HALF_STARS, RawTables
from mlens.data.sample_words import ADJECTIVES, AGES, GENRE_TAGS, GENRES, NOUNS, OCCUPATIONS, OTHER_TAGS
from mlens.data.source_fields import check_common_fields
from mlens.data.sources import Source, load_table
from mlens.data.terms import Terms
from mlens.errors import UserError

MEAN = 3.25
MOVIE_SPREAD = 0.3
OFFSET_SPREAD = 1.0
TASTE_SPREAD = 0.4
# Standard deviation of each part of a user's state: offset, then one taste per genre.
SPREAD = np.array([OFFSET_SPREAD] + [TASTE_SPREAD] * len(GENRES))

_GENRE_SHARES = (0.5, 0.4, 0.1)  # of movies with one, two, three genres
_TAG_SHARE = 0.1  # of ratings that have a tag
_TIE_SHARE = 0.1  # of ratings in the same second as the one before
_FIRST_SECOND = 946_684_800  # 2000-01-01


@dataclass(frozen=True)
class Sample:
    """The sample of one seed: a data source, and the schema of conf/data/sample.yaml.

    users: how many.
    movies: how many.
    ratings_per_user: the mean; each user has between half and one and a half times as many.
    drift: in [0, 1], the new part of a user's state at each rating, as a share of its spread (0: constant taste;
        1: a user's ratings are independent).
    noise: standard deviation of the latent rating, above 0.
    seed: of all draws.
    max_users: a seeded subset of that many users, as for every source; None: all.
    min_user_ratings, min_item_ratings: drop users and movies with fewer ratings, see `keep_k_core`; None: none.

    Raises UserError, naming the field, for an invalid value.
    """

    users: int = 300
    movies: int = 120
    ratings_per_user: int = 40
    drift: float = 0.0
    noise: float = 0.5
    seed: int = 0
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    terms: ClassVar[Terms] = Terms(
        "mlens' made-up sample", "none is needed, since mlens generates it", dataset="mlens-sample"
    )

    def __post_init__(self) -> None:
        titles = len(ADJECTIVES) * len(NOUNS)
        _require(self.users >= 1, "users", "at least 1", self.users)
        _require(self.ratings_per_user >= 2, "ratings_per_user", "at least 2", self.ratings_per_user)
        _require(self.movies <= titles, "movies", f"at most {titles}, as there are no more titles", self.movies)
        most = _length_range(self)[1]
        _require(self.movies >= most, "movies", f"at least {most}, the most ratings that a user may have", self.movies)
        _require(0 <= self.drift <= 1, "drift", "from 0 to 1", self.drift)
        _require(0 < self.noise < np.inf, "noise", "above 0", self.noise)
        _require(0 <= self.seed < 1 << 64, "seed", "from 0 to 2^64 - 1", self.seed)
        check_common_fields(self)

    def files(self) -> list[Path]:
        """Return an empty list: the settings determine the data."""
        return []

    def read(self, files: list[Path]) -> RawTables:
        """Generate all users' ratings, each user's in time order, with tags and profiles. Takes milliseconds."""
        truth = _generate(self)
        raw_user, raw_movie = _raw_users(self)[truth.user], _raw_movies(self)[truth.movie]
        timestamp = _timestamps(self, truth.user, truth.step)
        ratings = pl.DataFrame({"user": raw_user, "movie": raw_movie, "rating": truth.rating, "timestamp": timestamp})
        return RawTables(
            ratings=ratings.with_row_index("line", offset=1).with_columns(pl.col("line").cast(pl.Int64)),
            movies=_movies(self),
            ratings_file=Path("(made-up sample)"),
            scale=HALF_STARS,
            users=_profiles(self),
            tags=_tags(self, truth, raw_user, raw_movie, timestamp),
            made_up=True,
        )

    def truth(self) -> Truth:
        """Return what the ratings were generated from, with the same rows as `load_table(self)`."""
        truth = _generate(self)
        if self.max_users is None and self.min_user_ratings is None and self.min_item_ratings is None:
            return truth
        # The cast: an attribute of a Protocol counts as settable, one of a frozen dataclass doesn't.
        table = load_table(cast(Source, self))
        users = np.searchsorted(_raw_users(self), table.users["id"].to_numpy())
        movies = np.searchsorted(_raw_movies(self), table.movies["id"].to_numpy())
        rows = np.flatnonzero(np.isin(truth.user, users) & np.isin(truth.movie, movies))
        return replace(
            truth,
            user=np.searchsorted(users, truth.user[rows]).astype(np.int32),
            movie=np.searchsorted(movies, truth.movie[rows]).astype(np.int32),
            movie_offset=truth.movie_offset[movies],
            loading=truth.loading[movies],
            **{name: getattr(truth, name)[rows] for name in ("step", "rating", "state")},
        )


@dataclass(frozen=True)
class Truth:
    """The planted truth. Its n rows are those of the RatingTable: users by ascending raw id, each user's in time order.

    user [n] int32: as in the table.
    step [n] int32: index among the user's generated ratings, from 0.
    movie [n] int32: as in the table.
    rating [n] float64: on the scale.
    state [n, d]: the user's offset and tastes at that time, in rating points.
    movie_offset [movies]: in rating points.
    loading [movies, d]: 1, then the weight of each genre.
    drift: as in `Sample`.
    noise: as in `Sample`.
    """

    user: np.ndarray
    step: np.ndarray
    movie: np.ndarray
    rating: np.ndarray
    state: np.ndarray
    movie_offset: np.ndarray
    loading: np.ndarray
    drift: float
    noise: float

    def __len__(self) -> int:
        return len(self.user)

    @property
    def base(self) -> np.ndarray:
        """Mean latent rating of each row's movie over all users: [n]."""
        return MEAN + self.movie_offset[self.movie]

    @property
    def latent_mean(self) -> np.ndarray:
        """Mean latent rating of each row's movie by its user at that time, without the noise: [n]."""
        return self.base + (self.loading[self.movie] * self.state).sum(axis=1)


def to_scale(latent: np.ndarray) -> np.ndarray:
    """Round latent ratings to halves and clip them to 0.5 .. 5.0; same shape."""
    return np.clip(np.floor(2 * latent + 0.5) / 2, HALF_STARS[0], HALF_STARS[-1])


def _generate(sample: Sample) -> Truth:
    shortest, longest = _length_range(sample)
    lengths = shortest + _below(sample, longest - shortest + 1, "length", sample.users)
    user = np.repeat(np.arange(sample.users, dtype=np.int32), lengths)
    step = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    movie = _choices(sample, lengths, longest)[user, step]
    # Drawn for `longest` steps whatever the length, so that adding users doesn't change the earlier ones.
    shocks = _normal(sample, "state", sample.users, longest, len(SPREAD)) * SPREAD
    states = shocks.copy()
    for t in range(1, longest):
        states[:, t] = np.sqrt(1 - sample.drift**2) * states[:, t - 1] + sample.drift * shocks[:, t]
    truth = Truth(
        user=user,
        step=step,
        movie=movie,
        rating=np.zeros(len(user)),
        state=states[user, step],
        movie_offset=MOVIE_SPREAD * _normal(sample, "movie offset", sample.movies),
        loading=_loadings(sample),
        drift=float(sample.drift),
        noise=float(sample.noise),
    )
    truth.rating[:] = to_scale(
        truth.latent_mean + sample.noise * _normal(sample, "noise", sample.users, longest)[user, step]
    )
    return truth


def _length_range(sample: Sample) -> tuple[int, int]:
    """Return the fewest and the most ratings of a user; all numbers between are equally likely."""
    shortest = sample.ratings_per_user // 2
    return shortest, 2 * sample.ratings_per_user - shortest


def _choices(sample: Sample, lengths: np.ndarray, longest: int) -> np.ndarray:
    """Draw the movies that each user rates, in order: [users, longest] int32; each row uses its first `length` entries.

    Popular movies are drawn more often (the Gumbel-max trick: the largest of log weight + Gumbel noise, without
    replacement), then shuffled, so that a movie's position is independent of its popularity.
    """
    popularity = 0.5 * _normal(sample, "popularity", sample.movies)
    gumbel = -np.log(-np.log(_uniform(sample, "choice", sample.users, sample.movies)))
    drawn = np.argsort(-(popularity + gumbel), axis=1, kind="stable")[:, :longest]
    rank = _uniform(sample, "order", sample.users, longest)
    rank[np.arange(longest) >= lengths[:, None]] = 1
    order = np.argsort(rank, axis=1, kind="stable")
    return np.take_along_axis(drawn, order, axis=1).astype(np.int32)


def _membership(sample: Sample) -> np.ndarray:
    """Draw which movie has which genre: [movies, genres] bool."""
    count = 1 + np.searchsorted(np.cumsum(_GENRE_SHARES[:-1]), _uniform(sample, "genre count", sample.movies))
    rank = np.argsort(np.argsort(_uniform(sample, "genre", sample.movies, len(GENRES)), axis=1), axis=1)
    return rank < count[:, None]


def _loadings(sample: Sample) -> np.ndarray:
    member = _membership(sample)
    return np.column_stack([np.ones(sample.movies), member / np.sqrt(member.sum(axis=1, keepdims=True))])


# Raw ids ascend, so that a user's or movie's index here is its index in the table, but are neither dense nor from 0.
def _raw_users(sample: Sample) -> np.ndarray:
    return 1001 + 7 * np.arange(sample.users)


def _raw_movies(sample: Sample) -> np.ndarray:
    return 11 + 3 * np.arange(sample.movies)


def _movies(sample: Sample) -> pl.DataFrame:
    pairs = np.argsort(_uniform(sample, "title", len(ADJECTIVES) * len(NOUNS)), kind="stable")[: sample.movies]
    years = 1960 + _below(sample, 60, "year", sample.movies)
    words = [(ADJECTIVES[pair // len(NOUNS)], NOUNS[pair % len(NOUNS)]) for pair in pairs]
    return pl.DataFrame(
        {
            "movie": _raw_movies(sample),
            "title": [f"The {one} {other} ({year})" for (one, other), year in zip(words, years, strict=True)],
            "genres": [", ".join(np.array(GENRES)[row]) for row in _membership(sample)],
        }
    )


def _timestamps(sample: Sample, user: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Draw timestamps [n], in seconds: users start within ten years and rate about once a minute; some ratings tie."""
    shape = sample.users, _length_range(sample)[1]
    gaps = np.where(_uniform(sample, "tie", *shape) < _TIE_SHARE, 0, 1 + _below(sample, 119, "gap", *shape))
    starts = _FIRST_SECOND + _below(sample, 10 * 365 * 86_400, "start", sample.users)
    return (starts[:, None] + gaps.cumsum(axis=1))[user, step]


def _profiles(sample: Sample) -> pl.DataFrame:
    def pick(values: tuple, purpose: str) -> list:
        return [values[i] for i in _below(sample, len(values), purpose, sample.users)]

    people = zip(pick(("F", "M"), "gender"), pick(AGES, "age"), pick(OCCUPATIONS, "occupation"), strict=True)
    profiles = [f"gender: {gender}; age: {age}; occupation: {occupation}" for gender, age, occupation in people]
    return pl.DataFrame({"user": _raw_users(sample), "profile": profiles})


def _tags(
    sample: Sample, truth: Truth, raw_user: np.ndarray, raw_movie: np.ndarray, timestamp: np.ndarray
) -> pl.DataFrame:
    """Tag some ratings in the same second; four in five tags are about the movie's first genre."""
    shape = sample.users, _length_range(sample)[1]
    cell = truth.user, truth.step
    per_genre = len(GENRE_TAGS) // len(GENRES)
    first_genre = _membership(sample).argmax(axis=1)[truth.movie]
    fitting = first_genre * per_genre + _below(sample, per_genre, "genre tag", *shape)[cell]
    other = len(GENRE_TAGS) + _below(sample, len(OTHER_TAGS), "other tag", *shape)[cell]
    number = np.where(_uniform(sample, "which tag", *shape)[cell] < 0.8, fitting, other)
    tag = np.array(GENRE_TAGS + OTHER_TAGS)[number]
    tagged = _uniform(sample, "tagged", *shape)[cell] < _TAG_SHARE
    columns = {"user": raw_user, "movie": raw_movie, "tag": tag, "timestamp": timestamp}
    return pl.DataFrame({name: column[tagged] for name, column in columns.items()})


def _uniform(sample: Sample, purpose: str, *shape: int) -> np.ndarray:
    """Draw numbers strictly between 0 and 1, from the stream of this purpose."""
    stream = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    raw = np.random.Philox(key=np.array([sample.seed, stream], dtype=np.uint64)).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(12)) + 0.5).reshape(shape) * 2.0**-52


def _normal(sample: Sample, purpose: str, *shape: int) -> np.ndarray:
    return ndtri(_uniform(sample, purpose, *shape))


def _below(sample: Sample, bound: int, purpose: str, *shape: int) -> np.ndarray:
    """Draw integers from 0 to bound - 1."""
    return (bound * _uniform(sample, purpose, *shape)).astype(np.int64)


def _require(holds: bool, field: str, rule: str, value: object) -> None:
    if not holds:
        raise UserError(f"data.{field} must be {rule}, not {value}")
