"""The JSON list of users: what is read from it, and how it is refused."""

import gzip
import json

import pytest

from mlens.data import behaviour_json
from mlens.data.behaviour_json import BehaviourJson
from mlens.data.sources import load_table
from mlens.errors import UserError


def rated(movie, rating, **more):
    return {"context": [], "continuation": rating, "continuation_prefix": movie, **more}


A = rated("A", "3")


def user(*items, kind="movie_rating", **more):
    return {"user_hash": "u1", "task": {"task_behavior_collections": [{"type": kind, "data": list(items)}]}, **more}


LILO = "Lilo & Stitch (2002) (Adventure, Animation, Children, Sci-Fi): "


@pytest.fixture
def source(write):
    """source(records) -> a reader of a file with this list; text and bytes are written as they are."""

    def source(records, **fields):
        content = records if isinstance(records, str | bytes) else json.dumps(records, ensure_ascii=False)
        return BehaviourJson(path=str(write({"users.json": content}) / "users.json"), **fields)

    return source


def test_every_value(source, rows):
    records = [
        {
            "user_hash": "b",
            "user": {"profile": {"name": "Ann", "age": 25, "likes": ["tea", "rain"], "vip": True, "a": None, "b": ""}},
            "task": {
                "description": " Predict. ",
                "task_behavior_collections": [
                    {"type": "movie_rating", "data": [rated(LILO, "5.0", timestamp=20, context=["Hi", "你好"])]},
                    {"type": "movie_review", "data": [rated("Heat (1995): ", 4, timestamp=10), rated("Up", "Good")]},
                    {"type": "search", "data": [rated("Heat (1995): ", "9")]},
                ],
            },
        },
        {"user": {"profile": {"name": "a"}}, "task": {"task_behavior_collections": [
            {"type": "movie_rating", "data": [rated(LILO, 0.5, timestamp="5")]}
        ]}},
    ]  # fmt: skip
    table = load_table(source(records))
    lilo = "Lilo & Stitch (2002) (Adventure, Animation, Children, Sci-Fi)"
    assert rows(table) == [("a", lilo, 0.5, 5), ("b", "Heat (1995)", 4.0, 10), ("b", lilo, 5.0, 20)]
    assert table.contexts["context"].to_list() == [[], [], ["Hi", "你好"]]
    assert table.movies.rows() == [
        (lilo, "Lilo & Stitch (2002)", "Adventure, Animation, Children, Sci-Fi"),
        ("Heat (1995)", "Heat (1995)", ""),
    ]
    assert table.users.rows(named=True) == [
        {"id": "a", "profile": "name: a", "task": None},
        {"id": "b", "profile": "name: Ann; age: 25; likes: tea, rain; vip: true", "task": "Predict."},
    ]
    assert table.scale[0] == 0.5


@pytest.mark.parametrize(
    ("prefix", "title", "genres"),
    [
        (LILO, "Lilo & Stitch (2002)", "Adventure, Animation, Children, Sci-Fi"),
        ("Heat (1995): ", "Heat (1995)", ""),
        ("Heat (1995) :", "Heat (1995)", ""),
        ("Heat: ", "Heat", ""),
        ("Heat (Crime): ", "Heat", "Crime"),
        ("Matrix: Reloaded (2003) (Action): ", "Matrix: Reloaded (2003)", "Action"),
        ("Lost (Perdu, Le) (1995) (Drama): ", "Lost (Perdu, Le) (1995)", "Drama"),
        ("Show (1994-1996): ", "Show (1994-1996)", ""),
        ("Show (1994–): ", "Show (1994–)", ""),
        ("(1995): ", "(1995)", ""),
    ],
)
def test_prefixes(source, prefix, title, genres):
    movies = load_table(source([user(rated(prefix, "3"))])).movies
    assert movies.select("title", "genres").rows() == [(title, genres)]


def test_no_timestamps_is_file_order(source, rows):
    records = [user(rated("B", "3"), rated("A", "4"), rated("B", "5")), user(rated("A", "1"), user_hash="u0")]
    assert rows(load_table(source(records))) == [
        ("u0", "A", 1.0, 3),
        ("u1", "B", 3.0, 0),
        ("u1", "A", 4.0, 1),
        ("u1", "B", 5.0, 2),
    ]


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        (7, 7),
        (7.0, 7),
        ("7", 7),
        (7.75, 7),
        ("1970-01-01T00:00:07.75Z", 7),
        ("1970-01-02", 86400),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01 00:00:09", 9),
    ],
)
def test_timestamps(source, rows, timestamp, seconds):
    assert rows(load_table(source([user(rated("A", "3", timestamp=timestamp))])))[0][3] == seconds


