"""Naive references for splits, histories and prompts: loops over lists, written from the rules, not from the code."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from math import floor

import numpy as np
import polars as pl
from hypothesis import strategies as st

from mlens.data.rating_table import RatingTable
from mlens.data.split import assign_roles
from mlens.data.stage import make_stage

HALF_STARS = tuple(i / 2 for i in range(1, 11))
TASK = "基于用户在 MovieLens 上的历史评分和标签数据，模拟该用户的电影偏好和行为模式"
QUESTION = "预测用户对该电影的评分："


def make_table(users, *, titles=None, genres=None, user_ids=None, movie_ids=None, tags=None, **frames) -> RatingTable:
    """Make a table.

    users: for each a list of (movie, rating, timestamp), in the table's order.
    tags: (user, movie, tag, timestamp) each, in the table's order.
    frames: `profile` and `task` (a text for each user), `contexts` (a list of texts for each rating).
    """
    flat = [(u, *row) for u, rows in enumerate(users) for row in rows]
    movies = 1 + max([movie for _, movie, _, _ in flat] + [movie for _, movie, _, _ in tags or []], default=0)
    titles = titles or [f"Movie {chr(65 + m % 26)}{m} ({1980 + m % 40})" for m in range(movies)]
    genres = genres or ["Drama" if m % 3 else "Comedy, Sci-Fi" for m in range(len(titles))]
    texts = {name: frames.pop(name) for name in ("profile", "task") if frames.get(name) is not None}
    contexts = frames.pop("contexts", None)
    return RatingTable(
        user=np.array([row[0] for row in flat], dtype=np.int32),
        movie=np.array([row[1] for row in flat], dtype=np.int32),
        rating=np.array([row[2] for row in flat], dtype=np.float32),
        timestamp=np.array([row[3] for row in flat], dtype=np.int64),
        user_offsets=np.cumsum([0] + [len(rows) for rows in users]),
        users=pl.DataFrame(
            {"id": user_ids or list(range(1, len(users) + 1)), **texts},
            schema_overrides=dict.fromkeys(texts, pl.String),
        ),
        movies=pl.DataFrame({"id": movie_ids or list(range(10, 10 + len(titles))), "title": titles, "genres": genres}),
        scale=HALF_STARS,
        tags=None if tags is None else pl.DataFrame(tags, schema=["user", "movie", "tag", "timestamp"], orient="row"),
        contexts=contexts and pl.DataFrame({"context": contexts}, schema={"context": pl.List(pl.String)}),
        **frames,
    )


def dated(table: RatingTable) -> RatingTable:
    """Return the table with its small times, and those of its tags, spread over the days from 1998-03-13 on."""

    def spread(time):
        return time * 40_000 + 889_747_200

    tags = None if table.tags is None else table.tags.with_columns(spread(pl.col("timestamp")))
    return replace(table, timestamp=spread(table.timestamp), tags=tags)


@st.composite
def tables(draw, most_users=5, most_ratings=14, most_movies=9):
    """Draw tables of users of all sizes, with many ties in time, and ids that are numbers or texts."""
    sizes = draw(st.lists(st.integers(1, most_ratings), min_size=1, max_size=most_users))
    movies = st.integers(0, most_movies - 1)
    row = st.tuples(movies, st.sampled_from(HALF_STARS), st.integers(0, most_ratings))
    users = [sorted(draw(st.lists(row, min_size=n, max_size=n)), key=lambda r: r[2]) for n in sizes]
    titles = [f"Movie {m}" for m in range(most_movies)]
    if draw(st.booleans()):
        ids = {"user_ids": [f"u{u}" for u in range(len(users))], "movie_ids": [f"m{m}" for m in range(most_movies)]}
    else:
        ids = {}
    return make_table(users, titles=titles, **ids)


def user_ratings(table: RatingTable, user: int) -> list[int]:
    """Return the user's ratings, as indices into the table."""
    return [i for i in range(len(table)) if table.user[i] == user]


