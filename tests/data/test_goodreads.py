"""Goodreads: interactions and books of the UCSD Book Graph, in little files of its format."""

import gzip
import json
from datetime import datetime, timedelta, timezone

import pytest

from mlens.data.goodreads import EXAMPLE, Goodreads
from mlens.data.sources import load_table
from mlens.predict import Prompter
from tests.helpers.runs import run_here

DATE = "Thu Mar 21 14:08:01 -0700 2013"
TIME = int(datetime(2013, 3, 21, 14, 8, 1, tzinfo=timezone(timedelta(hours=-7))).timestamp())
BOOKS = [
    {
        "book_id": "10",
        "title": "Emma",
        "popular_shelves": [
            {"count": "9", "name": shelf} for shelf in ("to-read", "classics", "owned", "love", "a", "b")
        ],
    },
    {"book_id": "11", "title": "Odes ", "popular_shelves": []},
    {"book_id": "12", "title": "", "popular_shelves": [{"count": "1", "name": "poetry"}]},
]


def interaction(user="u1", book="10", rating=4, date=DATE, **more):
    return {
        "user_id": user,
        "book_id": book,
        "is_read": True,
        "rating": rating,
        "date_added": date,
        "read_at": "",
    } | more


INTERACTIONS = [
    interaction(),
    interaction(book="11", rating=0),
    interaction("u2", "11", 5, "Fri Mar 22 00:00:00 +0000 2013"),
    interaction("u2", "12", 3),
    interaction("u2", "99", 3),
]
NAMES = ("goodreads_interactions_poetry.json.gz", "goodreads_books_poetry.json.gz")


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture
def source(write):
    def source(interactions=INTERACTIONS, books=BOOKS, names=NAMES, **fields):
        content = (gzip.compress(lines(records)) for records in (interactions, books))
        return Goodreads(str(write(dict(zip(names, content, strict=True)))), **fields)

    return source


def test_ratings_books_and_what_was_dropped(source, rows):
    table = load_table(source())
    assert rows(table) == [("u1", "10", 4.0, TIME), ("u2", "11", 5.0, 1363910400)]
    assert table.movies.rows() == [("10", "Emma", "classics, love, a"), ("11", "Odes", "")]
    assert table.scale == (1, 2, 3, 4, 5)
    assert table.notes == (
        f"{NAMES[0]}: dropped 1 of 5 ratings: 0 means that the user gave no rating",
        f"{NAMES[0]}: dropped 2 of 4 ratings: no title of their item in {NAMES[1]}",
    )


@pytest.mark.parametrize(
    "names",
    [
        ("goodreads_interactions_dedup.json.gz", "goodreads_books.json.gz"),
        ("goodreads_interactions.json", "goodreads_books.jsonl"),
    ],
)
def test_all_genres(source, rows, names):
    assert len(rows(load_table(source(names=names)))) == 2


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (interaction(date="2013-03-21"), f"date_added must be a date such as {DATE}, not '2013-03-21'"),
        (interaction(date="Fri Mar 21 14:08:01 -0700 2013"), "date_added must be a date such as "),
        (interaction(date=None), "date_added is missing"),
        (interaction(rating=None), "rating is missing"),
        (interaction(rating=6, book="11"), "the rating is not on the scale 1.0, 2.0"),
        (interaction(user={"id": 1}, rating="x"), "user_id must be text, not "),
        (interaction(), "the same user, movie and timestamp are on an earlier line"),
    ],
)
def test_a_bad_line(source, refusal, bad, rule):
    made = source([interaction(), interaction("u2"), bad])
    assert refusal(made).startswith(f"{made.files()[0]}:3: {rule}")


def test_a_missing_field(source, refusal):
    made = source(books=[{"book_id": "10", "title": "Emma"}])
    rule = "the first record has no field 'popular_shelves', but book_id, title"
    assert refusal(made) == f"{made.files()[1]}: {rule}"


def test_shelves_of_another_form(source, refusal):
    made = source(books=[BOOKS[0] | {"popular_shelves": ["classics"]}])
    assert refusal(made) == f"{made.files()[1]}:1: popular_shelves must be an object, not 'classics'"


def test_no_rating_at_all(source, refusal):
    made = source([interaction(rating=0)])
    rule = "none of its 1 ratings can be used: 0 means that the user gave no rating"
    assert refusal(made) == f"{made.files()[0]}: {rule}"


def test_missing_files_are_named(write, refusal):
    assert refusal(Goodreads()) == f"data.path is not set: data=goodreads needs {EXAMPLE}"
    folder = write({NAMES[1]: b""})
    assert refusal(Goodreads(str(folder))) == f"data.path={folder}: has {NAMES[1]}. It needs {EXAMPLE}"


@pytest.mark.slow
def test_a_run_on_books_says_so_everywhere(source, tmp_path):
    books = [{"book_id": str(book), "title": f"Book {book}", "popular_shelves": []} for book in range(40)]
    rated = [(user, book) for user in range(12) for book in range(9)]
    ratings = [interaction(f"u{user}", str((7 * user + book) % 40), 1 + (user + book) % 5) for user, book in rated]
    folder = source([*ratings, interaction("u0", "39", 0), interaction("once", "1")], books).path
    run = tmp_path / "run"
    books_only = ("data=goodreads", f"data.path={folder}", "data.max_users=null", "data.min_user_ratings=2")
    summary = run_here(run, "debug=fast", *books_only, "ablation=history_only", "trainer.max_steps=2")
    assert summary["data_notes"] == [
        f"{NAMES[0]}: dropped 1 of 110 ratings: 0 means that the user gave no rating",
        "data.min_user_ratings=2: dropped 1 of 13 users, 0 of 40 rated items and 1 of 109 ratings",
    ]
    assert json.loads((run / "plan.json").read_text())["data_notes"] == summary["data_notes"]
    card = (run / "model" / "README.md").read_text()
    assert "# Ratings of books by history=" in card and "film" not in card.replace("该电影", "")
    assert all(note in card for note in summary["data_notes"])
    prompter = Prompter.from_run(run / "model")
    request = prompter.request([{"title": "Emma", "rating": 4}], [{"title": "Persuasion"}])
    (prompt,) = prompter.prompts(request)["prompt"]
    assert prompt.startswith("[TASK]\n基于用户的历史评分和标签数据，模拟该用户的图书偏好和行为模式\n")
    assert prompt.endswith("User: Persuasion:\n\n预测用户对该书的评分：")
