"""What every reader returns, and the one way from there to a checked, sorted RatingTable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mlens.data.blocks import by_blocks
from mlens.data.delimited import PLACE
from mlens.data.order import has_repeats, places, time_order
from mlens.data.table import RatingTable
from mlens.errors import UserError

HALF_STARS = tuple(i / 2 for i in range(1, 11))
WHOLE_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)
# A real time in seconds, or in any finer unit, is far below; sums of such times stay exact.
NEVER = 2**53
# Characters of one text: a title, genres, a tag, a profile, a task, a turn of context, an id. The longest title of
# ml-latest-small has 158 and its longest tag 85; a prompt of 2,048 tokens has no room for a text beyond this.
LONGEST_TEXT = 4000
MOST_QUOTED = 200
MOVIE_SCHEMA = {"movie": pl.Int64, "title": pl.String, "genres": pl.String}


@dataclass(frozen=True)
class RawTables:
    """Ratings as read, in source order.

    ratings: `user`, `movie` (raw ids), `rating` (float), `timestamp` (int seconds), `line` (1-based, for errors),
    and optionally `context` (list of text); whole numbers are of any width here, and Int64 in the other frames;
    movies: `movie` (raw id), `title`, `genres` (text, comma separated, may be empty), optionally `line`;
    users: `user` (raw id) and optionally `profile`, `task` (text), or None; users without ratings are dropped;
    tags: `user`, `movie`, `tag`, `timestamp` in source order, or None;
    ratings_file, movies_file, tags_file: named in errors (None: the same file as the ratings'); place: how an error
    names a line of a file;
    scale: the legal ratings, ascending.
    """

    ratings: pl.DataFrame
    movies: pl.DataFrame
    ratings_file: Path
    scale: tuple[float, ...]
    users: pl.DataFrame | None = None
    tags: pl.DataFrame | None = None
    made_up: bool = False
    movies_file: Path | None = None
    tags_file: Path | None = None
    place: str = PLACE


def genres_from_pipes() -> pl.Expr:
    """Genres as MovieLens writes them (`Comedy|Drama`, `(no genres listed)`) -> `Comedy, Drama`, or empty text."""
    genres = pl.col("genres").str.strip_chars().str.replace_all("|", ", ", literal=True)
    return pl.when(genres != "(no genres listed)").then(genres).otherwise(pl.lit("")).alias("genres")


def on_one_line(text: pl.Expr) -> pl.Expr:
    """Control characters and line breaks, with the blanks around them, become one blank: a title (a tag, a profile, a
    task, a turn of context) can't begin a line of the prompt, and so can't look like a section or a rating of it. All
    other signs stay as they are, marks of the direction of writing too: they are the data's own text, which the model
    may see; what shows them to people shows them as escapes."""
    return text.str.replace_all(r" *[\p{Cc}\u{2028}\u{2029}][\p{Cc}\u{2028}\u{2029} ]*", " ").str.strip_chars()


def is_too_long(text: pl.Expr) -> pl.Expr:
    """Whether a text has more characters than any real one."""
    return text.str.len_chars() > LONGEST_TEXT


def too_long(what: str) -> str:
    """What an error says of such a text."""
    return f"the {what} has more than {LONGEST_TEXT:,} characters"


def shorten(value: object) -> str:
    """A value as an error quotes it."""
    text = str(value)
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 3]}..."


def tidy_tags(tags: pl.DataFrame) -> pl.DataFrame:
    """Tags on one line, without outer blanks; empty ones are left out."""
    return tags.with_columns(on_one_line(pl.col("tag"))).filter(pl.col("tag").fill_null("") != "")


def build_table(raw: RawTables) -> RatingTable:
    """Check `raw` and sort it by (user, timestamp, source order); users are numbered by ascending raw id. Every text
    that a prompt may show becomes one line (`on_one_line`).

    Raises UserError, naming file, line and rule, for a rating off the scale, a movie without a title or listed twice,
    a rating of an unknown movie, a duplicate (user, movie, timestamp), a negative or impossible time, a user described
    twice, a text of more than LONGEST_TEXT characters, or no ratings at all.
    """
    movies = _checked_movies(raw)
    users = _checked_users(raw)
    _check_tags_and_contexts(raw)
    user, movie, level = _checked_ratings(raw, users, movies)
    time = raw.ratings["timestamp"].to_numpy()
    order = time_order(user, time)
    sizes = np.bincount(user, minlength=len(users))
    table = RatingTable(
        user=np.repeat(np.arange(len(users), dtype=np.int32), sizes),
        movie=by_blocks(lambda rows: movie[rows], order),
        rating=by_blocks(lambda rows: np.array(raw.scale, dtype=np.float32)[level[rows]], order),
        timestamp=by_blocks(lambda rows: time[rows].astype(np.int64), order),
        user_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        users=users.rename({"user": "id"}),
        movies=movies,
        scale=tuple(raw.scale),
        tags=None if raw.tags is None else _number_tags(raw.tags, users, movies),
        contexts=_contexts(raw.ratings, order) if "context" in raw.ratings.columns else None,
        made_up=raw.made_up,
    )
    if has_repeats(table.user_offsets, table.movie, table.timestamp):
        again = ~raw.ratings.select(pl.struct("user", "movie", "timestamp").is_first_distinct()).to_series()
        _refuse_rating(raw, again.to_numpy(), "the same user, movie and timestamp stand on an earlier line")
    return table


def _contexts(ratings: pl.DataFrame, order: np.ndarray) -> pl.DataFrame:
    return ratings.select(pl.col("context").gather(order).list.eval(on_one_line(pl.element())))


def _checked_movies(raw: RawTables) -> pl.DataFrame:
    """`id`, `title` without outer blanks, `genres`: one row a movie."""
    movies = raw.movies.select(
        pl.col("movie").alias("id"),
        on_one_line(pl.col("title").fill_null("")),
        on_one_line(pl.col("genres").fill_null("")),
        (pl.col("line") if "line" in raw.movies.columns else pl.lit(None)).alias("line"),
    )
    file = raw.movies_file or raw.ratings_file
    _refuse(raw.place, file, movies.filter(pl.col("title") == ""), "the title is missing", ["id"])
    for name in ("title", "genres"):
        _refuse(raw.place, file, movies.filter(is_too_long(pl.col(name))), too_long(name), ["id"])
    again = movies.filter(~pl.col("id").is_first_distinct())
    _refuse(raw.place, file, again, "the movie is listed on an earlier line too", ["id", "title"])
    return movies.drop("line")


def _checked_users(raw: RawTables) -> pl.DataFrame:
    """`user` and what is told of them: one row for each who rated, by ascending id."""
    users = raw.ratings.select(_wide(raw.ratings["user"].unique().sort()))
    _refuse_long_texts(raw.ratings_file, users, "user")
    if raw.users is None:
        return users
    again = raw.users.filter(~pl.col("user").is_first_distinct())
    if not again.is_empty():
        raise UserError(f"{raw.ratings_file}: user {again['user'][0]} is described twice")
    told = [name for name in ("profile", "task") if name in raw.users.columns]
    described = raw.users.with_columns(on_one_line(pl.col(name)) for name in told)
    for name in told:
        _refuse_long_texts(raw.ratings_file, described, name)
    return users.join(described, on="user", how="left", maintain_order="left")


def _refuse_long_texts(file: Path, users: pl.DataFrame, name: str) -> None:
    if users[name].dtype != pl.String:
        return
    long = users.filter(is_too_long(pl.col(name)))
    if not long.is_empty():
        raise UserError(f"{file}: user {shorten(long['user'][0])}: {too_long(name)}")


def _check_tags_and_contexts(raw: RawTables) -> None:
    if raw.tags is not None:
        long = raw.tags.filter(is_too_long(pl.col("tag")))
        if "line" not in long.columns:
            long = long.with_columns(line=pl.lit(None))
        _refuse(raw.place, raw.tags_file or raw.ratings_file, long, too_long("tag"), ["user", "movie"])
    if "context" in raw.ratings.columns:
        turns = raw.ratings["context"].list.eval(is_too_long(pl.element())).list.any()
        _refuse_rating(raw, turns.fill_null(False).to_numpy(), too_long("context"))


def _checked_ratings(
    raw: RawTables, users: pl.DataFrame, movies: pl.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User and movie of each rating in source order, as rows of `users` and `movies` [n] int32, and where it stands in
    the scale [n] int16."""
    if raw.ratings.is_empty():
        raise UserError(f"{raw.ratings_file}: no ratings in it")
    scale = np.array(raw.scale)
    given = raw.ratings["rating"].to_numpy()
    level = by_blocks(lambda given: _nearest(given, scale), given)
    movie = places(raw.ratings["movie"], movies["id"])
    _refuse_rating(raw, np.isnan(given), "a rating must be a number")
    # Text like 3.3 and a scale made of tenths agree up to rounding.
    off = by_blocks(lambda given, level: np.abs(given - scale[level]) > 1e-6, given, level)
    _refuse_rating(raw, off, f"the rating is not on the scale {_words(raw.scale)}")
    time = raw.ratings["timestamp"].to_numpy()
    _refuse_rating(raw, time < 0, "a timestamp must not be negative")
    _refuse_rating(raw, time >= NEVER, f"a timestamp must be below {NEVER:,}")
    _refuse_rating(raw, movie < 0, "the movie is not in the movie list")
    return places(raw.ratings["user"], users["user"]), movie, level


def _nearest(ratings: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Where the rating nearest to each stands in `scale` (ascending): [n] int16."""
    return np.searchsorted((scale[1:] + scale[:-1]) / 2, ratings).astype(np.int16)


def _wide(ids: pl.Series) -> pl.Series:
    """Whole numbers as Int64, as all frames have them, however few bits those of the ratings need."""
    return ids.cast(pl.Int64) if ids.dtype.is_integer() else ids


def _words(scale: tuple[float, ...]) -> str:
    return ", ".join(map(str, scale))


def _number_tags(tags: pl.DataFrame, users: pl.DataFrame, movies: pl.DataFrame) -> pl.DataFrame:
    """Tags of known users and movies, with dense numbers in place of raw ids, sorted by (user, timestamp, order)."""
    return (
        tags.with_row_index("order")
        .rename({"user": "raw_user", "movie": "raw_movie"})
        .join(users.select(raw_user="user").with_row_index("user"), on="raw_user")
        .join(movies.select(raw_movie="id").with_row_index("movie"), on="raw_movie")
        .sort("user", "timestamp", "order")
        .select("user", "movie", "tag", "timestamp")
    )


def _refuse_rating(raw: RawTables, bad: np.ndarray, rule: str) -> None:
    """Raises UserError for the first rating of `bad` [n], in source order, if there is one."""
    if bad.any():
        row = raw.ratings[int(np.argmax(bad))]
        _refuse(raw.place, raw.ratings_file, row, rule, ["user", "movie", "rating", "timestamp"])


def _refuse(place: str, file: Path, bad: pl.DataFrame, rule: str, shown: list[str]) -> None:
    """Raises UserError for the first row of `bad`, if it has one."""
    if bad.is_empty():
        return
    row = bad.row(0, named=True)
    where = str(file) if row["line"] is None else place.format(file=file, line=row["line"])
    values = ", ".join(f"{'movie' if name == 'id' else name} {shorten(row[name])}" for name in shown)
    values = " ".join(values.split())  # one line, whatever a title holds
    raise UserError(f"{where}: {rule} ({values})")
