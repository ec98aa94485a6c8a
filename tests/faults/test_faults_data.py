"""Faults of the disk, the data files, the cache and the clock: what is told, and what is kept."""

import errno
import json
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import mlens.training.base_model as base
from mlens.data import cache as cache_module
from mlens.data.cache import cache_root, cached_folder, file_digest, is_intact
from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.rating_table import COLUMNS, open_table
from mlens.data.sources import load_table
from mlens.errors import UserError, exit_on_user_error
from mlens.files import atomic_write, naming, write_json, write_text
from mlens.packing.epoch_plan import RowLoader, plan_epoch
from tests.helpers.runs import FAST, ROOT, child_environment, composed, summary_of, train, train_here
from tests.helpers.steps import parts


def write_source(folder, users=2, each=3, rating="4.0"):
    """A folder of MovieLens CSV files, tags included."""
    folder.mkdir(exist_ok=True)
    ratings = "".join(f"{u},{m},{rating},{u + m}\n" for u in range(1, users + 1) for m in range(1, each + 1))
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings)
    movies = "".join(f"{m},Film {m} (1999),Drama\n" for m in range(1, each + 1))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies)
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,calm,9\n")
    return MovieLensCsv("ml-25m", path=str(folder))


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


def same(one, other):
    columns = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in COLUMNS)
    frames = ("users", "movies", "tags")
    return columns and all(getattr(one, name).equals(getattr(other, name)) for name in frames)


def entries(kind="tables"):
    """What a later run could take for an entry of the cache, and what lies beside."""
    folder = cache_root() / kind
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


def ends_in_one_line(capsys, act) -> str:
    """The one line that `act` ends the process with, and exit code 2."""
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        act()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


# A full disk


def test_a_table_that_finds_no_room_is_told_and_leaves_nothing(disk, tmp_path, monkeypatch):
    """Wherever its writing stops: in a column, a frame, the settings, the seal."""
    large = write_source(tmp_path / "large", users=120, each=100)
    whole = load_table(large)
    monkeypatch.setenv("MLENS_CACHE", str(disk.path))
    told = 0
    for leaving in range(0, 400_000, 20_000):
        filler = disk.fill(leaving)
        try:
            assert same(load_table(large), whole)
            assert is_intact(disk.path / "tables" / whole.path.name)
        except UserError as error:
            told += 1
            assert str(disk.path) in str(error) and "the disk is full" in str(error) and "MLENS_CACHE" in str(error)
            assert entries() == []
        filler.unlink()
        shutil.rmtree(disk.path / "tables", ignore_errors=True)
    assert 5 < told < 20
    # With room again, the same call goes on.
    assert same(load_table(large), whole)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: write_json(file, {"numbers": list(range(30_000))}),
        lambda file: write_text(file, "line\n" * 40_000),
        lambda file: atomic_write(file, pl.DataFrame({"p": np.random.default_rng(0).random(30_000)}).write_parquet),
        lambda file: atomic_write(file, pl.DataFrame({"p": np.random.default_rng(0).random(30_000)}).write_csv),
    ],
    ids=["json", "text", "parquet", "csv"],
)
def test_a_file_that_finds_no_room_leaves_the_old_one(disk, capsys, write):
    file = disk.path / "summary"
    file.write_text("the old one")
    filler = disk.fill(leaving=30_000)
    told = ends_in_one_line(capsys, lambda: write(file))
    assert f"{file}: " in told and "the disk is full" in told
    assert {path.name for path in disk.path.iterdir()} == {"summary", "filler"}
    assert file.read_text() == "the old one"
    filler.unlink()
    write(file)
    assert file.stat().st_size > 100_000


def test_a_log_that_finds_no_room_is_told_and_keeps_its_whole_lines(disk, capsys):
    """metrics.jsonl is appended to, line by line."""
    file = disk.path / "metrics.jsonl"
    disk.fill(leaving=30_000)

    def record(step):
        return json.dumps({"kind": "train", "step": step}) + "\n"

    def log():
        with naming(file), file.open("a", encoding="utf-8") as stream:
            for step in range(10_000):
                stream.write(record(step))
                stream.flush()

    assert f"{file}: the disk is full" in ends_in_one_line(capsys, log)
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) > 500
    assert all(line == record(step) for step, line in enumerate(lines[:-1]))


