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
from typing import TYPE_CHECKING

import numpy as np

from mlens.data.ragged import offsets, ranges
from mlens.data.rating_table import RatingTable
from mlens.errors import UserError
from mlens.prompt.context import Context
from mlens.prompt.frame import ChatFrame
from mlens.prompt.settings import Ablation, Style
from mlens.prompt.tokens import PlainText, begin_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        return self.ids[ranges(self.offsets[prompt], self.lengths[prompt])]


def make_pieces(
    table: RatingTable,
    style: Style,
    ablation: Ablation,
    movies: list[str],
    context: Context | None,
    tokenizer: PreTrainedTokenizerBase,
    plain: PlainText,
    frame: ChatFrame,
) -> Pieces:
    """Tokenise each text once. movies: `movie_texts` of the table; frame: what stands around a prompt."""
    most_lines = int(np.diff(table.user_offsets).max())
    heads = head_texts(table, style, ablation)
    distinct_heads = {head: number for number, head in enumerate(dict.fromkeys(heads))}
    ratings = rating_texts(table)
    kinds: dict[str, list[str]] = {
        "opening": [frame.before],
        "head": list(distinct_heads),
        "header": [HISTORY_HEADER],
        "number": [f"{k}." if k == 1 else f"\n{k}." for k in range(1, most_lines + 1)],
        "movie": [f" {movie}:" for movie in movies],
        "rating": [f" {rating}" for rating in ratings],
        "dialogue": [DIALOGUE_HEADER],
        "turn": [f" {turn}\nUser:" for turn in context.texts] if context else [],
        "target": [f" {movie}:\n\n{style.question}" for movie in movies],
        "closing": [frame.after],
        "answer": ratings,
    }
    ids: list[np.ndarray] = []
    places: dict[str, np.ndarray] = {}
    texts: list[str] = []
    for kind, kind_texts in kinds.items():
        places[kind] = np.arange(len(texts), len(texts) + len(kind_texts))
        texts += kind_texts
        ids += plain.encode(kind_texts)
    # Template text, in which `<|im_start|>` is a token; a prompt outside a template begins as any text does.
    before, after = (np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32) for text in frame)
    ids[places["opening"][0]] = before if frame.before else begin_ids(tokenizer)
    ids[places["closing"][0]] = after
    end = np.array([tokenizer.eos_token_id], dtype=np.int32)
    for answer in places["answer"]:
        ids[answer] = np.concatenate([ids[answer], end])
    return Pieces(
        texts=texts,
        ids=np.concatenate(ids),
        offsets=offsets([len(piece) for piece in ids]),
        opening=int(places["opening"][0]),
        head=places["head"][[distinct_heads[head] for head in heads]],
        header=int(places["header"][0]),
        number=places["number"],
        movie=places["movie"],
        rating=places["rating"],
        dialogue=int(places["dialogue"][0]),
        turn=places["turn"],
        target=places["target"],
        closing=int(places["closing"][0]),
        answer=places["answer"],
    )
