"""What every reader returns, and the one way from there to a checked, sorted RatingTable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mlens.data.table import RatingTable
from mlens.errors import UserError

HALF_STARS = tuple(i / 2 for i in range(1, 11))
WHOLE_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)
MOVIE_SCHEMA = {"movie": pl.Int64, "title": pl.String, "genres": pl.String}


@dataclass(frozen=True)
class RawTables:
    """Ratings as read, in source order.

    ratings: `user`, `movie` (raw ids), `rating` (float), `timestamp` (int seconds), `line` (1-based, for errors),
    and optionally `context` (list of text);
    movies: `movie` (raw id), `title`, `genres` (text, comma separated, may be empty);
    users: `user` (raw id) and optionally `profile`, `task` (text), or None; users without ratings are dropped;
    tags: `user`, `movie`, `tag`, `timestamp` in source order, or None;
    ratings_file: named in errors; scale: the legal ratings, ascending.
    """

    ratings: pl.DataFrame
    movies: pl.DataFrame
    ratings_file: Path
    scale: tuple[float, ...]
    users: pl.DataFrame | None = None
    tags: pl.DataFrame | None = None
    made_up: bool = False


def build_table(raw: RawTables) -> RatingTable:
    """Check `raw` and sort it by (user, timestamp, source order); users are numbered by ascending raw id.

    Raises UserError, naming file, line and rule, for a rating off the scale, a movie without a title, a duplicate
    (user, movie, timestamp), a negative time, or no ratings at all.
    """
    ratings = raw.ratings.with_row_index("order")
    if ratings.is_empty():
        raise UserError(f"{raw.ratings_file}: no ratings in it")
    _refuse(raw, ratings.filter(pl.col("rating").is_null() | pl.col("rating").is_nan()), "a rating must be a number")
    steps = np.array(raw.scale)
    off = np.abs(ratings["rating"].to_numpy()[:, None] - steps).min(axis=1) > 1e-6 if len(ratings) < 1 << 20 else None
    on_scale = ~pl.Series(off) if off is not None else ratings["rating"].is_in(list(raw.scale))
    _refuse(raw, ratings.filter(~on_scale), f"the rating is not on the scale {', '.join(map(str, raw.scale))}")
    _refuse(raw, ratings.filter(pl.col("timestamp") < 0), "a timestamp must not be negative")
    known = raw.movies["movie"]
    if known.is_duplicated().any():
        twice = known.filter(known.is_duplicated())[0]
        raise UserError(f"{raw.ratings_file.parent}: movie {twice} is listed twice among the movies")
    _refuse(raw, ratings.filter(~pl.col("movie").is_in(known.implode())), "the movie is not in the movie list")
    duplicated = ratings.select("user", "movie", "timestamp").is_duplicated()
    if duplicated.any():
        _refuse(raw, ratings.filter(duplicated)[1:], "the same user, movie and timestamp stand on an earlier line")

    movies = raw.movies.select(
        pl.col("movie").alias("id"), pl.col("title").str.strip_chars(" \t\r\n"), pl.col("genres").fill_null("")
    )
    users = ratings.select(pl.col("user").unique().sort())
    if raw.users is not None:
        users = users.join(raw.users, on="user", how="left", maintain_order="left")
    ratings = (
        ratings.join(users.select("user").with_row_index("u"), on="user", how="left")
        .join(movies.select(movie="id").with_row_index("m"), on="movie", how="left")
        .sort("u", "timestamp", "order")
    )
    user = ratings["u"].to_numpy().astype(np.int32)
    return RatingTable(
        user=user,
        movie=ratings["m"].to_numpy().astype(np.int32),
        rating=ratings["rating"].to_numpy().astype(np.float32),
        timestamp=ratings["timestamp"].to_numpy().astype(np.int64),
        user_offsets=np.searchsorted(user, np.arange(len(users) + 1)).astype(np.int64),
        users=users.rename({"user": "id"}),
        movies=movies,
        scale=tuple(raw.scale),
        tags=None if raw.tags is None else _number_tags(raw.tags, users, movies),
        contexts=ratings.select("context") if "context" in ratings.columns else None,
        made_up=raw.made_up,
    )


def _number_tags(tags: pl.DataFrame, users: pl.DataFrame, movies: pl.DataFrame) -> pl.DataFrame:
    """Tags of known users and movies, with dense numbers in place of raw ids, sorted by (user, timestamp, order)."""
    return (
        tags.with_row_index("order")
        .rename({"user": "raw_user", "movie": "raw_movie"})
        .join(users.select(raw_user="user").with_row_index("user"), on="raw_user")
        .join(movies.select(raw_movie="id").with_row_index("movie"), on="raw_movie")
        .sort("user", "timestamp", "order")
        .select("user", "movie", "tag", "timestamp")
    )


def _refuse(raw: RawTables, bad: pl.DataFrame, rule: str) -> None:
    if not bad.is_empty():
        row = bad.row(0, named=True)
        shown = ", ".join(f"{key} {row[key]}" for key in ("user", "movie", "rating", "timestamp"))
        raise UserError(f"{raw.ratings_file}:{row['line']}: {rule} ({shown})")
