"""Ratings that a reader drops, each time with a note that counts them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mlens.data.raw import is_too_long, to_one_line
from mlens.errors import UserError


def drop_note(file: Path, dropped: int, total: int, reason: str) -> tuple[str, ...]:
    """Return a note on `dropped` of `total` ratings, none where it is 0. Raises UserError where all are dropped."""
    if total and dropped == total:
        raise UserError(f"{file}: none of its {total:,} ratings can be used: {reason}")
    return (f"{file.name}: dropped {dropped:,} of {total:,} ratings: {reason}",) if dropped else ()


def drop_unnamed(
    ratings: pl.DataFrame, items: pl.DataFrame, ratings_file: Path, items_file: Path
) -> tuple[pl.DataFrame, pl.DataFrame, tuple[str, ...]]:
    """Drop ratings of items without a title, and items without ratings.

    items: `movie`, `title`, `genres`; of several rows for an item, the first with a title counts.

    Returns the ratings, the items, and a note where ratings were dropped.
    """
    title = to_one_line(pl.col("title").fill_null(""))
    named = items.filter((title != "") & ~is_too_long(pl.col("title")))
    named = named.join(ratings.select("movie"), on="movie", how="semi", maintain_order="left")
    named = named.unique("movie", keep="first", maintain_order=True)
    kept = ratings.join(named.select("movie"), on="movie", how="semi", maintain_order="left")
    reason = f"no title of their item in {items_file.name}"
    return kept, named, drop_note(ratings_file, len(ratings) - len(kept), len(ratings), reason)


def drop_repeats(ratings: pl.DataFrame, file: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Keep the first of several ratings of one item by one user at one time. Returns the ratings and a note."""
    kept = ratings.unique(["user", "movie", "timestamp"], keep="first", maintain_order=True)
    reason = "the same user, item and time as on an earlier line"
    return kept, drop_note(file, len(ratings) - len(kept), len(ratings), reason)
