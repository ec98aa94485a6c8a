"""Files and archives that are more, or less, than what they seem: without end, without permission, nested, doubled."""

import builtins
import json
import os
import stat
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from mlens.data.archive import FileSet, source_files
from mlens.data.behaviour_json import _DepthLimited
from mlens.data.sources import load_table
from mlens.errors import UserError
from tests.helpers.outcomes import is_clear, read
from tests.helpers.small_sources import behaviour_records, small_sources

SMALL = small_sources()
BEHAVIOUR = SMALL["behaviour_json"]
READ = """
import resource, sys
from mlens.data.behaviour_json import BehaviourJson
from mlens.errors import exit_on_user_error
import mlens.data.sources
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
with exit_on_user_error():
    mlens.data.sources.load_table(BehaviourJson(path=sys.argv[1]))
"""


def in_profile(text):
    records = behaviour_records()
    records[1]["user"]["profile"]["x"] = "HERE"
    return json.dumps(records).replace('"HERE"', text)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '[{"a":' * 100_000,
        in_profile("[" * 100_000 + "]" * 100_000),
        in_profile('{"a":' * 100_000 + "1" + "}" * 100_000),
    ],
    ids=["open", "closed", "objects", "in a record", "objects in a record"],
)
def test_json_nested_a_hundred_thousand_deep(tmp_path, text):
    """In a process that may take three gigabytes: the parser alone would take more."""
    file = tmp_path / "deep.json"
    file.write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(file)],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {file}: nested deeper than 100 levels: this is not a list of users\n"


def test_brackets_in_texts_and_escapes_are_no_nesting(tmp_path):
    records = behaviour_records()
    records[0]["user"]["profile"] |= {"a": "[" * 500, "b": '\\"[[[{' * 90, "c\\": "}\\", "d": "\\\\"}
    table = read(BEHAVIOUR, {"users.json": json.dumps(records).encode()}, tmp_path)
    assert table is not None and "[" * 500 in table.users["profile"][0]


@pytest.mark.parametrize("levels, fits", [(90, True), (110, False)])
def test_the_depth_is_the_records_own(tmp_path, levels, fits):
    text = in_profile("[" * levels + "]" * levels)
    assert (read(BEHAVIOUR, {"users.json": text.encode()}, tmp_path) is not None) == fits


@pytest.mark.parametrize("size", [1, 3, 1 << 16])
def test_the_depth_is_told_wherever_the_stream_is_cut(size, tmp_path):
    text = b'["a\\\\", "\\"[", {"b\\\\\\"": [[]]}]' * 3 + b"[" * 101
    stream = _DepthLimited(BytesIO(text[:-1]), tmp_path)
    while stream.read(size):
        pass
    stream = _DepthLimited(BytesIO(text), tmp_path)
    with pytest.raises(UserError, match="nested deeper"):
        while stream.read(size):
            pass


@pytest.mark.parametrize("number", ["9" * 400, "9" * 10_000, "1e999", "NaN", "-Infinity"])
@pytest.mark.parametrize("key", ["timestamp", "continuation"])
def test_numbers_that_are_none(tmp_path, number, key):
    records = behaviour_records()
    records[1]["task"]["task_behavior_collections"][0]["data"][0][key] = "HERE"
    text = json.dumps(records).replace('"HERE"', number)
    assert read(BEHAVIOUR, {"users.json": text.encode()}, tmp_path) is None


@pytest.mark.parametrize("rating", ["0_5", "５", "5.0.", "0x5", " "])
def test_ratings_that_only_python_takes(tmp_path, rating):
    records = behaviour_records()
    records[1]["task"]["task_behavior_collections"][0]["data"][0]["continuation"] = rating
    assert read(BEHAVIOUR, {"users.json": json.dumps(records).encode()}, tmp_path) is None


@pytest.mark.parametrize("name", ["csv", "movielens_csv", "ml_1m", "ml_100k", "behaviour_json", "zip"])
def test_a_file_without_permission(name, tmp_path, monkeypatch):
    """As another user would meet it; this one may be allowed everything."""
    small = SMALL[name]
    for file, content in small.files.items():
        (tmp_path / file).write_bytes(content)
    victim = str(tmp_path / next(iter(small.files)))
    whole = builtins.open

    def refuse(file, *arguments, **options):
        if str(file) == victim:
            raise PermissionError(13, "Permission denied", victim)
        return whole(file, *arguments, **options)

    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(UserError) as caught:
        load_table(small.source(tmp_path))
    assert str(caught.value) == f"{victim} can't be read: Permission denied"


@pytest.mark.parametrize("name", ["csv", "movielens_csv", "behaviour_json", "zip"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_folder_or_a_pipe_in_place_of_a_file(name, kind, tmp_path):
    small = SMALL[name]
    for file, content in small.files.items():
        (tmp_path / file).write_bytes(content)
    victim = tmp_path / next(iter(small.files))
    victim.unlink()
    victim.mkdir() if kind == "folder" else os.mkfifo(victim)
    with pytest.raises(UserError) as caught:
        load_table(small.source(tmp_path))
    assert is_clear(caught.value, tmp_path)


@pytest.mark.parametrize("name", SMALL)
def test_a_git_lfs_pointer_in_place_of_any_file(tmp_path, name):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for victim in SMALL[name].files:
        for file, content in SMALL[name].files.items():
            (tmp_path / file).write_bytes(pointer if file == victim else content)
        with pytest.raises(UserError) as caught:
            load_table(SMALL[name].source(tmp_path))
        said = f"{tmp_path / victim} is a git-lfs pointer, not the file: run `git lfs pull`"
        assert str(caught.value) == said


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match="File name too long"):
        load_table(SMALL["csv"].source(tmp_path / ("x" * 300)))


LAYOUT = [FileSet(("ratings.csv", "movies.csv"), ("tags.csv",))]


def refusal(tmp_path, *members):
    file = tmp_path / "small.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as stream:
        for member, text in members:
            stream.writestr(member, text)
    with pytest.raises(UserError) as caught:
        source_files(str(file), "ml-25m", LAYOUT)
    assert is_clear(caught.value, tmp_path)
    return str(caught.value).removeprefix(f"{file}: ")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice(tmp_path):
    said = refusal(tmp_path, ("a/ratings.csv", "x"), ("a/movies.csv", "x"), ("a/ratings.csv", "other"))
    assert said == "refused, since it contains 'a/ratings.csv' twice"


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_a_special_file(tmp_path, kind):
    member = zipfile.ZipInfo("ratings.csv")
    member.external_attr = (kind | 0o666) << 16
    assert (
        refusal(tmp_path, (member, ""), ("movies.csv", "x")) == "refused, since 'ratings.csv' in it is no ordinary file"
    )


def test_an_encrypted_member(tmp_path):
    refusal(tmp_path, ("ratings.csv", "x"))
    file = tmp_path / "locked.zip"
    with zipfile.ZipFile(file, "w") as stream:
        stream.writestr("ratings.csv", "x")
        stream.writestr("movies.csv", "x")
    data = bytearray(file.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(mark, at + 1)
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"a broken zip archive .*encrypted"):
        source_files(str(file), "ml-25m", LAYOUT)


def test_a_name_that_turns_the_terminal(tmp_path):
    said = refusal(tmp_path, ("../\x1b[2J\u202e", "x"))
    assert said == r"refused, since '../\x1b[2J\u202e' in it would be written outside its folder"
