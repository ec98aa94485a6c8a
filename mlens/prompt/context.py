"""The context turns that a prompt's dialogue section may have above the target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from mlens.data.ragged import offsets
from mlens.data.rating_table import RatingTable
from mlens.errors import UserError


@dataclass(frozen=True)
class Context:
    """The context turns of every target.

    They are the turns of the rating's record where the source has them, else the tags that its user gave strictly
    before its time, except those of the target movie.

    texts: the distinct turns.
    turn [n]: indices into `texts`, sorted by owner: a rating (turns of records) or a user (tags).
    owner_offsets [owners + 1]: where the turns of each owner are in `turn`.
    time [n]: when each tag was given; None for turns of records.
    movie [n]: the movie of each tag; None for turns of records.
    """

    texts: list[str]
    turn: np.ndarray
    owner_offsets: np.ndarray
    time: np.ndarray | None = None
    movie: np.ndarray | None = None

    def turns(self, table: RatingTable, target: int, limit: int) -> np.ndarray:
        """Return the last turns of the rating `target` of the table, oldest first: [≤ limit]."""
        owner = target if self.time is None else table.user[target]
        start, stop = self.owner_offsets[owner], self.owner_offsets[owner + 1]
        turn = self.turn[start:stop]
        if self.time is not None and self.movie is not None:
            earlier = int(np.searchsorted(self.time[start:stop], table.timestamp[target], side="left"))
            turn = turn[:earlier][self.movie[start : start + earlier] != table.movie[target]]
        return turn[len(turn) - min(limit, len(turn)) :]


def make_context(table: RatingTable, movie_texts: list[str]) -> Context:
    """Collect the context that the table has. Raises UserError where it has neither records with context nor tags."""
    if table.contexts is not None:
        lists = table.contexts["context"].fill_null([])
        lengths = lists.list.len()
        turns = lists.filter(lengths > 0).explode()
        return Context(*_distinct(turns), offsets(lengths.to_numpy()))
    if table.tags is None:
        raise UserError("the data have no tags and no context for an ablation with context: choose another ablation")
    movie = table.tags["movie"].to_numpy()
    turns = pl.Series([f"{movie_texts[m]}: {tag}" for m, tag in zip(movie, table.tags["tag"], strict=True)])
    owner_offsets = np.searchsorted(table.tags["user"].to_numpy(), np.arange(len(table.users) + 1))
    return Context(*_distinct(turns), owner_offsets, table.tags["timestamp"].to_numpy(), movie)


def _distinct(turns: pl.Series) -> tuple[list[str], np.ndarray]:
    texts = turns.unique(maintain_order=True)
    numbers = {text: number for number, text in enumerate(texts)}
    return texts.to_list(), np.array([numbers[text] for text in turns], dtype=np.int64)
