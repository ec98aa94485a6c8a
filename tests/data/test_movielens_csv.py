"""ratings.csv, movies.csv, tags.csv: every value, every oddity, every refusal."""

import pytest

from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.sources import load_table
from mlens.errors import UserError

RATINGS = """userId,movieId,rating,timestamp
7,10,4.0,200
7,20,0.5,100
3,10,5.0,300
"""
MOVIES = """movieId,title,genres
10,Toy Story (1995),Adventure|Animation
20,"American President, The (1995)",Comedy
"""
TAGS = """userId,movieId,tag,timestamp
7,20,funny,101
3,10,"dark, slow",7
"""


@pytest.fixture
def source(write):
    """source(ratings=…, movies=…, tags=…) -> a reader of a folder with these files (tags=None: without)."""

    def source(ratings=RATINGS, movies=MOVIES, tags=TAGS, **fields):
        files = {"ratings.csv": ratings, "movies.csv": movies, "tags.csv": tags}
        folder = write({name: text for name, text in files.items() if text is not None})
        return MovieLensCsv("ml-latest-small", path=str(folder), **fields)

    return source


def test_every_value(source, rows):
    table = load_table(source())
    assert rows(table) == [(3, 10, 5.0, 300), (7, 20, 0.5, 100), (7, 10, 4.0, 200)]
    assert table.user.tolist() == [0, 1, 1]
    assert table.user_offsets.tolist() == [0, 1, 3]
    assert table.users.rows() == [(3,), (7,)]
    assert table.movies.rows() == [
        (10, "Toy Story (1995)", "Adventure, Animation"),
        (20, "American President, The (1995)", "Comedy"),
    ]
    assert table.tags.rows() == [(0, 0, "dark, slow", 7), (1, 1, "funny", 101)]
    assert table.scale == (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
    assert table.rating_index.tolist() == [9, 0, 7]
    assert not table.made_up
    assert table.contexts is None


def test_tags_may_be_absent(source):
    assert load_table(source(tags=None)).tags is None


def test_tags_are_sorted_by_user_and_time_in_source_order(source):
    tags = "userId,movieId,tag,timestamp\n7,20,c,9\n7,20,b,5\n3,10,d,99\n7,10,a,5\n"
    assert load_table(source(tags=tags)).tags.rows() == [
        (0, 0, "d", 99),
        (1, 1, "b", 5),
        (1, 0, "a", 5),
        (1, 1, "c", 9),
    ]


def test_tags_of_unknown_users_and_movies_and_empty_ones_are_left_out(source):
    tags = "userId,movieId,tag,timestamp\n99,10,a,1\n7,99,b,1\n7,10,,1\n7,10,  ,1\n7,10, c ,2\n"
    assert load_table(source(tags=tags)).tags.rows() == [(1, 0, "c", 2)]


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ('1,"Say ""Hi"", Mom (1990)",Drama', 'Say "Hi", Mom (1990)'),
        ("1,Untitled Story,Drama", "Untitled Story"),
        ("1,  Blanks (1990) ,Drama", "Blanks (1990)"),
        ('1," Blanks, The (1990)  ",Drama', "Blanks, The (1990)"),
        ("1,Cité  des enfants,Drama", "Cité  des enfants"),
        ('1,"Two\nlines",Drama', "Two lines"),
        ("1,\N{CJK UNIFIED IDEOGRAPH-4E03} (1954),Drama", "\N{CJK UNIFIED IDEOGRAPH-4E03} (1954)"),
    ],
)
def test_titles(source, line, title):
    ratings = "userId,movieId,rating,timestamp\n1,1,3.0,5\n"
    movies = load_table(source(ratings, f"movieId,title,genres\n{line}\n")).movies
    assert movies.rows() == [(1, title, "Drama")]


