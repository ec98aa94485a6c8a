"""Small valid files in every format of ratings, with an independent naive reader of each format."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlens.data.behaviour_json import BehaviourJson
from mlens.data.csv_ratings import CsvRatings
from mlens.data.movielens_100k import GENRES, MovieLens100k
from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.movielens_dat import MovieLensDat
from mlens.data.rating_table import RatingTable
from mlens.data.sources import Source

Files = Mapping[str, bytes]
# Raw user, title, rating and timestamp of each rating, sorted.
Rows = list[tuple[str, str, float, int]]


@dataclass(frozen=True)
class SmallSource:
    """A small data set in one format.

    files: content by name.
    source: makes the reader of a folder with these files.
    naive: naive reader of the files; raises any exception if they are invalid.
    genres_in_title: whether `naive` returns titles with genres.
    """

    files: Files
    source: Callable[[Path], Source]
    naive: Callable[[Files], Rows]
    genres_in_title: bool = False


def rows_of(small: SmallSource, table: RatingTable) -> Rows:
    """Return the table's ratings as `naive` returns them."""
    users, movies = table.users["id"].to_list(), table.movies.rows(named=True)
    titles = [f"{m['title']} ({m['genres']})" if small.genres_in_title and m["genres"] else m["title"] for m in movies]
    columns = (table.user, table.movie, table.rating, table.timestamp)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return sorted(
        (str(users[u]), _spaced(titles[m]) if small.genres_in_title else titles[m], r, t) for u, m, r, t in rows
    )


def _spaced(movie: str) -> str:
    """Return `Title (Genre)` with single spaces around the last parentheses."""
    return re.sub(r"\s*\(\s*([^()]*?)\s*\)$", r" (\1)", movie)


MOVIES = {
    1: ("Toy Story (1995)", "Adventure|Animation"),
    2: ("Heat, The (1995)", "Crime"),
    7: ('The "Big" One (2001)', "(no genres listed)"),
    11: ("Amélie (2001)", "Comedy|Romance"),
}
RATINGS = [
    (user, movie, float(1 + (3 * user + movie) % 5), 978300000 + 1000 * user + 10 * movie)
    for user in (1, 2, 5)
    for movie in MOVIES
]
TAGS = [(1, 2, "slow, but good", 978300500), (5, 11, "Paris", 978300600)]


def clean(title: str) -> str:
    """Return the title as readers do: one line without outer spaces; lone surrogates are question marks."""
    title = re.sub("[\ud800-\udfff]", "?", title)
    return re.sub(r" *[\x00-\x1f\x7f-\x9f\u2028\u2029][\x00-\x1f\x7f-\x9f\u2028\u2029 ]*", " ", title).strip()