def test_a_limit_of_file_size_is_told(tmp_path):
    large = write_source(tmp_path / "large", users=120, each=100)
    program = "from mlens.data.sources import load_table; from mlens.data.movielens_csv import MovieLensCsv\n"
    program += "from mlens.errors import exit_on_user_error\n"
    program += f"with exit_on_user_error(): load_table(MovieLensCsv('ml-25m', path={large.path!r}))"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert ended.returncode == 2
    assert str(cache_root()) in ended.stderr and "file too large" in ended.stderr and ended.stderr.count("\n") == 1
    assert entries() == []


def test_a_run_whose_cache_is_on_a_full_disk_ends_in_one_line(disk, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLENS_CACHE", str(disk.path))
    disk.fill(leaving=0)
    told = ends_in_one_line(capsys, lambda: train_here(composed(*FAST, f"output_dir={tmp_path / 'run'}")))
    assert str(disk.path) in told and "the disk is full" in told
    assert not (tmp_path / "run").exists()


# A disk that can't be written to


def test_a_read_only_cache_serves_what_it_has(disk, source, monkeypatch):
    monkeypatch.setenv("MLENS_CACHE", str(disk.path))
    first = load_table(source)
    disk.read_only()
    assert same(load_table(source), first)
    Path(source.path, "movies.csv").write_text("movieId,title,genres\n1,A,\n2,B,\n3,C,\n")
    with pytest.raises(UserError, match=f"{disk.path}.*read-only file system.*MLENS_CACHE"):
        load_table(source)
    disk.read_only(False)
    assert load_table(source).movies["title"].to_list() == ["A", "B", "C"]


def test_a_base_model_in_a_read_only_cache_is_used(disk, monkeypatch):
    monkeypatch.setenv("MLENS_CACHE", str(disk.path))
    made = parts("model=tiny_base", "model.base.lines=[4]")

    def make(*arguments):
        with cache_module.new_entry(arguments[-1]) as beside:
            (beside / "model.safetensors").write_text("weights")

    monkeypatch.setattr(base, "_train", make)
    first = base.base_weights(made.inputs, made.ranks)
    disk.read_only()
    monkeypatch.setattr(base, "_train", None)
    assert base.base_weights(made.inputs, made.ranks) == first


def test_a_run_folder_on_a_read_only_disk_ends_in_one_line(disk, capsys):
    disk.read_only()
    told = ends_in_one_line(capsys, lambda: train_here(composed(*FAST, f"output_dir={disk.path / 'run'}")))
    assert str(disk.path) in told and "read-only file system" in told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOTDIR])
def test_what_a_disk_refuses_is_one_line(tmp_path, capsys, number):
    def refuse():
        raise OSError(number, os.strerror(number), str(tmp_path / "file"))

    told = ends_in_one_line(capsys, refuse)
    assert str(tmp_path / "file") in told and os.strerror(number).lower() in told


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone", "x"), ConnectionRefusedError(111, "no"), OSError("x")])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(OSError) as raised, exit_on_user_error():
        raise error
    assert raised.value is error


