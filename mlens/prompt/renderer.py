"""The one renderer: a target and its chosen history -> a prompt, as text and as tokens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mlens.data.blocks import by_blocks, int_type
from mlens.data.stage import Stage
from mlens.data.table import RatingTable
from mlens.errors import UserError
from mlens.history.budget import Budget
from mlens.prompt.context import Context, make_context
from mlens.prompt.frame import ChatFrame, render_frame
from mlens.prompt.pieces import (
    DIALOGUE_HEADER,
    HISTORY_HEADER,
    Pieces,
    head_texts,
    movie_texts,
    rating_texts,
)
from mlens.prompt.settings import Ablation, Style
from mlens.prompt.tokens import PlainText, begin_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Renderer:
    """Renders any target of `table`. Where the tokenizer's pieces don't join (`joins` is false), whole prompts are
    tokenised by `plain` instead; nothing else differs."""

    table: RatingTable
    style: Style
    ablation: Ablation
    pieces: Pieces
    context: Context | None
    plain: PlainText
    joins: bool

    def prompt(self, target: int, history: np.ndarray) -> np.ndarray:
        """[pieces] the piece numbers of the prompt for the rating `target` of the table, whose chosen history is
        `history` [h] (ratings of the table in time order). Context takes what the budget leaves, newest first."""
        trunk = self.trunk(self.table.user[target], history)
        branch = self.branch(target, int(self.pieces.lengths[trunk].sum()))
        while len(branch) > 3 and not self.joins and not self._whole_fits(np.concatenate([trunk, branch])):
            branch = np.delete(branch, 1)
        return np.concatenate([trunk, branch])

    def trunk(self, user: int, history: np.ndarray) -> np.ndarray:
        """[pieces] the beginning of a prompt: all that doesn't depend on its target but through the history. That of a
        longer history begins with it."""
        pieces, table = self.pieces, self.table
        if not len(history):
            return np.array([pieces.opening, pieces.head[user]])
        lines = np.empty((len(history), 3), dtype=np.int64)
        lines[:, 0] = pieces.number[: len(history)]
        lines[:, 1] = pieces.movie[table.movie[history]]
        lines[:, 2] = pieces.rating[table.rating_index[history]]
        return np.concatenate([[pieces.opening, pieces.head[user], pieces.header], lines.ravel()])

    def branch(self, target: int, trunk_tokens: int) -> np.ndarray:
        """[pieces] the rest of a prompt, behind a trunk of so many tokens."""
        pieces, movie = self.pieces, self.table.movie[target]
        ends = [pieces.target[movie], pieces.closing]
        turns = self.turns(target)
        if len(turns):
            used = trunk_tokens + pieces.lengths[[pieces.dialogue, *ends]].sum() + self.longest_answer
            turns = turns[len(turns) - _fitting(pieces.lengths[turns], self.style.max_tokens - used) :]
        return np.array([pieces.dialogue, *turns, *ends])

    def head_lengths(self, users: np.ndarray) -> np.ndarray:
        """[n] tokens of the trunk of each user without any history."""
        lengths = self.pieces.lengths
        return lengths[self.pieces.opening] + lengths[self.pieces.head[users]]

    def rating_places(self, trunk: np.ndarray, lines: np.ndarray) -> np.ndarray:
        """[tokens] where the tokens of the ratings of these `lines` (from 0) stand in those of `trunk` [pieces]."""
        ends = np.cumsum(self.pieces.lengths[trunk])
        pieces = 5 + 3 * lines
        lengths = ends[pieces] - ends[pieces - 1]
        before = np.cumsum(lengths) - lengths
        return np.repeat(ends[pieces - 1] - before, lengths) + np.arange(lengths.sum())

    def fitting(self, target: int, history: np.ndarray) -> np.ndarray:
        """[≤ h] the newest of `history` that fits. Where pieces join, the budget has made it fit; else it was priced by
        its pieces, and the whole prompt may be a little longer."""
        while len(history) and not self.joins and not self._whole_fits(self.prompt(target, history)):
            history = history[1:]
        return history

    def turns(self, target: int) -> np.ndarray:
        """[turns] the pieces of all context turns of `target`, before any budget."""
        if self.context is None:
            return np.array([], dtype=np.int64)
        return self.pieces.turn[self.context.turns(self.table, target, self.style.max_context)]

    def text(self, target: int, history: np.ndarray) -> str:
        return self.pieces.text(self.prompt(target, history))

    def tokens(self, target: int, history: np.ndarray) -> np.ndarray:
        """[tokens] int32: the ids of the prompt, without the answer."""
        prompt = self.prompt(target, history)
        return self.pieces.tokens(prompt) if self.joins else self._tokens_of_whole(prompt)

    def _whole_fits(self, prompt: Sequence[int] | np.ndarray) -> bool:
        return len(self._tokens_of_whole(prompt)) + self.longest_answer <= self.style.max_tokens

    def _tokens_of_whole(self, prompt: Sequence[int] | np.ndarray) -> np.ndarray:
        pieces = self.pieces
        body = self.plain.encode([pieces.text(prompt[1:-1])])[0]
        return np.concatenate([pieces.tokens(prompt[:1]), body, pieces.tokens(prompt[-1:])])

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

    def bare_lengths(self, targets: np.ndarray) -> np.ndarray:
        """[n] tokens of each prompt without history and context, and without the answer."""
        pieces, lengths = self.pieces, self.pieces.lengths
        if not self.joins:
            most = len(lengths)
            pairs = pieces.head[self.table.user[targets]] * most + pieces.target[self.table.movie[targets]]
            pairs, place = np.unique(pairs, return_inverse=True)
            bare = [[pieces.opening, pair // most, pieces.dialogue, pair % most, pieces.closing] for pair in pairs]
            return np.array([len(self._tokens_of_whole(prompt)) for prompt in bare], dtype=np.int64)[place]
        fixed = lengths[[pieces.opening, pieces.dialogue, pieces.closing]].sum()
        head = lengths[pieces.head[self.table.user[targets]]]
        return fixed + head + lengths[pieces.target[self.table.movie[targets]]]

    def budget(self, stage: Stage) -> Budget:
        """The prices of `stage`'s histories. Raises UserError where a target doesn't fit alone, and names it.

        Every target leaves room for the longest legal answer: what is shown must not depend on the answer. Context
        yields to history, so `room` counts no context.
        """
        pieces, lengths = self.pieces, self.pieces.lengths
        room = self.style.max_tokens - self.longest_answer

        def left_of(targets: np.ndarray) -> np.ndarray:
            return (room - self.bare_lengths(targets)).astype(int_type(self.style.max_tokens))

        left = by_blocks(left_of, stage.targets) if self.joins else left_of(stage.targets)
        if (left < 0).any():
            self._refuse(stage.targets[int(np.argmin(left))], -int(left.min()))
        most = room if self.style.history_tokens is None else min(room, self.style.history_tokens)
        beside_target = beside_context = np.minimum(left, most)
        if self.context is not None:
            beside_context = np.minimum(left - by_blocks(self._context_tokens, stage.targets, left), most)

        def lines_of(visible: np.ndarray) -> np.ndarray:
            movie, rating = self.table.movie[visible], self.table.rating_index[visible]
            return (lengths[pieces.movie[movie]] + lengths[pieces.rating[rating]]).astype(np.int32)

        lines, numbers, header = by_blocks(lines_of, stage.visible), lengths[pieces.number], int(lengths[pieces.header])
        total = int_type(int(lines.sum() + numbers.sum()) + header)
        return Budget(
            line_ends=_ends(lines, total),
            number_ends=_ends(numbers, total),
            header=header,
            room=beside_target,
            room_beside_context=beside_context,
        )

    def _context_tokens(self, targets: np.ndarray, left: np.ndarray) -> np.ndarray:
        """[n] tokens of the newest turns of these targets (as many as may be shown) that fit into `left` [n]."""
        context, table = self.context, self.table
        assert context is not None
        costs = self.pieces.lengths[self.pieces.turn[context.turn]].astype(left.dtype)
        owner = targets if context.time is None else table.user[targets]
        start, place = context.owner_offsets[owner], context.owner_offsets[owner + 1]
        if context.time is not None:
            place = _first_not_before(context.time, start, place, table.timestamp[targets])
        used, shown = np.zeros_like(left), np.zeros_like(left)
        t = np.arange(len(targets))
        while len(t := t[(place[t] > start[t]) & (shown[t] < self.style.max_context)]):
            place[t] -= 1
            counts = context.movie is None or context.movie[place[t]] != table.movie[targets[t]]
            tokens = used[t] + costs[place[t]] * counts
            fits = tokens <= left[t]
            t, counts = t[fits], np.broadcast_to(counts, fits.shape)[fits]
            used[t] = tokens[fits]
            shown[t] += counts
        return used

    def _refuse(self, target: int, missing: int) -> None:
        table = self.table
        user, movie = table.users["id"][int(table.user[target])], table.movies["title"][int(table.movie[target])]
        raise UserError(
            f"prompt.max_tokens={self.style.max_tokens} is too small: user {user}'s target {movie!r} alone, without "
            f"any history, takes {self.style.max_tokens + missing} tokens"
        )


def _ends(costs: np.ndarray, dtype: type[np.signedinteger]) -> np.ndarray:
    """[n + 1] running total, from 0."""
    ends = np.zeros(len(costs) + 1, dtype=dtype)
    np.cumsum(costs, out=ends[1:])
    return ends


def _first_not_before(time: np.ndarray, start: np.ndarray, stop: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[n] the first place in time[start:stop], which ascends, that isn't before `at`, else stop."""
    low, high = start.copy(), stop.copy()
    while (low < high).any():
        open_ = low < high
        middle = (low + high) // 2
        before = open_ & (time[np.minimum(middle, len(time) - 1)] < at)
        low, high = np.where(before, middle + 1, low), np.where(open_ & ~before, middle, high)
    return low


