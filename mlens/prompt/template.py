"""The pieces of a prompt and their order. No other module knows this order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlens.data.ragged import ranges
from mlens.data.rating_table import RatingTable
from mlens.prompt.context import Context
from mlens.prompt.pieces import Pieces
from mlens.prompt.settings import NEWEST_FIRST, Ablation, Style

# The parts of a prompt in order: the prefix, with a header and its lines where there is a history, and the suffix.
BEGINNING, HEADER, LINE = ("opening", "task"), ("heading",), ("number", "item", "rating")
DIALOGUE, TURN, ENDING = ("dialogue",), "context", ("item to rate", "closing")
# The same with prompt.dates=true.
DATED_LINE, DATED_ENDING = ("number", "item", "date", "rating"), ("item to rate", "date to rate", "closing")


@dataclass(frozen=True)
class Prefix:
    """The beginning of a prompt, up to the end of its history.

    If the lines of one history are the beginning of those of another, so is its prefix.

    pieces [p]: the piece numbers.
    ends [p]: the number of tokens up to the end of each piece.
    line_pieces: the number of pieces of a line; the last one is its rating.
    """

    pieces: np.ndarray
    ends: np.ndarray
    line_pieces: int

    @property
    def tokens(self) -> int:
        return int(self.ends[-1])

    @property
    def line_ends(self) -> np.ndarray:
        """The number of tokens before the history, and up to the end of each of its lines: [1 + lines]."""
        return np.append(self.ends[len(BEGINNING) - 1], self.ends[self._first_rating :: self.line_pieces])

    def rating_tokens(self, lines: np.ndarray) -> np.ndarray:
        """Return the indices in the prefix of the tokens of the ratings of `lines` (from 0): [tokens]."""
        ratings = self._first_rating + self.line_pieces * lines
        starts = self.ends[ratings - 1]
        return ranges(starts, self.ends[ratings] - starts)

    @property
    def _first_rating(self) -> int:
        return len(BEGINNING + HEADER) + self.line_pieces - 1


def part_names(lines: int, turns: int, dates: bool) -> list[str]:
    """Return the name of each piece of a prompt with this number of history lines and context turns.

    >>> part_names(lines=1, turns=0, dates=False)
    ['opening', 'task', 'heading', 'number', 'item', 'rating', 'dialogue', 'item to rate', 'closing']
    """
    line, ending = (DATED_LINE, DATED_ENDING) if dates else (LINE, ENDING)
    history = [*HEADER, *line * lines] if lines else []
    return [*BEGINNING, *history, *DIALOGUE, *[TURN] * turns, *ending]


@dataclass(frozen=True)
class PromptTemplate:
    """The prompts of all targets of `table`, as pieces."""

    table: RatingTable
    style: Style
    ablation: Ablation
    pieces: Pieces
    context: Context | None

    @property
    def newest_first(self) -> bool:
        return self.style.order == NEWEST_FIRST

    def line_order(self, history: np.ndarray) -> np.ndarray:
        """Return a history [h], given in time order, in the order of its lines: [h]."""
        return history[::-1] if self.newest_first else history

    def prefix(self, user: int, lines: np.ndarray) -> Prefix:
        """Return the part of the prompt that depends on the target only through its history.

        lines [h]: the rating of each history line, as an index into the table.
        """
        pieces, table, dates = self.pieces, self.table, self.style.dates
        numbers = np.array([pieces.opening, pieces.head[user]])
        columns = [pieces.number[: len(lines)], pieces.movie[table.movie[lines]]]
        if dates:
            columns.append(pieces.date[pieces.day(table.timestamp[lines])])
        columns.append(pieces.rating[table.rating_index[lines]])
        if len(lines):
            numbers = np.concatenate([numbers, [pieces.header], np.stack(columns, axis=1).ravel()])
        return Prefix(numbers, np.cumsum(pieces.lengths[numbers]), len(columns))

    def suffix(self, target: int, turns: np.ndarray) -> np.ndarray:
        """Return the pieces of the rest of the prompt, with these context `turns`: [pieces]."""
        pieces, table = self.pieces, self.table
        dates = [pieces.target_date[pieces.day(table.timestamp[target])]] if self.style.dates else []
        return np.array([pieces.dialogue, *turns, pieces.target[table.movie[target]], *dates, pieces.closing])

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

    def line_lengths(self, ratings: np.ndarray) -> np.ndarray:
        """Return the tokens of the history line of each rating, without its number: [n]."""
        pieces, table = self.pieces, self.table
        lengths = pieces.lengths[pieces.movie[table.movie[ratings]]]
        lengths = lengths + pieces.lengths[pieces.rating[table.rating_index[ratings]]]
        if self.style.dates:
            lengths = lengths + pieces.lengths[pieces.date[pieces.day(table.timestamp[ratings])]]
        return lengths

    def target_lengths(self, targets: np.ndarray) -> np.ndarray:
        """Return the tokens of each movie to rate, its date and the question included: [n]."""
        pieces, table = self.pieces, self.table
        lengths = pieces.lengths[pieces.target[table.movie[targets]]]
        if self.style.dates:
            lengths = lengths + pieces.lengths[pieces.target_date[pieces.day(table.timestamp[targets])]]
        return lengths

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
