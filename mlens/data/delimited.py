"""Delimited text files -> polars frames of text with the line of each row -> checked numbers."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import polars as pl

from mlens.data.text_files import ChunkStream, open_text, refuse_undecodable
from mlens.data.values import A_TIME, seconds
from mlens.errors import UserError

# Column types: pl.Int64, pl.Float64, or pl.Datetime for a time in seconds, which is read as pl.Int64.
Types = Mapping[str, type[pl.DataType]]
# Bytes of a file that are read at once. As text columns they take several times as much memory.
PART = 1 << 24
# How an error names a line of a file.
PLACE = "{file}:{line}"
# What else can be set, besides the column's name, where a user's table lacks a column.
ALTERNATIVES = {
    "timestamp": " (null: the lines are in time order)",
    "title": ", or data.movies_path to a file that has it",
    "genres": " (null: there are none)",
}
# Replaces a CR inside a line: another control character, which becomes a blank as all control characters do.
CR_PLACEHOLDER = "\x1f"


@dataclass(frozen=True)
class Format:
    """The format of a delimited file.

    separator: one ASCII character between fields.
    quote: encloses a field with separators, line breaks or (doubled) quotes; None: quotes are ordinary characters.
    escape: makes the next character literal, inside quotes and outside; None: there is no escape character.
    encoding: of the text.
    settable: whether columns and format are settings of data=csv, so that errors may suggest changing them.
    """

    separator: str = ","
    quote: str | None = '"'
    escape: str | None = None
    encoding: str = "utf-8"
    settable: bool = False


CSV = Format()


def read_csv(file: Path, columns: Mapping[str, str], types: Types | None = None, form: Format = CSV) -> pl.DataFrame:
    """Read columns of a file with a header.

    columns: maps the names of the returned columns to the names in the header.
    types: the columns to convert to numbers (see `typed`); the others are text.
    form: the file's format.

    Returns the columns (null where a field is missing) and `line` (1-based). Blank lines are skipped; a byte order
    mark, gzip and any line ends are accepted. Raises UserError for a column that is missing or occurs twice, a line
    with too many fields, broken quotes, a zero byte, text in another encoding, or what `open_text` or `typed` refuses.
    """
    return pl.concat(read_parts(file, columns, types, form))


def read_parts(
    file: Path, columns: Mapping[str, str], types: Types | None = None, form: Format = CSV
) -> Iterator[pl.DataFrame]:
    """Like `read_csv`, but yield the file in parts, for files whose text should not be in memory at once."""
    names = header(file, form)
    for name_here, name in columns.items():
        if name not in names:
            raise UserError(_missing_column_error(file, name_here, name, names, form))
        if names.count(name) > 1:
            raise UserError(f"{file}:1: there are several columns {name!r}")
    line = 2
    for part, quoted in _parts(file, form):
        if b"\0" in part:
            raise UserError(_zero_byte_error(file, form))
        if quoted and _has_broken_quotes(part, form):
            raise UserError(_format_error(file, len(names), form))
        try:
            frame = _read_part(part, quoted, line, columns, types or {}, form)
        except (pl.exceptions.PolarsError, OverflowError) as error:
            raise UserError(_format_error(file, len(names), form)) from error
        line += part.count(b"\n") - 1 if quoted else frame.height
        if all(frame[name].has_nulls() for name in columns):  # possibly a blank line
            frame = frame.filter(~pl.all_horizontal(pl.col(*columns).is_null()))
        yield typed(frame, file, types or {})


def compact(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Concatenate the parts, with integers as Int32 where they fit; a column that is text in any part is text."""

    def narrow(numbers: pl.Series) -> pl.Series:
        fits = numbers.dtype == pl.Int64 and numbers.is_between(-(2**31), 2**31 - 1).all()
        return numbers.cast(pl.Int32) if fits else numbers

    return pl.concat((part.select(map(narrow, part.get_columns())) for part in parts), how="vertical_relaxed")


def without_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """Prefix texts that a spreadsheet would take for a formula with a quote, for CSV files that people open.

    >>> without_formulas(pl.DataFrame({"title": ["=1+1", "Heat", None]}))["title"].to_list()
    ["'=1+1", 'Heat', None]
    """
    return frame.with_columns(pl.col(pl.String).str.replace(r"^([=+\-@\t\r])", "'${1}"))


def _open(file: Path, form: Format) -> BinaryIO:
    """Open the file's text as UTF-8, without escapes."""
    stream = open_text(file, form.encoding, form.settable)
    return stream if form.escape is None else ChunkStream.stream(_unescaped(stream, file, form), stream)


def _unescaped(stream: BinaryIO, file: Path, form: Format) -> Iterator[bytes]:
    """Yield the same records on the same lines, with quotes and doubled quotes in place of escapes."""
    reader = _reader(_lines(stream), form, form.escape)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=form.separator, quotechar=form.quote, lineterminator="\n")
    try:
        while rows := list(islice(reader, 10_000)):
            writer.writerows(rows)
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    except UnicodeDecodeError:
        refuse_undecodable(file, form.encoding, form.settable)
        raise
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num}: {_broken_quotes(form)}") from error


