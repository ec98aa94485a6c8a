"""What can be given to be predicted: the same in every form, and what can't be used is refused where it stands."""

import json
import re

import polars as pl
import pytest

from mlens.data.raw import HALF_STARS
from mlens.errors import UserError
from mlens.predict.inputs import input_from_rows, read_input
from mlens.predict.request import build_request
from tests.helpers.tokenizers_for_tests import ABLATIONS

HISTORY_ONLY = ABLATIONS["history_only"]
HISTORY = "user,movie,title,genres,rating,timestamp\n"
GOOD = HISTORY + "1,10,Heat (1995),Action|Crime,4.5,100\n1,11,Ronin (1998),(no genres listed),3,200\n"
MOVIES = "movie,title,genres\n12,Alien (1979),Horror|Sci-Fi\n13,Brazil (1985),\n"


def asked(tmp_path, history, movies, ablation=HISTORY_ONLY, ends=(".csv", ".csv"), **bounds):
    given = []
    for kind, content, end in zip(("history", "movies"), (history, movies), ends, strict=True):
        file = tmp_path / f"{kind}{end}"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        given.append(read_input(file, kind, HALF_STARS))
    return build_request(*given, HALF_STARS, ablation, **bounds)


def told(asked) -> list[tuple]:
    """Every target: its user's history in order, and the movie, all as a prompt prints them."""
    table, stage = asked.table, asked.stage

    def text(i):
        movie = table.movies.row(int(table.movie[i]), named=True)
        return f"{movie['title']} ({movie['genres']})"

    return [
        (
            table.users["id"][int(stage.user[t])],
            [(text(i), float(table.rating[i])) for i in stage.visible_to(t)],
            text(m),
        )
        for t, m in enumerate(stage.targets)
    ]


EXPECTED = [
    (1, [("Heat (1995) (Action, Crime)", 4.5), ("Ronin (1998) ()", 3.0)], movie)
    for movie in ("Alien (1979) (Horror, Sci-Fi)", "Brazil (1985) ()")
]


def test_a_csv_as_it_is_and_out_of_order(tmp_path):
    assert told(asked(tmp_path, GOOD, MOVIES)) == EXPECTED
    first, *lines = GOOD.splitlines()
    assert told(asked(tmp_path, "\n".join([first, *reversed(lines)]), "\ufeff" + MOVIES)) == EXPECTED


def test_without_times_users_and_ids_the_order_of_the_file_is_that_of_time(tmp_path):
    history = "rating,title,genres\n4.5,Heat (1995),Action|Crime\n3.0, Ronin (1998) ,\n"
    found = told(asked(tmp_path, history, "title,genres\nAlien (1979),Horror|Sci-Fi\nBrazil (1985),\n"))
    assert found == [(0, *rest) for _, *rest in EXPECTED]


def test_json_and_records_and_frames(tmp_path):
    history, movies = (
        pl.read_csv(text.encode(), infer_schema_length=None).with_columns(pl.col("genres").fill_null(""))
        for text in (GOOD, MOVIES)
    )
    as_json = [json.dumps(frame.to_dicts()) for frame in (history, movies)]
    assert told(asked(tmp_path, *as_json, ends=(".json", ".json"))) == EXPECTED
    assert told(asked(tmp_path, as_json[0], MOVIES, ends=(".json", ".csv"))) == EXPECTED
    lists = [record | {"genres": record["genres"].split("|")} for record in movies.to_dicts()]
    for rows in (movies, movies.to_dicts(), lists):
        given = input_from_rows(history, "history", tmp_path), input_from_rows(rows, "movies", tmp_path)
        assert told(build_request(*given, HALF_STARS, HISTORY_ONLY)) == EXPECTED


def test_movielens_files_as_they_are(tmp_path):
    """Titles stand with the movies alone; what a user has rated isn't rated again."""
    ratings = "userId,movieId,rating,timestamp\n1,10,4.5,100\n2,12,1.0,50\n1,11,3.0,200\n"
    movies = "movieId,title,genres\n" + "".join(
        f"{movie},{title},{genres}\n"
        for movie, title, genres in [
            (10, "Heat (1995)", "Action|Crime"),
            (11, "Ronin (1998)", "(no genres listed)"),
            (12, "Alien (1979)", "Horror|Sci-Fi"),
            (13, "Brazil (1985)", "(no genres listed)"),
        ]
    )
    found = asked(tmp_path, ratings, movies)
    assert told(found)[:2] == EXPECTED
    assert [(user, movie) for user, _, movie in told(found)[2:]] == [
        (2, "Heat (1995) (Action, Crime)"),
        (2, "Ronin (1998) ()"),
        (2, "Brazil (1985) ()"),
    ]
    assert found.left_out == 3


