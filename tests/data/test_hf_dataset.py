"""data=hf: Parquet and Arrow files, and datasets of the hub by means of a stand-in for the package datasets."""

import sys
from datetime import UTC, date, datetime
from types import ModuleType, SimpleNamespace

import polars as pl
import pytest

from mlens.data.hf_dataset import HfDataset
from mlens.data.sources import load_table
from mlens.errors import UserError

RATINGS = pl.DataFrame(
    {
        "user": ["b", "a", "a"],
        "movie": [7, 7, 9],
        "rating": [4, 3, 5],
        "timestamp": [30, 20, 10],
        "title": ["Heat (1995)", "Heat (1995)", "Emma"],
        "genres": [["Action", "Crime"], ["Action", "Crime"], []],
        "other": [1, 2, 3],
    }
)
EXPECTED = [("a", 9, 5.0, 10), ("a", 7, 3.0, 20), ("b", 7, 4.0, 30)]
WRITERS = {
    "ratings.parquet": pl.DataFrame.write_parquet,
    "ratings.feather": pl.DataFrame.write_ipc,
    "data-00000-of-00001.arrow": pl.DataFrame.write_ipc_stream,
}


@pytest.fixture
def table_at(tmp_path):
    """table_at(frame, name) -> the file that now holds the frame."""

    def table_at(frame=RATINGS, name="ratings.parquet"):
        WRITERS.get(name, pl.DataFrame.write_parquet)(frame, tmp_path / name)
        return tmp_path / name

    return table_at


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_the_same_table(table_at, rows, name):
    table = load_table(HfDataset(str(table_at(name=name))))
    assert rows(table) == EXPECTED
    assert table.movies.rows() == [(7, "Heat (1995)", "Action, Crime"), (9, "Emma", "")]


def test_the_files_of_a_folder_are_one_table(table_at, rows, tmp_path, monkeypatch):
    table_at(RATINGS[2:], "b.parquet")
    table_at(RATINGS[:2], "a.parquet")
    (tmp_path / "dataset_info.json").write_text("{}")
    source = HfDataset(str(tmp_path), timestamp_column=None)
    assert rows(load_table(source)) == [("a", 7, 3.0, 1), ("a", 9, 5.0, 2), ("b", 7, 4.0, 0)]
    monkeypatch.setattr("mlens.data.hf_dataset.ROWS", 1)
    assert rows(load_table(HfDataset(str(tmp_path)))) == EXPECTED


