"""RawTables, which every reader returns, and `build_table`, which checks and sorts them into a RatingTable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mlens.data.chunked import by_blocks
from mlens.data.delimited import PLACE
from mlens.data.order import has_repeats, index_of, time_order
from mlens.data.rating_table import RatingTable
from mlens.errors import UserError

HALF_STARS = tuple(i / 2 for i in range(1, 11))
WHOLE_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)
# Above any real time, in seconds or a finer unit; sums of times below it stay exact.
NEVER = 2**53
# The most characters of one text: a title, genres, a tag, a profile, a task, a context turn, an id. The longest title
# of ml-latest-small has 158 and its longest tag 85; a longer text wouldn't fit a prompt of 2,048 tokens.
LONGEST_TEXT = 4000
# Of HTML, in titles that were taken from web pages.
ENTITIES = {"&amp;": "&", "&quot;": '"', "&#39;": "'", "&lt;": "<", "&gt;": ">", "&nbsp;": " "}
# The most characters of a value that an error quotes.
MAX_QUOTED = 200


@dataclass(frozen=True)
class RawTables:
    """Ratings as read, in source order.

    ratings: `user`, `movie` (raw ids), `rating` (float), `timestamp` (int seconds), `line` (1-based, for errors), and
        optionally `context` (list of text). Integers may have any width here; they are Int64 in the other frames.
    movies: `movie` (raw id), `title`, `genres` (text, comma separated, may be empty), and optionally `line`.
    ratings_file: named in errors.
    scale: the legal ratings, ascending.
    users: `user` (raw id) and optionally `profile`, `task` (text), or None. Users without ratings are dropped.
    tags: `user`, `movie`, `tag`, `timestamp` in source order, or None.
    made_up: whether the data are generated, not measured.
    movies_file, tags_file: named in errors (None: ratings_file).
    place: format of a line's location in errors.
    notes: what a user of the data should know, such as how many ratings were dropped and why; each a line.
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
    notes: tuple[str, ...] = ()


def genres_from_pipes() -> pl.Expr:
    """Convert MovieLens genres (`Comedy|Drama`, `(no genres listed)`) to comma-separated ones (`Comedy, Drama`, ``)."""
    genres = pl.col("genres").str.strip_chars().str.replace_all("|", ", ", literal=True)
    return pl.when(genres != "(no genres listed)").then(genres).otherwise(pl.lit("")).alias("genres")


def to_one_line(text: pl.Expr) -> pl.Expr:
    """Replace control characters and line breaks, with the blanks around them, by one blank.

    So a title (a tag, a profile, a task, a context turn) can't begin a line of the prompt, and can't imitate one of its
    sections or ratings. All other characters stay, bidirectional marks too: they are part of the data, which the model
    may see; output for people shows them as escapes.
    """
    return text.str.replace_all(r" *[\p{Cc}\u{2028}\u{2029}][\p{Cc}\u{2028}\u{2029} ]*", " ").str.strip_chars()


def without_entities(text: pl.Expr) -> pl.Expr:
    """Replace the common entities of HTML by their characters."""
    return text.str.replace_many(list(ENTITIES), list(ENTITIES.values()))


def is_too_long(text: pl.Expr) -> pl.Expr:
    """Whether a text is longer than LONGEST_TEXT."""
    return text.str.len_chars() > LONGEST_TEXT


def too_long_error(what: str) -> str:
    """Return the error for a text that is too long."""
    return f"the {what} has more than {LONGEST_TEXT:,} characters"


def shorten(value: object) -> str:
    """Truncate a value for quotation in an error."""
    text = str(value)
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 3]}..."


def tidy_tags(tags: pl.DataFrame) -> pl.DataFrame:
    """Put each tag on one line, without outer blanks; drop empty tags."""
    return tags.with_columns(to_one_line(pl.col("tag"))).filter(pl.col("tag").fill_null("") != "")