def _parts(file: Path, form: Format) -> Iterator[tuple[bytes, bool]]:
    """Yield the file in parts of complete records, each after the header, and whether the part contains quotes."""
    quote = form.quote
    with _open(file, form) as stream:
        header = stream.readline()
        texts, quotes = [header], 0
        while True:
            more = [stream.read(PART), stream.readline()]
            texts += more
            if quote is not None:
                quotes += sum(text.count(quote.encode()) for text in more if quote.encode() in text)
            # A line break after an odd number of quotes is inside quotes, and doesn't end a record.
            if more[1] and quotes % 2:
                continue
            yield b"".join(texts), quotes > 0
            if not more[1]:
                return
            texts, quotes = [header], 0


def _read_part(
    part: bytes,
    quoted: bool,
    line: int,
    columns: Mapping[str, str],
    types: Types,
    form: Format,
) -> pl.DataFrame:
    """Read the part's columns, under their new names, and `line`: those in `types` as numbers, or all as text."""
    source_names = list(dict.fromkeys(columns.values()))
    named = [pl.col(source_names).alias(name_here) for name_here, source_names in columns.items()]
    line_of = pl.col("\0line").cast(pl.Int64)

    def read(numbers: Types) -> pl.DataFrame:
        return pl.read_csv(
            io.BytesIO(part),
            columns=source_names,
            schema_overrides=numbers,
            separator=form.separator,
            quote_char=form.quote,
            infer_schema=False,
            row_index_name="\0line",
            row_index_offset=line,
        )

    numbers = {columns[name]: pl.Int64 if dtype == pl.Datetime else dtype for name, dtype in types.items()}
    if numbers and not quoted and len(source_names) == len(columns):
        # The fast path, which skips the text of numbers. It accepts no more than `typed` does, and leaves errors to it.
        with suppress(pl.exceptions.PolarsError, OverflowError):
            frame = read(numbers)
            if not any(frame[name].has_nulls() for name in numbers):
                return frame.select(*named, line=line_of)
    frame = read({})
    if quoted:
        # A quoted text may span lines, which shifts the numbers of the lines after it.
        breaks = pl.sum_horizontal(pl.col(*source_names).str.count_matches("\n", literal=True).fill_null(0))
        line_of += breaks.cum_sum().shift(1, fill_value=0)
    return frame.select(*named, line=line_of)


def read_lines(
    file: Path, columns: Sequence[str], *, separator: str, encoding: str = "utf-8", free_text: str | None = None
) -> pl.DataFrame:
    """Read columns of a file without header or quotes, as text, and `line` (1-based).

    columns: their names, in the file's order.
    separator: between fields; may be several characters.
    encoding: with latin-1, a file that is valid UTF-8 is read as UTF-8: accented Latin-1 text is never valid UTF-8, and
        converted copies of the files exist.
    free_text: the one column in which the separator's character may occur.

    Blank lines are skipped; a byte order mark and any line ends are accepted. Raises UserError for a line with another
    number of fields, a zero byte, or text that isn't UTF-8.
    """
    lines = pl.read_csv(
        io.BytesIO(_read_as_utf8(file, encoding)),
        has_header=False,
        schema={"text": pl.String},
        separator="\0",
        quote_char=None,
        truncate_ragged_lines=True,
        raise_if_empty=False,
    )
    if lines.is_empty():
        return pl.DataFrame(schema={**dict.fromkeys(columns, pl.String), "line": pl.Int64})
    lines = lines.with_row_index("line", offset=1).filter(pl.col("text").is_not_null())
    lines = lines.with_columns(pl.col("line").cast(pl.Int64))
    field = f"([^{separator[0]}]*)"
    pattern = separator.join("(.*)" if name == free_text else field for name in columns).replace("|", r"\|")
    groups = lines["text"].str.extract_groups(f"^{pattern}$").struct.rename_fields(list(columns)).struct.unnest()
    frame = groups.with_columns(lines["line"])
    broken = lines.filter(frame[columns[0]].is_null())
    if not broken.is_empty():
        row = broken.row(0, named=True)
        form = separator.join(columns)
        raise UserError(f"{file}:{row['line']}: a line must read {form!r}, not {_quoted(row['text'])}")
    return frame


def typed(frame: pl.DataFrame, file: Path, types: Types, place: str = PLACE) -> pl.DataFrame:
    """Convert the text columns named in `types` to numbers.

    An integer may be written as 12.0 or 1.2e1, a time in any form that `seconds` reads. Raises UserError, with the
    location formatted by `place`, where a value is missing or isn't such a number; nan and inf count as numbers.
    """
    for name, dtype in types.items():
        is_time = dtype == pl.Datetime
        number = frame[name].cast(pl.Int64 if is_time else dtype, strict=False)
        if number.has_nulls() and is_time:
            number = pl.Series(name, map(seconds, frame[name]), dtype=pl.Int64)
        elif number.has_nulls():
            number = _parse_leniently(frame[name], dtype)
        if number.has_nulls():
            row = frame.row(int(number.is_null().arg_max() or 0), named=True)
            kind = A_TIME if is_time else "an integer" if dtype.is_integer() else "a number"
            text = (row[name] or "").strip()
            rule = f"must be {kind}, not {_quoted(text)}" if text else "is missing"
            raise UserError(f"{place.format(file=file, line=row['line'])}: the {name} {rule}")
        frame = frame.with_columns(number)
    return frame


