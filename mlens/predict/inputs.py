"""Read the histories and movies of a prediction from CSV or JSON files, data frames or records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from mlens.data.behaviour_json import BehaviourJson
from mlens.data.csv_ratings import with_ids
from mlens.data.delimited import PLACE, header, read_csv
from mlens.data.raw import genres_from_pipes, is_too_long, to_one_line, too_long_error
from mlens.errors import UserError

COLUMNS = {
    "history": ("user", "movie", "title", "genres", "rating", "timestamp", "profile", "task"),
    "movies": ("user", "movie", "title", "genres", "timestamp", "context"),
}
# MovieLens' names of columns, and ours.
ALIASES = {"userId": "user", "movieId": "movie"}
NUMBERS = ("rating", "timestamp")
RECORD = "{file}: record {line}"


@dataclass(frozen=True)
class InputTable:
    """A history or a list of movies, from a user of the model.

    frame: the given columns, of those in COLUMNS, and `line`, the 1-based number of the line or record. `user` and
        `movie` are Int64 or text without nulls, `title` and `genres` are as a prompt prints them, `rating` and
        `timestamp` are text, `context` is a list of texts.
    file: the file, for error messages.
    place: the format string of an error message for a line.
    """

    frame: pl.DataFrame
    file: Path
    place: str = PLACE

    def has(self, name: str) -> bool:
        return name in self.frame.columns

    def where(self, line: int) -> str:
        return self.place.format(file=self.file, line=line)

    def refuse_any(self, bad: pl.DataFrame, rule: str, *shown: str) -> None:
        """Raise UserError for the first row of `bad`, if any, with its values of the columns `shown`."""
        if not bad.is_empty():
            row = bad.row(0, named=True)
            values = ", ".join(f"{name} {row[name]}" for name in shown)
            raise UserError(f"{self.where(row['line'])}: {rule}" + (f" ({values})" if values else ""))


def read_input(file: Path, kind: str, scale: tuple[float, ...]) -> InputTable:
    """Read a file that ends in .csv or .json.

    file: a history may also be a JSON list of users, as data=behaviour_json reads it
    kind: `history` or `movies`
    scale: the legal ratings

    Raises UserError, which names file and line or record, for a file that can't be read or has no rows, an unknown
    column, or a value of the wrong type.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"{file}: must end in .csv or .json")
    table = _read_csv(file, kind) if file.suffix.lower() == ".csv" else _read_json(file, kind, scale)
    if table.frame.is_empty():
        raise UserError(f"{file}: no rows in it")
    return table


def input_from_rows(
    rows: pl.DataFrame | Iterable[Mapping[str, Any]], kind: str, file: Path, place: str = RECORD
) -> InputTable:
    """Convert a frame or records with the columns of `kind`; a missing key is a null. Raises UserError as above."""
    records = rows.to_dicts() if isinstance(rows, pl.DataFrame) else list(rows)
    for number, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise UserError(f"{place.format(file=file, line=number)}: must be an object with keys, not {record!r}")
    names = rows.columns if isinstance(rows, pl.DataFrame) else dict.fromkeys(key for r in records for key in r)
    columns = _named(list(names), kind, str(file))
    empty = InputTable(pl.DataFrame({"line": range(1, len(records) + 1)}, schema={"line": pl.Int64}), file, place)
    converted = [_column(name, [record.get(key) for record in records], empty) for name, key in columns.items()]
    return _tidied(InputTable(empty.frame.with_columns(converted), file, place))


def _read_csv(file: Path, kind: str) -> InputTable:
    columns = _named(header(file), kind, f"{file}:1")
    if "context" in columns:
        raise UserError(f"{file}:1: context is a list of texts, which a CSV can't hold: give the movies as JSON")
    frame = read_csv(file, columns)
    return _tidied(InputTable(with_ids(frame, file, *(name for name in ("user", "movie") if name in columns)), file))


def _read_json(file: Path, kind: str, scale: tuple[float, ...]) -> InputTable:
    content = file.read_bytes()
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{line}: not valid UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: can't be read as JSON ({error})") from error
    if not isinstance(rows, list):
        raise UserError(f"{file}: must be a list of objects")
    if kind == "history" and rows and isinstance(rows[0], dict) and isinstance(rows[0].get("task"), dict):
        return _from_behaviour(file, scale)
    return input_from_rows(rows, kind, file)


