"""Turn the input of a prediction into a table of the users' ratings and candidate movies, and a stage of targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.data.chunked import int_type
from mlens.data.dates import EARLIEST, NO_DATE
from mlens.data.delimited import Types, typed
from mlens.data.named_columns import movies_of
from mlens.data.order import index_of
from mlens.data.rating_table import RatingTable
from mlens.data.raw import NEVER, RawTables, build_table
from mlens.data.stage import Stage
from mlens.errors import UserError
from mlens.predict.inputs import InputTable
from mlens.prompt.settings import Ablation

# How many users an error message lists.
QUOTED = 6


@dataclass(frozen=True)
class PredictionRequest:
    """The ratings to predict, with the histories to predict them from.

    table: each user's history, then their candidate movies in the order of the input, with the lowest rating as a
        placeholder. With dates, the candidates are in the order of their times.
    stage: the candidates as targets, each of which sees its user's full history.
    has_users: whether the input has user ids.
    has_movies: whether the input has movie ids.
    left_out: candidates of the common list that were dropped, since their user has rated them.
    """

    table: RatingTable
    stage: Stage
    has_users: bool
    has_movies: bool
    left_out: int


def build_request(
    history: InputTable,
    movies: InputTable,
    scale: tuple[float, ...],
    ablation: Ablation,
    users: Sequence[str] | None = None,
    at_most: int | None = None,
    dates: bool = False,
) -> PredictionRequest:
    """Pair every user with their candidate movies.

    A user's candidates are those listed for them where `movies` has users, else all movies that they haven't rated.
    Movies are identified by their ids where both tables have ids, else by their text, `Title (Genres)`.

    history: the users' ratings
    movies: the candidates
    scale: the legal ratings, ascending
    ablation: which columns the prompts need
    users: ids of the only users to predict for; None: all
    at_most: the largest number of predictions; None: no limit
    dates: whether the prompts have dates, so that ratings and candidates need times

    Raises UserError, which names file and line, for a missing column that the ablation or a title needs, a movie that
    occurs twice or has two titles, a candidate listed for a user who has rated it, a user without a history, an empty
    list of candidates, an invalid rating or time, an unknown id in `users`, more than `at_most` predictions, or with
    dates, a time that is no date or is before the history's newest.
    """
    _require_columns(history, movies, ablation, dates)
    rated, candidates = _rated(history), movies.frame
    if dates:
        candidates = typed(candidates, movies.file, {"timestamp": pl.Datetime}, movies.place)
        _require_dates(history, rated)
        _require_dates(movies, candidates)
    by_id = movies.has("movie") and (history.has("movie") or rated.is_empty())
    if by_id:
        rated, candidates = _with_same_ids(rated, candidates, "movie")
    else:
        if not history.has("title") and not rated.is_empty():
            raise UserError(f"{history.file} has no titles: add them, or a column movie in {movies.file} too")
        rated, candidates = (frame.with_columns(movie=_text_of_movie()) for frame in (rated, candidates))
    titles = _titles(history, rated, movies, candidates)
    if users is not None:
        rated, candidates = _of_users(history, rated, movies, candidates, users)
    if at_most is not None:
        _require_at_most(rated, movies, candidates, at_most)
    rated, pairs, left_out = _pairs(history, rated, movies, candidates)
    if pairs.is_empty():
        raise UserError(f"{movies.file}: nothing to rate: every movie in it is rated in {history.file}")
    pairs = pairs.with_columns(rating=pl.lit(scale[0]))
    if dates:
        newest = rated.group_by("user").agg(newest=pl.col("timestamp").max())
        known = pairs.join(newest, on="user", how="inner", maintain_order="left")
        earlier = known.filter(pl.col("timestamp") < pl.col("newest"))
        movies.refuse_any(earlier, "the time is before the newest rating of the user's history", "user")
    else:
        pairs = pairs.with_columns(timestamp=pl.lit(NEVER - 1, dtype=pl.Int64))
    columns = ["user", "movie", "rating", "timestamp", "line"]
    if ablation.context:
        columns.append("context")
        rated = rated.with_columns(context=pl.lit([], dtype=pl.List(pl.String)))
    raw = RawTables(
        ratings=pl.concat([rated.select(columns), pairs.select(columns)]),
        movies=titles,
        ratings_file=history.file,
        scale=scale,
        users=_users(history, rated),
        place=history.place,
    )
    table = build_table(raw)
    stage = _stage(table, np.bincount(index_of(pairs["user"], table.users["id"]), minlength=len(table.users)))
    return PredictionRequest(table, stage, history.has("user"), by_id, left_out)


def _require_columns(history: InputTable, movies: InputTable, ablation: Ablation, dates: bool) -> None:
    in_prompt = ", which the model was trained to read"
    needed = [
        (history, "rating", "", not history.frame.is_empty()),
        (movies, "title", "", True),
        (history, "profile", in_prompt, ablation.profile),
        (movies, "context", in_prompt, ablation.context),
        (history, "timestamp", in_prompt, dates and not history.frame.is_empty()),
        (movies, "timestamp", in_prompt, dates),
    ]
    for table, name, reason, required in needed:
        if required and not table.has(name):
            raise UserError(f"{table.file}: there is no column {name!r}{reason}")
    if movies.has("user") and not history.has("user"):
        raise UserError(f"{movies.file} has a column user, and {history.file} has none: give it in both or in neither")


def _require_dates(table: InputTable, frame: pl.DataFrame) -> None:
    no_date = frame.filter((pl.col("timestamp") < EARLIEST) | (pl.col("timestamp") >= NO_DATE))
    rule = "the time is no date that the prompt could print: give seconds since 1970 or an ISO 8601 date"
    table.refuse_any(no_date, rule, "timestamp")


def _rated(history: InputTable) -> pl.DataFrame:
    """Return the history with parsed numbers and defaults for missing columns: line numbers as times, user 0."""
    types: Types = {"rating": pl.Float64, "timestamp": pl.Datetime}
    frame = typed(
        history.frame, history.file, {name: types[name] for name in types if history.has(name)}, history.place
    )
    missing = {
        "user": pl.lit(0, dtype=pl.Int64),
        "rating": pl.lit(None, dtype=pl.Float64),  # of an empty history
        "timestamp": pl.int_range(pl.len(), dtype=pl.Int64),
        "title": pl.lit("", dtype=pl.String),
        "genres": pl.lit("", dtype=pl.String),
        "movie": pl.lit("", dtype=pl.String),
    }
    return frame.with_columns(**{name: value for name, value in missing.items() if not history.has(name)})


def _text_of_movie() -> pl.Expr:
    title, genres = pl.col("title"), pl.col("genres")
    return pl.when(genres == "").then(title).otherwise(pl.format("{} ({})", title, genres))


def _with_same_ids(one: pl.DataFrame, other: pl.DataFrame, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return both frames with ids of one type: text, unless both have numbers; an empty frame takes the other's."""
    if one[name].dtype == other[name].dtype:
        return one, other
    if one.is_empty():
        return one.with_columns(pl.col(name).cast(other[name].dtype)), other
    text = pl.col(name).cast(pl.String)
    return one.with_columns(text), other.with_columns(text)