def test_a_file_where_the_cache_should_be_is_told(source, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLENS_CACHE", str(tmp_path / "file"))
    line = ends_in_one_line(capsys, lambda: load_table(source))
    assert "not a directory" in line and "MLENS_CACHE=FOLDER" in line


def test_a_home_that_does_not_exist_is_told_with_what_to_do(source, monkeypatch, capsys):
    for name, value in {"HOME": "/proc/none", "XDG_CACHE_HOME": "", "MLENS_CACHE": ""}.items():
        monkeypatch.setenv(name, value)
    line = ends_in_one_line(capsys, lambda: load_table(source))
    assert "/proc/none" in line and "MLENS_CACHE=FOLDER" in line


# Data files that change


def overwrite(source):
    """Other content of the same size."""
    file = Path(source.path, "ratings.csv")
    file.write_text(file.read_text().replace("4.0", "2.5"))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_data_that_change_while_they_are_read_are_refused(source, monkeypatch, moment):
    """No table is kept: it would be a mixture, or stand under the old content's name."""
    read = MovieLensCsv.read

    def change(self, files):
        if moment == "before":
            overwrite(self)
        raw = read(self, files)
        if moment == "after":
            overwrite(self)
        return raw

    with monkeypatch.context() as patched:
        patched.setattr(MovieLensCsv, "read", change)
        with pytest.raises(UserError, match=r"ratings\.csv.*changed while"):
            load_table(source)
    assert entries() == []
    assert set(load_table(source).rating.tolist()) == {2.5}


def test_an_archive_that_is_replaced_while_it_is_unpacked_is_refused(tmp_path, monkeypatch):
    """By the checksums that its members are known to have."""
    for name, rating in (("old", "4.0"), ("new", "2.5")):
        shutil.make_archive(str(tmp_path / name), "zip", write_source(tmp_path / "source", rating=rating).path)
    archive = MovieLensCsv("ml-25m", path=str(tmp_path / "old.zip"))

    def replaced(kind, key, write):
        shutil.copy(tmp_path / "new.zip", tmp_path / "old.zip")
        return cached_folder(kind, key, write)

    with monkeypatch.context() as patched:
        patched.setattr("mlens.data.archive.cached_folder", replaced)
        with pytest.raises(UserError, match=r"old\.zip: a broken zip archive"):
            load_table(archive)
    assert entries("archives") == []
    assert set(load_table(archive).rating.tolist()) == {2.5}


def test_data_that_change_under_a_running_job_are_seen_by_the_next(source):
    running = load_table(source)
    key = running.content_hash()
    overwrite(source)
    assert set(running.rating.tolist()) == {4.0} and running.content_hash() == key
    assert set(pickle.loads(pickle.dumps(running)).rating.tolist()) == {4.0}
    after = load_table(source)
    assert set(after.rating.tolist()) == {2.5} and after.content_hash() != key
    # Its own content is still there for a run that is resumed with the old files.
    assert set(open_table(running.path).rating.tolist()) == {4.0}


# A cache that is deleted


def test_a_job_whose_cache_is_deleted_goes_on():
    """Columns stay mapped, and forked workers inherit them; what it caches later is made anew."""
    made = parts("history=random")
    data = made.datasets["train"]
    planned = list(plan_epoch(data, made.collator, made.settings.trainer.steps(), 0, 0, 0, 1))[:6]
    before = [row.input_ids.tolist() for row in rows(data, made, planned, workers=0)]
    shutil.rmtree(cache_root())
    assert [row.input_ids.tolist() for row in rows(data, made, planned, workers=1)] == before
    assert cached_folder("kind", "key", lambda folder: None).is_dir()


def rows(data, made, planned, workers):
    loader = RowLoader(data, made.collator.train_row)
    return [row for _, row in DataLoader(loader, sampler=iter(planned), batch_size=None, num_workers=workers)]


def test_a_process_that_opens_a_deleted_table_is_told(source):
    pickled = pickle.dumps(load_table(source))
    shutil.rmtree(cache_root())
    with pytest.raises(UserError, match="the cache was deleted"):
        pickle.loads(pickled)


def test_a_cache_that_is_deleted_while_it_is_written_is_told():
    def write(folder):
        (folder / "half").write_text("")
        shutil.rmtree(cache_root())

    with pytest.raises(UserError, match="was deleted while"):
        cached_folder("kind", "key", write)
    assert cached_folder("kind", "key", lambda folder: None).is_dir()


# Processes that die or meet in the cache

KILLED = """
import os, signal, sys
from mlens.data.cache import cached_folder

def write(folder):
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)

cached_folder("kind", sys.argv[1], write)
"""


def kill_while_filling(key):
    ended = subprocess.run([sys.executable, "-c", KILLED, key], cwd=ROOT, env=child_environment())
    assert ended.returncode == -9
    left = [name for name in entries("kind") if name.startswith(f".{key}.")]
    assert len(left) == 1 and key not in entries("kind")


@pytest.mark.parametrize("next_key", ["key", "another"])
def test_what_a_killed_run_left_is_removed_by_the_next(next_key):
    """Its lock is let go by the system, so nobody waits for it."""
    kill_while_filling("key")
    folder = cached_folder("kind", next_key, lambda folder: (folder / "whole").write_text("y"))
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "whole"]
    assert entries("kind") == [next_key]


