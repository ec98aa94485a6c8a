"""The pieces that prompts are made of: each text once, with its tokens.

A prompt is a list of piece numbers. Its text is the pieces' texts joined, its ids are the pieces' ids joined; the
borders between pieces are chosen so that the joined ids are the ids of the joined text (`check_borders` tests it):

    TASK[+PROFILE] | ␤␤[HISTORICAL_RATINGS]␤ | 1. | ␠Title (G): | ␠5.0 | ␤2. | ␠Title (G): | ␠4.5 | …
    | ␤␤[RECENT_DIALOGUE]␤User: | ␠Title (G): tag␤User: | … | ␠Title (G):␤␤question | 5.0 | end
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlens.data.table import RatingTable
from mlens.errors import UserError
from mlens.prompt.settings import Ablation, Style

HISTORY_HEADER = "\n\n[HISTORICAL_RATINGS]\n"
DIALOGUE_HEADER = "\n\n[RECENT_DIALOGUE]\nUser:"


def movie_texts(table: RatingTable) -> list[str]:
    """`Title (Genre, Genre)` for every movie; without genres there is no bracket."""
    return [
        f"{title} ({genres})" if genres else title
        for title, genres in table.movies.select("title", "genres").iter_rows()
    ]


def rating_texts(table: RatingTable) -> list[str]:
    """`0.5`, … `5.0` for every legal rating."""
    return [str(float(rating)) for rating in table.scale]


def head_texts(table: RatingTable, style: Style, ablation: Ablation) -> list[str]:
    """The first piece for every user: the task and, where the ablation has it, the user's profile.

    Raises UserError where the data have no profiles for it.
    """
    if ablation.profile and "profile" not in table.users.columns:
        raise UserError("the data have no user profiles for an ablation with profile: choose another ablation")
    own = "task" in table.users.columns
    tasks = table.users["task"].fill_null(style.task) if own else [style.task] * len(table.users)
    heads = [f"[TASK]\n{task}" for task in tasks]
    if not ablation.profile:
        return heads
    profiles = table.users["profile"].fill_null("")
    return [
        head + (f"\n\n[USER_PROFILE]\n{profile}" if profile else "")
        for head, profile in zip(heads, profiles, strict=True)
    ]


@dataclass(frozen=True)
class Pieces:
    """All pieces of one table, style and ablation, and where each kind of them begins.

    texts [p]; ids [tokens] int32 with piece i at offsets[i]:offsets[i + 1]; lengths [p] int64.
    head [users], movie [movies] (as a history line), target [movies] (as the movie to rate), rating [scale], answer
    [scale], number [most lines], turn [distinct turns], and header, dialogue, opening, closing are piece numbers.
    """

    texts: list[str]
    ids: np.ndarray
    offsets: np.ndarray
    opening: int
    head: np.ndarray
    header: int
    number: np.ndarray
    movie: np.ndarray
    rating: np.ndarray
    dialogue: int
    turn: np.ndarray
    target: np.ndarray
    closing: int
    answer: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def text(self, prompt: Sequence[int] | np.ndarray) -> str:
        return "".join(self.texts[piece] for piece in prompt)

    def tokens(self, prompt: Sequence[int] | np.ndarray) -> np.ndarray:
        """[tokens] int32: the pieces' ids joined."""
        lengths = self.lengths[prompt]
        before = np.cumsum(lengths) - lengths
        return self.ids[np.repeat(self.offsets[prompt] - before, lengths) + np.arange(lengths.sum())]