def _parse_leniently(text: pl.Series, dtype: type[pl.DataType]) -> pl.Series:
    """Parse numbers with outer blanks, and integers written as 12.0 or 1.2e1; null where the text is no such number."""
    text = text.str.strip_chars()
    real = text.cast(pl.Float64, strict=False)
    if not dtype.is_integer():
        return real
    is_integer = (real == real.floor()) & (real.abs() < 2**53)
    return text.cast(dtype, strict=False).fill_null(real.set(~is_integer, None).cast(dtype))


def header(file: Path, form: Format = CSV) -> list[str]:
    """Return the column names in a file's first line. Raises UserError where there are none, or they aren't text."""
    with _open(file, form) as stream:
        first = stream.readline()
    try:
        line = first.decode("utf-8")
    except UnicodeDecodeError:
        refuse_undecodable(file, form.encoding, form.settable)
        raise
    if not line.strip():
        raise UserError(f"{file}:1: there is no header. The first line must contain the column names")
    try:
        return next(_reader([line], form))
    except csv.Error as error:
        raise UserError(f"{file}:1: {_broken_quotes(form)}") from error


def _missing_column_error(file: Path, name_here: str, name: str, names: list[str], form: Format) -> str:
    message = f"{file}:1: there is no column {name!r}; the header has {', '.join(names)}"
    if not form.settable:
        return message
    for other in ";\t|,":
        if len(names) == 1 and other in names[0]:
            return f"{message}. Set data.separator={other!r}"
    near = [other for other in names if other.strip().casefold() == name.casefold()]
    if near:
        return f"{message}. Set data.{name_here}_column={near[0]!r}"
    return f"{message}. Set data.{name_here}_column{ALTERNATIVES.get(name_here, '')}"


def _reader(stream: Iterable[str], form: Format, escape: str | None = None):
    if form.quote is None:
        return csv.reader(stream, delimiter=form.separator, quoting=csv.QUOTE_NONE)
    return csv.reader(stream, delimiter=form.separator, quotechar=form.quote, escapechar=escape, strict=True)


def _read_as_utf8(file: Path, encoding: str) -> bytes:
    with open_text(file) as stream:
        content = stream.read()
    if b"\0" in content:
        raise UserError(_zero_byte_error(file))
    try:
        content.decode()
    except UnicodeDecodeError:
        if encoding == "utf-8":
            refuse_undecodable(file)
        return content.decode(encoding).encode()
    return content


def _has_broken_quotes(part: bytes, form: Format) -> bool:
    """Whether a quoted text isn't closed, or contains a quote that isn't doubled.

    polars silently misreads some of these. A quote inside an unquoted text is an ordinary character.
    """
    if form.quote is None:
        return False
    quote = form.quote.encode()
    mark, ends = re.escape(quote), re.escape(quote + form.separator.encode() + b"\r\n")
    if part.count(quote) % 2 == 0 and not re.search(b"[^%b]%b[^%b]" % (ends, mark, ends), part):
        return False
    try:
        deque(_reader(io.StringIO(part.decode(errors="replace"), newline=""), form), maxlen=0)
    except csv.Error:
        return True
    return False


def _zero_byte_error(file: Path, form: Format = CSV) -> str:
    """Return the error for a file with a zero byte, as a damaged disk leaves them."""
    with _open(file, form) as stream:
        number = next(number for number, line in enumerate(stream, 1) if b"\0" in line)
    return f"{file}:{number}: contains a zero byte: the file is damaged, or isn't UTF-8 text"


def _format_error(file: Path, width: int, form: Format) -> str:
    """Return the error for the line that polars could not read.

    polars doesn't name the line, so the file is read again, slowly. Raises UserError where it isn't text in its
    encoding.
    """
    refuse_undecodable(file, form.encoding, form.settable)
    with _open(file, form) as stream:
        reader = _reader(_lines(stream), form)
        start = 1
        try:
            for row in reader:
                if len(row) > width:
                    joined = any(CR_PLACEHOLDER in field for field in row)
                    hint = ". It contains a CR alone: end all lines as the header ends" if joined else ""
                    return f"{file}:{start}: {len(row)} fields, but the header has {width}{hint}"
                start = reader.line_num + 1
        except csv.Error:
            return f"{file}:{start}: {_broken_quotes(form)}"
    return f"{file}: can't be read as columns of text (a quote inside a text must be doubled, and the text quoted)"


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Yield lines for the csv module, which would end a line at each CR."""
    for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
        yield re.sub("\r(?!\n)", CR_PLACEHOLDER, line)


def _broken_quotes(form: Format) -> str:
    if not form.settable or form.escape is not None:
        return "broken quotes"
    return r"broken quotes. A quote inside a text must be doubled; where it is written \", set data.escape='\\'"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
