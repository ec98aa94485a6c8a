"""The pieces of a prompt and their order. No other module knows this order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlens.data.ragged import ranges
from mlens.data.rating_table import RatingTable
from mlens.prompt.context import Context
from mlens.prompt.pieces import Pieces
from mlens.prompt.settings import Ablation, Style

# The parts of a prompt in order: the prefix, with a header and its lines where there is a history, and the suffix.
BEGINNING, HEADER, LINE = ("opening", "task"), ("heading",), ("number", "film", "rating")
DIALOGUE, TURN, ENDING = ("dialogue",), "context", ("film to rate", "closing")
# The index of the first line's rating among the pieces of the prefix.
FIRST_RATING = len(BEGINNING + HEADER + LINE) - 1


@dataclass(frozen=True)
class Prefix:
    """The beginning of a prompt, up to the end of its history.

    If one history is the beginning of another, so is its prefix.

    pieces [p]: the piece numbers.
    ends [p]: the number of tokens up to the end of each piece.
    """

    pieces: np.ndarray
    ends: np.ndarray

    @property
    def tokens(self) -> int:
        return int(self.ends[-1])

    @property
    def line_ends(self) -> np.ndarray:
        """The number of tokens before the history, and up to the end of each of its lines: [1 + lines]."""
        return np.append(self.ends[len(BEGINNING) - 1], self.ends[FIRST_RATING :: len(LINE)])

    def rating_tokens(self, lines: np.ndarray) -> np.ndarray:
        """Return the indices in the prefix of the tokens of the ratings of `lines` (from 0): [tokens]."""
        ratings = FIRST_RATING + len(LINE) * lines
        starts = self.ends[ratings - 1]
        return ranges(starts, self.ends[ratings] - starts)


def part_names(lines: int, turns: int) -> list[str]:
    """Return the name of each piece of a prompt with this number of history lines and context turns.

    >>> part_names(lines=1, turns=0)
    ['opening', 'task', 'heading', 'number', 'film', 'rating', 'dialogue', 'film to rate', 'closing']
    """
    history = [*HEADER, *LINE * lines] if lines else []
    return [*BEGINNING, *history, *DIALOGUE, *[TURN] * turns, *ENDING]


@dataclass(frozen=True)
class PromptTemplate:
    """The prompts of all targets of `table`, as pieces."""

    table: RatingTable
    style: Style
    ablation: Ablation
    pieces: Pieces
    context: Context | None

    def prefix(self, user: int, history: np.ndarray) -> Prefix:
        """Return the part of the prompt that depends on the target only through its history.

        history [h]: ratings of the table in time order.
        """
        pieces, table = self.pieces, self.table
        numbers = np.array([pieces.opening, pieces.head[user]])
        if len(history):
            lines = np.empty((len(history), len(LINE)), dtype=np.int64)
            lines[:, 0] = pieces.number[: len(history)]
            lines[:, 1] = pieces.movie[table.movie[history]]
            lines[:, 2] = pieces.rating[table.rating_index[history]]
            numbers = np.concatenate([numbers, [pieces.header], lines.ravel()])
        return Prefix(numbers, np.cumsum(pieces.lengths[numbers]))

    def suffix(self, target: int, turns: np.ndarray) -> np.ndarray:
        """Return the pieces of the rest of the prompt, with these context `turns`: [pieces]."""
        pieces = self.pieces
        return np.array([pieces.dialogue, *turns, pieces.target[self.table.movie[target]], pieces.closing])

    def turns(self, target: int) -> np.ndarray:
        """Return the pieces of the context turns of `target`, whether they fit or not: [turns]."""
        if self.context is None:
            return np.array([], dtype=np.int64)
        return self.pieces.turn[self.context.turns(self.table, target, self.style.max_context)]

    def fitting_turns(self, target: int, prefix_tokens: int) -> np.ndarray:
        """Return the newest of `turns` that fit after a prefix of `prefix_tokens` tokens: [≤ turns]."""
        turns = self.turns(target)
        if not len(turns):
            return turns
        lengths = self.pieces.lengths
        room = self.style.max_tokens - prefix_tokens - lengths[self.suffix(target, turns[:0])].sum()
        fitting = np.searchsorted(np.cumsum(lengths[turns][::-1]), room - self.longest_answer, side="right")
        return turns[len(turns) - int(fitting) :]

    def head_lengths(self, users: np.ndarray) -> np.ndarray:
        """Return the tokens of the prefix of each user without history: [n]."""
        lengths = self.pieces.lengths
        return lengths[self.pieces.opening] + lengths[self.pieces.head[users]]

    def answer(self, target: int) -> np.ndarray:
        """Return the ids of the target's rating and the end token: [tokens] int32."""
        return self.answers[self.table.rating_index[target]]

    @cached_property
    def answers(self) -> list[np.ndarray]:
        """The ids of every legal rating, each with the end token, in the order of the scale."""
        return [self.pieces.tokens([piece]) for piece in self.pieces.answer]

    @cached_property
    def longest_answer(self) -> int:
        return int(self.pieces.lengths[self.pieces.answer].max())
