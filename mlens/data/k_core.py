"""The k-core of the ratings: what is left without users and items that have few ratings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from mlens.data.order import index_of
from mlens.data.raw import RawTables
from mlens.errors import UserError


def k_core_rows(user: np.ndarray, item: np.ndarray, min_user_ratings: int, min_item_ratings: int) -> np.ndarray:
    """Return the rows of the largest part in which each user and item has enough ratings: [rows], ascending.

    user, item [n]: non-negative numbers of the user and the item of each rating.

    Users and items with too few ratings are dropped until all have enough. The result doesn't depend on the order in
    which they are dropped (Batagelj and Zaversnik, "An O(m) Algorithm for Cores Decomposition of Networks", 2003).
    """
    rows = np.arange(len(user))
    while True:
        enough = np.bincount(user)[user] >= min_user_ratings
        enough &= np.bincount(item)[item] >= min_item_ratings
        if enough.all():
            return rows
        rows, user, item = rows[enough], user[enough], item[enough]


def keep_k_core(raw: RawTables, min_user_ratings: int | None, min_item_ratings: int | None) -> RawTables:
    """Return the k-core of the ratings, without movies that have no rating in it, and with a note on what was dropped.

    min_user_ratings, min_item_ratings: the fewest ratings of a user and of a movie; None: any number.

    Raises UserError where nothing is left.
    """
    users, movies = raw.ratings["user"].unique(), raw.ratings["movie"].unique()
    user, movie = index_of(raw.ratings["user"], users), index_of(raw.ratings["movie"], movies)
    rows = k_core_rows(user, movie, min_user_ratings or 1, min_item_ratings or 1)
    given = {"data.min_user_ratings": min_user_ratings, "data.min_item_ratings": min_item_ratings}
    settings = ", ".join(f"{name}={least}" for name, least in given.items() if least is not None)
    if not len(rows):
        raise UserError(f"{raw.ratings_file}: {settings} leave no ratings. Lower them")
    kept_users, kept_movies = np.unique(user[rows]), np.unique(movie[rows])
    note = (
        f"{settings}: dropped {len(users) - len(kept_users):,} of {len(users):,} users, "
        f"{len(movies) - len(kept_movies):,} of {len(movies):,} rated items and "
        f"{len(user) - len(rows):,} of {len(user):,} ratings"
    )
    kept_ids = movies.gather(kept_movies).cast(raw.movies["movie"].dtype)
    return replace(
        raw,
        ratings=raw.ratings if len(rows) == len(user) else raw.ratings[rows],
        movies=raw.movies.filter(pl.col("movie").is_in(kept_ids.implode())),
        notes=(*raw.notes, note),
    )
