"""The hf source: local Parquet or Arrow files, or a dataset of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from mlens.data.delimited import compact
from mlens.data.named_columns import complete_tables, movies_of, rating_columns, title_columns
from mlens.data.raw import HALF_STARS, RawTables, shorten
from mlens.data.source_fields import check_common_fields
from mlens.data.terms import USER_DATA, Terms
from mlens.data.values import A_TIME, seconds
from mlens.errors import UserError
from mlens.text import first_line

ENDINGS = (".parquet", ".arrow", ".feather", ".ipc")
# How these files begin: Parquet, Arrow's file format, and its stream format, which `datasets` writes.
PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
# Rows of a Parquet file that are read at once.
ROWS = 1 << 20
PLACE = "{file}: row {line}"
NULLABLE = {"timestamp_column": "the rows are in time order", "genres_column": "there are none"}


@dataclass(frozen=True)
class HfDataset:
    """A table with one rating a row: local files, or a dataset of the hub, which the package `datasets` downloads.

    path: a Parquet or Arrow file, or a folder of such files, read in the order of their names.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and movies with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: half stars.
    name: of a dataset of the hub, instead of `path`, such as owner/name.
    subset: of that dataset; None: its default.
    split: of that dataset.
    revision: a branch, tag or commit of that dataset; None: its main branch.
    movies_path: file or folder of a table with one movie a row, which has `movie_column` too; None: the ratings' rows
        have titles and genres.
    user_column, movie_column: ids, as integers or text.
    timestamp_column: times, or seconds or ISO 8601 text (see `seconds`); None: the rows are in time order.
    genres_column: lists of text, or text separated by `|` or printed unchanged; None: there are none.
    item: what is rated, one of ITEMS; the prompt's texts name it.
    """

    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None
    name: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    movies_path: str | None = None
    user_column: str = "user"
    movie_column: str = "movie"
    rating_column: str = "rating"
    timestamp_column: str | None = "timestamp"
    title_column: str = "title"
    genres_column: str | None = "genres"
    item: str = "film"

    def __post_init__(self) -> None:
        check_common_fields(self)

    @property
    def terms(self) -> Terms:
        """The terms of the user's data, with the id of a dataset of the hub."""
        return replace(USER_DATA, dataset=self.name)

    def files(self) -> list[Path]:
        """Return the ratings' files and, if movies_path is set, the movies' files. Raises UserError if one is missing.

        Downloads a dataset of the hub first.
        """
        if (self.path is None) == (self.name is None):
            raise UserError("data=hf needs data.path=FILE_OR_FOLDER, or data.name=DATASET of the Hugging Face hub")
        ratings = self._downloaded() if self.path is None else _files("data.path", self.path)
        return [*ratings, *self._movies_files()]

    def _movies_files(self) -> list[Path]:
        return [] if self.movies_path is None else _files("data.movies_path", self.movies_path)

    def _downloaded(self) -> list[Path]:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise UserError("data.name needs the package datasets: pip install -e '.[hf]'") from error
        try:
            dataset = load_dataset(self.name, self.subset, split=self.split, revision=self.revision)
        except Exception as error:  # of the network, the hub, the dataset's files, or of the disk
            raise UserError(f"data.name={self.name} can't be loaded: {first_line(error)}") from error
        return [Path(file["filename"]) for file in dataset.cache_files]

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming the file or folder, the row and the rule."""
        movies_files = self._movies_files()
        ratings_files = files[: len(files) - len(movies_files)]
        about_movie, about_rating = title_columns(self), rating_columns(self)
        source = _name_of(ratings_files)
        columns = about_rating | ({} if movies_files else about_movie)
        movie_parts = []

        def rating_parts() -> Iterator[pl.DataFrame]:
            for part in _parts(ratings_files, columns):
                if not movies_files:
                    movie_parts.append(movies_of(part.select("movie", *about_movie, "line"), source, PLACE))
                yield part.select(*about_rating, "line")

        ratings = compact(rating_parts())
        if movies_files:
            movies = compact(_parts(movies_files, {"movie": self.movie_column} | about_movie))
        else:
            movies = movies_of(compact(movie_parts), source, PLACE)
        ratings, movies = complete_tables(self, ratings, movies)
        return RawTables(
            ratings=ratings,
            movies=movies,
            ratings_file=source,
            movies_file=_name_of(movies_files) if movies_files else None,
            scale=tuple(self.rating_scale or HALF_STARS),
            place=PLACE,
        )


def _files(field: str, path: str) -> list[Path]:
    """Return the file, or the files of the folder. Raises UserError where there is none."""
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"{field}={place}: no such file or folder")
    found = sorted(file for file in place.iterdir() if file.is_file() and file.suffix in ENDINGS)
    if not found:
        raise UserError(f"{field}={place}: has no file that ends in {', '.join(ENDINGS)}")
    return found


def _name_of(files: Sequence[Path]) -> Path:
    """Return what an error names: the file, or the folder of several files, whose rows are counted together."""
    return files[0] if len(files) == 1 else files[0].parent


def _parts(files: Sequence[Path], columns: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """Yield the columns under our names (the keys), checked and converted, and `line`, the 1-based row."""
    row = 1
    for file in files:
        try:
            for part in _raw_parts(file, columns):
                part = part.with_columns(line=pl.int_range(row, row + pl.len(), dtype=pl.Int64))
                row += len(part)
                yield part.select(*(_converted(part, name, _name_of(files)) for name in columns), "line")
        except pl.exceptions.PolarsError as error:
            raise UserError(
                f"{file}: can't be read ({shorten(first_line(error))}). Download or write it again"
            ) from error


def _raw_parts(file: Path, columns: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """Yield the columns under our names as they are, a Parquet file in parts."""
    named = [pl.col(field).alias(name) for name, field in columns.items()]
    with file.open("rb") as stream:
        start = stream.read(len(ARROW_FILE))
    if start.startswith(PARQUET):
        table = pl.scan_parquet(file, glob=False)
        _require_columns(file, table.collect_schema().names(), columns)
        rows = table.select(pl.len()).collect().item()
        for first in range(0, max(rows, 1), ROWS):
            yield table.slice(first, ROWS).select(named).collect()
    elif start.startswith((ARROW_FILE, ARROW_STREAM)):
        read = pl.read_ipc if start.startswith(ARROW_FILE) else pl.read_ipc_stream
        # Opened for each call, since polars reads from the system's position in the file; a path would be a pattern.
        with file.open("rb") as stream:
            _require_columns(file, read(stream, n_rows=0).columns, columns)
        with file.open("rb") as stream:
            yield read(stream, columns=list(dict.fromkeys(columns.values()))).select(named)
    else:
        raise UserError(f"{file}: is neither a Parquet nor an Arrow file")


def _require_columns(file: Path, names: list[str], columns: Mapping[str, str]) -> None:
    for name, field in columns.items():
        if field not in names:
            setting = f"{name}_column"
            null = f" (null: {NULLABLE[setting]})" if setting in NULLABLE else ""
            raise UserError(f"{file}: there is no column {field!r}, only {', '.join(names)}. Set data.{setting}{null}")


def _converted(part: pl.DataFrame, name: str, source: Path) -> pl.Series:
    """Return a column in the type that RawTables has. Raises UserError, with its row, for a value of another type."""
    given = part[name]
    if given.dtype in (pl.Categorical, pl.Enum):
        given = given.cast(pl.String)
    convert, kind = COLUMNS[name]
    converted = convert(given)
    bad = converted.is_null()
    if kind == TEXT:  # may be missing
        bad &= given.is_not_null()
    if bad.any():
        row = part.select(name, "line").row(int(bad.arg_max() or 0), named=True)
        where, value = PLACE.format(file=source, line=row["line"]), row[name]
        rule = "is missing" if value is None or value == "" else f"must be {kind}, not {shorten(repr(value))}"
        raise UserError(f"{where}: the {name} {rule}")
    return converted


# Each of these converts a column, with nulls in place of values that it can't convert.
def _ids(given: pl.Series) -> pl.Series:
    if given.dtype == pl.String:
        text = given.str.strip_chars()
        return text.set(text == "", None)
    return given.cast(pl.Int64, strict=False) if given.dtype.is_integer() else _nulls(given, pl.String)


def _numbers(given: pl.Series) -> pl.Series:
    if given.dtype == pl.String:
        given = given.str.strip_chars()
    is_number = given.dtype == pl.String or given.dtype.is_numeric()
    return given.cast(pl.Float64, strict=False) if is_number else _nulls(given, pl.Float64)


def _times(given: pl.Series) -> pl.Series:
    if given.dtype == pl.String:
        return pl.Series(given.name, map(seconds, given), dtype=pl.Int64)
    if given.dtype in (pl.Date, pl.Datetime):
        return given.cast(pl.Datetime("us")).dt.epoch("s")
    if given.dtype.is_float():
        given = given.floor()
    return given.cast(pl.Int64, strict=False) if given.dtype.is_numeric() else _nulls(given, pl.Int64)


def _texts(given: pl.Series) -> pl.Series:
    if given.dtype == pl.List(pl.String):
        return given.list.join(", ", ignore_nulls=True)
    return _nulls(given, pl.String) if given.dtype.is_nested() else given.cast(pl.String, strict=False)


def _nulls(given: pl.Series, dtype: type[pl.DataType]) -> pl.Series:
    return pl.Series(given.name, [None] * len(given), dtype=dtype)


TEXT = "text"
COLUMNS: Mapping[str, tuple[Callable[[pl.Series], pl.Series], str]] = {
    "user": (_ids, "an integer or text"),
    "movie": (_ids, "an integer or text"),
    "rating": (_numbers, "a number"),
    "timestamp": (_times, A_TIME),
    "title": (_texts, TEXT),
    "genres": (_texts, TEXT),
}
