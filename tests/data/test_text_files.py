"""Compressed, encoded and damaged text files, through the readers that open them."""

import bz2
import gzip
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data import text_files
from mlens.data.csv_ratings import CsvRatings
from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.sources import load_table
from mlens.data.text_files import open_text
from mlens.errors import UserError

HEADER = "user,movie,rating,timestamp,title,genres\n"
LATIN = HEADER + "1,1,3,5,Heat,Crime\n1,2,4,6,Amélie,Comedy\n1,3,4,7,Ça,\n"
CHINESE = HEADER + "1,1,3,5,Heat,Crime\n1,2,4,6,千与千寻,动画\n"


def titles(file, content, **fields):
    file.write_bytes(content)
    return load_table(CsvRatings(path=str(file), **fields)).movies["title"].to_list()


def refused(file, content, **fields):
    with pytest.raises(UserError) as caught:
        titles(file, content, **fields)
    return str(caught.value).removeprefix(str(file))


@pytest.mark.parametrize("name", ["r.csv.gz", "r.csv"])
def test_gzip_is_known_by_its_content(tmp_path, name):
    assert titles(tmp_path / name, gzip.compress(LATIN.encode())) == ["Heat", "Amélie", "Ça"]


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-12], lambda c: c[:2], lambda c: flipped(c, -6), lambda c: flipped(c, 10), lambda c: c + b"x"],
    ids=["truncated", "magic alone", "checksum", "content", "more behind"],
)
def test_damaged_gzip(tmp_path, damage):
    said = refused(tmp_path / "r.csv.gz", damage(gzip.compress(LATIN.encode())))
    assert said.startswith(": its gzip data are damaged or cut off (") and "\n" not in said


def test_gzip_is_never_decompressed_as_a_whole(tmp_path, monkeypatch):
    """Reading a part of the file takes a part of its bytes."""
    monkeypatch.setattr(text_files, "CHUNK", 1000)
    monkeypatch.setattr(text_files, "START_BYTES", 1000)
    file = tmp_path / "r.csv.gz"
    file.write_bytes(gzip.compress(b"x\n" * 500_000))
    taken = []
    whole = text_files._chunks
    monkeypatch.setattr(text_files, "_chunks", lambda *of: (taken.append(len(p)) or p for p in whole(*of)))
    with open_text(file) as stream:
        assert stream.readline() == b"x\n"
        assert sum(taken) <= 2000
        assert len(stream.read()) == 999_998


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    ("text", "encoding"),
    [(LATIN, "latin-1"), (LATIN.replace("Ça", "“Ça”"), "cp1252"), (CHINESE, "gb18030")]
    + [(text, encoding) for text in (LATIN, CHINESE) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_the_encoding_that_is_advised_reads_the_file(tmp_path, text, encoding, pack):
    content = pack(text.encode(encoding))
    said = refused(tmp_path / "r.csv", content)
    assert said.endswith(f". Try data.encoding={encoding}")
    if not encoding.startswith("utf"):
        assert said.startswith(":3: not valid UTF-8 (byte 0x")
    assert titles(tmp_path / "r.csv", content, encoding=encoding) == titles(tmp_path / "8.csv", text.encode())


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (
            CHINESE.encode() + b"1,4,3,8,a\xffb,X\n",
            "utf-8",
            ":4: not valid UTF-8 (byte 0xff), unlike the text around it. Correct that line",
        ),
        (LATIN.encode(), "ascii", ":3: not valid ascii (byte 0xc3). Try data.encoding=utf-8"),
        (CHINESE.encode("gb18030"), "ascii", ":3: not valid ascii (byte 0xc7). Try data.encoding=gb18030"),
        (
            LATIN.encode(),
            "utf-16",
            ": not text in utf-16 (UTF-16 stream does not start with BOM). Try data.encoding=utf-8",
        ),
        (
            LATIN.encode("utf-16")[:-1],
            "utf-16",
            ":4: not valid utf-16 (byte 0x0a): the file ends inside a character. Download or copy it again",
        ),
        (
            CHINESE.encode()[:-9],
            "utf-8",
            ":3: not valid UTF-8 (byte 0xe5): the file ends inside a character. Download or copy it again",
        ),
        (
            CHINESE.encode("gb18030") + b"1,4,3,8,a\xffb,X\n",
            "gb18030",
            ":4: not valid gb18030 (byte 0xff), unlike the text around it. Correct that line",
        ),
        (
            LATIN.encode("latin-1").replace(b"user", b"us\xe9r"),
            "utf-8",
            ":1: not valid UTF-8 (byte 0xe9). Try data.encoding=latin-1",
        ),
    ],
)
def test_wrong_encodings(tmp_path, content, encoding, message):
    assert refused(tmp_path / "r.csv", content, encoding=encoding) == message


def test_a_source_without_an_encoding_advises_to_convert(write):
    movies = "movieId,title,genres\n1,Heat,\n2,Amélie,\n".encode("latin-1")
    folder = write({"ratings.csv": "userId,movieId,rating,timestamp\n1,2,3,4\n", "movies.csv": movies})
    with pytest.raises(UserError) as caught:
        load_table(MovieLensCsv("ml-25m", path=str(folder)))
    said = f"{folder}/movies.csv:3: not valid UTF-8 (byte 0xe9). Convert it to UTF-8 (it may be latin-1)"
    assert str(caught.value) == said


@given(text=st.text(st.sampled_from("a\r\n"), max_size=12), piece=st.integers(1, 4))
def test_where_cr_alone_ends_the_first_line_it_ends_all(tmp_path_factory, text, piece):
    file = tmp_path_factory.mktemp("cr") / "f.csv"
    file.write_bytes(("x\ra" + text).encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_files, "CHUNK", piece)
        with open_text(file) as stream:
            assert stream.read().decode() == ("x\na" + text).replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lines_that_cr_alone_ends(tmp_path, encoding):
    text = LATIN.replace("\n", "\r")
    assert titles(tmp_path / "r.csv", text.encode(encoding), encoding=encoding) == ["Heat", "Amélie", "Ça"]
    said = refused(tmp_path / "r.csv", (text + "1,4,9,8,B,\r").encode(encoding), encoding=encoding)
    assert said.startswith(":5: the rating is not on the scale")


def zipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as stream:
        stream.writestr("r.csv", LATIN)
    return (tmp_path / "a.zip").read_bytes()


@pytest.mark.parametrize("kind", ["a zip archive or an Excel workbook", "a bzip2 file"])
def test_a_file_that_is_no_text(tmp_path, kind):
    content = zipped(tmp_path) if "zip archive" in kind else bz2.compress(LATIN.encode())
    for packed in (content, gzip.compress(content)):
        assert refused(tmp_path / "r.csv", packed) == f" is {kind}, not text. Unpack it, or export it as text"
