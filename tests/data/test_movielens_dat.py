"""ml-1m and ml-10m: `::`, Latin-1 and UTF-8, codes in words."""

import pytest

from mlens.data.movielens_dat import MovieLensDat
from mlens.data.sources import load_table
from mlens.errors import UserError

RATINGS = "2::1::5::978300760\n1::73::3::978302109\n1::1::4::978301968\n"
MOVIES = "1::Toy Story (1995)::Animation|Children's|Comedy\n73::Misérables, Les (1995)::Drama|Musical\n"
LATIN_1_MOVIES = MOVIES.encode("latin-1")
USERS = "1::F::1::10::48067\n2::M::56::16::70072-1\n3::M::25::15::55117\n"


@pytest.fixture
def ml_1m(write):
    def ml_1m(ratings=RATINGS, movies=LATIN_1_MOVIES, users=USERS, **fields):
        files = {"ratings.dat": ratings, "movies.dat": movies, "users.dat": users}
        folder = write({name: content for name, content in files.items() if content is not None})
        return MovieLensDat("ml-1m", path=str(folder), **fields)

    return ml_1m


@pytest.fixture
def ml_10m(write):
    def ml_10m(ratings="1::1::3.5::838985046\n1::73::0.5::838985046\n", movies=MOVIES, tags="1::73::sad::838985047\n"):
        return MovieLensDat("ml-10m", path=str(write({"ratings.dat": ratings, "movies.dat": movies, "tags.dat": tags})))

    return ml_10m


def test_every_value_of_ml_1m(ml_1m, rows):
    table = load_table(ml_1m())
    assert rows(table) == [(1, 1, 4.0, 978301968), (1, 73, 3.0, 978302109), (2, 1, 5.0, 978300760)]
    assert table.movies.rows() == [
        (1, "Toy Story (1995)", "Animation, Children's, Comedy"),
        (73, "Misérables, Les (1995)", "Drama, Musical"),
    ]
    assert table.users.rows(named=True) == [  # user 3 rated nothing
        {"id": 1, "profile": "gender: F; age: Under 18; occupation: K-12 student"},
        {"id": 2, "profile": "gender: M; age: 56+; occupation: self-employed"},
    ]
    assert table.scale == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert table.tags is None


def test_every_value_of_ml_10m(ml_10m, rows):
    table = load_table(ml_10m())
    assert rows(table) == [(1, 1, 3.5, 838985046), (1, 73, 0.5, 838985046)]
    assert table.movies["title"].to_list() == ["Toy Story (1995)", "Misérables, Les (1995)"]
    assert table.users.columns == ["id"]
    assert table.tags.rows() == [(0, 1, "sad", 838985047)]
    assert table.scale[0] == 0.5


def test_codes_in_words(ml_1m):
    ages = {1: "Under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}
    occupations = [
        "other or not specified, academic/educator, artist, clerical/admin, college/grad student, customer service",
        "doctor/health care, executive/managerial, farmer, homemaker, K-12 student, lawyer, programmer, retired",
        "sales/marketing, scientist, self-employed, technician/engineer, tradesman/craftsman, unemployed, writer",
    ]
    words = ", ".join(occupations).split(", ")
    people = [(age, code) for age in ages for code in range(21)]
    users = "".join(f"{i}::M::{age}::{code}::0\n" for i, (age, code) in enumerate(people))
    table = load_table(ml_1m("".join(f"{i}::1::3::5\n" for i in range(len(people))), users=users))
    assert table.users["profile"].to_list() == [
        f"gender: M; age: {ages[age]}; occupation: {words[code]}" for age, code in people
    ]


def test_a_converted_ml_1m_is_not_garbled(ml_1m):
    assert load_table(ml_1m(movies=MOVIES)).movies["title"][1] == "Misérables, Les (1995)"


@pytest.mark.parametrize(
    "title",
    ["Star Wars: Episode IV (1977)", 'Say "Hi" (1990)', '"Hi", Mom (1970)', "A | B (1990)", "What: (1990)", "M"],
)
def test_titles(ml_1m, title):
    source = ml_1m(ratings="1::1::3::5\n", movies=f"1::{title}::Drama\n".encode("latin-1"))
    assert load_table(source).movies.rows() == [(1, title, "Drama")]


@pytest.mark.parametrize("tag", ["a:b", "really::odd", "ends with a colon:", '"quoted"', "tab\there"])
def test_tags(ml_10m, tag):
    assert load_table(ml_10m(tags=f"1::73::{tag}::9\n")).tags.rows() == [(0, 1, tag.replace("\t", " "), 9)]


def test_crlf_and_byte_order_mark(ml_1m, rows):
    plain = load_table(ml_1m())
    crlf = load_table(ml_1m("\ufeff" + RATINGS.replace("\n", "\r\n"), MOVIES.replace("\n", "\r\n").encode("latin-1")))
    assert rows(crlf) == rows(plain)
    assert crlf.movies.equals(plain.movies)


def test_users_may_be_absent(ml_1m):
    assert load_table(ml_1m(users=None)).users.columns == ["id"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"ratings": "1::1::4::5\n1::73"},
            "ratings.dat:2: a line must read 'user::movie::rating::timestamp', not '1::73'",
        ),
        (
            {"ratings": "1::1::4::5::6\n"},
            "ratings.dat:1: a line must read 'user::movie::rating::timestamp', not '1::1::4::5::6'",
        ),
        ({"ratings": "1::1::4::5\n\n1::73::x::5\n"}, "ratings.dat:3: the rating must be a number, not 'x'"),
        ({"ratings": "1::1::::5\n"}, "ratings.dat:1: the rating is missing"),
        (
            {"ratings": "1::1::4.5::5\n"},
            "ratings.dat:1: the rating is not on the scale 1.0, 2.0, 3.0, 4.0, 5.0 "
            "(user 1, movie 1, rating 4.5, timestamp 5)",
        ),
        (
            {"ratings": "1::2::4::5\n"},
            "ratings.dat:1: the movie is not in the movie list (user 1, movie 2, rating 4.0, timestamp 5)",
        ),
        ({"ratings": ""}, "ratings.dat: no ratings in it"),
        (
            {"ratings": b"1::1::4::5\n1::\xe9::4::5\n"},
            "ratings.dat:2: not valid UTF-8 (byte 0xe9). Convert it to UTF-8 (it may be latin-1)",
        ),
        (
            {"movies": "1,Toy Story,Drama\n"},
            "movies.dat:1: a line must read 'movie::title::genres', not '1,Toy Story,Drama'",
        ),
        ({"users": "1::F::2::10::48067\n"}, "users.dat:1: 2 is not a code for an age"),
        ({"users": "1::F::1::21::48067\n"}, "users.dat:1: 21 is not a code for an occupation"),
        ({"users": "1::F::1::10::4\n1::M::1::10::4\n"}, "ratings.dat: user 1 is described twice"),
    ],
)
def test_bad_files(ml_1m, refusal, files, message):
    bad = ml_1m(**files)
    assert refusal(bad) == f"{bad.path}/{message}"


def test_ml_10m_must_be_utf_8(ml_10m, refusal):
    bad = ml_10m(movies=MOVIES.encode("latin-1"))
    assert (
        refusal(bad) == f"{bad.path}/movies.dat:2: not valid UTF-8 (byte 0xe9). Convert it to UTF-8 (it may be latin-1)"
    )


def test_bad_release():
    with pytest.raises(UserError) as caught:
        MovieLensDat("ml-20m")
    assert str(caught.value) == "data.release must be ml-1m or ml-10m, not ml-20m"
