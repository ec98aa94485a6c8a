"""A prompt piece by piece: which part it is, its token ids, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
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
    parts = renderer.parts(target, dataset.history(i))
    parts.append(("answer", renderer.template.answer(target)))
    return [
        Piece(part, tuple(ids.tolist()), str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)))
        for part, ids in parts
        if len(ids)
    ]
