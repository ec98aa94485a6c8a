"""The pieces of a prompt: their parts, token ids and texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlens.packing.dataset import RatingDataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """One piece of a prompt.

    part: the part of the prompt that it belongs to.
    ids: token ids.
    text: the decoded ids.
    """

    part: str
    ids: tuple[int, ...]
    text: str


def prompt_pieces(dataset: RatingDataset, tokenizer: PreTrainedTokenizerBase, i: int) -> list[Piece]:
    """Return the pieces of target i's prompt, followed by its answer; their concatenated ids are the model's input.

    If the tokenizer's pieces can't be joined, everything between the template's start and end is one piece.
    """
    renderer, target = dataset.renderer, int(dataset.stage.targets[i])
    parts = renderer.parts(target, dataset.history(i))
    parts.append(("answer", renderer.template.answer(target)))
    return [
        Piece(part, tuple(ids.tolist()), str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)))
        for part, ids in parts
        if len(ids)
    ]