def test_what_another_run_is_filling_is_left_alone():
    inside, done = threading.Event(), threading.Event()

    def slow(folder):
        (folder / "a").write_text("x")
        inside.set()
        assert done.wait(60)
        (folder / "b").write_text("x")

    filling = threading.Thread(target=cached_folder, args=("kind", "slow", slow))
    filling.start()
    assert inside.wait(60)
    cached_folder("kind", "quick", lambda folder: None)
    done.set()
    filling.join(60)
    assert entries("kind") == ["quick", "slow"]
    assert (cache_root() / "kind" / "slow" / "a").exists() and (cache_root() / "kind" / "slow" / "b").exists()


def test_of_several_that_find_it_damaged_one_makes_it_again(recwarn):
    folder = cached_folder("kind", "key", lambda folder: (folder / "a").write_text("whole"))
    (folder / "a").write_text("torn")
    times, start = [], threading.Barrier(4)

    def write(folder):
        times.append(1)
        time.sleep(0.1)
        (folder / "a").write_text("whole")

    def run():
        start.wait(60)
        assert (cached_folder("kind", "key", write) / "a").read_text() == "whole"

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert times == [1] and entries("kind") == ["key"]


# Entries that are damaged


def damage_truncate(folder):
    with (folder / "rating.npy").open("r+b") as stream:
        stream.truncate(130)


def damage_flip(folder):
    content = bytearray((folder / "rating.npy").read_bytes())
    content[-1] ^= 1
    (folder / "rating.npy").write_bytes(content)


def damage_empty(folder):
    (folder / "user_offsets.npy").write_bytes(b"")


def damage_parquet(folder):
    (folder / "movies.parquet").write_bytes(b"PAR1 no more")


def damage_missing(folder):
    (folder / "tags.parquet").unlink()


def damage_settings(folder):
    (folder / "meta.json").write_text('{"scale": [1.0')


def damage_seal(folder):
    (folder / "manifest.json").write_text("[]")


def damage_no_seal(folder):
    (folder / "manifest.json").unlink()


def damage_all(folder):
    for file in folder.iterdir():
        file.unlink()


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("large", [1, 1 << 24], ids=["large", "small"])
def test_a_damaged_table_is_reported_and_rebuilt(source, monkeypatch, caplog, damage, large):
    """Large files' digests are cached, so their times must show a change."""
    monkeypatch.setattr(cache_module, "LARGE", large)
    monkeypatch.setattr(cache_module, "SETTLED_NS", -(10**9))
    first = load_table(source)
    running = {name: np.array(getattr(first, name)) for name in COLUMNS}
    kept, tags = shutil.copytree(first.path, first.path.parent.parent / "copy"), first.tags
    load_table(source)
    time.sleep(0.02)  # more than the resolution of a file's times
    damage(first.path)
    again = load_table(source)
    assert re.search(r"is damaged \(\S+ is changed or missing\) and is rebuilt$", caplog.text.strip())
    assert again.path == first.path and again.tags.equals(tags)
    for name in COLUMNS:
        assert np.array_equal(getattr(again, name), running[name])
    assert {file.name: file.read_bytes() for file in again.path.iterdir()} == {
        file.name: file.read_bytes() for file in kept.iterdir()
    }
    assert entries() == [again.path.name]
    caplog.clear()
    load_table(source)
    assert not caplog.records


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_of_any_file_goes_unseen(source, data):
    folder = load_table(source).path
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = file.read_bytes()
    if data.draw(st.booleans()):
        changed = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        changed = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    file.write_bytes(changed)
    whole = is_intact(folder)
    file.write_bytes(content)
    # Only blanks between the seal's own words say nothing.
    assert not whole or (file.name == "manifest.json" and changed.split() == content.split())
    assert is_intact(folder)


def test_a_job_that_has_mapped_an_entry_keeps_it_when_another_rebuilds_it(source, caplog):
    running = load_table(source)
    damage_missing(running.path)
    load_table(source)
    assert "is damaged" in caplog.text
    assert set(running.rating.tolist()) == {4.0}


