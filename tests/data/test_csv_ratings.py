"""Tables of one's own, against a naive sort in pure Python and in every arrangement of columns."""

import csv
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data.csv_ratings import CsvRatings
from mlens.data.raw import build_table
from mlens.data.sources import load_table
from mlens.errors import UserError

ONE_FILE = """user,movie,rating,timestamp,title,genres
u2,m1,3.5,9,"Heat, The (1995)",Crime|Drama
u1,m2,5,4,Up (2009),(no genres listed)
u1,m1,1,3,"Heat, The (1995)",Crime|Drama
"""


@pytest.fixture
def source(write):
    def source(text, movies=None, **fields):
        folder = write({"r.csv": text} | ({} if movies is None else {"m.csv": movies}))
        more = {} if movies is None else {"movies_path": f"{folder}/m.csv"}
        return CsvRatings(path=f"{folder}/r.csv", **more, **fields)

    return source


def test_titles_beside_the_ratings(source, rows):
    table = load_table(source(ONE_FILE))
    assert rows(table) == [("u1", "m1", 1.0, 3), ("u1", "m2", 5.0, 4), ("u2", "m1", 3.5, 9)]
    assert table.movies.rows() == [("m1", "Heat, The (1995)", "Crime, Drama"), ("m2", "Up (2009)", "")]
    assert table.scale == tuple(i / 2 for i in range(1, 11))


def test_titles_in_a_file_of_their_own(source, rows):
    ratings = "who;what;stars;when\n12;7;3;5\n2;8;4;5\n"
    movies = "name;what\nHeat, The (1995);8\n  Up (2009) ;7\nUnseen;9\n"
    table = load_table(
        source(
            ratings,
            movies,
            separator=";",
            user_column="who",
            movie_column="what",
            rating_column="stars",
            timestamp_column="when",
            title_column="name",
            genres_column=None,
        )
    )
    assert rows(table) == [(2, 8, 4.0, 5), (12, 7, 3.0, 5)]
    assert table.movies.rows() == [(8, "Heat, The (1995)", ""), (7, "Up (2009)", ""), (9, "Unseen", "")]


@pytest.mark.parametrize("separator", ["\t", r"\t"])
def test_tabs_and_no_time(source, rows, separator):
    text = "user\tmovie\trating\ttitle\n5\t1\t3\tA\n4\t1\t2\tA\n5\t2\t1\tB\n5\t1\t4\tA\n"
    table = load_table(source(text, separator=separator, timestamp_column=None, genres_column=None))
    assert rows(table) == [(4, 1, 2.0, 1), (5, 1, 3.0, 0), (5, 2, 1.0, 2), (5, 1, 4.0, 3)]


def test_times_are_read_as_in_json(source, rows):
    times = ["2005-04-02T23:53:47Z", "2005-04-03 01:53:48.5+02:00", " 1112486029.75 ", "1112486030"]
    text = "user,movie,rating,timestamp,title,genres\n" + "".join(f"1,1,3,{time},A,B\n" for time in times)
    assert [time for *_, time in rows(load_table(source(text)))] == [1112486027 + i for i in range(4)]


@pytest.mark.parametrize("part", [1, 1 << 24])
@pytest.mark.parametrize("escape", ["\\", r"\\"])
def test_escapes(source, rows, refusal, part, escape, monkeypatch):
    """Lines are counted as they stand in the file."""
    monkeypatch.setattr("mlens.data.delimited.PART", part)
    text = "user,movie,rating,timestamp,title,genres\n"
    text += (
        r'1,1,3,5,"The \"Big\" One, a ""good"" \\ film",A'
        + "\n"
        + r"1,2,3,6,Heat\, The,A"
        + '\n\n1,3,3,7,"Two\nlines",A\n'
    )
    table = load_table(source(text, escape=escape))
    assert table.movies["title"].to_list() == ['The "Big" One, a "good" \\ film', "Heat, The", "Two lines"]
    assert refusal(source(text + "1,4,9,8,B,A\n", escape=escape)).startswith(
        f"{source(text).path}:7: the rating is not"
    )
    assert refusal(source(text + '1,4,3,8,"B,A\n', escape=escape)) == f"{source(text).path}:7: broken quotes"


