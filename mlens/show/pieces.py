"""A prompt piece by piece: which part it is, its token ids, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from mlens.packing.dataset import RatingDataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """text: its ids, decoded."""

    part: str
    ids: tuple[int, ...]
    text: str


def prompt_pieces(dataset: RatingDataset, tokenizer: PreTrainedTokenizerBase, i: int) -> list[Piece]:
    """The prompt of target i and its answer, which is the last piece; joined, their ids are what the model reads. Where
    the tokenizer's pieces don't join, all between the template's ends is one piece."""
    renderer, target = dataset.renderer, int(dataset.stage.targets[i])
    history, pieces = dataset.history(i), renderer.pieces
    prompt = renderer.prompt(target, history)
    if renderer.joins:
        lines = ["heading", *["number", "film", "rating"] * len(history)] if len(history) else []
        turns = ["context"] * (len(prompt) - len(lines) - 5)
        parts = ["opening", "task", *lines, "dialogue", *turns, "film to rate", "closing"]
        ids = [pieces.tokens([piece]) for piece in prompt]
    else:
        parts, whole = ["opening", "whole prompt", "closing"], renderer.tokens(target, history)
        ends = [0, *(len(pieces.tokens(prompt[at])) for at in (slice(1), slice(-1, None)))]
        borders = [0, ends[1], len(whole) - ends[2], len(whole)]
        ids = [whole[a:b] for a, b in pairwise(borders)]
    parts.append("answer")
    ids.append(renderer.answer(target))
    return [
        Piece(part, tuple(own.tolist()), str(tokenizer.decode(own.tolist(), clean_up_tokenization_spaces=False)))
        for part, own in zip(parts, ids, strict=True)
        if len(own)
    ]