@pytest.mark.parametrize("genres", ["(no genres listed)", "", '""'])
def test_no_genres(source, genres):
    ratings = "userId,movieId,rating,timestamp\n1,1,3.0,5\n"
    assert load_table(source(ratings, f"movieId,title,genres\n1,A (1990),{genres}\n")).movies["genres"].to_list() == [
        ""
    ]


def test_movies_of_one_title_stay_two(source, rows):
    ratings = "userId,movieId,rating,timestamp\n1,1,3.0,5\n1,2,4.0,6\n"
    table = load_table(source(ratings, "movieId,title,genres\n1,Emma (1996),Drama\n2,Emma (1996),Romance\n"))
    assert rows(table) == [(1, 1, 3.0, 5), (1, 2, 4.0, 6)]
    assert table.movies["title"].to_list() == ["Emma (1996)", "Emma (1996)"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("userId", '"userId"'),
    ],
    ids=["CRLF", "BOM", "BOM and CRLF", "blank lines", "no last newline", "quoted header"],
)
def test_ways_to_write_the_same_files(source, rows, change):
    plain = load_table(source())
    table = load_table(source(change(RATINGS), change(MOVIES), change(TAGS)))
    assert rows(table) == rows(plain)
    assert table.movies.equals(plain.movies)
    assert table.tags.equals(plain.tags)


def test_columns_in_another_order_and_more_of_them(source, rows):
    ratings = "timestamp,more,rating,movieId,userId\n200,x,4.0,10,7\n100,,0.5,20,7\n300,,5.0,10,3\n"
    assert rows(load_table(source(ratings))) == [(3, 10, 5.0, 300), (7, 20, 0.5, 100), (7, 10, 4.0, 200)]


def test_ties_in_time_keep_source_order(source, rows):
    ratings = "userId,movieId,rating,timestamp\n1,20,1.0,5\n2,20,1.0,5\n1,10,2.0,5\n2,10,2.0,4\n"
    assert rows(load_table(source(ratings))) == [(1, 20, 1.0, 5), (1, 10, 2.0, 5), (2, 10, 2.0, 4), (2, 20, 1.0, 5)]


def test_a_movie_may_be_rated_again_later(source, rows):
    ratings = "userId,movieId,rating,timestamp\n1,10,1.0,6\n1,10,2.0,5\n"
    assert rows(load_table(source(ratings))) == [(1, 10, 2.0, 5), (1, 10, 1.0, 6)]