def _fitting(costs: np.ndarray, room: int) -> int:
    """How many of the last `costs` fit into `room`."""
    return int(np.searchsorted(np.cumsum(costs[::-1]), room, side="right"))


def make_renderer(
    table: RatingTable,
    style: Style,
    ablation: Ablation,
    tokenizer: PreTrainedTokenizerBase,
    frame: ChatFrame | None = None,
) -> Renderer:
    """Tokenise every piece once. frame: what prompt=chat puts around a prompt (None: what the tokenizer's chat template
    gives now). Raises UserError where the data can't serve the ablation, or the template can't be used.

    Warns where the joined pieces of a sample of prompts differ from the tokens of the whole prompts: then whole
    prompts are tokenised.
    """
    movies = movie_texts(table)
    context = make_context(table, movies) if ablation.context else None
    plain = PlainText(tokenizer)
    if not style.chat:
        frame = ChatFrame("", "")
    elif frame is None:
        frame = render_frame(tokenizer, style.chat_date)
    pieces = _make_pieces(table, style, ablation, movies, context, tokenizer, plain, frame)
    renderer = Renderer(table, style, ablation, pieces, context, plain, joins=True)
    if not check_borders(renderer):
        warnings.warn(
            f"{tokenizer.name_or_path}: the pieces of a prompt don't join to the tokens of the whole; tokenising whole "
            "prompts (slower)",
            stacklevel=2,
        )
        return Renderer(table, style, ablation, pieces, context, plain, joins=False)
    return renderer