def _from_behaviour(file: Path, scale: tuple[float, ...]) -> InputTable:
    """Read a list of users. The file has no movie ids; its contexts, which belong to ratings, are dropped."""
    raw = BehaviourJson(str(file), rating_scale=list(scale)).read([file])
    assert raw.users is not None
    frame = raw.ratings.join(raw.movies, on="movie", how="left", maintain_order="left")
    frame = frame.join(raw.users, on="user", how="left", maintain_order="left")
    frame = frame.with_columns(pl.col(NUMBERS).cast(pl.String), pl.col("line").cast(pl.Int64))
    frame = frame.drop("movie", "context", strict=False)
    return _tidied(InputTable(frame, file, raw.place))


def _named(names: Sequence[str], kind: str, where: str) -> dict[str, str]:
    """Map our names of the columns to those in the input."""
    columns: dict[str, str] = {}
    for name in names:
        ours = ALIASES.get(name, name)
        if ours not in COLUMNS[kind]:
            raise UserError(f"{where}: unknown column {name!r}: the columns of {kind} are {', '.join(COLUMNS[kind])}")
        if ours in columns:
            raise UserError(f"{where}: there are several columns {ours!r}")
        columns[ours] = name
    return columns


def _column(name: str, values: list[Any], table: InputTable) -> pl.Series:
    """Return a column of records, after checking each value."""
    for line, value in enumerate(values, 1):
        _refuse_half_characters(table, line, name, value)
    if name in ("user", "movie"):
        return _ids(name, values, table)
    if name == "context":
        for line, value in enumerate(values, 1):
            if value is not None and not _are_texts(value):
                _refuse(table, line, name, "a list of texts", value)
        return pl.Series(name, [value or [] for value in values], dtype=pl.List(pl.String))
    for line, value in enumerate(values, 1):
        number = name in NUMBERS and isinstance(value, Real) and not isinstance(value, bool)
        genres = name == "genres" and _are_texts(value)
        if not (value is None or isinstance(value, str) or number or genres):
            _refuse(table, line, name, "a number" if name in NUMBERS else "text", value)
    texts = [", ".join(value) if isinstance(value, list) else None if value is None else str(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String)


def _ids(name: str, values: list[Any], table: InputTable) -> pl.Series:
    """Return ids as numbers where all of them are, else as text."""
    for line, value in enumerate(values, 1):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UserError(f"{table.where(line)}: the {name} is missing")
        is_number = isinstance(value, Integral) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63
        if not is_number and not isinstance(value, str):
            _refuse(table, line, name, "an integer or text", value)
    if any(isinstance(value, str) for value in values):
        return pl.Series(name, [str(value).strip() for value in values], dtype=pl.String)
    return pl.Series(name, [int(value) for value in values], dtype=pl.Int64)


def _refuse_half_characters(table: InputTable, line: int, name: str, value: Any) -> None:
    """Raise UserError for half of a surrogate pair, which JSON allows as an escape and which is not valid text."""
    try:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{table.where(line)}: the {name} holds half of a surrogate pair") from error


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _refuse(table: InputTable, line: int, name: str, kind: str, value: Any) -> NoReturn:
    raise UserError(f"{table.where(line)}: the {name} must be {kind}, not {value!r}")


def _tidied(table: InputTable) -> InputTable:
    """Return the table with titles and genres as the prompt prints them. Raises UserError where a title is missing."""
    frame = table.frame
    if table.has("title"):
        genres = pl.col("genres").fill_null("") if table.has("genres") else pl.lit("").alias("genres")
        frame = frame.with_columns(to_one_line(pl.col("title").fill_null("")), genres)
        frame = frame.with_columns(to_one_line(genres_from_pipes()))
        table.refuse_any(frame.filter(pl.col("title") == ""), "the title is missing")
    for name in frame.columns:
        if frame[name].dtype == pl.String:
            table.refuse_any(frame.filter(is_too_long(pl.col(name))), too_long_error(name))
        if frame[name].dtype == pl.List(pl.String):
            turns = pl.col(name).list.eval(is_too_long(pl.element())).list.any()
            table.refuse_any(frame.filter(turns), too_long_error(name))
    return InputTable(frame, table.file, table.place)
