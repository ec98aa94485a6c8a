"""Tables in the cache: opened without reading the source, pickled as a path, filled once by however many."""

import hashlib
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from mlens.data.cache import cache_root, cached_folder, content_key, file_digest
from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.rating_table import COLUMNS, RatingTable
from mlens.data.sources import load_table


@pytest.fixture
def source(write):
    def source(ratings="userId,movieId,rating,timestamp\n1,10,4.0,5\n2,10,3.0,5\n", **fields):
        folder = write({"ratings.csv": ratings, "movies.csv": "movieId,title,genres\n10,Toy Story (1995),Drama\n"})
        return MovieLensCsv("ml-25m", path=str(folder), **fields)

    return source


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS) and a.users.equals(b.users)


def test_a_hit_reads_no_file_and_a_miss_does(source, monkeypatch):
    first = load_table(source())
    with monkeypatch.context() as context:
        context.setattr(MovieLensCsv, "read", None)
        again = load_table(source())
    assert again.path == first.path
    assert same(again, first)
    assert load_table(source(max_users=1)).path != first.path
    assert load_table(source(rating_scale=[3.0, 4.0])).path != first.path
    assert load_table(source(ratings="userId,movieId,rating,timestamp\n1,10,4.5,5\n")).rating.tolist() == [4.5]


def test_the_folder_does_not_matter(source, tmp_path):
    first = load_table(source())
    moved = (tmp_path / "source").rename(tmp_path / "moved")
    assert load_table(MovieLensCsv("ml-25m", path=str(moved))).path == first.path


def test_odd_characters_in_paths(source, tmp_path, monkeypatch):
    monkeypatch.setenv("MLENS_CACHE", str(tmp_path / "cache [1]* {a,b} ü"))
    moved = (tmp_path.parent / source().path).rename(tmp_path / "data [12]* ?")
    assert load_table(MovieLensCsv("ml-25m", path=str(moved))).rating.tolist() == [4.0, 3.0]


def test_columns_are_mapped_and_typed(source):
    table = load_table(source())
    dtypes = {"user": "int32", "movie": "int32", "rating": "float32", "timestamp": "int64", "user_offsets": "int64"}
    for name, dtype in dtypes.items():
        column = getattr(table, name)
        assert isinstance(column, np.memmap)
        assert column.dtype == dtype
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_a_table_pickles_as_its_path(source):
    text = "".join(f"{user},10,4.0,{time}\n" for user in range(50) for time in range(400))
    table = load_table(source("userId,movieId,rating,timestamp\n" + text))
    pickled = pickle.dumps(table)
    assert len(pickled) < 1000
    opened = pickle.loads(pickled)
    assert same(opened, table)
    assert isinstance(opened.rating, np.memmap)
    assert opened.content_hash() == table.content_hash() == table.path.name


def test_a_table_in_memory_pickles_whole(source):
    table = load_table(source())
    fields = {name: np.array(getattr(table, name)) for name in COLUMNS}
    in_memory = RatingTable(**fields, users=table.users, movies=table.movies, scale=table.scale)
    opened = pickle.loads(pickle.dumps(in_memory))
    assert same(opened, in_memory)
    assert opened.content_hash() == in_memory.content_hash()


def test_root(monkeypatch, tmp_path):
    monkeypatch.setenv("MLENS_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("MLENS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root().name == "mlens"


def test_key_depends_on_settings_names_and_content(tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    keys = {content_key(1, files=[file]), content_key(2, files=[file]), content_key("1", files=[file]), content_key(1)}
    file.write_text("2")
    keys.add(content_key(1, files=[file]))
    keys.add(content_key(1, files=[file.rename(tmp_path / "b")]))
    assert len(keys) == 6


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that counts as large and as unchanged for long."""
    monkeypatch.setattr("mlens.data.cache.LARGE", 3)
    monkeypatch.setattr("mlens.data.cache.SETTLED_NS", -(10**9))
    file = tmp_path / "r.csv"
    file.write_text("123")
    return file


def blake2b(text):
    return hashlib.blake2b(text.encode()).digest()


def refuse_to_read(monkeypatch):
    monkeypatch.setattr("hashlib.file_digest", None)


def test_a_large_file_is_digested_once(file, monkeypatch):
    assert file_digest(file) == blake2b("123")
    refuse_to_read(monkeypatch)
    assert file_digest(file) == blake2b("123")
    monkeypatch.chdir(file.parent)
    assert file_digest(Path(file.name)) == blake2b("123")


def test_a_table_is_opened_without_reading_its_files(source, file, monkeypatch):
    data = source()
    first = load_table(data)
    load_table(data)  # looks once whether the new entry is whole
    refuse_to_read(monkeypatch)
    assert load_table(data).path == first.path


def rewrite(file):
    file.write_text("124")


def rewrite_and_set_the_time_back(file):
    stat = file.stat()
    file.write_text("124")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace_by_another_of_that_time(file):
    other = file.with_name("other")
    other.write_text("124")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize("change", [rewrite, rewrite_and_set_the_time_back, replace_by_another_of_that_time])
def test_another_content_of_the_same_size_is_seen(file, change):
    file_digest(file)
    time.sleep(0.02)  # more than the resolution of the times
    change(file)
    assert file_digest(file) == blake2b("124")
    assert file_digest(file) == blake2b("124")


@pytest.mark.parametrize(("name", "value"), [("LARGE", 4), ("SETTLED_NS", 10**12)])
def test_a_small_or_a_new_file_is_read_each_time(file, cache, monkeypatch, name, value):
    monkeypatch.setattr(f"mlens.data.cache.{name}", value)
    assert file_digest(file) == blake2b("123")
    assert not (cache / "digests").exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file, cache, monkeypatch):
    digest = hashlib.file_digest

    def change_meanwhile(stream, name):
        file.write_text("1234")
        return digest(stream, name)

    monkeypatch.setattr("hashlib.file_digest", change_meanwhile)
    file_digest(file)
    assert not (cache / "digests").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"identity": {}}'])
def test_a_broken_memory_is_no_memory(file, cache, content):
    file_digest(file)
    (memory,) = (cache / "digests").iterdir()
    memory.write_text(content)
    assert file_digest(file) == blake2b("123")
    assert memory.read_text() != content


def test_a_cache_that_takes_no_memory_is_used(file, cache):
    (cache / "digests").write_text("no folder")
    assert file_digest(file) == blake2b("123")


def test_a_failed_writer_leaves_nothing(cache):
    def write(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        cached_folder("kind", "key", write)
    assert not [path for path in cache.rglob("*") if path.name == "half" or path.name == "key"]


def _fill(barrier, log):
    def write(folder):
        with open(log, "a") as stream:  # noqa: PTH123
            stream.write(f"{os.getpid()}\n")
        for i in range(200):
            (folder / str(i)).write_text(str(i))

    barrier.wait()
    folder = cached_folder("kind", "key", write)
    assert {path.name for path in folder.iterdir()} == {*map(str, range(200)), "manifest.json"}


def test_processes_at_once_fill_it_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, log = spawn.Barrier(3), tmp_path / "log"
    processes = [spawn.Process(target=_fill, args=(barrier, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def _load(barrier, source, results):
    barrier.wait()
    results.put(load_table(source).rating.tolist())


@pytest.mark.slow
def test_processes_at_once_load_one_table(source, cache):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=_load, args=(barrier, source(), results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [[4.0, 3.0]] * 2
    for process in processes:
        process.join(60)
    assert len([path for path in (cache / "tables").iterdir() if path.is_dir()]) == 1
