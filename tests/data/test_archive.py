"""Folders, zips good and hostile, and downloads from a server of the test's own."""

import hashlib
import http.server
import shutil
import stat
import threading
import time
import zipfile

import pooch
import pytest
import requests

from mlens.data import archive
from mlens.data.archive import FileSet, downloaded, source_files
from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.sources import load_table
from mlens.errors import UserError

RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,5\n"
MOVIES = "movieId,title,genres\n10,Toy Story (1995),Drama\n"
FILES = {"ratings.csv": RATINGS, "movies.csv": MOVIES}
LAYOUTS = [FileSet(("ratings.csv", "movies.csv"), ("tags.csv",)), FileSet(("r.dat", "m.dat"))]


@pytest.fixture
def zipped(tmp_path):
    """zipped({member: text}) -> a zip with these members (a ZipInfo names what a plain name can't say)."""

    def zipped(members, compression=zipfile.ZIP_DEFLATED):
        file = tmp_path / "archive.zip"
        with zipfile.ZipFile(file, "w", compression) as stream:
            for member, text in members.items():
                stream.writestr(member, text)
        return file

    return zipped


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served where the official archives are looked for."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(archive, "ADDRESS", f"http://127.0.0.1:{running.server_port}")
        yield folder
        running.shutdown()


def refused(*arguments):
    with pytest.raises(UserError) as caught:
        source_files(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder(write):
    folder = write({**FILES, "tags.csv": "", "other.csv": ""})
    names = ["ratings.csv", "movies.csv", "tags.csv"]
    assert source_files(str(folder), "ml-25m", LAYOUTS) == {name: folder / name for name in names}


@pytest.mark.parametrize("inside", ["", "ml-25m/", "a/b c/ml-25m/"])
def test_zip(zipped, rows, cache, inside):
    file = zipped({inside + "genome-scores.csv": "big", **{inside + name: text for name, text in FILES.items()}})
    files = source_files(str(file), "ml-25m", LAYOUTS)
    assert {name: path.read_text() for name, path in files.items()} == FILES
    (unpacked,) = {path.parent for path in files.values()}
    assert unpacked.is_relative_to(cache)
    assert sorted(path.name for path in unpacked.iterdir()) == ["manifest.json", "movies.csv", "ratings.csv"]
    assert rows(load_table(MovieLensCsv("ml-25m", path=str(file)))) == [(1, 10, 4.0, 5)]


def test_the_same_zip_is_unpacked_once_and_another_anew(zipped, monkeypatch):
    first = source_files(str(zipped(FILES)), "ml-25m", LAYOUTS)
    with monkeypatch.context() as context:
        context.setattr(shutil, "copyfileobj", None)
        assert source_files(str(zipped(FILES)), "ml-25m", LAYOUTS) == first
    second = source_files(str(zipped({**FILES, "movies.csv": "else"})), "ml-25m", LAYOUTS)
    assert second["movies.csv"].read_text() == "else"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "..", "C:/x", "C:x", "a\\..\\x"])
def test_a_member_that_would_leave_the_folder(zipped, tmp_path, name):
    member = zipfile.ZipInfo()
    member.filename = name
    file = zipped({**FILES, member: "x"})
    assert refused(str(file), "ml-25m", LAYOUTS) == (
        f"{file}: refused, since {name!r} in it would be written outside its folder"
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_link(zipped):
    member = zipfile.ZipInfo("ratings.csv")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    file = zipped({member: "/etc/passwd", "movies.csv": MOVIES})
    assert refused(str(file), "ml-25m", LAYOUTS) == f"{file}: refused, since 'ratings.csv' in it is a link"


def test_a_bomb_by_ratio(zipped, cache):
    file = zipped({**FILES, "ratings.csv": "0" * 10_000_000})
    message = refused(str(file), "ml-25m", LAYOUTS)
    assert message.startswith(f"{file}: refused, since 'ratings.csv' in it unpacks to 10,000,000 bytes from ")
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_a_bomb_by_total_size(zipped, monkeypatch):
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", len(RATINGS) + len(MOVIES) - 1)
    file = zipped(FILES, zipfile.ZIP_STORED)
    assert refused(str(file), "ml-25m", LAYOUTS) == (
        f"{file}: refused, since 'movies.csv' in it unpacks to {len(MOVIES)} bytes from {len(MOVIES)}"
    )


def test_a_bomb_that_is_not_needed_is_not_unpacked(zipped):
    assert len(source_files(str(zipped({**FILES, "big.csv": "0" * 10_000_000})), "ml-25m", LAYOUTS)) == 2


def test_a_member_larger_than_it_says(zipped, cache):
    file = zipped({**FILES, "ratings.csv": RATINGS * 50})
    size = (len(RATINGS) * 50).to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(size, (9).to_bytes(4, "little")))
    assert refused(str(file), "ml-25m", LAYOUTS).startswith(f"{file}: a broken zip archive (")
    assert not any(path.is_file() and path.suffix == ".csv" for path in cache.rglob("*"))