def table_of(rows: list[tuple], header: tuple[str, ...], separator: str = ",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def lines_of(rows: list[tuple], separator: str, encoding: str = "utf-8") -> bytes:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows).encode(encoding)


def _dicts(content: bytes, separator: str = ",", quoted: bool = True) -> list[dict[str, str]]:
    # Within lines a carriage return is a control character, and a field of it alone is empty.
    text = _with_line_ends(content.decode("utf-8-sig"))
    stream = io.StringIO(re.sub("\r(?!\n)", "\x1f", text), newline="")
    reader = csv.DictReader(stream, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    return [row for row in reader if any(row.values())]


def _with_line_ends(text: str) -> str:
    """Return the text with newlines; lone carriage returns end lines if one ends the first line."""
    first = re.search("\r\n?|\n", text)
    return re.sub("\r\n?", "\n", text) if first and first[0] == "\r" else text


def _joined(ratings: Iterable[Sequence[str]], titles: Mapping[str, str]) -> Rows:
    """Replace the movie id of each rating by the title."""
    return [
        (_id(user), clean(titles[_id(movie)]), float(rating.strip()), _integer(time))
        for user, movie, rating, time in ratings
    ]


def _id(text: str) -> str:
    """Return an id; integers are normalised."""
    try:
        return str(_integer(text))
    except ValueError:
        return text.strip()


def _integer(text: str) -> int:
    """Return an integer, which may be written as a float."""
    text = text.strip()
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _movielens_csv(files: Files) -> Rows:
    titles = {_id(row["movieId"]): row["title"] for row in _dicts(files["movies.csv"])}
    names = ("userId", "movieId", "rating", "timestamp")
    return _joined([[row[name] for name in names] for row in _dicts(files["ratings.csv"])], titles)


def _csv(files: Files) -> Rows:
    rows = _dicts(files["table.csv"])
    return [
        (_id(row["user"]), clean(row["title"]), float(row["rating"].strip()), _integer(row["timestamp"]))
        for row in rows
    ]


def _decoded(content: bytes, encoding: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode(encoding)
    lines = _with_line_ends(text).split("\n")
    return [line.removesuffix("\r") for line in lines if line.removesuffix("\r")]


def _dat(files: Files) -> Rows:
    movies = [line.partition("::") for line in _decoded(files["movies.dat"], "latin-1")]
    titles = {_id(movie): rest.rpartition("::")[0] for movie, _, rest in movies}
    return _joined([line.split("::") for line in _decoded(files["ratings.dat"], "utf-8")], titles)


def _official_100k(files: Files) -> Rows:
    movies = [line.split("|") for line in _decoded(files["u.item"], "latin-1")]
    titles = {_id(fields[0]): fields[1] for fields in movies}
    return _joined([line.split("\t") for line in _decoded(files["u.data"], "utf-8")], titles)


def _atomic_100k(files: Files) -> Rows:
    titles = {}
    for row in _dicts(files["ml-100k.item"], "\t", quoted=False):
        title, year = row["movie_title:token_seq"], (row["release_year:token"] or "").strip("\x1f")
        title = "unknown" if title == "unkonwn" else f"{title} ({year})" if year else title
        titles[_id(row["item_id:token"])] = title
    names = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    rows = _dicts(files["ml-100k.inter"], "\t", quoted=False)
    return _joined([[row[name] for name in names] for row in rows], titles)


def _behaviour(files: Files) -> Rows:
    rows = []
    text = files["users.json"].decode("utf-8-sig")
    for record in json.loads(re.sub("[\f\v]", " ", text)):
        # An id is taken as it is, blanks included; what no text can hold is a question mark.
        user = re.sub("[\ud800-\udfff]", "?", str(record.get("user_hash") or record["user"]["profile"]["name"]))
        for collection in (record.get("task") or {}).get("task_behavior_collections") or []:
            if collection.get("type") != "movie_rating":
                continue
            for item in collection.get("data") or []:
                movie = item["continuation_prefix"].strip().removesuffix(":").strip()
                rows.append(
                    (user, _spaced(clean(movie)), float(item["continuation"]), _integer(str(item["timestamp"])))
                )
    return rows


def behaviour_records() -> list[dict]:
    def item(movie: int, rating: float, time: int) -> dict:
        title, genres = MOVIES[movie]
        bracket = "" if genres.startswith("(") else f" ({genres.replace('|', ', ')})"
        prefix = f"{title}{bracket}: "
        return {
            "context": ["Hello", "a \\ b"],
            "continuation": str(rating),
            "continuation_prefix": prefix,
            "timestamp": time,
        }

    return [
        {
            "user_hash": f"u{user}",
            "user": {"profile": {"name": f"Ann {user}", "age": 20 + user, "likes": ["tea", "rain"]}},
            "task": {
                "description": "Predict what the user gives.",
                "task_behavior_collections": [
                    {"type": "movie_rating", "data": [item(*rating[1:]) for rating in RATINGS if rating[0] == user]}
                ],
            },
        }
        for user in (1, 2, 5)
    ]


def _movielens_csv_files() -> Files:
    return {
        "ratings.csv": table_of(RATINGS, ("userId", "movieId", "rating", "timestamp")),
        "movies.csv": table_of([(m, *fields) for m, fields in MOVIES.items()], ("movieId", "title", "genres")),
        "tags.csv": table_of(TAGS, ("userId", "movieId", "tag", "timestamp")),
    }


def _dat_files(encoding: str, third: tuple[str, list[tuple]]) -> Files:
    name, rows = third
    ratings = [(user, movie, int(rating), time) for user, movie, rating, time in RATINGS]
    return {
        "ratings.dat": lines_of(ratings, "::"),
        "movies.dat": lines_of([(m, *fields) for m, fields in MOVIES.items()], "::", encoding),
        name: lines_of(rows, "::", encoding),
    }


def _official_files() -> Files:
    def flags(genres: str) -> list[int]:
        listed = genres.split("|")
        return [int(genres.startswith("(")), *(int(genre in listed) for genre in GENRES)]

    movies = [(m, title, "01-Jan-1995", "", "http://us.imdb.com/?x", *flags(g)) for m, (title, g) in MOVIES.items()]
    users = [(1, 24, "M", "technician", "85711"), (2, 53, "F", "other", "94043"), (5, 33, "F", "other", "15213")]
    return {
        "u.data": lines_of([(u, m, int(r), t) for u, m, r, t in RATINGS], "\t"),
        "u.item": lines_of(movies, "|", "latin-1"),
        "u.user": lines_of(users, "|"),
    }


def _atomic_files() -> Files:
    def split(title: str) -> tuple[str, str]:
        return title[:-7], title[-5:-1]

    movies = [
        (m, *split(title), "unknown" if genres.startswith("(") else genres.replace("|", " "))
        for m, (title, genres) in MOVIES.items()
    ]
    users = [(1, 24, "M", "technician", "85711"), (2, 53, "F", "other", "94043"), (5, 33, "F", "other", "15213")]
    heads = {
        "inter": ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        "item": ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
        "user": ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"),
    }
    rows: dict[str, list[tuple]] = {"inter": RATINGS, "item": movies, "user": users}
    return {f"ml-100k.{kind}": lines_of([heads[kind], *rows[kind]], "\t") for kind in heads}


def _zipped(files: Files) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as stream:
        for name, text in files.items():
            stream.writestr(f"ml-latest-small/{name}", text)
    return content.getvalue()


def _zip(files: Files) -> Rows:
    with zipfile.ZipFile(io.BytesIO(files["small.zip"])) as stream:
        return _movielens_csv({name: stream.read(f"ml-latest-small/{name}") for name in ("ratings.csv", "movies.csv")})


def real_cut(folder: Path, users: int) -> Files:
    """Return the ratings, tags and movies of the first users of ml-latest-small."""
    cut: dict[str, bytes] = {}
    seen: set[bytes] = set()
    for name, column in (("ratings.csv", 0), ("tags.csv", 0), ("movies.csv", None)):
        head, *lines = (folder / name).read_bytes().splitlines(keepends=True)
        if column is None:
            kept = [line for line in lines if line.split(b",")[0] in seen]
        else:
            kept = [line for line in lines if int(line.split(b",")[column]) <= users]
            seen |= {line.split(b",")[1] for line in kept}
        cut[name] = head + b"".join(kept)
    return cut


def real_source(folder: Path, users: int) -> SmallSource:
    """Return the first users of ml-latest-small as a small source."""
    cut = real_cut(folder, users)
    return SmallSource(cut, lambda folder: MovieLensCsv("ml-latest-small", path=str(folder)), _movielens_csv)


def small_sources() -> dict[str, SmallSource]:
    """Return the small sources by format."""
    rows = [(f"u{user}", movie, rating, time, *MOVIES[movie]) for user, movie, rating, time in RATINGS]
    head = ("user", "movie", "rating", "timestamp", "title", "genres")
    users = [(1, "F", 1, 10, "48067"), (2, "M", 56, 16, "70072"), (5, "M", 25, 20, "55455")]
    return {
        "csv": SmallSource(
            {"table.csv": table_of(rows, head)}, lambda folder: CsvRatings(path=f"{folder}/table.csv"), _csv
        ),
        "movielens_csv": SmallSource(
            _movielens_csv_files(), lambda folder: MovieLensCsv("ml-latest-small", path=str(folder)), _movielens_csv
        ),
        "ml_1m": SmallSource(
            _dat_files("latin-1", ("users.dat", users)), lambda folder: MovieLensDat("ml-1m", path=str(folder)), _dat
        ),
        "ml_10m": SmallSource(
            _dat_files("utf-8", ("tags.dat", TAGS)), lambda folder: MovieLensDat("ml-10m", path=str(folder)), _dat
        ),
        "ml_100k": SmallSource(_official_files(), lambda folder: MovieLens100k(path=str(folder)), _official_100k),
        "ml_100k_atomic": SmallSource(_atomic_files(), lambda folder: MovieLens100k(path=str(folder)), _atomic_100k),
        "zip": SmallSource(
            {"small.zip": _zipped(_movielens_csv_files())},
            lambda folder: MovieLensCsv("ml-latest-small", path=f"{folder}/small.zip"),
            _zip,
        ),
        "behaviour_json": SmallSource(
            {"users.json": json.dumps(behaviour_records(), ensure_ascii=False).encode()},
            lambda folder: BehaviourJson(path=f"{folder}/users.json"),
            _behaviour,
            genres_in_title=True,
        ),
    }
