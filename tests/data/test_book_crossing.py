"""Book-Crossing: little files with the oddities of BX-CSV-Dump.zip."""

import zipfile

import pytest

from mlens.data.book_crossing import NO_TIMES, BookCrossing
from mlens.data.sources import load_table

RATINGS = """"User-ID";"ISBN";"Book-Rating"
"9";"034545104X";"0"
"9";"0155061224";"5"
"7";"X";"3"
"7";"0155061224";"10"
"7";"078946697X";"6"
"9";"0000000003";"8"
"""
BOOKS = r""""ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"
"0155061224";"Rites &amp; \"Passages\"; a Café";"Judith Rae";"2001";"Heinle"
"078946697X";"DK READERS (Level 4)\";Michael Teitelbaum";"2000";"DK"
"0000000003";"Undated";"";"0";"None"
"0000000004";"Unrated";"A";"1999";"None"
"""
USERS = r""""User-ID";"Location";"Age"
"7";"milano, \"n/a\", italy";NULL
"8";"nowhere";"30"
"9";", , ";"18"
"""
FILES = {"BX-Book-Ratings.csv": RATINGS, "BX-Books.csv": BOOKS, "BX-Users.csv": USERS}


@pytest.fixture
def source(write):
    def source(without=(), **files):
        content = FILES | {name: text for name, text in files.items() if isinstance(text, str)}
        folder = write({name: text.encode("latin-1") for name, text in content.items() if name not in without})
        return BookCrossing(str(folder))

    return source


def test_ratings_books_users_and_what_was_dropped(source, rows):
    table = load_table(source())
    assert rows(table) == [
        *((7, "0155061224", 10.0, 1), (7, "078946697X", 6.0, 2)),
        *((9, "0155061224", 5.0, 0), (9, "0000000003", 8.0, 3)),
    ]
    assert table.movies.rows() == [
        ("0155061224", 'Rites & "Passages"; a Café (2001)', "Judith Rae"),
        ("078946697X", "DK READERS (Level 4) (2000)", "Michael Teitelbaum"),
        ("0000000003", "Undated", ""),
    ]
    assert table.users.rows() == [(7, 'location: milano, "n/a", italy'), (9, "age: 18")]
    assert table.scale == tuple(range(1, 11))
    assert table.notes == (
        "BX-Book-Ratings.csv: dropped 1 of 6 ratings: 0 stands for an implicit rating",
        "BX-Book-Ratings.csv: dropped 1 of 5 ratings: no title of their item in BX-Books.csv",
        NO_TIMES,
    )


def test_the_zip_is_read_too_and_users_are_optional(source, rows, tmp_path):
    folder = source(without=["BX-Users.csv"]).files()[0].parent
    with zipfile.ZipFile(tmp_path / "BX-CSV-Dump.zip", "w") as zipped:
        for file in folder.iterdir():
            zipped.write(file, f"BX/{file.name}")
    table = load_table(BookCrossing(str(tmp_path / "BX-CSV-Dump.zip")))
    assert len(table) == 4 and "profile" not in table.users.columns


@pytest.mark.parametrize(
    ("file", "text", "rule"),
    [
        ("BX-Book-Ratings.csv", RATINGS + '"9";"0155061224"\n', ":8: the rating is missing"),
        ("BX-Book-Ratings.csv", RATINGS + '"9";"0155061224";"11"\n', ":8: the rating is not on the scale 1.0, 2.0"),
        ("BX-Book-Ratings.csv", RATINGS + '"9";"0155061224";"5";"6"\n', ":8: 4 fields, but the header has 3"),
        ("BX-Book-Ratings.csv", RATINGS + '"nine";"0155061224";"5"\n', ":8: the user must be an integer, not 'nine'"),
        ("BX-Book-Ratings.csv", RATINGS.replace(";", ","), ":1: broken quotes"),
        ("BX-Books.csv", BOOKS.replace("ISBN", "Isbn"), ":1: there is no column 'ISBN'; the header has Isbn, Book-Ti"),
        ("BX-Books.csv", BOOKS + '"1";"a"b";"c";"1";"d"\n', ":6: broken quotes"),
        ("BX-Users.csv", USERS + '"9";"again";"18"\n', ""),
    ],
)
def test_a_bad_file(source, refusal, file, text, rule):
    made = source(**{file: text})
    folder = made.files()[0].parent
    if not rule:
        assert refusal(made) == f"{folder / 'BX-Book-Ratings.csv'}: user 9 is described twice"
    else:
        assert refusal(made).startswith(f"{folder / file}{rule}")


def test_only_implicit_ratings(source, refusal):
    made = source(**{"BX-Book-Ratings.csv": "".join(RATINGS.splitlines(keepends=True)[:2])})
    assert refusal(made).endswith(": none of its 1 ratings can be used: 0 stands for an implicit rating")


def test_a_header_alone(source, refusal):
    made = source(**{"BX-Book-Ratings.csv": RATINGS.splitlines(keepends=True)[0]})
    assert refusal(made).endswith("BX-Book-Ratings.csv: no ratings in it")


def test_missing_files_are_named(source, refusal):
    assert refusal(BookCrossing()).startswith("data.path is not set: data=book_crossing needs BX-CSV-Dump.zip, or the ")
    made = source(without=["BX-Books.csv"])
    rule = "needs BX-Book-Ratings.csv, BX-Books.csv, and has BX-Book-Ratings.csv, BX-Users.csv"
    assert refusal(made) == f"data.path={made.path}: {rule}"
