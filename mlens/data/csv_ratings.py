"""The CSV source: a delimited text file with a header, whose columns the config names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from mlens.data.delimited import Format, Types, compact, read_csv, read_parts
from mlens.data.named_columns import complete_tables, movies_of, rating_columns, title_columns
from mlens.data.raw import HALF_STARS, RawTables
from mlens.data.source_fields import check_common_fields, given_file
from mlens.data.terms import USER_DATA, Terms
from mlens.data.text_files import check_encoding
from mlens.errors import UserError


@dataclass(frozen=True)
class CsvRatings:
    """A file with one rating a line, optionally gzipped.

    path: the file of ratings.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and movies with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: half stars.
    movies_path: a file with one movie a line, which has `movie_column` too; None: the ratings' lines have titles and
        genres.
    separator: one character, or `\\t` for a tab.
    encoding: of both files.
    escape: the character that makes the next one literal, as in `\\"`; None: there is none.
    user_column, movie_column: ids, as numbers or text.
    timestamp_column: seconds or ISO 8601 (see `seconds`); None: the lines are in time order.
    genres_column: genres separated by `|`, or printed unchanged; None: there are none.
    item: what is rated, one of ITEMS; the prompt's texts name it.
    """

    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None
    movies_path: str | None = None
    separator: str = ","
    encoding: str = "utf-8"
    escape: str | None = None
    user_column: str = "user"
    movie_column: str = "movie"
    rating_column: str = "rating"
    timestamp_column: str | None = "timestamp"
    title_column: str = "title"
    genres_column: str | None = "genres"
    item: str = "film"
    terms: ClassVar[Terms] = USER_DATA

    def __post_init__(self) -> None:
        check_common_fields(self)
        separator, escape = self._format().separator, self._format().escape
        if not _is_separator_like(separator):
            known = r"such as ',' or '\t'"
            raise UserError(f"data.separator must be one ASCII character, {known}, not {self.separator!r}")
        if escape is not None and (not _is_separator_like(escape) or escape == separator):
            known = r"other than the separator, such as '\\'"
            raise UserError(f"data.escape must be null or one ASCII character {known}, not {self.escape!r}")
        check_encoding(self.encoding)

    def _format(self) -> Format:
        """Return the format; a tab and a backslash may be given as two-character escapes, as on a command line."""
        separator = "\t" if self.separator == r"\t" else self.separator
        escape = "\\" if self.escape == r"\\" else self.escape
        return Format(separator, escape=escape, encoding=self.encoding, settable=True)

    def files(self) -> list[Path]:
        """Return the ratings file and, if movies_path is set, the movies file. Raises UserError if one is missing."""
        if self.path is None:
            raise UserError("data.path is not set: data=csv needs data.path=FILE.csv")
        paths = {"path": self.path, "movies_path": self.movies_path}
        return [given_file(f"data.{name}", path) for name, path in paths.items() if path is not None]

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming file, line and rule."""
        about_movie, about_rating = title_columns(self), rating_columns(self)
        ratings_file, movies_file = files[0], files[-1]
        one_file = len(files) == 1
        columns = about_rating | (about_movie if one_file else {})
        types: Types = {"rating": pl.Float64, "timestamp": pl.Datetime}
        types = {name: dtype for name, dtype in types.items() if name in columns}
        movie_parts = []

        def rating_parts() -> Iterator[pl.DataFrame]:
            for text in read_parts(ratings_file, columns, types, self._format()):
                part = with_ids(text, ratings_file, "user", "movie")
                if one_file:
                    movie_parts.append(movies_of(part.select("movie", *about_movie, "line"), ratings_file))
                yield part.select(*about_rating, "line")

        ratings = compact(rating_parts())
        if one_file:
            movies = movies_of(compact(movie_parts), ratings_file)
        else:
            movies = read_csv(movies_file, {"movie": self.movie_column} | about_movie, form=self._format())
            movies = with_ids(movies, movies_file, "movie")
        ratings, movies = complete_tables(self, ratings, movies)
        return RawTables(
            ratings=ratings,
            movies=movies,
            ratings_file=ratings_file,
            movies_file=movies_file,
            scale=tuple(self.rating_scale or HALF_STARS),
        )


def _is_separator_like(text: str) -> bool:
    """Whether `text` is one ASCII character that can serve as a separator or an escape."""
    return len(text) == 1 and text.isascii() and text not in '"\r\n\0'


def with_ids(frame: pl.DataFrame, file: Path, *names: str) -> pl.DataFrame:
    """Convert ids to integers where all of a column allows it, else to text without outer blanks.

    Raises UserError where an id is missing.
    """
    frame = frame.with_columns(_as_integers(frame[name]) for name in names)
    for name in names:
        missing = frame.filter(pl.col(name) == "") if frame[name].dtype == pl.String else frame.clear()
        if not missing.is_empty():
            raise UserError(f"{file}:{missing['line'][0]}: the {name} is missing")
    return frame


def _as_integers(text: pl.Series) -> pl.Series:
    """Convert to integers where all are canonical decimal integers; 7 and 007 stay two different texts."""
    numbers = text.cast(pl.Int64, strict=False)
    # Texts that begin with a sign or a 0 sort before "1".
    if not numbers.has_nulls() and not text.filter(text < "1").str.contains(r"^(\+|-0|0.)").any():
        return numbers
    stripped = text.str.strip_chars().fill_null("")
    return stripped if stripped.equals(text) else _as_integers(stripped)
