"""Amazon Reviews of 2018 and 2023, in the little files of one category that a user would download."""

import gzip
import json
import threading

import numpy as np
import psutil
import pytest

from mlens.data.amazon_reviews import EXAMPLE, AmazonReviews
from mlens.data.sources import load_table

OLD = ("reviewerID", "asin", "overall", "unixReviewTime")
NEW = ("user_id", "parent_asin", "rating", "timestamp")
# 2018: two of four titles can't be used; 2023: one has none.
OLD_PRODUCTS = [
    {"asin": "0001", "title": "Salt &amp; Pepper", "category": ["Kitchen", "Spices", "Salt &amp; more"], "price": "$1"},
    {"asin": "B002", "title": "var aPageStart = (new Date()).getTime();", "category": ["Kitchen"], "main_cat": "Home"},
    {"asin": "B003", "title": "Pan", "category": ["Kitchen", "<span>", "x" * 61], "main_cat": "Home"},
    {"asin": "B003", "title": "Pan, listed again", "category": []},
    {"asin": "B004", "title": "  ", "category": []},
    {"asin": "B005", "title": "Nobody's", "category": []},
]
OLD_RATINGS = [
    ("A1", "0001", 5.0, 86400),
    ("A1", "B003", 3.0, 172800),
    ("A2", "B003", 4.0, 0),
    ("A2", "B003", 1.0, 0),
    ("A2", "B002", 4.0, 0),
    ("A2", "B004", 4.0, 0),
    ("A2", "B999", 4.0, 0),
]
NEW_PRODUCTS = [
    {"parent_asin": "C1", "title": "Emma", "main_category": "Books", "categories": ["Books", "Classics", "Love"]},
    {"parent_asin": "C2", "title": "Ulysses", "main_category": "Books", "categories": []},
    {"parent_asin": "C3", "title": None, "main_category": None, "categories": None},
]
NEW_RATINGS = [("U1", "C2", 4, 1_600_000_000_999), ("U1", "C1", 5.0, 1_600_000_001_000), ("U1", "C3", 1.0, 5)]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def reviews(names, ratings):
    return lines({"reviewText": "Fine.", **dict(zip(names, rating, strict=True)), "vote": None} for rating in ratings)


@pytest.fixture
def old(write):
    def old(ratings=OLD_RATINGS, products=OLD_PRODUCTS, **fields):
        content = ratings if isinstance(ratings, bytes) else reviews(OLD, ratings)
        files = {"Home_5.json.gz": gzip.compress(content), "meta_Home.json.gz": gzip.compress(lines(products))}
        return AmazonReviews(str(write(files)), **fields)

    return old


@pytest.fixture
def new(write):
    def new(**fields):
        return AmazonReviews(
            str(write({"Books.jsonl": reviews(NEW, NEW_RATINGS), "meta_Books.jsonl": lines(NEW_PRODUCTS)})), **fields
        )

    return new


def test_the_release_of_2018(old, rows):
    table = load_table(old())
    assert rows(table) == [("A1", "0001", 5.0, 86400), ("A1", "B003", 3.0, 172800), ("A2", "B003", 4.0, 0)]
    assert table.movies.rows() == [("0001", "Salt & Pepper", "Spices, Salt & more"), ("B003", "Pan", "Home")]
    assert table.scale == (1, 2, 3, 4, 5)
    assert table.notes == (
        "Home_5.json.gz: dropped 1 of 7 ratings: the same user, item and time as on an earlier line",
        "Home_5.json.gz: dropped 3 of 6 ratings: no title of their item in meta_Home.json.gz",
    )


def test_the_release_of_2023_has_milliseconds(new, rows):
    table = load_table(new(item="book"))
    assert rows(table) == [("U1", "C2", 4.0, 1_600_000_000), ("U1", "C1", 5.0, 1_600_000_001)]
    assert table.movies.rows() == [("C1", "Emma", "Classics, Love"), ("C2", "Ulysses", "Books")]
    assert len(table.notes) == 1


def test_what_an_item_is_called_is_not_in_the_table(new):
    assert load_table(new()).path == load_table(new(item="book")).path


def test_parts_of_a_file_are_as_one(old, rows, monkeypatch):
    first = rows(load_table(old()))
    monkeypatch.setattr("mlens.data.json_records.ROWS", 2)
    assert rows(load_table(old(max_users=9))) == first


def test_numbers_as_text_and_blank_lines(old, rows):
    text = b'\n{"reviewerID": "A", "asin": "0001", "overall": "4.0", "unixReviewTime": "7"}\n \n'
    text += b'{"reviewerID": "A", "asin": "B003", "overall": 2, "unixReviewTime": 8.0, "x": "\\ud800"}'
    assert rows(load_table(old(text))) == [("A", "0001", 4.0, 7), ("A", "B003", 2.0, 8)]


