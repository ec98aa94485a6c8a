"""JSON Lines -> polars frames of the fields that a reader needs, in parts, so that a file's size doesn't matter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from mlens.data.delimited import PLACE
from mlens.data.text_files import open_text, refuse_undecodable
from mlens.data.values import number
from mlens.errors import UserError

# Records that become columns at once.
ROWS = 1 << 16
# The field of a type, in errors.
KINDS = {pl.String: "text", pl.Float64: "a number", pl.Int64: "an integer", pl.List: "a list", pl.Struct: "an object"}
# Python's types of values that polars takes as they are.
PLAIN: Mapping[Any, tuple[type, ...]] = {pl.String: (str,), pl.Float64: (float, int), pl.Int64: (int,)}
# How many fields of a record an error lists.
MAX_LISTED = 12

Schema = Mapping[str, pl.DataType | type[pl.DataType]]


def first_record(file: Path) -> dict[str, Any]:
    """Return the first record. Raises UserError where there is none, or it isn't a JSON object."""
    with open_text(file) as stream:
        for line, text in enumerate(stream, 1):
            if text.strip():
                return _parsed(text, file, line)
    raise UserError(f"{file}: no records in it")


def require_fields(file: Path, fields: Iterable[str]) -> None:
    """Raise UserError where the file's first record lacks one of `fields`."""
    record = first_record(file)
    for name in fields:
        if name not in record:
            raise UserError(f"{file}: the first record has no field {name!r}, but {listed(record)}")


def listed(record: Mapping[str, Any]) -> str:
    """Return the names of a record's fields, for an error."""
    names = ", ".join(islice(record, MAX_LISTED)) + (", …" if len(record) > MAX_LISTED else "")
    return names or "no fields"


def read_records(file: Path, schema: Schema) -> Iterator[pl.DataFrame]:
    """Yield the fields of `schema` in parts, and `line` (1-based); a field that a record lacks is null.

    schema: fields with their types, of those in KINDS.

    Other fields and blank lines are skipped; the file may be gzipped. A number may be written as text. Raises
    UserError, with file and line, for a line that isn't a JSON object, a value of another type, or text that isn't
    UTF-8.
    """
    columns: dict[str, list[Any]] = {name: [] for name in schema}
    lines: list[int] = []
    with open_text(file) as stream:
        for line, text in enumerate(stream, 1):
            if text.isspace():
                continue
            record = _parsed(text, file, line)
            for name, values in columns.items():
                values.append(record.get(name))
            lines.append(line)
            if len(lines) == ROWS:
                yield _frame(columns, lines, file, schema)
                columns, lines = {name: [] for name in schema}, []
    yield _frame(columns, lines, file, schema)


def require_values(frame: pl.DataFrame, file: Path, names: Mapping[str, str]) -> pl.DataFrame:
    """Return `frame`. Raises UserError where a value is missing.

    names: maps the columns that are checked to the file's fields.
    """
    for name, field in names.items():
        missing = frame[name].is_null() if frame[name].dtype != pl.String else frame[name].fill_null("") == ""
        if missing.any():
            line = frame["line"][int(missing.arg_max() or 0)]
            raise UserError(f"{PLACE.format(file=file, line=line)}: {field} is missing")
    return frame


def _frame(columns: dict[str, list[Any]], lines: list[int], file: Path, schema: Schema) -> pl.DataFrame:
    series = [_column(name, values, lines, file, schema[name]) for name, values in columns.items()]
    return pl.DataFrame([*series, pl.Series("line", lines, dtype=pl.Int64)])


def _column(name: str, values: list[Any], lines: list[int], file: Path, kind: Any) -> pl.Series:
    """Convert values to a column. Values that are all of the column's type, as usual, need no look at each of them."""
    if kind in PLAIN and {*map(type, values)} <= {*PLAIN[kind], type(None)}:
        with suppress(UnicodeEncodeError, OverflowError, TypeError):  # half of a surrogate pair, more than 64 bits
            return pl.Series(name, values, dtype=kind, strict=kind != pl.Float64)
    converted = [
        _converted(value, kind, f"{PLACE.format(file=file, line=line)}: {name}")
        for value, line in zip(values, lines, strict=True)
    ]
    return pl.Series(name, converted, dtype=kind)


def _parsed(text: bytes, file: Path, line: int) -> dict[str, Any]:
    where = PLACE.format(file=file, line=line)
    try:
        record = json.loads(text.decode().strip())
    except UnicodeDecodeError:
        refuse_undecodable(file)
        raise
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not valid JSON ({reason}): each line must be a JSON object") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: each line must be a JSON object")
    return record


def _converted(value: Any, kind: Any, where: str) -> Any:
    """Return a value of a type in KINDS, or None. Raises UserError where it is of another type."""
    if value is None:
        return None
    if isinstance(kind, pl.List) and isinstance(value, list):
        return [_converted(element, kind.inner, where) for element in value]
    if isinstance(kind, pl.Struct) and isinstance(value, dict):
        return {field.name: _converted(value.get(field.name), field.dtype, where) for field in kind.fields}
    if kind == pl.String and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value).encode(errors="replace").decode()  # JSON can escape half of a surrogate pair
    given = number(value)
    if kind == pl.Float64 and given is not None:
        return given
    if kind == pl.Int64 and given is not None and abs(given) < 2**53 and given == int(given):
        return int(given)
    raise UserError(f"{where} must be {KINDS[kind.base_type()]}, not {str(value)[:60]!r}")