def build_table(raw: RawTables) -> RatingTable:
    """Check `raw` and sort it by (user, timestamp, source order).

    Users are numbered by ascending raw id. Every text that a prompt may show is put on one line (`to_one_line`).

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
        notes=raw.notes,
    )
    if has_repeats(table.user_offsets, table.movie, table.timestamp):
        again = ~raw.ratings.select(pl.struct("user", "movie", "timestamp").is_first_distinct()).to_series()
        _refuse_rating(raw, again.to_numpy(), "the same user, movie and timestamp are on an earlier line")
    return table


def _contexts(ratings: pl.DataFrame, order: np.ndarray) -> pl.DataFrame:
    return ratings.select(pl.col("context").gather(order).list.eval(to_one_line(pl.element())))


def _checked_movies(raw: RawTables) -> pl.DataFrame:
    """Return `id`, `title` without outer blanks and `genres`, one row a movie."""
    movies = raw.movies.select(
        pl.col("movie").alias("id"),
        to_one_line(pl.col("title").fill_null("")),
        to_one_line(pl.col("genres").fill_null("")),
        (pl.col("line") if "line" in raw.movies.columns else pl.lit(None)).alias("line"),
    )
    file = raw.movies_file or raw.ratings_file
    _refuse(raw.place, file, movies.filter(pl.col("title") == ""), "the title is missing", ["id"])
    for name in ("title", "genres"):
        _refuse(raw.place, file, movies.filter(is_too_long(pl.col(name))), too_long_error(name), ["id"])
    again = movies.filter(~pl.col("id").is_first_distinct())
    _refuse(raw.place, file, again, "the movie is listed on an earlier line too", ["id", "title"])
    return movies.drop("line")


def _checked_users(raw: RawTables) -> pl.DataFrame:
    """Return `user`, and `profile` and `task` where given, one row for each user with ratings, by ascending id."""
    users = raw.ratings.select(_as_int64(raw.ratings["user"].unique().sort()))
    _refuse_long_texts(raw.ratings_file, users, "user")
    if raw.users is None:
        return users
    again = raw.users.filter(~pl.col("user").is_first_distinct())
    if not again.is_empty():
        raise UserError(f"{raw.ratings_file}: user {again['user'][0]} is described twice")
    texts = [name for name in ("profile", "task") if name in raw.users.columns]
    described = raw.users.with_columns(to_one_line(pl.col(name)) for name in texts)
    for name in texts:
        _refuse_long_texts(raw.ratings_file, described, name)
    return users.join(described, on="user", how="left", maintain_order="left")


def _refuse_long_texts(file: Path, users: pl.DataFrame, name: str) -> None:
    if users[name].dtype != pl.String:
        return
    long = users.filter(is_too_long(pl.col(name)))
    if not long.is_empty():
        raise UserError(f"{file}: user {shorten(long['user'][0])}: {too_long_error(name)}")


def _check_tags_and_contexts(raw: RawTables) -> None:
    if raw.tags is not None:
        long = raw.tags.filter(is_too_long(pl.col("tag")))
        if "line" not in long.columns:
            long = long.with_columns(line=pl.lit(None))
        _refuse(raw.place, raw.tags_file or raw.ratings_file, long, too_long_error("tag"), ["user", "movie"])
    if "context" in raw.ratings.columns:
        turns = raw.ratings["context"].list.eval(is_too_long(pl.element())).list.any()
        _refuse_rating(raw, turns.fill_null(False).to_numpy(), too_long_error("context"))


def _checked_ratings(
    raw: RawTables, users: pl.DataFrame, movies: pl.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the ratings, and return three columns in source order.

    user [n] int32: row of `users`.
    movie [n] int32: row of `movies`.
    level [n] int16: index of the rating in the scale.
    """
    if raw.ratings.is_empty():
        raise UserError(f"{raw.ratings_file}: no ratings in it")
    scale = np.array(raw.scale)
    given = raw.ratings["rating"].to_numpy()
    level = by_blocks(lambda given: _nearest_level(given, scale), given)
    movie = index_of(raw.ratings["movie"], movies["id"])
    _refuse_rating(raw, np.isnan(given), "a rating must be a number")
    # Text like 3.3 and a scale made of tenths agree up to rounding.
    off = by_blocks(lambda given, level: np.abs(given - scale[level]) > 1e-6, given, level)
    _refuse_rating(raw, off, f"the rating is not on the scale {_join(raw.scale)}")
    time = raw.ratings["timestamp"].to_numpy()
    _refuse_rating(raw, time < 0, "a timestamp must not be negative")
    _refuse_rating(raw, time >= NEVER, f"a timestamp must be below {NEVER:,}")
    _refuse_rating(raw, movie < 0, "the movie is not in the movie list")
    return index_of(raw.ratings["user"], users["user"]), movie, level


def _nearest_level(ratings: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the index in `scale` (ascending) of the legal rating nearest to each rating: [n] int16."""
    return np.searchsorted((scale[1:] + scale[:-1]) / 2, ratings).astype(np.int16)


def _as_int64(ids: pl.Series) -> pl.Series:
    """Cast integer ids to Int64, their type in all frames but the ratings, which may be narrower."""
    return ids.cast(pl.Int64) if ids.dtype.is_integer() else ids


def _join(scale: tuple[float, ...]) -> str:
    return ", ".join(map(str, scale))


def _number_tags(tags: pl.DataFrame, users: pl.DataFrame, movies: pl.DataFrame) -> pl.DataFrame:
    """Return the tags of known users and movies, by index, sorted by (user, timestamp, source order)."""
    return (
        tags.with_row_index("order")
        .rename({"user": "raw_user", "movie": "raw_movie"})
        .join(users.select(raw_user="user").with_row_index("user"), on="raw_user")
        .join(movies.select(raw_movie="id").with_row_index("movie"), on="raw_movie")
        .sort("user", "timestamp", "order")
        .select("user", "movie", "tag", "timestamp")
    )


def _refuse_rating(raw: RawTables, bad: np.ndarray, rule: str) -> None:
    """Raise UserError for the first rating, in source order, where `bad` [n] is true, if there is one."""
    if bad.any():
        row = raw.ratings[int(np.argmax(bad))]
        _refuse(raw.place, raw.ratings_file, row, rule, ["user", "movie", "rating", "timestamp"])


def _refuse(place: str, file: Path, bad: pl.DataFrame, rule: str, shown: list[str]) -> None:
    """Raise UserError for the first row of `bad`, if it has one."""
    if bad.is_empty():
        return
    row = bad.row(0, named=True)
    where = str(file) if row["line"] is None else place.format(file=file, line=row["line"])
    values = ", ".join(f"{'movie' if name == 'id' else name} {shorten(row[name])}" for name in shown)
    values = " ".join(values.split())  # one line, whatever the title contains
    raise UserError(f"{where}: {rule} ({values})")