GOOD = b'{"reviewerID": "A", "asin": "0001", "overall": 4.0, "unixReviewTime": 7}\n'


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (
            b'{"reviewerID": "A", "asin',
            ":3: not valid JSON (Unterminated string starting at: line 1 column 21 (char 20)",
        ),
        (b"{'asin': '1'}", ":3: not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2"),
        (b"[1]", ":3: each line must be a JSON object"),
        (b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", ":3: not valid JSON ("),
        (b'{"reviewerID": "\xe9"}', ":3: not valid UTF-8 (byte 0xe9)"),
        (GOOD.strip().replace(b"0001", b"\0"), ":3: not valid JSON ("),
        (GOOD.strip().replace(b'"A"', b"null"), ":3: reviewerID is missing"),
        (GOOD.strip().replace(b'"A"', b'""'), ":3: reviewerID is missing"),
        (GOOD.strip().replace(b'"overall": 4.0, ', b""), ":3: overall is missing"),
        (GOOD.strip().replace(b"4.0", b'"good"'), ":3: overall must be a number, not 'good'"),
        (GOOD.strip().replace(b": 7", b": 7.5"), ":3: unixReviewTime must be an integer, not '7.5'"),
        (
            GOOD.strip().replace(b"4.0", b"6").replace(b": 7", b": 8"),
            ":3: the rating is not on the scale 1.0, 2.0, ",
        ),
        (GOOD.strip().replace(b": 7", b": -7"), ":3: a timestamp must not be negative (user A, "),
    ],
)
def test_a_bad_line(old, refusal, line, rule):
    source = old(GOOD + b"\n" + line + b"\n" + GOOD)
    assert refusal(source).startswith(f"{source.files()[0]}{rule}")


def test_another_format(old, refusal):
    source = old(b'{"userId": "A", "asin": "0001"}\n')
    assert refusal(source) == (
        f"{source.files()[0]}: reviews of neither release (2018 has reviewerID, asin, overall, unixReviewTime; 2023 "
        "has user_id, parent_asin, rating, timestamp): the first record has userId, asin"
    )


def test_metadata_of_the_other_release(old, refusal):
    source = old(products=NEW_PRODUCTS)
    assert refusal(source).endswith(
        "meta_Home.json.gz: the first record has no field 'asin', but parent_asin, title, main_category, categories"
    )


def test_no_rating_can_be_used(old, refusal):
    source = old(OLD_RATINGS[-2:])
    rule = "none of its 2 ratings can be used: no title of their item in meta_Home.json.gz"
    assert refusal(source) == f"{source.files()[0]}: {rule}"


def test_an_empty_and_a_damaged_file(old, refusal):
    source = old(b"\n")
    file = source.files()[0]
    assert refusal(source) == f"{file}: no records in it"
    file.write_bytes(gzip.compress(reviews(OLD, OLD_RATINGS))[:-9])
    assert refusal(source).startswith(f"{file}: its gzip data are damaged or cut off")


def test_missing_files_are_named(write, refusal, tmp_path):
    assert refusal(AmazonReviews()) == f"data.path is not set: data=amazon_reviews needs {EXAMPLE}"
    gone = tmp_path / "gone"
    assert refusal(AmazonReviews(str(gone))) == f"data.path={gone}: no such file or folder. It needs {EXAMPLE}"
    folder = write({"Books.jsonl": b""})
    assert refusal(AmazonReviews(str(folder))) == f"data.path={folder}: has Books.jsonl. It needs {EXAMPLE}"
    file = folder / "Books.jsonl"
    rule = f"has no file about its items, next to Books.jsonl. It needs {EXAMPLE}"
    assert refusal(AmazonReviews(str(file))) == f"data.path={file}: {rule}"


def test_one_of_several_categories(old, refusal, rows):
    source = old()
    folder = source.files()[0].parent
    for name in ("Books.jsonl", "meta_Books.jsonl"):
        (folder / name).write_text("{}")
    assert refusal(source) == (
        f"data.path={folder}: has several files of ratings: Books.jsonl, Home_5.json.gz. Give one of them"
    )
    assert len(rows(load_table(AmazonReviews(str(folder / "Home_5.json.gz"))))) == 3


@pytest.fixture
def memory():
    """The largest resident memory of this process until now, above that at the start: bytes."""
    process, done, most = psutil.Process(), threading.Event(), []

    def watch():
        while not done.wait(0.02):
            most.append(process.memory_info().rss)

    before = process.memory_info().rss
    thread = threading.Thread(target=watch)
    thread.start()
    yield lambda: max(most) - before
    done.set()
    thread.join()


@pytest.mark.slow
def test_a_million_lines_take_a_few_hundred_megabytes(tmp_path, memory):
    random = np.random.default_rng(0)
    text = "x" * 400
    with gzip.open(tmp_path / "Home.json.gz", "wt", compresslevel=1) as stream:
        for number, (user, item) in enumerate(random.integers((200_000, 50_000), size=(10**6, 2))):
            stream.write(
                f'{{"overall": {1 + number % 5}.0, "reviewerID": "A{user:013d}", "asin": "B{item:09d}", "reviewText": '
                f'"{text}", "unixReviewTime": {number}}}\n'
            )
    with gzip.open(tmp_path / "meta_Home.json.gz", "wt", compresslevel=1) as stream:
        for item in range(50_000):
            stream.write(f'{{"asin": "B{item:09d}", "title": "Product {item}", "description": ["{text * 3}"]}}\n')
    table = load_table(AmazonReviews(str(tmp_path)))
    assert len(table) == 10**6
    assert memory() < 600 * 2**20