def naive_count(ratio: float, n: int) -> int:
    """Return ratio * n with exact decimals, halves rounded up, at least 1 unless the ratio is 0."""
    return 0 if ratio == 0 else max(1, floor(Fraction(str(ratio)) * n + Fraction(1, 2)))


def naive_day(table: RatingTable, rating: int) -> str:
    """Return the day of a rating in UTC, as in 1998-03-13."""
    return f"{datetime.fromtimestamp(int(table.timestamp[rating]), UTC):%Y-%m-%d}"


def naive_visible(table: RatingTable, roles, target: int, eval_history="all", ties="order") -> list[int]:
    """Return the ratings before `target` in its user's order that it may see."""
    names = ["train", "val", "test"]
    may_see = {"train": {"train"}, "val": {"train", "val"}, "test": {"train", "val", "test"}}[names[roles[target]]]
    if eval_history == "train":
        may_see = {"train"}
    seen = []
    for i in user_ratings(table, table.user[target]):
        if i == target:
            break
        if ties == "strict" and table.timestamp[i] == table.timestamp[target]:
            continue
        if ties == "day" and naive_day(table, i) == naive_day(table, target):
            continue
        if names[roles[i]] in may_see:
            seen.append(i)
    return seen


def naive_k(ratio: float, c: int) -> int:
    """Return the number of ratings that a ratio chooses of c visible ones."""
    return 0 if c == 0 else max(1, floor(Fraction(str(ratio)) * c))


def stage_of(table, split, name):
    return make_stage(table, assign_roles(table, split), split, name)


@dataclass(frozen=True)
class NaivePrompt:
    """The sections of a prompt; each but task and movie may be empty."""

    task: str
    profile: str
    history: list[tuple[str, str]]
    turns: list[str]
    movie: str
    question: str

    def text(self) -> str:
        text = f"[TASK]\n{self.task}\n\n"
        if self.profile:
            text += f"[USER_PROFILE]\n{self.profile}\n\n"
        if self.history:
            lines = [f"{k + 1}. {movie}: {rating}\n" for k, (movie, rating) in enumerate(self.history)]
            text += "[HISTORICAL_RATINGS]\n" + "".join(lines) + "\n"
        text += "[RECENT_DIALOGUE]\n"
        for turn in self.turns:
            text += f"User: {turn}\n"
        return text + f"User: {self.movie}:\n\n{self.question}"


def naive_movie(table: RatingTable, movie: int) -> str:
    title, genres = table.movies["title"][int(movie)], table.movies["genres"][int(movie)]
    return title if genres == "" else title + " (" + genres + ")"


def naive_film(table: RatingTable, rating: int, dates: bool) -> str:
    """Return the movie of a rating and, with dates, the day of the rating."""
    movie = naive_movie(table, table.movie[rating])
    return movie + datetime.fromtimestamp(int(table.timestamp[rating]), UTC).strftime(", %Y-%m-%d") if dates else movie


def naive_turns(table: RatingTable, target: int, most: int) -> list[str]:
    """Return the last turns of context: the record's, else the user's earlier tags of other movies."""
    if table.contexts is not None:
        turns = list(table.contexts["context"].to_list()[target] or [])
    else:
        turns = []
        assert table.tags is not None
        for user, movie, tag, timestamp in table.tags.iter_rows():
            about_target = movie == table.movie[target]
            if user == table.user[target] and timestamp < table.timestamp[target] and not about_target:
                turns.append(naive_movie(table, movie) + ": " + tag)
    return turns[-most:] if most else []


def naive_prompt(table: RatingTable, target: int, history, ablation, style) -> NaivePrompt:
    """Return the prompt without a budget."""
    user = int(table.user[target])
    task = table.users["task"][user] if "task" in table.users.columns else None
    profile = table.users["profile"][user] if ablation.profile else None
    lines = reversed(history) if style.order == "newest_first" else history
    return NaivePrompt(
        task=task or style.task,
        profile=profile or "",
        history=[(naive_film(table, i, style.dates), f"{table.rating[i]:.1f}") for i in lines],
        turns=naive_turns(table, target, style.max_context) if ablation.context else [],
        movie=naive_film(table, target, style.dates),
        question=style.question,
    )