def test_what_is_nowhere_told_is_no_column(source):
    table = load_table(source([user(rated("A", "3"))]))
    assert table.users.columns == ["id"]
    assert table.contexts is None


def test_users_without_ratings_are_dropped(source):
    records = [user(user_hash="none"), user(rated("A", "3")), {"user_hash": "no task"}]
    assert load_table(source(records)).users["id"].to_list() == ["u1"]


def test_reviews_count_where_they_are_ratings_on_the_scale(source, rows):
    items = [rated("A", "2010"), rated("B", "4.5"), rated("C", "4.25"), rated("D", None), rated("E", "nan")]
    assert rows(load_table(source([user(*items, kind="movie_review")]))) == [("u1", "B", 4.5, 0)]


def test_given_scale(source):
    assert load_table(source([user(rated("A", "7"))], rating_scale=[0.0, 7.0])).scale == (0.0, 7.0)


def test_byte_order_mark_and_white_space(source, rows):
    text = "\ufeff" + json.dumps([user(rated("A", "3"))], indent=2).replace("\n", "\r\n")
    assert rows(load_table(source(text))) == [("u1", "A", 3.0, 0)]


def test_ratings_are_packed_in_chunks(source, rows, monkeypatch):
    records = [user(*(rated(f"M{m}", str(1 + m % 5)) for m in range(5)), user_hash=f"u{u}") for u in range(7)]
    whole = rows(load_table(source(records)))
    monkeypatch.setattr(behaviour_json, "CHUNK_ROWS", 3)
    monkeypatch.setenv("MLENS_CACHE", str(source(records).path) + "-cache")
    assert rows(load_table(source(records))) == whole
    assert len(whole) == 35


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], ": no users in it. It must be a JSON list of users, or have one user on each line"),
        ({"user_hash": "u"}, ": no ratings in it"),
        ("", ": no users in it. It must be a JSON list of users, or have one user on each line"),
        ([user(A), 7], ": user 2: must be an object"),
        ([user(A, user_hash=None)], ": user 1: has neither user_hash nor user.profile.name"),
        ([user(A, user=[])], ": user 1: user must be an object"),
        ([user(A), user(A)], ": user 2 (u1): is listed twice"),
        ([{"user_hash": 5, "task": "x"}], ": user 1 (5): task must be an object"),
        (
            [{"user_hash": "u", "task": {"task_behavior_collections": {}}}],
            ": user 1 (u): task_behavior_collections must be a list",
        ),
        (
            [{"user_hash": "u", "task": {"task_behavior_collections": [1]}}],
            ": user 1 (u): a collection must be an object",
        ),
        ([user(A, "x")], ": user 1 (u1), movie_rating 2: must be an object"),
        ([user(rated("A", "good"))], ": user 1 (u1), movie_rating 1: continuation must be a rating, not 'good'"),
        ([user(rated("A", True))], ": user 1 (u1), movie_rating 1: continuation must be a rating, not True"),
        ([user(A, rated(": ", "3"))], ": user 1 (u1), movie_rating 2: continuation_prefix names no movie"),
        ([user(rated(7, "3"))], ": user 1 (u1), movie_rating 1: continuation_prefix must be text"),
        ([user(rated("A", "3", context="x"))], ": user 1 (u1), movie_rating 1: context must be a list"),
        ([user(rated("A", "3", context=[1]))], ": user 1 (u1), movie_rating 1: context must be a list of texts"),
        (
            [user(rated("A", "3", timestamp="soon"))],
            ": user 1 (u1), movie_rating 1: timestamp must be seconds or an ISO 8601 date, not 'soon'",
        ),
        (
            [user(rated("A", "3", timestamp=1e300))],
            ": user 1 (u1), movie_rating 1: timestamp must be seconds or an ISO 8601 date, not 1e+300",
        ),
        (
            [user(rated("A", "3", timestamp=1), rated("B", "3"))],
            ": rating 2: has no timestamp, but others have one",
        ),
        (
            [user(A, rated("B", "9"))],
            ": rating 2: the rating is not on the scale 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0 "
            "(user u1, movie B, rating 9.0, timestamp 1)",
        ),
        (
            [user(rated("A", "3", timestamp=-1))],
            ": rating 1: a timestamp must not be negative (user u1, movie A, rating 3.0, timestamp -1)",
        ),
        (
            [user(rated("A", "3", timestamp=1), rated("A", "4", timestamp=1))],
            ": rating 2: the same user, movie and timestamp are on an earlier line "
            "(user u1, movie A, rating 4.0, timestamp 1)",
        ),
        ([user()], ": no ratings in it"),
    ],
)
def test_bad_records(source, refusal, records, message):
    bad = source(records)
    assert refusal(bad) == bad.path + message