def check_borders(renderer: Renderer, sample: int = 64) -> bool:
    """Whether the joined ids of prompt and answer equal those of the whole text, on targets spread over the table,
    each with up to 12 earlier ratings of its user as history; and for every head, which may end in any character."""
    table, pieces = renderer.table, renderer.pieces
    for header in (pieces.header, pieces.dialogue):
        begins = [[head, header] for head in np.unique(pieces.head)]
        for begin, ids in zip(begins, renderer.plain.encode([pieces.text(b) for b in begins]), strict=True):
            if not np.array_equal(ids, pieces.tokens(begin)):
                return False
    for target in np.unique(np.linspace(0, len(table) - 1, sample).astype(np.int64)):
        history = np.arange(max(table.user_offsets[table.user[target]], target - 12), target)
        prompt = renderer.prompt(target, history)
        answer = pieces.answer[table.rating_index[target]]
        # With a chat template the closing piece ends in template text, so the answer begins a text of its own.
        whole = [*prompt[1:-1], answer] if pieces.lengths[pieces.closing] == 0 else prompt[1:-1]
        ids = renderer.plain.encode([pieces.text(whole)])[0]
        joined = pieces.tokens(whole)[:-1] if whole[-1] == answer else pieces.tokens(whole)
        if not np.array_equal(ids, joined):
            return False
    return True


def _make_pieces(
    table: RatingTable,
    style: Style,
    ablation: Ablation,
    movies: list[str],
    context: Context | None,
    tokenizer: PreTrainedTokenizerBase,
    plain: PlainText,
    frame: ChatFrame,
) -> Pieces:
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
        offsets=np.concatenate([[0], np.cumsum([len(piece) for piece in ids])]),
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
