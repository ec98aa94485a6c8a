"""The MovieLens releases as `::`-separated files: ml-1m (Latin-1, profiles), ml-10m (UTF-8, half stars, tags)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mlens.checks import require_choice
from mlens.data.archive import FileSet, source_files
from mlens.data.delimited import read_lines, typed
from mlens.data.raw import HALF_STARS, WHOLE_STARS, RawTables, genres_from_pipes, tidy_tags
from mlens.data.source_fields import check_common_fields
from mlens.data.terms import Terms, movielens_terms
from mlens.errors import UserError

FILES = {
    "ml-1m": FileSet(("ratings.dat", "movies.dat"), ("users.dat",)),
    "ml-10m": FileSet(("ratings.dat", "movies.dat"), ("tags.dat",)),
}
SCALES = {"ml-1m": WHOLE_STARS, "ml-10m": HALF_STARS}
# ml-10m is UTF-8 throughout.
ENCODINGS = {"ml-1m": "latin-1", "ml-10m": "utf-8"}

# What the codes of users.dat mean, from the README of ml-1m.
AGES = {1: "Under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}
OCCUPATIONS = (
    "other or not specified",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)


@dataclass(frozen=True)
class MovieLensDat:
    """ml-1m or ml-10m.

    release: its name.
    path: its folder or zip; None downloads it.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and movies with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: those of the release.
    """

    release: str
    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None

    def __post_init__(self) -> None:
        require_choice("data.release", self.release, list(FILES))
        check_common_fields(self)

    @property
    def terms(self) -> Terms:
        return movielens_terms(self.release)

    def files(self) -> list[Path]:
        """Return ratings.dat, movies.dat and, if present, users.dat (ml-1m) or tags.dat (ml-10m)."""
        return list(source_files(self.path, self.release, [FILES[self.release]]).values())

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming file, line and rule."""
        ratings_file, movies_file = files[:2]
        others = {file.name: file for file in files[2:]}
        encoding = ENCODINGS[self.release]
        movies = read_lines(
            movies_file, ("movie", "title", "genres"), separator="::", encoding=encoding, free_text="title"
        )
        return RawTables(
            ratings=_read_ratings(ratings_file),
            movies=typed(movies, movies_file, {"movie": pl.Int64}).with_columns(genres_from_pipes()),
            ratings_file=ratings_file,
            movies_file=movies_file,
            scale=tuple(self.rating_scale or SCALES[self.release]),
            users=_read_users(others["users.dat"]) if "users.dat" in others else None,
            tags=_read_tags(others["tags.dat"]) if "tags.dat" in others else None,
            tags_file=others.get("tags.dat"),
        )


def _read_ratings(file: Path) -> pl.DataFrame:
    types = {"user": pl.Int64, "movie": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
    return typed(read_lines(file, tuple(types), separator="::"), file, types)


def _read_tags(file: Path) -> pl.DataFrame:
    frame = read_lines(file, ("user", "movie", "tag", "timestamp"), separator="::", free_text="tag")
    return tidy_tags(typed(frame, file, {"user": pl.Int64, "movie": pl.Int64, "timestamp": pl.Int64}))


def _read_users(file: Path) -> pl.DataFrame:
    frame = read_lines(file, ("user", "gender", "age", "occupation", "zip"), separator="::", encoding="latin-1")
    frame = typed(frame, file, {"user": pl.Int64, "age": pl.Int64, "occupation": pl.Int64})
    meanings: dict[str, dict[int, str]] = {"age": AGES, "occupation": dict(enumerate(OCCUPATIONS))}
    for name, codes in meanings.items():
        unknown = frame.filter(~pl.col(name).is_in(list(codes)))
        if not unknown.is_empty():
            row = unknown.row(0, named=True)
            raise UserError(f"{file}:{row['line']}: {row[name]} is not a code for an {name}")
        frame = frame.with_columns(pl.col(name).replace_strict(codes, return_dtype=pl.String))
    profile = pl.format("gender: {}; age: {}; occupation: {}", "gender", "age", "occupation")
    return frame.select("user", profile.alias("profile"))