def test_one_user_with_many_ratings(source, rows):
    ratings = [(5, i, 0.5 + i % 10 / 2, 10_000 - i // 3) for i in range(3000)] + [(6, 0, 1.0, 0)]
    text = "".join(f"{u},{m},{r},{t}\n" for u, m, r, t in ratings)
    movies = "movieId,title,genres\n" + "".join(f"{i},Movie {i},Drama\n" for i in range(3000))
    table = load_table(source("userId,movieId,rating,timestamp\n" + text, movies))
    assert table.user_offsets.tolist() == [0, 3000, 3001]
    assert rows(table) == sorted(ratings, key=lambda rating: (rating[0], rating[3]))


def test_numbers_may_be_written_as_floats(source, rows):
    ratings = "userId,movieId,rating,timestamp\n1.0,10.0,4,9.783e8\n 2 , 20 , 3.50 , 7 \n"
    assert rows(load_table(source(ratings))) == [(1, 10, 4.0, 978_300_000), (2, 20, 3.5, 7)]


def test_the_scale_may_be_given(source):
    table = load_table(source(rating_scale=[0.5, 4.0, 5.0]))
    assert table.scale == (0.5, 4.0, 5.0)
    assert table.rating_index.tolist() == [2, 0, 1]


HEADER = "userId,movieId,rating,timestamp\n1,10,4.0,5\n"


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ("", "1: there is no header. The first line must contain the column names"),
        ("\n1,10,4.0,5\n", "1: there is no header. The first line must contain the column names"),
        (
            "user,movieId,rating,timestamp\n1,10,4.0,5\n",
            "1: there is no column 'userId'; the header has user, movieId, rating, timestamp",
        ),
        (
            "userId,movieId,rating\n1,10,4.0\n",
            "1: there is no column 'timestamp'; the header has userId, movieId, rating",
        ),
        (HEADER + "2,10,4.0", "3: the timestamp is missing"),
        (HEADER + "2,1", "3: the rating is missing"),
        (HEADER + "2,10,,5\n", "3: the rating is missing"),
        (HEADER + '2,10," ",5\n', "3: the rating is missing"),
        (HEADER + "\n\n,10,4.0,5\n", "5: the user is missing"),
        (HEADER + "2,10,good,5\n", "3: the rating must be a number, not 'good'"),
        (HEADER + "2,10,4.0,soon\n", "3: the timestamp must be an integer, not 'soon'"),
        (HEADER + "2,10,4.0,5.5\n", "3: the timestamp must be an integer, not '5.5'"),
        (HEADER + "2,10,4.0,nan\n", "3: the timestamp must be an integer, not 'nan'"),
        (HEADER + "2,10,4.0,1e30\n", "3: the timestamp must be an integer, not '1e30'"),
        (HEADER + "x,10,4.0,5\n", "3: the user must be an integer, not 'x'"),
        (HEADER + "2,10,nan,5\n", "3: a rating must be a number (user 2, movie 10, rating nan, timestamp 5)"),
        (
            HEADER + "2,10,inf,5\n",
            "3: the rating is not on the scale 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0 "
            "(user 2, movie 10, rating inf, timestamp 5)",
        ),
        (
            HEADER + "2,10,4.2,5\n",
            "3: the rating is not on the scale 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0 "
            "(user 2, movie 10, rating 4.2, timestamp 5)",
        ),
        (
            HEADER + "2,10,0,5\n",
            "3: the rating is not on the scale 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0 "
            "(user 2, movie 10, rating 0.0, timestamp 5)",
        ),
        (
            HEADER + "2,10,4.0,-1\n",
            "3: a timestamp must not be negative (user 2, movie 10, rating 4.0, timestamp -1)",
        ),
        (
            HEADER + "2,11,4.0,5\n",
            "3: the movie is not in the movie list (user 2, movie 11, rating 4.0, timestamp 5)",
        ),
        (
            HEADER + "2,20,1.0,5\n2,20,2.0,6\n1,10,3.5,5\n",
            "5: the same user, movie and timestamp are on an earlier line (user 1, movie 10, rating 3.5, timestamp 5)",
        ),
        (HEADER + "2,10,4.0,5,6\n", "3: 5 fields, but the header has 4"),
        (HEADER + '2,10,"4.0,5\n1,20,4.0,6\n', "3: broken quotes"),
        ('"userId,movieId,rating,timestamp\n1,10,4.0,5\n', "1: broken quotes"),
        (
            HEADER.encode() + b"2,10,4.0,5\n2,20,\xff,5\n",
            "4: not valid UTF-8 (byte 0xff). Convert it to UTF-8 (it may be latin-1)",
        ),
        (
            b"\xffuserId,movieId,rating,timestamp\n1,10,4.0,5\n",
            "1: not valid UTF-8 (byte 0xff). Convert it to UTF-8 (it may be latin-1)",
        ),
    ],
)
def test_bad_ratings(source, refusal, ratings, message):
    bad = source(ratings)
    assert refusal(bad) == f"{bad.path}/ratings.csv:{message}"


