"""What was given -> a table of the users' ratings with the movies to be rated behind them, and the stage of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.data.blocks import int_type
from mlens.data.csv_ratings import movies_of
from mlens.data.delimited import Types, typed
from mlens.data.order import places
from mlens.data.raw import NEVER, RawTables, build_table
from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.errors import UserError
from mlens.predict.given import Given
from mlens.prompt.settings import Ablation

# Users that an error quotes.
QUOTED = 6


@dataclass(frozen=True)
class Asked:
    """stage: the movies to be rated, each of which sees its user's whole history; in `table` they stand behind it, in
    the order that they were given in, with the lowest rating in place of one. users, movies: whether ids of these were
    given; left_out: pairs of a user and a movie of the common list that the user has rated."""

    table: RatingTable
    stage: Stage
    users: bool
    movies: bool
    left_out: int


def ask(
    history: Given,
    movies: Given,
    scale: tuple[float, ...],
    ablation: Ablation,
    users: Sequence[str] | None = None,
    at_most: int | None = None,
) -> Asked:
    """Every user's movies to be rated: those of their own, where `movies` has users, else all that they haven't rated.

    users: ids of the only users to predict for (None: all)
    at_most: how many predictions may be made (None: any number)

    Movies are known by their ids where both sides have them, else by their text, `Title (Genres)`. Raises UserError,
    naming file and line, where a column is missing that the ablation or a title needs, a movie stands twice or has two
    titles, a user's own movie is one of their history, a user has no history, nothing is left to rate, a rating or
    time can't be one, one of `users` isn't there, or there are more than `at_most` predictions to make.
    """
    _require_columns(history, movies, ablation)
    rated, asked = _rated(history), movies.frame
    by_id = movies.has("movie") and (history.has("movie") or rated.is_empty())
    if by_id:
        rated, asked = _alike(rated, asked, "movie")
    else:
        if not history.has("title") and not rated.is_empty():
            raise UserError(f"{history.file} has no titles: give them, or a column movie in {movies.file} too")
        rated, asked = (frame.with_columns(movie=_text_of_movie()) for frame in (rated, asked))
    titles = _titles(history, rated, movies, asked)
    if users is not None:
        rated, asked = _of_users(history, rated, movies, asked, users)
    if at_most is not None:
        _require_few(rated, movies, asked, at_most)
    rated, pairs, left_out = _pairs(history, rated, movies, asked)
    if pairs.is_empty():
        raise UserError(f"{movies.file}: nothing to rate: every movie in it stands in the history of {history.file}")
    pairs = pairs.with_columns(rating=pl.lit(scale[0]), timestamp=pl.lit(NEVER - 1, dtype=pl.Int64))
    columns = ["user", "movie", "rating", "timestamp", "line"]
    if ablation.context:
        columns.append("context")
        rated = rated.with_columns(context=pl.lit([], dtype=pl.List(pl.String)))
    raw = RawTables(
        ratings=pl.concat([rated.select(columns), pairs.select(columns)]),
        movies=titles,
        ratings_file=history.file,
        scale=scale,
        users=_users(history, rated),
        place=history.place,
    )
    table = build_table(raw)
    stage = _stage(table, np.bincount(places(pairs["user"], table.users["id"]), minlength=len(table.users)))
    return Asked(table, stage, history.has("user"), by_id, left_out)


def _require_columns(history: Given, movies: Given, ablation: Ablation) -> None:
    asked_for = ", which the model was trained to read"
    needed = [
        (history, "rating", "", not history.frame.is_empty()),
        (movies, "title", "", True),
        (history, "profile", asked_for, ablation.profile),
        (movies, "context", asked_for, ablation.context),
    ]
    for given, name, reason, wanted in needed:
        if wanted and not given.has(name):
            raise UserError(f"{given.file}: there is no column {name!r}{reason}")
    if movies.has("user") and not history.has("user"):
        raise UserError(f"{movies.file} has a column user, and {history.file} has none: give both or neither")


def _rated(history: Given) -> pl.DataFrame:
    """The history with numbers as such; without times it is in order of time, without users it is of user 0."""
    types: Types = {"rating": pl.Float64, "timestamp": pl.Datetime}
    frame = typed(
        history.frame, history.file, {name: types[name] for name in types if history.has(name)}, history.place
    )
    missing = {
        "user": pl.lit(0, dtype=pl.Int64),
        "rating": pl.lit(None, dtype=pl.Float64),  # of an empty history
        "timestamp": pl.int_range(pl.len(), dtype=pl.Int64),
        "title": pl.lit("", dtype=pl.String),
        "genres": pl.lit("", dtype=pl.String),
        "movie": pl.lit("", dtype=pl.String),
    }
    return frame.with_columns(**{name: value for name, value in missing.items() if not history.has(name)})


def _text_of_movie() -> pl.Expr:
    title, genres = pl.col("title"), pl.col("genres")
    return pl.when(genres == "").then(title).otherwise(pl.format("{} ({})", title, genres))


def _alike(one: pl.DataFrame, other: pl.DataFrame, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ids of both frames as text, unless they are numbers in both; a frame without rows takes the other's kind."""
    if one[name].dtype == other[name].dtype:
        return one, other
    if one.is_empty():
        return one.with_columns(pl.col(name).cast(other[name].dtype)), other
    text = pl.col(name).cast(pl.String)
    return one.with_columns(text), other.with_columns(text)


