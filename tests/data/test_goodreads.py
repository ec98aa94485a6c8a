"""Goodreads: interactions and books of the UCSD Book Graph, in little files of its format."""

import gzip
import json
from datetime import datetime, timedelta, timezone

import pytest

from mlens.data.goodreads import EXAMPLE, Goodreads
from mlens.data.sources import load_table

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
