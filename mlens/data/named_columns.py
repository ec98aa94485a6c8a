"""What sources whose columns the config names have in common: the columns to read, and their content as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import polars as pl

from mlens.data.delimited import PLACE
from mlens.data.raw import genres_from_pipes
from mlens.errors import UserError


class ColumnNames(Protocol):
    """The fields that name columns. Without `timestamp_column`, ratings are in time order."""

    @property
    def user_column(self) -> str: ...
    @property
    def movie_column(self) -> str: ...
    @property
    def rating_column(self) -> str: ...
    @property
    def timestamp_column(self) -> str | None: ...
    @property
    def title_column(self) -> str: ...
    @property
    def genres_column(self) -> str | None: ...


def rating_columns(names: ColumnNames) -> dict[str, str]:
    """Return the columns of a rating: our name of each, and the given one."""
    columns = {"user": names.user_column, "movie": names.movie_column, "rating": names.rating_column}
    return columns if names.timestamp_column is None else columns | {"timestamp": names.timestamp_column}


def title_columns(names: ColumnNames) -> dict[str, str]:
    """Return the columns of a movie besides its id: our name of each, and the given one."""
    columns = {"title": names.title_column}
    return columns if not names.genres_column else columns | {"genres": names.genres_column}


def movies_of(ratings: pl.DataFrame, file: Path, place: str = PLACE) -> pl.DataFrame:
    """Return one row a movie, from the title and genres of its ratings. Raises UserError where two of them differ."""
    movies = ratings.unique(pl.exclude("line"), keep="first", maintain_order=True)
    other = movies.filter(~pl.col("movie").is_first_distinct())
    if not other.is_empty():
        row = other.row(0, named=True)
        where = place.format(file=file, line=row["line"])
        raise UserError(f"{where}: movie {row['movie']} has another title or other genres on an earlier line")
    return movies


def complete_tables(
    names: ColumnNames, ratings: pl.DataFrame, movies: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return ratings and movies as RawTables has them: with times, genres and movies' ids of one type."""
    if names.timestamp_column is None:
        ratings = ratings.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
    if names.genres_column is None:
        movies = movies.with_columns(genres=pl.lit(""))
    if ratings["movie"].dtype.is_integer() != movies["movie"].dtype.is_integer():
        ratings, movies = (frame.with_columns(pl.col("movie").cast(pl.String)) for frame in (ratings, movies))
    return ratings, movies.with_columns(genres_from_pipes())
