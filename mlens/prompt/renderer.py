"""Renders a target and its history as a prompt: from pieces or, where these don't join, as a single text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.prompt.context import make_context
from mlens.prompt.frame import ChatFrame, render_frame
from mlens.prompt.pieces import make_pieces, movie_texts
from mlens.prompt.settings import Ablation, Style
from mlens.prompt.template import PromptTemplate, part_names
from mlens.prompt.tokens import PlainText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Renderer(Protocol):
    """Renders any target with any history.

    target: a rating of the template's table.
    history [h]: ratings of the table in time order, whatever the order of their lines.

    shares_prefixes: whether the tokens of the template's prefix are exactly the first tokens of the prompt, so that
        targets can share them.
    """

    @property
    def template(self) -> PromptTemplate: ...
    @property
    def shares_prefixes(self) -> bool: ...

    def prompt(self, target: int, history: np.ndarray) -> np.ndarray:
        """Return the piece numbers of the prompt: [pieces]. Context takes the room that is left, newest turns first."""

    def text(self, target: int, history: np.ndarray) -> str:
        """Return the text of the prompt."""

    def tokens(self, target: int, history: np.ndarray) -> np.ndarray:
        """Return the ids of the prompt, without the answer: [tokens] int32."""

    def parts(self, target: int, history: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Return `tokens` in the smallest known parts, each with its name."""

    def bare_lengths(self, targets: np.ndarray) -> np.ndarray:
        """Return the tokens of each prompt without history, context and answer: [n]."""

    def fit_history(self, target: int, history: np.ndarray) -> np.ndarray:
        """Return the newest of `history` that fits: [≤ h]. By the prices of its pieces, all of it fits."""


@dataclass(frozen=True)
class PieceRenderer:
    """The renderer for tokenizers whose pieces join: the ids of a prompt are those of its pieces."""

    template: PromptTemplate
    shares_prefixes: ClassVar[bool] = True

    def prompt(self, target: int, history: np.ndarray) -> np.ndarray:
        template = self.template
        prefix = template.prefix(template.table.user[target], template.line_order(history))
        suffix = template.suffix(target, template.fitting_turns(target, prefix.tokens))
        return np.concatenate([prefix.pieces, suffix])

    def text(self, target: int, history: np.ndarray) -> str:
        return self.template.pieces.text(self.prompt(target, history))

    def tokens(self, target: int, history: np.ndarray) -> np.ndarray:
        return self.template.pieces.tokens(self.prompt(target, history))

    def parts(self, target: int, history: np.ndarray) -> list[tuple[str, np.ndarray]]:
        prompt = self.prompt(target, history)
        dates = self.template.style.dates
        turns = len(prompt) - len(part_names(len(history), 0, dates))
        ids = [self.template.pieces.tokens([piece]) for piece in prompt]
        return list(zip(part_names(len(history), turns, dates), ids, strict=True))

    def bare_lengths(self, targets: np.ndarray) -> np.ndarray:
        template, pieces = self.template, self.template.pieces
        fixed = pieces.lengths[[pieces.dialogue, pieces.closing]].sum()
        heads = template.head_lengths(template.table.user[targets])
        return fixed + heads + template.target_lengths(targets)

    def fit_history(self, target: int, history: np.ndarray) -> np.ndarray:
        return history


