"""Every reader of ratings under files that are wrong in one field, one row, one sign or one byte: it gives the table
that a naive reading gives, or one clear line."""

import copy
import json
import os
import random
import resource
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.byte_mutations import mutate
from tests.helpers.outcomes import read
from tests.helpers.small_sources import behaviour_records, real_source, small_sources

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small"
SMALL = small_sources()
FIELDS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1.5",
        "5.0001",
        "6",
        "nan",
        "inf",
        "-inf",
        "1e3",
        "1e400",
        "9" * 19,
        "9" * 400,
        "0x1",
        "1_0",
    ),
    *(
        "٣",
        "5.0 ",
        "+5",
        "007",
        "true",
        "null",
        "Ünïcode",
        "a\tb",
        'a"b',
        '"',
        "'",
        "a,b",
        "a|b",
        "a::b",
        "\x1b[31mred",
    ),
    *("\u202e(5991)", "\u2028", "\ufeff", "\0", "\r", "a\nb", "</script>", "{{7*7}}", "<|im_end|>", "=1+1", "x" * 3000),
)
SEPARATORS = {"csv": ",", "dat": "::", "data": "\t", "item": "|", "user": "|", "inter": "\t"}
NASTY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(FIELDS) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("a", "name", "data")), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("name", SMALL)
def test_the_files_as_they_are(name, tmp_path):
    table = read(SMALL[name], SMALL[name].files, tmp_path)
    assert table is not None and len(table) == 12


def delimited(name):
    """The separator of a file, of its first part where the atomic files have another."""
    kind = name.rpartition(".")[2]
    return "\t" if name.startswith("ml-100k") else SEPARATORS[kind]


@st.composite
def hurt_tables(draw):
    """A source of delimited files, one of them with changed rows, and perhaps in another encoding."""
    name = draw(st.sampled_from([name for name in SMALL if name not in ("behaviour_json", "zip")]))
    victim = draw(st.sampled_from(sorted(SMALL[name].files)))
    separator = delimited(victim)
    latin = victim in ("movies.dat", "users.dat", "u.item") and name != "ml_10m"
    lines = SMALL[name].files[victim].decode("latin-1" if latin else "utf-8").splitlines()
    rows = [line.split(separator) for line in lines]
    for _ in range(draw(st.integers(1, 3))):
        rows = _changed_rows(draw, rows)
    end = draw(st.sampled_from(("\n", "\n", "\r\n", "\r")))
    text = end.join(separator.join(row) for row in rows) + draw(st.sampled_from((end, "")))
    encoding = draw(st.sampled_from(("same", "same", "same", "utf-8-sig", "latin-1", "utf-16")))
    encoding = ("latin-1" if latin else "utf-8") if encoding == "same" else encoding
    return name, {**SMALL[name].files, victim: text.encode(encoding, "replace")}


def _changed_rows(draw, rows):
    def row():
        return draw(st.integers(0, len(rows) - 1))

    rows = [list(r) for r in rows] or [[""]]
    change = draw(
        st.sampled_from(("field", "field", "field", "double", "drop", "swap", "short", "long", "columns", "column"))
    )
    i = row()
    if change == "field" and rows[i]:
        rows[i][draw(st.integers(0, len(rows[i]) - 1))] = draw(
            st.sampled_from(FIELDS) | st.text(st.characters(codec="utf-8", exclude_characters="\x1f"), max_size=5)
        )
    elif change == "double":
        rows.insert(row(), list(rows[i]))
    elif change == "drop":
        del rows[i]
    elif change == "swap":
        j = row()
        rows[i], rows[j] = rows[j], rows[i]
    elif change == "short":
        rows[i] = rows[i][:-1]
    elif change == "long":
        rows[i].append(draw(st.sampled_from(FIELDS)))
    elif change == "columns":  # two of them change places
        a, b = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        for r in rows:
            if max(a, b) < len(r):
                r[a], r[b] = r[b], r[a]
    else:
        a = draw(st.integers(0, 3))
        rows = [r[:a] + r[a + 1 :] for r in rows]
    return rows


@given(case=hurt_tables())
def test_changed_rows(case, tmp_path_factory):
    name, files = case
    read(SMALL[name], files, tmp_path_factory.mktemp("rows"))


@given(data=st.data())
def test_changed_json(data, tmp_path_factory):
    """A value anywhere in a record becomes another one, or its key does."""
    records = copy.deepcopy(behaviour_records())
    for _ in range(data.draw(st.integers(1, 2))):
        place = records
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and data.draw(st.integers(0, 4)):
                place = place[key]
                continue
            if isinstance(place, dict) and not data.draw(st.integers(0, 5)):
                del place[key]
            else:
                place[key] = data.draw(NASTY_JSON)
            break
    content = json.dumps(records, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    read(SMALL["behaviour_json"], {"users.json": content}, tmp_path_factory.mktemp("json"))


@cache
def sources():
    real = {"real ml-latest-small": real_source(FOLDER, 4)} if FOLDER.is_dir() else {}
    return SMALL | real


def mutated(name, number):
    """The files of a source, one of them mutated, the same for the same name and number."""
    small, draw = sources()[name], random.Random(f"{name} {number}")
    victim = draw.choice(sorted(small.files))
    return victim, {**small.files, victim: mutate(small.files[victim], draw)}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SMALL)
def test_hurt_bytes(name, tmp_path):
    outcomes = Counter()
    for number in range(20):
        _, files = mutated(name, number)
        outcomes[read(SMALL[name], files, tmp_path) is None] += 1
    assert outcomes[True] >= 3  # hurts that no reader could overlook


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data/ml-latest-small")
def test_thousands_of_hurt_files(tmp_path, capsys):
    """MLENS_FUZZ=N: N of them over all sources (3,000). Prints how many of each were read, and how many refused."""
    most, names = int(os.environ.get("MLENS_FUZZ", "3000")), list(sources())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter = Counter()
    for number in range(most):
        name = names[number % len(names)]
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        victim, files = mutated(name, number + 1000)
        try:
            table = read(sources()[name], files, folder)
        except BaseException:
            print(f"{name}, file {number}: {victim}")
            raise
        outcomes[name, "read" if table is not None else "refused"] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    with capsys.disabled():
        print(f"\n{most:,} files; {grown:.0f} MiB more at the peak")
        for name in names:
            print(f"  {name}: {outcomes[name, 'read']:,} read, {outcomes[name, 'refused']:,} refused")
    assert grown < 500