def test_an_entry_lies_on_the_disk_before_it_has_its_name(monkeypatch):
    """Else a power cut could leave it with files of zeros."""
    events, fsync, rename = [], os.fsync, Path.rename

    def noted_fsync(number):
        events.append(("flushed", Path(f"/proc/self/fd/{number}").readlink().name))
        fsync(number)

    def noted_rename(self, target):
        events.append(("renamed", Path(target).name))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)

    def write(folder):
        (folder / "a").write_text("a")
        (folder / "inner").mkdir()
        (folder / "inner" / "b").write_text("b")

    cached_folder("kind", "key", write)
    place = events.index(("renamed", "key"))
    flushed = {name for what, name in events[:place] if what == "flushed"}
    assert {"a", "b"} <= flushed and any("manifest.json" in name for name in flushed)
    assert ("flushed", "kind") in events[place:]


# A clock that is set back


@pytest.fixture
def remembering(tmp_path, monkeypatch):
    """A file that counts as large, with a content that was remembered."""
    monkeypatch.setattr(cache_module, "LARGE", 3)
    file = tmp_path / "ratings.csv"
    file.write_text("123")
    past = time.time_ns() - 10**13
    os.utime(file, ns=(past, past))
    return file


def test_a_file_from_the_future_is_read_each_time(remembering, cache):
    future = time.time_ns() + 10**14
    os.utime(remembering, ns=(future, future))
    first = file_digest(remembering)
    assert not (cache / "digests").exists()
    remembering.write_text("124")
    os.utime(remembering, ns=(future, future))
    assert file_digest(remembering) != first


def test_a_clock_that_is_set_back_hides_no_change(remembering, cache, monkeypatch):
    now = time.time_ns()
    monkeypatch.setattr(cache_module.time, "time_ns", lambda: now + 10**10)
    first = file_digest(remembering)
    assert (cache / "digests").exists()
    # An hour back: all that was just written seems to come from the future.
    monkeypatch.setattr(cache_module.time, "time_ns", lambda: now - 3600 * 10**9)
    assert file_digest(remembering) == first
    stat = remembering.stat()
    time.sleep(0.02)
    remembering.write_text("124")
    os.utime(remembering, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_digest(remembering) != first
    assert file_digest(remembering) != first


def test_tables_are_made_and_found_whatever_the_clock_says(source, monkeypatch):
    now = time.time_ns()
    paths = set()
    for hours in (0, -24, 24, -48):
        monkeypatch.setattr(cache_module.time, "time_ns", lambda hours=hours: now + hours * 3600 * 10**9)
        paths.add(load_table(source).path)
    assert len(paths) == 1


# Whole runs


@pytest.mark.slow
def test_two_runs_at_once_fill_one_cache(tmp_path, cache):
    spawn = multiprocessing.get_context("spawn")
    names = ("none", "random")
    with spawn.Pool(2) as pool:
        ended = pool.starmap(_train, [(name, str(tmp_path / name), str(cache)) for name in names])
    assert ended == [0, 0]
    assert len(entries()) == len(entries("tokenizers")) == 1
    assert all(summary_of(tmp_path / name)["metrics"]["test"]["rmse"] > 0 for name in names)


def _train(history, folder, cache):
    return train(*FAST, f"history={history}", f"output_dir={folder}", MLENS_CACHE=cache).returncode


@pytest.mark.slow
def test_a_run_goes_on_without_its_cache(tmp_path, cache, monkeypatch):
    """Deleted in the middle of training, with a worker; the result is that of a run whose cache was left alone."""
    overrides = (*FAST, "history=random", "trainer.loader_workers=1")
    assert train(*overrides, f"output_dir={tmp_path / 'plain'}").returncode == 0
    command = [sys.executable, str(ROOT / "train.py"), *overrides, f"output_dir={tmp_path / 'run'}"]
    shutil.rmtree(cache)
    running = subprocess.Popen(command, cwd=ROOT, env=child_environment())
    metrics = tmp_path / "run" / "training_logs" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text()):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    shutil.rmtree(cache)
    assert running.poll() is None
    assert running.wait(200) == 0
    assert summary_of(tmp_path / "run")["metrics"] == summary_of(tmp_path / "plain")["metrics"]
