"""What targets share: a trunk of tokens, and behind it one branch for each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Branch:
    """The rest of one target's prompt. seen: how many tokens of its trunk it sees, from the first; ids [r]; answer [a]:
    the rating's tokens with the end token."""

    seen: int
    ids: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class Tree:
    """trunk [p]: token ids; branches: the targets that grow from it, in order of what they see; lines [l]: the places
    in `trunk` that hold tokens of ratings that may carry loss themselves (trainer.history_loss_weight).

    A tree of one target whose prompt is all trunk, or without any (a trunk alone), is a tree too.
    """

    trunk: np.ndarray
    lines: np.ndarray
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Shapes:
    """Of n targets: key [n]: equal where they share a beginning; trunk [n]: how many tokens at the beginning of each
    prompt can be shared; rest [n]: how many tokens follow."""

    key: np.ndarray
    trunk: np.ndarray
    rest: np.ndarray

    @property
    def prompts(self) -> np.ndarray:
        """[n] tokens of each whole prompt."""
        return self.trunk + self.rest