RATINGS = "user,movie,rating,timestamp\n1,10,4,1\n1,11,4,2\n1,10,3,3\n2,12,4,1\n20,13,2,1\n"
# Every movie is in it, so that all of them have titles.
FOR_ALL = "movie,title\n10,A\n11,B\n12,C\n13,D\n"
FOR_EACH = "user,movie,title\n20,10,A\n20,11,B\n20,12,C\n1,13,D\n"


@pytest.mark.parametrize(("movies", "number", "users"), [(FOR_ALL, 2 + 3 + 3, 3), (FOR_EACH, 4, 2)])
def test_predictions_are_counted_before_they_are_listed(tmp_path, movies, number, users):
    assert len(asked(tmp_path, RATINGS, movies, at_most=number).stage) == number
    with pytest.raises(UserError) as refused:
        asked(tmp_path, RATINGS, movies, at_most=number - 1)
    assert str(refused.value).startswith(f"{number} predictions for {users} users are more than {number - 1}: ")


@pytest.mark.parametrize("movies", [FOR_ALL, FOR_EACH])
def test_users_are_chosen_by_their_ids(tmp_path, movies):
    every, chosen = asked(tmp_path, RATINGS, movies), asked(tmp_path, RATINGS, movies, users=["20"])
    assert told(chosen) == [line for line in told(every) if line[0] == 20] and len(told(chosen)) == 3


@pytest.mark.parametrize(
    ("history", "movies", "said"),
    [
        (RATINGS, FOR_ALL, "history.csv: user 3 isn't among its 3 users: 1, 2, 20"),
        ("rating,title\n4,A\n", "title\nB\n", "history.csv has no column user to select by"),
        (RATINGS.replace("2,12", "3,12"), FOR_EACH, "movies.csv: nothing to rate: it has no movies for 3"),
    ],
)
def test_users_that_cannot_be_chosen_are_refused(tmp_path, history, movies, said):
    with pytest.raises(UserError, match=re.escape(said)):
        asked(tmp_path, history, movies, users=["3"])


def test_a_list_of_users_as_training_reads_it(tmp_path):
    record = {
        "user_hash": "a",
        "user": {"profile": {"city": "Bern"}},
        "task": {
            "description": "Say it.",
            "task_behavior_collections": [
                {
                    "type": "movie_rating",
                    "data": [
                        {"continuation": "4.5", "continuation_prefix": "Heat (1995) (Action, Crime): "},
                        {"continuation": "3.0", "continuation_prefix": "Ronin (1998): "},
                    ],
                }
            ],
        },
    }
    movies = "title,genres\nAlien (1979),Horror|Sci-Fi\nBrazil (1985),\nRonin (1998),\n"
    found = asked(tmp_path, json.dumps([record]), movies, ends=(".json", ".csv"))
    assert told(found) == [("a", *rest) for _, *rest in EXPECTED] and found.left_out == 1
    assert found.table.users.rows() == [("a", "city: Bern", "Say it.")]


def test_movies_of_each_users_own(tmp_path):
    history = HISTORY + "b,1,Heat,,4,1\na,2,Ronin,,3,1\n"
    found = told(asked(tmp_path, history, "user,movie,title\na,1,Heat\nb,2,Ronin\na,3,Alien\n"))
    assert [(user, movie) for user, _, movie in found] == [("a", "Heat ()"), ("a", "Alien ()"), ("b", "Ronin ()")]


def test_a_user_without_any_rating(tmp_path):
    given = input_from_rows([], "history", tmp_path), input_from_rows([{"title": "Heat"}], "movies", tmp_path)
    assert told(build_request(*given, HALF_STARS, HISTORY_ONLY)) == [(0, [], "Heat ()")]


