"""What targets share: a prefix of tokens, and behind it a suffix for each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Suffix:
    """One target's own tokens after the prefix.

    seen: how many tokens of the prefix they see, from the first.
    ids [s]: those of the prompt.
    answer [a]: the rating's tokens with the end token.
    """

    seen: int
    ids: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class PrefixGroup:
    """Targets that share one prefix.

    prefix [p]: token ids.
    lines [l]: the places in `prefix` that hold tokens of ratings that may carry loss themselves
    (trainer.history_loss_weight).
    suffixes: one of each target, in order of what they see; maybe none. A target that shares nothing is a group of
    one, whose prompt may be all prefix.
    """

    prefix: np.ndarray
    lines: np.ndarray
    suffixes: tuple[Suffix, ...]


@dataclass(frozen=True)
class Shapes:
    """How many tokens n targets have, and which of them they share.

    group [n]: equal where targets share a prefix.
    prefix [n]: how many tokens at the beginning of each prompt can be shared.
    suffix [n]: how many tokens follow.
    """

    group: np.ndarray
    prefix: np.ndarray
    suffix: np.ndarray

    @property
    def prompts(self) -> np.ndarray:
        """[n] tokens of each prompt."""
        return self.prefix + self.suffix
