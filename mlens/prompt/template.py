"""Which pieces make a prompt, and in which order. Nothing else knows."""

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
# Where the rating of the first line stands among the prefix's pieces.
FIRST_RATING = len(BEGINNING + HEADER + LINE) - 1


@dataclass(frozen=True)
class Prefix:
    """The beginning of a prompt, up to the end of its history. That of a longer history begins with it.

    pieces [p]: the piece numbers.
    ends [p]: how many tokens each piece and those before it have.
    """

    pieces: np.ndarray
    ends: np.ndarray

    @property
    def tokens(self) -> int:
        return int(self.ends[-1])

    @property
    def line_ends(self) -> np.ndarray:
        """[1 + lines] how many tokens the prefix has up to the history, and up to the end of each line."""
        return np.append(self.ends[len(BEGINNING) - 1], self.ends[FIRST_RATING :: len(LINE)])

    def rating_tokens(self, lines: np.ndarray) -> np.ndarray:
        """[tokens] where the tokens of the ratings of these `lines` (from 0) stand in the prefix."""
        ratings = FIRST_RATING + len(LINE) * lines
        starts = self.ends[ratings - 1]
        return ranges(starts, self.ends[ratings] - starts)


def part_names(lines: int, turns: int) -> list[str]:
    """The name of each piece of a prompt with so many history lines and turns of context.

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
        """All that doesn't depend on the target except through `history` [h] (ratings of the table in time order)."""
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
        """[pieces] the rest of the prompt, with these `turns` of context."""
        pieces = self.pieces
        return np.array([pieces.dialogue, *turns, pieces.target[self.table.movie[target]], pieces.closing])

    def turns(self, target: int) -> np.ndarray:
        """[turns] the pieces of all context turns of `target`, before any budget."""
        if self.context is None:
            return np.array([], dtype=np.int64)
        return self.pieces.turn[self.context.turns(self.table, target, self.style.max_context)]

    def fitting_turns(self, target: int, prefix_tokens: int) -> np.ndarray:
        """[≤ turns] the newest of `turns` that fit behind a prefix of so many tokens."""
        turns = self.turns(target)
        if not len(turns):
            return turns
        lengths = self.pieces.lengths
        room = self.style.max_tokens - prefix_tokens - lengths[self.suffix(target, turns[:0])].sum()
        fitting = np.searchsorted(np.cumsum(lengths[turns][::-1]), room - self.longest_answer, side="right")
        return turns[len(turns) - int(fitting) :]

    def head_lengths(self, users: np.ndarray) -> np.ndarray:
        """[n] tokens of the prefix of each user without any history."""
        lengths = self.pieces.lengths
        return lengths[self.pieces.opening] + lengths[self.pieces.head[users]]

    def answer(self, target: int) -> np.ndarray:
        """[tokens] int32: the ids of the rating itself and the end token."""
        return self.answers[self.table.rating_index[target]]

    @cached_property
    def answers(self) -> list[np.ndarray]:
        """The ids of every legal rating, each with the end token, in the order of the scale."""
        return [self.pieces.tokens([piece]) for piece in self.pieces.answer]

    @cached_property
    def longest_answer(self) -> int:
        return int(self.pieces.lengths[self.pieces.answer].max())