@pytest.mark.parametrize(
    ("ids", "sorted_ids"),
    [
        (["10", "9"], [9, 10]),
        (["10", "09"], ["09", "10"]),
        (["10", "x"], ["10", "x"]),
        (["-1", "1", "0"], [-1, 0, 1]),
        (["-0", "1"], ["-0", "1"]),
        (["+1", "2"], ["+1", "2"]),
        ([" b ", "a"], ["a", "b"]),
        (["99999999999999999999", "9"], ["9", "99999999999999999999"]),
    ],
)
@pytest.mark.parametrize("part", [1, 1 << 24])
def test_ids_are_numbers_where_all_are(source, ids, sorted_ids, part, monkeypatch):
    """Also where each part of the file alone would have numbers."""
    monkeypatch.setattr("mlens.data.delimited.PART", part)
    text = "user,movie,rating,timestamp,title,genres\n" + "".join(f"{i},1,3,5,A,B\n" for i in ids)
    assert load_table(source(text)).users["id"].to_list() == sorted_ids


def test_a_movie_is_one_whichever_part_of_the_file_it_stands_in(source, rows, refusal, monkeypatch):
    monkeypatch.setattr("mlens.data.delimited.PART", 1)
    text = "user,movie,rating,timestamp,title,genres\n1,7,3,5,A,B\n1,7,4,6,A,B\n1,07,5,7,A,C\n"
    assert rows(load_table(source(text))) == [(1, "7", 3.0, 5), (1, "7", 4.0, 6), (1, "07", 5.0, 7)]
    bad = source(text + "1,7,5,9,A,C\n")
    assert refusal(bad) == f"{bad.path}:5: movie 7 has another title or other genres on an earlier line"


def test_movie_ids_agree_between_the_files(source, rows):
    movies = "movie,title,genres\n1,A,X\nx,B,Y\n"
    assert rows(load_table(source("user,movie,rating,timestamp\n1,1,3,5\n", movies))) == [(1, "1", 3.0, 5)]


def test_one_column_may_serve_twice(source):
    text = "user,movie,rating,timestamp\n1,Up,3,5\n"
    table = load_table(source(text, title_column="movie", genres_column=None))
    assert table.movies.rows() == [("Up", "Up", "")]


def test_a_scale_of_tenths(source):
    scale = [i / 10 for i in range(11)]
    lines = "".join(f"1,m,0.{i},{i},A,B\n" for i in range(10))
    table = load_table(source("user,movie,rating,timestamp,title,genres\n" + lines, rating_scale=scale))
    assert table.rating_index.tolist() == list(range(10))


def test_a_scale_of_a_thousand_ratings(source):
    scale = [float(i) for i in range(1000)]
    lines = "".join(f"1,m,{i},{i},A,B\n" for i in range(1000))
    table = load_table(source("user,movie,rating,timestamp,title,genres\n" + lines, rating_scale=scale))
    assert table.rating.tolist() == scale
    assert table.rating_index.tolist() == list(range(1000))


def test_a_rating_is_exactly_one_of_the_scale(source):
    text = "user,movie,rating,timestamp,title,genres\n1,m,0.3000009,5,A,B\n"
    table = load_table(source(text, rating_scale=[0.1, 0.3]))
    assert table.rating.tolist() == np.array([0.3], dtype=np.float32).tolist()


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        (
            ONE_FILE,
            {"user_column": "uid"},
            ":1: there is no column 'uid'; the header has user, movie, rating, timestamp, title, genres. "
            "Set data.user_column",
        ),
        (
            "userId,Movie,rating,timestamp\n",
            {"user_column": "userId"},
            ":1: there is no column 'movie'; the header has userId, Movie, rating, timestamp. "
            "Set data.movie_column='Movie'",
        ),
        (
            ONE_FILE.replace(",", ";"),
            {},
            ":1: there is no column 'user'; the header has user;movie;rating;timestamp;title;genres. "
            "Set data.separator=';'",
        ),
        ("\n" + ONE_FILE, {}, ":1: there is no header. The first line must contain the column names"),
        (
            'user,movie,rating,timestamp,title,genres\nu,m,3,5,"A \\"B\\" C",D\n',
            {},
            ":2: broken quotes. A quote inside a text must be doubled; "
            r"""where it is written \", set data.escape='\\'""",
        ),
        (
            ONE_FILE + "u,m3,3,5,A,B\ru,m4,3,5,A,B\n",
            {},
            ":5: 11 fields, but the header has 6. It contains a CR alone: end all lines as the header ends",
        ),
        (
            ONE_FILE + "u,m3,3,02/04/2005,A,B\n",
            {},
            ":5: the timestamp must be seconds or an ISO 8601 date, not '02/04/2005'",
        ),
        (ONE_FILE + ",m1,3,5,x,y\n", {}, ":5: the user is missing"),
        (ONE_FILE + "u,m1\n", {}, ":5: the rating is missing"),
        (ONE_FILE + "u,m9,3,5,,\n", {}, ":5: the title is missing (movie m9)"),
        (
            ONE_FILE + "u,m1,3,5,Heat (1995),Crime|Drama\n",
            {},
            ":5: movie m1 has another title or other genres on an earlier line",
        ),
        (ONE_FILE + "u,m3,x,5,A,B\n", {}, ":5: the rating must be a number, not 'x'"),
        (
            ONE_FILE + "u,m3,4.001,5,A,B\n",
            {"rating_scale": [1.0, 3.5, 4.0, 5.0]},
            ":5: the rating is not on the scale 1.0, 3.5, 4.0, 5.0 (user u, movie m3, rating 4.001, timestamp 5)",
        ),
        (
            ONE_FILE,
            {"rating_scale": [1.0, 5.0]},
            ":2: the rating is not on the scale 1.0, 5.0 (user u2, movie m1, rating 3.5, timestamp 9)",
        ),
    ],
)
def test_bad_files(source, refusal, text, fields, message):
    bad = source(text, **fields)
    assert refusal(bad) == bad.path + message


