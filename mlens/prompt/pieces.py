"""The pieces that prompts consist of: distinct texts, each tokenised once.

A prompt is a list of piece numbers. Joining the pieces' texts gives its text, joining their ids gives its ids. The
borders between pieces are chosen so that the joined ids are the ids of the joined text (`check_borders` tests this):

    TASK[+PROFILE] | ␤␤[HISTORICAL_RATINGS]␤ | 1. | ␠Title (G): | ␠5.0 | ␤2. | ␠Title (G): | ␠4.5 | …
    | ␤␤[RECENT_DIALOGUE]␤User: | ␠Title (G): tag␤User: | … | ␠Title (G):␤␤question | 5.0 | end

With prompt.dates=true, a movie is followed by the day of the rating. The comma belongs to the movie, since tokenizers
merge `),`:

    … | 1. | ␠Title (G), | ␠1998-03-13: | ␠5.0 | … | ␠Title (G), | ␠1998-03-14:␤␤question | 5.0 | end
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mlens.data.dates import DAY, day_texts, distinct_days
from mlens.data.ragged import offsets, ranges
from mlens.data.rating_table import RatingTable
from mlens.errors import UserError
from mlens.prompt.context import Context
from mlens.prompt.frame import ChatFrame
from mlens.prompt.settings import Ablation, Style
from mlens.prompt.tokens import PlainText, bos_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HISTORY_HEADER = "\n\n[HISTORICAL_RATINGS]\n"
DIALOGUE_HEADER = "\n\n[RECENT_DIALOGUE]\nUser:"


def movie_texts(table: RatingTable) -> list[str]:
    """Return `Title (Genre, Genre)` for every movie; without genres there is no bracket."""
    return [
        f"{title} ({genres})" if genres else title
        for title, genres in table.movies.select("title", "genres").iter_rows()
    ]


def movie_pieces(movies: list[str], style: Style) -> list[str]:
    """Return the text of each movie's piece in a history line, from `movie_texts`."""
    return [f" {movie}," if style.dates else f" {movie}:" for movie in movies]


def date_pieces(days: np.ndarray) -> list[str]:
    """Return the text of each day's piece in a history line. days [n]: days since 1970."""
    return [f" {day}:" for day in day_texts(days)]


def rating_texts(table: RatingTable) -> list[str]:
    """Return `0.5`, … `5.0` for every legal rating."""
    return [str(float(rating)) for rating in table.scale]


def head_texts(table: RatingTable, style: Style, ablation: Ablation) -> list[str]:
    """Return the task of every user, with the profile if the ablation includes it.

    Raises UserError if the ablation needs profiles and the data have none.
    """
    if ablation.profile and "profile" not in table.users.columns:
        raise UserError("the data have no user profiles for an ablation with profile: choose another ablation")
    has_tasks = "task" in table.users.columns
    tasks = table.users["task"].fill_null(style.task) if has_tasks else [style.task] * len(table.users)
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
    """All pieces of a table, style and ablation.

    texts [p]: the text of each piece.
    ids [tokens]: int32, the token ids of all pieces.
    offsets [p + 1]: piece i has the ids offsets[i] : offsets[i + 1].

    The other fields are piece numbers, in the order in which a prompt has them:

    opening: what the chat template, or else the tokenizer, puts before the prompt.
    head [users]: the task and the profile.
    header: the header of the history section.
    number [lines]: the number of each history line.
    movie [movies]: the movie of a history line.
    date [days]: the day of a history line; empty without dates.
    rating [scale]: the rating of a history line.
    dialogue: the header of the dialogue section.
    turn [distinct turns]: a context turn.
    target [movies]: the movie to rate, and the question unless the day follows.
    target_date [days]: the day of the movie to rate, and the question; empty without dates.
    closing: what the chat template puts after the prompt.
    answer [scale]: a legal rating with the end token.

    days [days]: the distinct days of all ratings, in days since 1970, ascending; empty without dates.
    """

    texts: list[str]
    ids: np.ndarray
    offsets: np.ndarray
    opening: int
    head: np.ndarray
    header: int
    number: np.ndarray
    movie: np.ndarray
    date: np.ndarray
    rating: np.ndarray
    dialogue: int
    turn: np.ndarray
    target: np.ndarray
    target_date: np.ndarray
    closing: int
    answer: np.ndarray
    days: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each piece: [p] int64."""
        return np.diff(self.offsets)

    def day(self, time: np.ndarray) -> np.ndarray:
        """Return the index in `days` of the day of each time, in seconds since 1970: [n]."""
        return np.searchsorted(self.days, time // DAY)

    def text(self, prompt: Sequence[int] | np.ndarray) -> str:
        return "".join(self.texts[piece] for piece in prompt)

    def tokens(self, prompt: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the joined ids of these pieces: [tokens] int32."""
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
    """Tokenise each distinct text once.

    movies: `movie_texts` of the table.
    frame: the text around a prompt.

    Raises UserError where the data lack what the ablation needs, or have no dates for prompt.dates=true.
    """
    days = distinct_days(table) if style.dates else np.zeros(0, dtype=np.int64)
    dates = date_pieces(days)
    max_lines = int(np.diff(table.user_offsets).max())
    heads = head_texts(table, style, ablation)
    distinct_heads = {head: number for number, head in enumerate(dict.fromkeys(heads))}
    ratings = rating_texts(table)
    kinds: dict[str, list[str]] = {
        "opening": [frame.before],
        "head": list(distinct_heads),
        "header": [HISTORY_HEADER],
        "number": [f"{k}." if k == 1 else f"\n{k}." for k in range(1, max_lines + 1)],
        "movie": movie_pieces(movies, style),
        "date": dates,
        "rating": [f" {rating}" for rating in ratings],
        "dialogue": [DIALOGUE_HEADER],
        "turn": [f" {turn}\nUser:" for turn in context.texts] if context else [],
        "target": [] if style.dates else [f" {movie}:\n\n{style.question}" for movie in movies],
        "target_date": [f"{date}\n\n{style.question}" for date in dates],
        "closing": [frame.after],
        "answer": ratings,
    }
    ids: list[np.ndarray] = []
    numbers: dict[str, np.ndarray] = {}
    texts: list[str] = []
    for kind, kind_texts in kinds.items():
        numbers[kind] = np.arange(len(texts), len(texts) + len(kind_texts))
        texts += kind_texts
        ids += plain.encode(kind_texts)
    # In template text `<|im_start|>` is a token. Without a template, a prompt has the begin token of any text.
    before, after = (np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32) for text in frame)
    ids[numbers["opening"][0]] = before if frame.before else bos_ids(tokenizer)
    ids[numbers["closing"][0]] = after
    end = np.array([tokenizer.eos_token_id], dtype=np.int32)
    for answer in numbers["answer"]:
        ids[answer] = np.concatenate([ids[answer], end])
    return Pieces(
        texts=texts,
        ids=np.concatenate(ids),
        offsets=offsets([len(piece) for piece in ids]),
        opening=int(numbers["opening"][0]),
        head=numbers["head"][[distinct_heads[head] for head in heads]],
        header=int(numbers["header"][0]),
        number=numbers["number"],
        movie=numbers["movie"],
        date=numbers["date"],
        rating=numbers["rating"],
        dialogue=int(numbers["dialogue"][0]),
        turn=numbers["turn"],
        target=numbers["movie" if style.dates else "target"],
        target_date=numbers["target_date"],
        closing=int(numbers["closing"][0]),
        answer=numbers["answer"],
        days=days,
    )