def test_no_ratings(source, refusal):
    bad = source("userId,movieId,rating,timestamp\n")
    assert refusal(bad) == f"{bad.path}/ratings.csv: no ratings in it"


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        ("movieId,genres\n10,Drama\n", "movies.csv:1: there is no column 'title'; the header has movieId, genres"),
        ("movieId,title,genres\n10,,Drama\n", "movies.csv:2: the title is missing (movie 10)"),
        ("movieId,title,genres\n10,  ,Drama\n", "movies.csv:2: the title is missing (movie 10)"),
        ("movieId,title,genres\nten,A,Drama\n", "movies.csv:2: the movie must be an integer, not 'ten'"),
        (
            'movieId,title,genres\n10,"A\nB",Drama\n10,C,Drama\n',
            "movies.csv:4: the movie is listed on an earlier line too (movie 10, title C)",
        ),
        (
            'movieId,title,genres\n10,"A\nB",Drama\n10,"C\nD",Drama\n',
            "movies.csv:4: the movie is listed on an earlier line too (movie 10, title C D)",
        ),
        (
            b"movieId,title,genres\n10,A\n11\n12,\xe9,X\n",
            "movies.csv:4: not valid UTF-8 (byte 0xe9). Convert it to UTF-8 (it may be latin-1)",
        ),
    ],
)
def test_bad_movies(source, refusal, movies, message):
    bad = source(movies=movies)
    assert refusal(bad) == f"{bad.path}/{message}"


def test_bad_tags(source, refusal):
    bad = source(tags="userId,movieId,tag,timestamp\n7,20,funny,then\n")
    assert refusal(bad) == f"{bad.path}/tags.csv:2: the timestamp must be an integer, not 'then'"


@pytest.mark.parametrize("missing", ["ratings", "movies"])
def test_missing_files(source, refusal, missing):
    bad = source(**{missing: None})
    assert refusal(bad).startswith(f"data.path={bad.path}: needs ratings.csv, movies.csv, and has ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"release": "ml-5m"}, "data.release must be ml-latest-small, ml-latest, ml-25m or ml-32m, not ml-5m"),
        ({"max_users": 0}, "data.max_users must be at least 1 or null, not 0"),
        (
            {"rating_scale": [1.0, float("nan")]},
            "data.rating_scale must be two or more finite ratings in ascending order, not [1.0, nan]",
        ),
        (
            {"rating_scale": [1.0, float("inf")]},
            "data.rating_scale must be two or more finite ratings in ascending order, not [1.0, inf]",
        ),
        ({"rating_scale": [1.0]}, "data.rating_scale must be two or more finite ratings in ascending order, not [1.0]"),
        ({"rating_scale": []}, "data.rating_scale must be two or more finite ratings in ascending order, not []"),
        (
            {"rating_scale": [1.0, 1.0]},
            "data.rating_scale must be two or more finite ratings in ascending order, not [1.0, 1.0]",
        ),
        (
            {"rating_scale": [2.0, 1.0]},
            "data.rating_scale must be two or more finite ratings in ascending order, not [2.0, 1.0]",
        ),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(UserError) as caught:
        MovieLensCsv(**{"release": "ml-25m", **fields})
    assert str(caught.value) == message


def test_max_users_is_one_subset_with_whole_users(source, rows):
    ratings = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{m},3.0,5\n" for u in range(40) for m in (10, 20))
    everyone = rows(load_table(source(ratings)))
    some = load_table(source(ratings, max_users=15))
    users = some.users["id"].to_list()
    assert len(users) == 15
    assert users == sorted(users) != list(range(15))
    assert rows(some) == [row for row in everyone if row[0] in users]
    assert rows(load_table(source(ratings, max_users=15))) == rows(some)
    assert rows(load_table(source(ratings, max_users=40))) == everyone
    assert rows(load_table(source(ratings, max_users=999))) == everyone


def test_home_and_working_directory(source, rows, monkeypatch):
    path = source().path
    parent, _, name = path.rpartition("/")
    expected = rows(load_table(MovieLensCsv("ml-25m", path=path)))
    monkeypatch.chdir(parent)
    monkeypatch.setenv("HOME", parent)
    assert rows(load_table(MovieLensCsv("ml-25m", path=name))) == expected
    assert rows(load_table(MovieLensCsv("ml-25m", path=f"~/{name}"))) == expected