def _titles(history: InputTable, rated: pl.DataFrame, movies: InputTable, candidates: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each movie of either table: `movie`, `title`, `genres`."""
    columns = ["movie", "title", "genres", "line"]
    titles = movies_of(candidates.select(columns), movies.file, movies.place)
    if history.has("title"):
        in_history = movies_of(rated.select(columns), history.file, history.place)
        both = in_history.join(titles, on="movie", suffix="_there", maintain_order="left")
        other = (pl.col("title") != pl.col("title_there")) | (pl.col("genres") != pl.col("genres_there"))
        history.refuse_any(both.filter(other), f"the movie has another title or other genres in {movies.file}", "movie")
        titles = pl.concat([titles, in_history.join(titles, on="movie", how="anti", maintain_order="left")])
    else:
        unknown = rated.join(titles, on="movie", how="anti", maintain_order="left")
        history.refuse_any(unknown, f"the movie is not in {movies.file}, and the history has no titles", "movie")
    return titles.drop("line")


def _of_users(
    history: InputTable, rated: pl.DataFrame, movies: InputTable, candidates: pl.DataFrame, users: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the history and the candidates of these users.

    Raises UserError where one of them has no history, or none of them a candidate.
    """
    if not history.has("user"):
        raise UserError(f"{history.file} has no column user to select by: leave out --user")
    ids = pl.col("user").cast(pl.String)
    known = rated.select(ids.unique(maintain_order=True)).to_series()
    for user in users:
        if user not in known:
            some = ", ".join(known.head(QUOTED)) + (", …" if len(known) > QUOTED else "")
            raise UserError(f"{history.file}: user {user} isn't among its {len(known):,} users: {some}")
    if movies.has("user"):
        candidates = candidates.filter(ids.is_in(users))
        if candidates.is_empty():
            raise UserError(f"{movies.file}: nothing to rate: it has no movies for {', '.join(users)}")
    return rated.filter(ids.is_in(users)), candidates


def _require_at_most(rated: pl.DataFrame, movies: InputTable, candidates: pl.DataFrame, at_most: int) -> None:
    """Raise UserError for more than `at_most` predictions, which are counted before they take memory."""
    if movies.has("user"):
        users, number = candidates["user"].n_unique(), len(candidates)
    else:
        users = max(1, rated["user"].n_unique())
        known = rated.join(candidates, on="movie", how="semi").select("user", "movie").n_unique()
        number = users * len(candidates) - known
    if number > at_most:
        raise UserError(
            f"{number:,} predictions for {users:,} users are more than {at_most:,}: select users with --user ID, or "
            "make all predictions with --all"
        )


def _pairs(
    history: InputTable, rated: pl.DataFrame, movies: InputTable, candidates: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Return the history, the pairs of users and candidates, both with ids of one type, and how many were left out."""
    pair = ["user", "movie"]
    repeated = "the movie is on an earlier line too"
    if movies.has("user"):
        rated, candidates = _with_same_ids(rated, candidates, "user")
        movies.refuse_any(candidates.filter(~pl.struct(pair).is_first_distinct()), repeated, "movie")
        unknown = candidates.join(rated, on="user", how="anti", maintain_order="left")
        movies.refuse_any(unknown, f"the user has no history in {history.file}", "user")
        known = candidates.join(rated, on=pair, how="semi", maintain_order="left")
        movies.refuse_any(known, f"the user has rated the movie in {history.file}", *pair)
        return rated, candidates, 0
    movies.refuse_any(candidates.filter(~pl.col("movie").is_first_distinct()), repeated, "movie")
    users = pl.DataFrame({"user": [0]}) if rated.is_empty() else rated.select(pl.col("user").unique().sort())
    every = users.join(candidates, how="cross", maintain_order="left_right")
    left = every.join(rated, on=pair, how="anti", maintain_order="left")
    return rated, left, len(every) - len(left)


def _users(history: InputTable, rated: pl.DataFrame) -> pl.DataFrame | None:
    """Return each user's profile and task, as far as given. Raises UserError where they differ from line to line."""
    columns = [name for name in ("profile", "task") if history.has(name)]
    if not columns:
        return None
    users = rated.select("user", *columns, "line").unique(pl.exclude("line"), keep="first", maintain_order=True)
    history.refuse_any(
        users.filter(~pl.col("user").is_first_distinct()),
        f"the user has another {' or '.join(columns)} on an earlier line",
        "user",
    )
    return users.drop("line")


def _stage(table: RatingTable, count: np.ndarray) -> Stage:
    """Return a stage of the last `count` [users] rows of each user, each of which sees all rows before these."""
    index = int_type(len(table))
    seen = np.diff(table.user_offsets) - count
    first = np.repeat(table.user_offsets[:-1] + seen, seen + count)
    is_target = np.arange(len(table)) >= first
    targets = np.flatnonzero(is_target).astype(index)
    user = np.asarray(table.user)[targets]
    return Stage(
        name="predict",
        targets=targets,
        user=user,
        visible=np.flatnonzero(~is_target).astype(index),
        visible_offsets=np.concatenate([[0], np.cumsum(seen)]),
        count=seen[user].astype(index),
    )