def _titles(history: Given, rated: pl.DataFrame, movies: Given, asked: pl.DataFrame) -> pl.DataFrame:
    """`movie`, `title`, `genres`: one row a movie of either side."""
    columns = ["movie", "title", "genres", "line"]
    titles = movies_of(asked.select(columns), movies.file, movies.place)
    if history.has("title"):
        own = movies_of(rated.select(columns), history.file, history.place)
        both = own.join(titles, on="movie", suffix="_there", maintain_order="left")
        other = (pl.col("title") != pl.col("title_there")) | (pl.col("genres") != pl.col("genres_there"))
        history.refuse_any(both.filter(other), f"the movie has another title or other genres in {movies.file}", "movie")
        titles = pl.concat([titles, own.join(titles, on="movie", how="anti", maintain_order="left")])
    else:
        unknown = rated.join(titles, on="movie", how="anti", maintain_order="left")
        history.refuse_any(unknown, f"the movie is not in {movies.file}, and has no title here", "movie")
    return titles.drop("line")


def _of_users(
    history: Given, rated: pl.DataFrame, movies: Given, asked: pl.DataFrame, users: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of these users only. Raises UserError where one has no history, or none a movie to be rated."""
    if not history.has("user"):
        raise UserError(f"{history.file} has no column user to choose by: give all of its ratings")
    own = pl.col("user").cast(pl.String)
    known = rated.select(own.unique(maintain_order=True)).to_series()
    for user in users:
        if user not in known:
            some = ", ".join(known.head(QUOTED)) + (", …" if len(known) > QUOTED else "")
            raise UserError(f"{history.file}: user {user} isn't among its {len(known):,} users: {some}")
    if movies.has("user"):
        asked = asked.filter(own.is_in(users))
        if asked.is_empty():
            raise UserError(f"{movies.file}: nothing to rate: it has no movies for {', '.join(users)}")
    return rated.filter(own.is_in(users)), asked


def _require_few(rated: pl.DataFrame, movies: Given, asked: pl.DataFrame, at_most: int) -> None:
    """Raises UserError where more than `at_most` predictions would be made: they are counted before they are listed."""
    if movies.has("user"):
        users, number = asked["user"].n_unique(), len(asked)
    else:
        users = max(1, rated["user"].n_unique())
        known = rated.join(asked, on="movie", how="semi").select("user", "movie").n_unique()
        number = users * len(asked) - known
    if number > at_most:
        raise UserError(
            f"{number:,} predictions for {users:,} users are more than {at_most:,}: choose users with --user ID, or "
            "give --all to make all of them"
        )


def _pairs(
    history: Given, rated: pl.DataFrame, movies: Given, asked: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The history, the users with their movies to be rated, both with ids of one kind, and how many were left out."""
    own = ["user", "movie"]
    again = "the movie stands on an earlier line too"
    if movies.has("user"):
        rated, asked = _alike(rated, asked, "user")
        movies.refuse_any(asked.filter(~pl.struct(own).is_first_distinct()), again, "movie")
        unknown = asked.join(rated, on="user", how="anti", maintain_order="left")
        movies.refuse_any(unknown, f"the user has no history in {history.file}", "user")
        known = asked.join(rated, on=own, how="semi", maintain_order="left")
        movies.refuse_any(known, f"the user has rated the movie in {history.file}", *own)
        return rated, asked, 0
    movies.refuse_any(asked.filter(~pl.col("movie").is_first_distinct()), again, "movie")
    users = pl.DataFrame({"user": [0]}) if rated.is_empty() else rated.select(pl.col("user").unique().sort())
    every = users.join(asked, how="cross", maintain_order="left_right")
    left = every.join(rated, on=own, how="anti", maintain_order="left")
    return rated, left, len(every) - len(left)


def _users(history: Given, rated: pl.DataFrame) -> pl.DataFrame | None:
    """What is told of each user. Raises UserError where it differs from line to line."""
    told = [name for name in ("profile", "task") if history.has(name)]
    if not told:
        return None
    users = rated.select("user", *told, "line").unique(pl.exclude("line"), keep="first", maintain_order=True)
    history.refuse_any(
        users.filter(~pl.col("user").is_first_distinct()),
        f"the user has another {' or '.join(told)} on an earlier line",
        "user",
    )
    return users.drop("line")


def _stage(table: RatingTable, asked: np.ndarray) -> Stage:
    """The last `asked` [users] of each user's rows, which see all before them."""
    index = int_type(len(table))
    seen = np.diff(table.user_offsets) - asked
    first = np.repeat(table.user_offsets[:-1] + seen, seen + asked)
    is_asked = np.arange(len(table)) >= first
    targets = np.flatnonzero(is_asked).astype(index)
    user = np.asarray(table.user)[targets]
    return Stage(
        name="asked",
        targets=targets,
        user=user,
        visible=np.flatnonzero(~is_asked).astype(index),
        visible_offsets=np.concatenate([[0], np.cumsum(seen)]),
        count=seen[user].astype(index),
    )