def test_bad_movies_file(source, refusal):
    bad = source(ONE_FILE, "movie,title,genres\nm1,A,B\nm2,A,B\nm1,A,B\n")
    assert refusal(bad) == f"{bad.movies_path}:4: the movie is listed on an earlier line too (movie m1, title A)"


def test_paths(tmp_path, source, refusal):
    assert refusal(CsvRatings()) == "data.path is not set: data=csv needs data.path=FILE.csv"
    assert refusal(CsvRatings(path=str(tmp_path))) == f"data.path={tmp_path}: is a folder. Give the file in it"
    bad = CsvRatings(path=source(ONE_FILE).path, movies_path=f"{tmp_path}/no.csv")
    assert refusal(bad) == f"data.movies_path={tmp_path}/no.csv: no such file"


@pytest.mark.parametrize("separator", ["", "::", '"', "\n", "，"])
def test_bad_separator(separator):
    with pytest.raises(UserError) as caught:
        CsvRatings(separator=separator)
    known = r"such as ',' or '\t'"
    assert str(caught.value) == f"data.separator must be one ASCII character, {known}, not {separator!r}"


@pytest.mark.parametrize("escape", ["", "ab", '"', "\n", ";"])
def test_bad_escape(escape):
    with pytest.raises(UserError, match="escape must be null or one ASCII character other than the separator"):
        CsvRatings(separator=";", escape=escape)


@pytest.mark.parametrize("encoding", ["utf-99", "hex", "", "idna"])
def test_bad_encoding(encoding):
    with pytest.raises(UserError, match=r"data\.encoding must be the name of a text encoding"):
        CsvRatings(encoding=encoding)


def to_one_line(title):
    """Words between control characters and line breaks, with one blank between them."""
    first, *others = re.split("[\x00-\x1f\x7f-\x9f\u2028\u2029]", title)
    others = [part.lstrip(" ") if i == len(others) else part.strip(" ") for i, part in enumerate(others, 1)]
    return " ".join(part for part in [first.rstrip(" ") if others else first, *others] if part).strip()


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
    to_one_line
)
ratings = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 10).map(lambda i: i / 2), st.integers(0, 6)),
    min_size=1,
    max_size=60,
    unique_by=lambda rating: (rating[0], rating[1], rating[3]),
)  # fmt: skip


@given(
    ratings=ratings,
    titles=st.lists(texts, min_size=10, max_size=10),
    crlf=st.booleans(),
    part=st.sampled_from([30, 200, 1 << 24]),
)
def test_any_ratings_come_back_as_a_naive_sort_has_them(ratings, titles, crlf, part):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.data.delimited.PART", part)
        file = Path(folder, "r.csv")
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\r\n" if crlf else "\n")
            writer.writerow(["user", "movie", "rating", "timestamp", "title", "genres"])
            writer.writerows((u, m, r, t, titles[m], "Drama") for u, m, r, t in ratings)
        source = CsvRatings(path=str(file))
        table = build_table(source.read(source.files()))
    users = sorted({u for u, *_ in ratings})
    movies = list(dict.fromkeys(m for _, m, *_ in ratings))
    expected = sorted(ratings, key=lambda rating: (rating[0], rating[3]))  # stable
    assert [users[u] for u in table.user] == [u for u, *_ in expected]
    assert [movies[m] for m in table.movie] == [m for _, m, *_ in expected]
    assert table.rating.tolist() == [r for *_, r, _ in expected]
    assert table.timestamp.tolist() == [t for *_, t in expected]
    assert table.users["id"].to_list() == users
    assert table.movies.rows() == [(m, to_one_line(titles[m]), "Drama") for m in movies]
    counts = [sum(u == user for u, *_ in ratings) for user in users]
    assert table.user_offsets.tolist() == [sum(counts[:i]) for i in range(len(counts) + 1)]
