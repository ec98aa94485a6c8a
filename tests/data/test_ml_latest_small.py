"""The real ml-latest-small, where it lies beside the project, against Python's csv module."""

import csv
from pathlib import Path

import pytest

from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.sources import load_table

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data/ml-latest-small")


def lines(name):
    with (FOLDER / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_table(MovieLensCsv("ml-latest-small", path=str(FOLDER)))


def test_counts(table):
    assert (len(table), len(table.users), len(table.movies), len(table.tags)) == (100_836, 610, 9_742, 3_683)


def test_movies(table):
    assert table.movies.rows() == [
        (
            int(line["movieId"]),
            line["title"].strip(),
            "" if line["genres"] == "(no genres listed)" else line["genres"].replace("|", ", "),
        )
        for line in lines("movies.csv")
    ]


def test_ratings(table, rows):
    ratings = [
        (int(line["userId"]), int(line["movieId"]), float(line["rating"]), int(line["timestamp"]))
        for line in lines("ratings.csv")
    ]
    assert rows(table) == sorted(ratings, key=lambda rating: (rating[0], rating[3]))


def test_tags(table):
    users, movies = table.users["id"].to_list(), table.movies["id"].to_list()
    tags = [
        (int(line["userId"]), int(line["movieId"]), line["tag"].strip(), int(line["timestamp"]))
        for line in lines("tags.csv")
    ]
    assert [(users[u], movies[m], tag, time) for u, m, tag, time in table.tags.rows()] == sorted(
        tags, key=lambda tag: (tag[0], tag[3])
    )


def test_offsets(table):
    for u in (0, 1, 413, 609):
        block = slice(table.user_offsets[u], table.user_offsets[u + 1])
        assert set(table.user[block].tolist()) == {u}
    assert table.user_offsets[-1] == len(table)
