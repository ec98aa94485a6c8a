"""CSV files in parts: the same as at once, whatever stands in them; and numbers read at once as they are from text."""

import csv
import io
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlens.data import delimited
from mlens.data.delimited import Format, compact, read_csv, read_parts, typed
from mlens.errors import UserError

COLUMNS = {"x": "a", "y": "b"}


def outcome(text, part, types=None, quote='"'):
    """What read_csv makes of this file where `part` bytes are read at once: rows, or what it refuses it with."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(delimited, "PART", part)
        file = Path(folder, "f.csv")
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        try:
            return read_csv(file, COLUMNS, types, Format(quote=quote)).rows()
        except UserError as error:
            return str(error).replace(folder, "")


fields = st.text(st.sampled_from('ab1 ,\n"é'), max_size=5)
parts = st.integers(1, 60)


@given(st.lists(st.lists(fields, min_size=1, max_size=3), max_size=12), st.sampled_from(["\n", "\r\n"]), parts)
def test_records_are_the_same_in_parts_as_at_once(records, end, part):
    """Also where a record has a field too many or too few, or is empty."""
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator=end).writerows([["a", "b"], *records])
    text = stream.getvalue()
    assert outcome(text, part) == outcome(text, 1 << 24)
    if all(len(record) == 2 for record in records):
        line, expected = 2, []
        for x, y in records:
            if x or y:
                expected.append((x or None, y or None, line))
            line += 1 + x.count("\n") + y.count("\n")
        assert outcome(text, part) == expected


@given(st.text(st.sampled_from('a1,\n"'), max_size=40), parts, st.sampled_from(['"', None]))
def test_any_text_is_the_same_in_parts_as_at_once(text, part, quote):
    assert outcome("a,b\n" + text, part, quote=quote) == outcome("a,b\n" + text, 1 << 24, quote=quote)


@pytest.mark.parametrize("part", [1, 2, 3, 7, 1 << 24])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b", []),
        ("a,b\n", []),
        ("a,b\n\n\n", []),
        ("\ufeffa,b\n1,2\n\n3,4", [("1", "2", 2), ("3", "4", 4)]),
        ('a,b\n"x\n\ny",2\n3,4\n', [("x\n\ny", "2", 2), ("3", "4", 5)]),
        ("a,b\n1,2\n3,4,5\n", "/f.csv:3: 3 fields, but the header has 2"),
        (b"a,b\n1,2\n\xff,4\n", "/f.csv:3: not valid UTF-8 (byte 0xff). Convert it to UTF-8 (it may be latin-1)"),
    ],
)
def test_examples_in_parts(text, expected, part):
    assert outcome(text, part) == expected


number_texts = st.one_of(
    st.integers(-(10**21), 10**21).map(str),
    st.floats(width=32).map(str),
    st.text(st.sampled_from("0123456789+-.eE _xnaif\t"), max_size=6),
    st.sampled_from(
        ["", "007", "+5", "-0", " 5", "5 ", "12.0", "1e3", "nan", "-inf", '"5"', "9223372036854775808", "５"]
    ),
)
types = st.sampled_from([pl.Int64, pl.Float64])


@given(st.lists(st.tuples(number_texts, number_texts), min_size=1, max_size=4), types, types, parts)
@example([("1", "2"), (" 5", "2"), ("12.0", "1e1")], pl.Int64, pl.Int64, 8)
def test_numbers_are_read_as_they_are_from_text(rows, x, y, part):
    """The quick way takes what `typed` makes of the text, and refuses what it refuses in the same words."""
    text = "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "f.csv")
        file.write_text(text)
        try:
            expected = typed(read_csv(file, COLUMNS), file, {"x": x, "y": y}).rows()
        except UserError as error:
            expected = str(error).replace(folder, "")
    assert repr(outcome(text, 1 << 24, {"x": x, "y": y})) == repr(expected)
    if not isinstance(expected, str):
        assert repr(outcome(text, part, {"x": x, "y": y})) == repr(expected)


def test_numbers_are_read_without_their_text(tmp_path, monkeypatch):
    """Only where a number is written in another way is a part read as text."""
    asked = []
    read = pl.read_csv

    def remember(*args, **options):
        asked.append(options["schema_overrides"])
        return read(*args, **options)

    monkeypatch.setattr(pl, "read_csv", remember)
    monkeypatch.setattr(delimited, "PART", 5)
    file = tmp_path / "f.csv"
    file.write_text("a,b\n11,12\n1.0,12\n11,13\n")
    rows = read_csv(file, COLUMNS, {"x": pl.Int64}).rows()
    assert rows == [(11, "12", 2), (1, "12", 3), (11, "13", 4)]
    assert asked.count({}) == 1
    assert asked.count({"a": pl.Int64}) >= 3


def test_parts_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "PART", 5)
    file = tmp_path / "f.csv"
    file.write_text("a,b\n11,12\n13,14\n1,2,3\n")
    read = read_parts(file, COLUMNS)
    assert next(read).rows() == [("11", "12", 2)]
    assert next(read).rows() == [("13", "14", 3)]
    with pytest.raises(UserError, match="3 fields"):
        list(read)


numbers = st.integers(-(2**31) - 2, 2**31 + 1) | st.integers(-3, 3)
series = st.lists(numbers | st.none(), max_size=4) | st.lists(st.text(max_size=2), min_size=1, max_size=4)


@given(st.lists(series, min_size=1, max_size=4))
def test_compacted_parts_hold_what_the_parts_held(lists):
    parts = []
    for values in lists:
        text = any(isinstance(value, str) for value in values)
        parts.append(pl.DataFrame({"x": values}, schema={"x": pl.String if text else pl.Int64}))
    whole = compact(iter(parts))["x"]
    values = [value for own in lists for value in own]
    if any(part["x"].dtype == pl.String for part in parts):
        assert whole.to_list() == [None if value is None else str(value) for value in values]
    else:
        fits = all(-(2**31) <= value < 2**31 for value in values if value is not None)
        assert whole.dtype == (pl.Int32 if fits else pl.Int64)
        assert whole.to_list() == values