def test_other_columns_and_a_table_of_movies(table_at, rows):
    ratings = RATINGS.select(
        user_id=pl.col("user").cast(pl.Categorical), item="movie", stars=pl.lit("4.0"), at=pl.lit(5)
    )
    movies = RATINGS.unique("movie").select(item=pl.col("movie").cast(pl.String), name="title", kind=pl.lit("x|y"))
    columns = {
        "user": "user_id",
        "movie": "item",
        "rating": "stars",
        "timestamp": "at",
        "title": "name",
        "genres": "kind",
    }
    fields = {f"{name}_column": field for name, field in columns.items()}
    source = HfDataset(str(table_at(ratings)), movies_path=str(table_at(movies, "movies.parquet")), **fields)
    table = load_table(source)
    assert rows(table) == [("a", "7", 4.0, 5), ("a", "9", 4.0, 5), ("b", "7", 4.0, 5)]
    assert set(table.movies["genres"]) == {"x, y"}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pl.Series([1.9, 2.0, 3.5]), [1, 2, 3]),
        (pl.Series(["1970-01-01T00:00:01Z", "2", "3.5"]), [1, 2, 3]),
        (pl.Series([date(1970, 1, 2)] * 3), [86400] * 3),
        (pl.Series([datetime(1970, 1, 1, 0, 0, 9, 999_999, UTC)] * 3), [9] * 3),
        (pl.Series([datetime(1970, 1, 1, 0, 0, 9)] * 3, dtype=pl.Datetime("ns")), [9] * 3),
    ],
)
def test_times(table_at, times, expected):
    frame = RATINGS.with_columns(times.alias("timestamp"), user=pl.lit("a"), movie=pl.Series([1, 2, 3]))
    assert load_table(HfDataset(str(table_at(frame)))).timestamp.tolist() == expected


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        ({"rating": [4.0, None, 5.0]}, ": row 2: the rating is missing"),
        ({"rating": ["4", "good", "5"]}, ": row 2: the rating must be a number, not 'good'"),
        ({"rating": [[4.0], [3.0], [5.0]]}, ": row 1: the rating must be a number, not [4.0]"),
        ({"rating": [4.0, 3.0, 9.0]}, ": row 3: the rating is not on the scale 0.5, "),
        ({"user": ["a", " ", "b"]}, ": row 2: the user must be an integer or text, not ' '"),
        ({"user": ["a", "", "b"]}, ": row 2: the user is missing"),
        ({"movie": [1.5, 2.0, 3.0]}, ": row 1: the movie must be an integer or text, not 1.5"),
        ({"timestamp": ["1", "soon", "2"]}, ": row 2: the timestamp must be seconds or an ISO 8601 date, not 'soon'"),
        ({"timestamp": [1, None, 2]}, ": row 2: the timestamp is missing"),
        ({"title": [{"x": 1}] * 3}, ": row 1: the title must be text, not {'x': 1}"),
        ({"title": ["x", "x", None]}, ": row 3: the title is missing"),
        ({"title": ["x", "y", "z"]}, ": row 2: movie 7 has another title or other genres on an earlier line"),
        ({"genres": [{"a": 1}] * 3}, ": row 1: the genres must be text, not {'a': 1}"),
    ],
)
def test_a_bad_value(table_at, refusal, column, rule):
    file = table_at(RATINGS.with_columns(pl.Series(name, values) for name, values in column.items()))
    assert refusal(HfDataset(str(file))).startswith(f"{file}{rule}")


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_column(table_at, refusal, name):
    file = table_at(RATINGS.drop("genres", "other"), name)
    rule = "there is no column 'genres', only user, movie, rating, timestamp, title. Set data.genres_column"
    assert refusal(HfDataset(str(file))) == f"{file}: {rule} (null: there are none)"


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file(table_at, refusal, name):
    file = table_at(name=name)
    file.write_bytes(file.read_bytes()[:-20] if name != "data-00000-of-00001.arrow" else file.read_bytes()[:300])
    assert refusal(HfDataset(str(file))).startswith(f"{file}: can't be read (")
    file.write_text("user,movie,rating")
    assert refusal(HfDataset(str(file))) == f"{file}: is neither a Parquet nor an Arrow file"


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_without_rows(table_at, refusal, name):
    file = table_at(RATINGS.clear(), name)
    assert refusal(HfDataset(str(file))) == f"{file}: no ratings in it"


def test_where_nothing_is(tmp_path, refusal):
    assert refusal(HfDataset(str(tmp_path / "x"))) == f"data.path={tmp_path / 'x'}: no such file or folder"
    assert refusal(HfDataset(str(tmp_path))).startswith(f"data.path={tmp_path}: has no file that ends in .parquet, ")
    rule = "data=hf needs data.path=FILE_OR_FOLDER, or data.name=DATASET of the Hugging Face hub"
    assert refusal(HfDataset()) == refusal(HfDataset("x", name="y")) == rule


def test_a_dataset_of_the_hub(table_at, rows, monkeypatch):
    asked = []

    def load_dataset(name, subset, split, revision):
        asked.append((name, subset, split, revision))
        if name == "gone":
            raise FileNotFoundError("Dataset 'gone' doesn't exist\nTraceback")
        return SimpleNamespace(cache_files=[{"filename": str(table_at(name="data-00000-of-00001.arrow"))}])

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert rows(load_table(HfDataset(name="me/ratings", subset="small", revision="v1"))) == EXPECTED
    assert asked == [("me/ratings", "small", "train", "v1")]
    with pytest.raises(UserError, match=r"^data\.name=gone can't be loaded: Dataset 'gone' doesn't exist$"):
        HfDataset(name="gone").files()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"^data\.name needs the package datasets: pip install -e '\.\[hf\]'$"):
        HfDataset(name="me/ratings").files()