@dataclass(frozen=True)
class WholePromptRenderer:
    """The renderer for other tokenizers: `plain` tokenises each prompt as a single text.

    A prompt may be a little longer than its pieces, by which its history is priced. Then its oldest context turns are
    dropped, and after these the oldest history.
    """

    template: PromptTemplate
    plain: PlainText
    shares_prefixes: ClassVar[bool] = False

    def prompt(self, target: int, history: np.ndarray) -> np.ndarray:
        template = self.template
        prefix = template.prefix(template.table.user[target], template.line_order(history))
        turns = template.fitting_turns(target, prefix.tokens)
        while True:
            prompt = np.concatenate([prefix.pieces, template.suffix(target, turns)])
            if not len(turns) or self._fits(prompt):
                return prompt
            turns = turns[1:]

    def text(self, target: int, history: np.ndarray) -> str:
        return self.template.pieces.text(self.prompt(target, history))

    def tokens(self, target: int, history: np.ndarray) -> np.ndarray:
        return np.concatenate(self._parts(self.prompt(target, history)))

    def parts(self, target: int, history: np.ndarray) -> list[tuple[str, np.ndarray]]:
        parts = self._parts(self.prompt(target, history))
        return list(zip(("opening", "whole prompt", "closing"), parts, strict=True))

    def bare_lengths(self, targets: np.ndarray) -> np.ndarray:
        template, table = self.template, self.template.table
        texts = template.pieces.head[table.user[targets]] * len(table.movies) + table.movie[targets]
        if template.style.dates:
            texts = texts * len(template.pieces.days) + template.pieces.day(table.timestamp[targets])
        _, first, text = np.unique(texts, return_index=True, return_inverse=True)
        none = np.zeros(0, dtype=np.int64)
        bare = [[*template.prefix(table.user[t], none).pieces, *template.suffix(t, none)] for t in targets[first]]
        return np.array([self._length(prompt) for prompt in bare], dtype=np.int64)[text]

    def fit_history(self, target: int, history: np.ndarray) -> np.ndarray:
        while len(history) and not self._fits(self.prompt(target, history)):
            history = history[1:]
        return history

    def _fits(self, prompt: Sequence[int] | np.ndarray) -> bool:
        return self._length(prompt) + self.template.longest_answer <= self.template.style.max_tokens

    def _length(self, prompt: Sequence[int] | np.ndarray) -> int:
        return sum(map(len, self._parts(prompt)))

    def _parts(self, prompt: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Return the ids of the opening, of the text after it, and of the closing; these two are template text."""
        pieces = self.template.pieces
        body = self.plain.encode([pieces.text(prompt[1:-1])])[0]
        return [pieces.tokens(prompt[:1]), body, pieces.tokens(prompt[-1:])]


def make_renderer(
    table: RatingTable,
    style: Style,
    ablation: Ablation,
    tokenizer: PreTrainedTokenizerBase,
    frame: ChatFrame | None = None,
) -> Renderer:
    """Tokenise every piece once, and make a renderer for them.

    frame: the text that prompt=chat puts around a prompt; None renders the tokenizer's chat template.

    Warns, and tokenises every prompt as a single text, if the joined pieces of sampled prompts differ from the tokens
    of their text.

    Raises UserError where the data lack what the ablation needs, or dates, or the template can't be used.
    """
    movies = movie_texts(table)
    context = make_context(table, movies) if ablation.context else None
    plain = PlainText(tokenizer)
    if not style.chat:
        frame = ChatFrame("", "")
    elif frame is None:
        frame = render_frame(tokenizer, style.chat_date)
    pieces = make_pieces(table, style, ablation, movies, context, tokenizer, plain, frame)
    template = PromptTemplate(table, style, ablation, pieces, context)
    if check_borders(template, plain):
        return PieceRenderer(template)
    warnings.warn(
        f"{tokenizer.name_or_path}: the pieces of a prompt don't join to the tokens of its text; tokenising every "
        "prompt as a single text (slower)",
        stacklevel=2,
    )
    return WholePromptRenderer(template, plain)


def check_borders(template: PromptTemplate, plain: PlainText, sample: int = 64) -> bool:
    """Return whether the joined ids of the pieces equal those of the joined text.

    Checks every head, which may end in any character, and the prompts and answers of `sample` targets from all parts
    of the table, each with up to 12 earlier ratings of its user as history.
    """
    table, pieces, renderer = template.table, template.pieces, PieceRenderer(template)
    for header in (pieces.header, pieces.dialogue):
        starts = [[head, header] for head in np.unique(pieces.head)]
        for start, ids in zip(starts, plain.encode([pieces.text(s) for s in starts]), strict=True):
            if not np.array_equal(ids, pieces.tokens(start)):
                return False
    for target in np.unique(np.linspace(0, len(table) - 1, sample).astype(np.int64)):
        history = np.arange(max(table.user_offsets[table.user[target]], target - 12), target)
        prompt = renderer.prompt(target, history)
        answer = pieces.answer[table.rating_index[target]]
        # With a chat template the closing piece is template text, so the answer is tokenised separately.
        checked = [*prompt[1:-1], answer] if pieces.lengths[pieces.closing] == 0 else prompt[1:-1]
        ids = plain.encode([pieces.text(checked)])[0]
        joined = pieces.tokens(checked)[:-1] if checked[-1] == answer else pieces.tokens(checked)
        if not np.array_equal(ids, joined):
            return False
    return True