@pytest.mark.parametrize("content", ["[", "[}", "[1, 2", "nonsense"])
def test_what_is_not_json(source, refusal, content):
    bad = source(content)
    assert refusal(bad).startswith((f"{bad.path}: not valid JSON after user 0 (", f"{bad.path}: user 1: must be an"))


def test_another_encoding(source, refusal):
    bad = source(json.dumps([user(A)]).encode("utf-16"))
    assert refusal(bad) == f"{bad.path}: not valid UTF-8. Convert it to UTF-8 (it may be utf-16)"
    records = [user(A), user(rated("千与千寻 (2001)", "3"), user_hash="u2")]
    bad = source(json.dumps(records, indent=0, ensure_ascii=False).encode("gb18030"))
    assert refusal(bad) == f"{bad.path}:29: not valid UTF-8 (byte 0xd3). Convert it to UTF-8 (it may be gb18030)"


LINES = "".join(json.dumps(user(rated("A", "3", timestamp=i), user_hash=f"u{i}")) + "\n" for i in range(3))


def test_a_compressed_list(write, rows):
    file = write({"users.json.gz": gzip.compress(json.dumps([user(A)]).encode())}) / "users.json.gz"
    assert rows(load_table(BehaviourJson(path=str(file)))) == [("u1", "A", 3.0, 0)]


@pytest.mark.parametrize("name", ["users.json", "users.jsonl", "users.jsonl.gz"])
def test_json_lines(write, rows, name):
    """Known by their content, whatever the name; a blank line is no user."""
    text = ("\ufeff" + LINES.replace("\n", "\r\n\r\n", 1)).encode()
    file = write({name: gzip.compress(text) if name.endswith(".gz") else text}) / name
    assert rows(load_table(BehaviourJson(path=str(file)))) == [(f"u{i}", "A", 3.0, i) for i in range(3)]


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("7\n", ":5: must be an object"),
        (
            "{\n}\n",
            ":5: not valid JSON (parse error: premature EOF): each line must be one user, or the file a list of them",
        ),
        (LINES.splitlines()[0], ":5 (u0): is listed twice"),
        (
            json.dumps(user(rated("A", "x"), user_hash="v")),
            ":5 (v), movie_rating 1: continuation must be a rating, not 'x'",
        ),
        (
            json.dumps(user(rated("A", "3", timestamp=-1), user_hash="v")),
            ":5: a timestamp must not be negative (user v, movie A, rating 3.0, timestamp -1)",
        ),
        (json.dumps(user(A, user_hash="v")), ":5: has no timestamp, but others have one"),
        ('{"a": ' * 200, ": nested deeper than 100 levels: this is not a list of users"),
    ],
)  # fmt: skip
def test_bad_json_lines(source, refusal, added, message):
    bad = source(LINES + "\n" + added)
    assert refusal(bad) == bad.path + message


def test_a_bad_first_line_of_json_lines(write, refusal):
    """The name says what the file should be."""
    file = write({"users.ndjson": "u1\n" + LINES}) / "users.ndjson"
    assert refusal(BehaviourJson(path=str(file))).startswith(f"{file}:1: not valid JSON (")


def test_truncated_after_a_user(source, refusal):
    bad = source(json.dumps([user(A), user(A, user_hash="u2")])[:-20])
    assert refusal(bad).startswith(f"{bad.path}: not valid JSON after user 1 (")


def test_no_path(tmp_path, refusal):
    assert refusal(BehaviourJson()) == "data.path is not set: data=behaviour_json needs data.path=FILE.json"
    assert refusal(BehaviourJson(path=f"{tmp_path}/no.json")) == f"data.path={tmp_path}/no.json: no such file"


def test_bad_fields():
    with pytest.raises(UserError, match=r"^data\.max_users must be at least 1 or null, not -3$"):
        BehaviourJson(max_users=-3)
    with pytest.raises(UserError, match="ascending"):
        BehaviourJson(rating_scale=[2.0, 1.0])
