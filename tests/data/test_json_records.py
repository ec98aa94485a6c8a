"""JSON Lines in parts: the same frame as from Python's own parser, wherever the parts end."""

import gzip
import json

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlens.data.json_records import read_records
from mlens.errors import UserError

SCHEMA = {
    "text": pl.String,
    "real": pl.Float64,
    "whole": pl.Int64,
    "texts": pl.List(pl.String()),
    "objects": pl.List(pl.Struct({"name": pl.String})),
}
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
real = st.integers(-99, 99).map(lambda number: number / 4)
VALUES = {
    "text": text,
    "real": st.one_of(real, real.map(str)),
    "whole": st.one_of(st.integers(-(2**40), 2**40), st.integers(0, 9).map(str)),
    "texts": st.lists(text, max_size=3),
    "objects": st.lists(st.fixed_dictionaries({"name": text}, optional={"count": text}), max_size=3),
    "other": st.one_of(st.none(), text, st.lists(st.integers(0, 9), max_size=2)),
}
record = st.fixed_dictionaries({}, optional={name: st.one_of(st.none(), values) for name, values in VALUES.items()})


def expected(record, line):
    """The record's row, from Python's values."""
    types = {"real": float, "whole": int, "objects": lambda value: [{"name": one.get("name")} for one in value]}
    values = (record.get(name) for name in SCHEMA)
    return (*(v if v is None else types.get(n, lambda x: x)(v) for n, v in zip(SCHEMA, values, strict=True)), line)


line_end = st.sampled_from(["\n", "\n\n", "\r\n", "\n  \n"])


@given(st.lists(st.tuples(record, line_end), min_size=1, max_size=8), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_it_is_what_pythons_parser_reads(tmp_path, monkeypatch, records, ascii_only):
    content, rows, line = "", [], 1
    for one, end in records:
        content += json.dumps(one, ensure_ascii=ascii_only) + end
        rows.append(expected(one, line))
        line += end.count("\n")
    file = tmp_path / "records.json.gz"
    file.write_bytes(gzip.compress(content.encode()))
    for rows_at_once in (1, 3, 1 << 16):
        monkeypatch.setattr("mlens.data.json_records.ROWS", rows_at_once)
        assert pl.concat(read_records(file, SCHEMA)).rows() == rows


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ('"texts": "x"', "texts must be a list, not 'x'"),
        ('"texts": [["x"]], "objects": 1', "texts must be text, not "),
        ('"objects": ["x"]', "objects must be an object, not 'x'"),
        ('"whole": 1e300', "whole must be an integer, not '1e+300'"),
        (f'"whole": {10**30}', f"whole must be an integer, not '{10**30}'"),
        ('"whole": 1.5', "whole must be an integer, not '1.5'"),
        ('"whole": true', "whole must be an integer, not 'True'"),
        ('"real": "one"', "real must be a number, not 'one'"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_line(tmp_path, value, rule):
    file = tmp_path / "records.jsonl"
    file.write_text(f'{{"text": "x"}}\n\n{{"text": "y", {value}}}\n')
    with pytest.raises(UserError) as caught:
        list(read_records(file, SCHEMA))
    assert str(caught.value).startswith(f"{file}:3: {rule}")