REFUSED = {
    "a rating off the scale": (GOOD.replace("4.5", "4.4"), MOVIES, r"history.csv:2: the rating is not on the scale"),
    "a rating that is no number": (GOOD.replace("4.5", "good"), MOVIES, "history.csv:2: the rating must be a number"),
    "nan": (GOOD.replace("4.5", "nan"), MOVIES, "history.csv:2: a rating must be a number"),
    "no rating": (GOOD.replace("4.5", ""), MOVIES, "history.csv:2: the rating is missing"),
    "a time before time": (GOOD.replace("100", "-1"), MOVIES, "history.csv:2: a timestamp must not be negative"),
    "a broken time": (
        GOOD.replace("100", "noon"),
        MOVIES,
        "history.csv:2: the timestamp must be seconds or an ISO 8601 date",
    ),
    "no title": (GOOD.replace("Heat (1995)", "  "), MOVIES, "history.csv:2: the title is missing"),
    "a movie without title": (GOOD, MOVIES.replace("Brazil (1985)", ""), "movies.csv:3: the title is missing"),
    "no rows": (HISTORY, MOVIES, "history.csv: no rows in it"),
    "no movies": (GOOD, "title,genres\n", "movies.csv: no rows in it"),
    "an empty file": ("", MOVIES, "history.csv:1: there is no header"),
    "an unknown column": (GOOD.replace("genres", "genre", 1), MOVIES, "history.csv:1: unknown column 'genre'"),
    "no column of ratings": ("title\nHeat\n", MOVIES, "history.csv: there is no column 'rating'"),
    "a column twice": (GOOD.replace("title", "movieId", 1), MOVIES, "history.csv:1: there are several columns 'movie'"),
    "movies without titles": (GOOD, "movie\n12\n", "movies.csv: there is no column 'title'"),
    "the same movie twice": (GOOD, MOVIES + "12,Alien (1979),Horror|Sci-Fi\n", "movies.csv:4: the movie is on an"),
    "two titles of a movie": (GOOD, MOVIES + "12,Aliens,\n", "movies.csv:4: movie 12 has another title"),
    "another title there": (
        GOOD,
        MOVIES + "10,Hot,\n",
        "history.csv:2: the movie has another title or other genres in",
    ),
    "nothing left": (GOOD, "movie,title,genres\n10,Heat (1995),Action|Crime\n", "movies.csv: nothing to rate"),
    "a user's own rated one": (GOOD, "user,movie,title\n1,11,Ronin (1998)\n", "movies.csv:2: the user has rated"),
    "a stranger": (GOOD, "user,movie,title\n2,12,Alien\n", "movies.csv:2: the user has no history in .*history.csv"),
    "users on one side": ("title,rating\nHeat,4\n", "user,title\n1,Alien\n", "movies.csv has a column user, and"),
    "no title on either side": ("movie,rating\n1,4\n", "title\nAlien\n", "history.csv has no titles"),
    "an unknown movie": ("movie,rating\n1,4\n", "movie,title\n2,Alien\n", "history.csv:2: the movie is not in"),
    "the same rating twice": (GOOD + "1,10,Heat (1995),Action|Crime,4,100\n", MOVIES, "history.csv:4: the same user"),
    "not UTF-8": (GOOD.replace("Heat", "Hé").encode("latin-1"), MOVIES, "history.csv:2: not valid UTF-8"),
    "broken quotes": (GOOD.replace("Heat", '"Heat'), MOVIES, "history.csv:2: broken quotes"),
    "a long title": (GOOD, f"title\n{'x' * 10**6}\n", "movies.csv:2: the title has more than 4,000 characters"),
    "context in a CSV": (GOOD, "title,context\nAlien,x\n", "movies.csv:1: context is a list of texts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_where_it_stands(tmp_path, case):
    history, movies, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        asked(tmp_path, history, movies)


LONG = "x" * 10**6
RECORDS = {
    "no list": ('{"title": "Heat"}', "history.json: must be a list"),
    "no object": ("[1]", "history.json: record 1: must be an object"),
    "no JSON": ('[\n{"title": }]', "history.json:2: not valid JSON"),
    "too deep": ("[" * 100000, "history.json: can't be read as JSON"),
    "no rows": ("[]", "history.json: no rows in it"),
    "a text for a number": (
        '[{"title": "a", "rating": 4}, {"title": "b", "rating": []}]',
        "record 2: the rating must be",
    ),
    "true for a number": ('[{"title": "a", "rating": true}]', "record 1: the rating must be a number"),
    "not a number": ('[{"title": "a", "rating": NaN}]', "record 1: a rating must be a number"),
    "a rating off the scale": ('[{"title": "a", "rating": 4.4}]', "record 1: the rating is not on the scale"),
    "a number for a title": ('[{"title": 7, "rating": 4}]', "record 1: the title must be text, not 7"),
    "a broken id": (
        '[{"movie": 1.5, "title": "a", "rating": 4}]',
        "record 1: the movie must be an integer or text",
    ),
    "a missing id": ('[{"movie": 1, "rating": 4}, {"rating": 4}]', "record 2: the movie is missing"),
    "an unknown key": ('[{"name": "a", "rating": 4}]', "history.json: unknown column 'name'"),
    "half of a surrogate pair": (
        '[{"title": "a\\ud800", "rating": 4}]',
        "record 1: the title holds half of a surrogate",
    ),
    "half of one in an id": (
        '[{"title": "a", "movie": "\\udc00", "rating": 4}]',
        "record 1: the movie holds half of a",
    ),
    "half of one in genres": (
        '[{"title": "a", "genres": ["\\ud800"], "rating": 4}]',
        "record 1: the genres holds half",
    ),
    "half of one in a key": ('[{"\\ud800": 1, "title": "a", "rating": 4}]', "unknown column"),
    "half of one in a number": ('[{"title": "a", "rating": "\\ud800"}]', "record 1: the rating holds half of a"),
    "a long title": (json.dumps([{"title": LONG, "rating": 4}]), "record 1: the title has more than 4,000 characters"),
    "long genres": (json.dumps([{"title": "a", "genres": LONG, "rating": 4}]), "record 1: the genres has more than"),
    "a long id": (json.dumps([{"title": "a", "movie": LONG, "rating": 4}]), "record 1: the movie has more than 4,000"),
    "a long profile": (json.dumps([{"title": "a", "profile": LONG, "rating": 4}]), "record 1: the profile has more"),
    "two profiles": (
        '[{"title": "a", "rating": 4, "profile": "x"}, {"title": "b", "rating": 4, "profile": "y"}]',
        "record 2: the user has another profile",
    ),
}


@pytest.mark.parametrize("case", RECORDS)
def test_so_are_records(tmp_path, case):
    history, message = RECORDS[case]
    with pytest.raises(UserError, match=message):
        asked(tmp_path, history, MOVIES, ends=(".json", ".csv"))


@pytest.mark.parametrize(("name", "ablation"), [("profile", "profile_only"), ("context", "history_and_context")])
def test_what_the_model_was_trained_to_read_must_be_given(tmp_path, name, ablation):
    with pytest.raises(UserError, match=f"there is no column '{name}', which the model was trained to read"):
        asked(tmp_path, GOOD, MOVIES, ABLATIONS[ablation])


DATED_MOVIES = "movie,title,genres,timestamp\n12,Alien (1979),Horror|Sci-Fi,2001-09-09\n13,Brazil (1985),,999999999\n"
DATED = GOOD.replace(",100\n", ",2001-01-01\n").replace(",200\n", ",999000000\n")


def test_with_dates_each_movie_is_rated_at_its_time(tmp_path):
    found = asked(tmp_path, DATED, DATED_MOVIES, dates=True)
    assert told(found) == EXPECTED
    assert sorted(found.table.timestamp.tolist()) == [978307200, 999000000, 999993600, 999999999]
    by_movie = {told(found)[i][2]: int(found.table.timestamp[t]) for i, t in enumerate(found.stage.targets)}
    assert by_movie == {"Alien (1979) (Horror, Sci-Fi)": 999993600, "Brazil (1985) ()": 999999999}
    # A time that isn't needed is ignored, whatever it is.
    assert told(asked(tmp_path, GOOD, DATED_MOVIES.replace("999999999", "soon"))) == EXPECTED


@pytest.mark.parametrize(
    ("history", "movies", "message"),
    [
        (DATED, MOVIES, "movies.csv: there is no column 'timestamp', which the model was trained to read"),
        (DATED.replace("timestamp", "profile"), DATED_MOVIES, "history.csv: there is no column 'timestamp', which"),
        (GOOD, DATED_MOVIES, r"history.csv:2: the time is no date that the prompt could print.*\(timestamp 100\)"),
        (DATED, DATED_MOVIES.replace("999999999", "1" * 13), "movies.csv:3: the time is no date"),
        (DATED, DATED_MOVIES.replace("999999999", "soon"), "movies.csv:3: the timestamp must be seconds or an ISO"),
        (DATED, DATED_MOVIES.replace("999999999", ""), "movies.csv:3: the timestamp is missing"),
        (
            DATED,
            DATED_MOVIES.replace("2001-09-09", "2001-02-02"),
            r"movies.csv:2: the time is before the newest rating of the user's history \(user 1\)",
        ),
    ],
)
def test_with_dates_a_request_needs_them(tmp_path, history, movies, message):
    with pytest.raises(UserError, match=message):
        asked(tmp_path, history, movies, dates=True)


def test_with_dates_a_list_of_users_without_times_is_refused(tmp_path):
    rating = {"continuation": "4.5", "continuation_prefix": "Heat (1995) (Action, Crime): "}
    task = {"task_behavior_collections": [{"type": "movie_rating", "data": [rating]}]}
    history = json.dumps([{"user_hash": "a", "user": {"profile": {}}, "task": task}])
    with pytest.raises(UserError, match="the time is no date that the prompt could print"):
        asked(tmp_path, history, DATED_MOVIES, ends=(".json", ".csv"), dates=True)


def test_other_files(tmp_path):
    (tmp_path / "movies.xlsx").touch()
    for file, message in ((tmp_path / "none.csv", "no such file"), (tmp_path / "movies.xlsx", "must end in .csv or")):
        with pytest.raises(UserError, match=message):
            read_input(file, "movies", HALF_STARS)