def test_a_broken_zip(zipped):
    file = zipped(FILES, zipfile.ZIP_STORED)
    file.write_bytes(file.read_bytes().replace(b"4.0", b"5.0"))
    assert refused(str(file), "ml-25m", LAYOUTS) == (
        f"{file}: a broken zip archive (Bad CRC-32 for file 'ratings.csv')"
    )


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_packed_data_that_make_no_sense(zipped, cache, packed):
    file = zipped({**FILES, "ratings.csv": RATINGS * 50}, packed)
    with zipfile.ZipFile(file) as whole:
        member = whole.getinfo("ratings.csv")
    data, start = bytearray(file.read_bytes()), member.header_offset + 30 + len(member.filename)
    data[start : start + member.compress_size] = b"\xff" * member.compress_size
    file.write_bytes(data)
    assert refused(str(file), "ml-25m", LAYOUTS).startswith(f"{file}: a broken zip archive (")
    assert not any(path.is_file() and path.suffix == ".csv" for path in cache.rglob("*"))


def test_what_is_no_source(tmp_path, zipped, write):
    assert refused(f"{tmp_path}/no", "ml-25m", LAYOUTS) == f"data.path={tmp_path}/no: no such file or folder"
    text = tmp_path / "text.zip"
    text.write_text("not a zip")
    said = "is neither a folder nor a zip archive, or a damaged one. Download it again"
    assert refused(str(text), "ml-25m", LAYOUTS) == f"data.path={text}: {said}"
    needs = "needs ratings.csv, movies.csv (or r.dat, m.dat), and has"
    folder = write({"ratings.csv": RATINGS, "m.dat": ""})
    (folder / "ml-25m").mkdir()
    assert refused(str(folder), "ml-25m", LAYOUTS) == f"data.path={folder}: {needs} m.dat, ml-25m/, ratings.csv"
    said = "is one of several files. Give their folder"
    assert refused(f"{folder}/m.dat", "ml-25m", LAYOUTS) == f"data.path={folder}/m.dat: {said}"
    file = zipped({"a/ratings.csv": RATINGS, "b/movies.csv": MOVIES})
    assert refused(str(file), "ml-25m", LAYOUTS) == f"{file}: {needs} a/ratings.csv, b/movies.csv"
    file = zipped({f"{folder}/{name}": text for folder in "ab" for name, text in FILES.items()})
    assert refused(str(file), "ml-25m", LAYOUTS) == (
        f"{file}: more than one folder in it contains ratings.csv. Unpack the right one"
    )


def test_download(zipped, server, rows, monkeypatch):
    content = zipped({f"ml-25m/{name}": text for name, text in FILES.items()}).read_bytes()
    (server / "ml-25m.zip").write_bytes(content)
    monkeypatch.setitem(archive.CHECKSUMS, "ml-25m", "md5:" + hashlib.md5(content).hexdigest())
    assert rows(load_table(MovieLensCsv("ml-25m"))) == [(1, 10, 4.0, 5)]
    monkeypatch.setattr(pooch, "retrieve", None)
    assert rows(load_table(MovieLensCsv("ml-25m"))) == [(1, 10, 4.0, 5)]


def test_download_of_another_file(zipped, server, cache):
    (server / "ml-25m.zip").write_bytes(zipped(FILES).read_bytes())
    with pytest.raises(UserError) as caught:
        downloaded("ml-25m")
    assert str(caught.value) == (
        f"{archive.ADDRESS}/ml-25m.zip is not the file with checksum md5:6b51fb2759a8657d3bfcbfc42b592ada: "
        "download it by hand and give data.path=FOLDER/ml-25m.zip (or the folder that it unpacks to)"
    )
    assert not any(path.suffix == ".zip" for path in cache.rglob("*"))


def test_download_that_is_not_there(server):
    with pytest.raises(UserError) as caught:
        downloaded("ml-1m")
    assert str(caught.value) == (
        f"could not download {archive.ADDRESS}/ml-1m.zip (HTTPError): "
        "download it by hand and give data.path=FOLDER/ml-1m.zip (or the folder that it unpacks to)"
    )


def test_offline(monkeypatch):
    def retrieve(url, *_, **__):
        assert url == "https://files.grouplens.org/datasets/movielens/ml-32m.zip"
        raise requests.exceptions.ConnectionError("Failed to resolve\nin two lines")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert refused(None, "ml-32m", LAYOUTS) == (
        "could not download https://files.grouplens.org/datasets/movielens/ml-32m.zip (ConnectionError): "
        "download it by hand and give data.path=FOLDER/ml-32m.zip (or the folder that it unpacks to)"
    )


def test_a_server_that_never_answers_is_given_up_soon(monkeypatch):
    # A port that nobody accepts from: the connection stands, and not a byte comes.
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(archive, "ADDRESS", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(archive, "TIMEOUT", (0.2, 0.2))
        start = time.monotonic()
        assert "(ReadTimeout)" in refused(None, "ml-1m", LAYOUTS)
    assert time.monotonic() - start < 5
    assert sum(archive.TIMEOUT) <= 15


def test_ml_latest_is_not_downloaded(monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", None)
    assert refused(None, "ml-latest", LAYOUTS) == (
        "https://files.grouplens.org/datasets/movielens/ml-latest.zip changes over time and so has no pinned checksum: "
        "download it by hand and give data.path=FOLDER/ml-latest.zip (or the folder that it unpacks to)"
    )
