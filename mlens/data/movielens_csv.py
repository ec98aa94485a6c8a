"""The MovieLens releases as ratings.csv, movies.csv and tags.csv: ml-latest-small, ml-latest, ml-25m and ml-32m."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mlens.checks import require_choice
from mlens.data.archive import FileSet, source_files
from mlens.data.delimited import compact, read_csv, read_parts
from mlens.data.raw import HALF_STARS, RawTables, genres_from_pipes, tidy_tags
from mlens.data.source_fields import check_common_fields
from mlens.data.terms import Terms, movielens_terms

RELEASES = ("ml-latest-small", "ml-latest", "ml-25m", "ml-32m")
FILES = FileSet(("ratings.csv", "movies.csv"), ("tags.csv",))


@dataclass(frozen=True)
class MovieLensCsv:
    """One of the CSV releases.

    release: its name, such as ml-25m.
    path: its folder or zip; None downloads it, where its checksum is pinned.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and movies with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: half stars.
    """

    release: str
    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None

    def __post_init__(self) -> None:
        require_choice("data.release", self.release, list(RELEASES))
        check_common_fields(self)

    @property
    def terms(self) -> Terms:
        return movielens_terms(self.release)

    def files(self) -> list[Path]:
        """Return ratings.csv, movies.csv and, if present, tags.csv. Raises UserError where one can't be found."""
        return list(source_files(self.path, self.release, [FILES]).values())

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming file, line and rule."""
        ratings_file, movies_file, *tags_files = files
        columns = {"user": "userId", "movie": "movieId", "rating": "rating", "timestamp": "timestamp"}
        types = {"user": pl.Int64, "movie": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
        about_movie = {"movie": "movieId", "title": "title", "genres": "genres"}
        about_tag = {"user": "userId", "movie": "movieId", "tag": "tag", "timestamp": "timestamp"}
        tag_types = {"user": pl.Int64, "movie": pl.Int64, "timestamp": pl.Int64}
        ratings = compact(read_parts(ratings_file, columns, types))
        movies = read_csv(movies_file, about_movie, {"movie": pl.Int64})
        tags = [read_csv(file, about_tag, tag_types) for file in tags_files]
        return RawTables(
            ratings=ratings,
            movies=movies.with_columns(genres_from_pipes()),
            ratings_file=ratings_file,
            movies_file=movies_file,
            scale=tuple(self.rating_scale or HALF_STARS),
            tags=tidy_tags(tags[0]) if tags else None,
            tags_file=tags_files[0] if tags_files else None,
        )
