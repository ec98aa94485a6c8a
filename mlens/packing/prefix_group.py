"""A prefix of tokens that targets share, and the suffix of each target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Suffix:
    """The tokens of one target after the prefix.

    seen: the number of tokens of the prefix that they see, from its start.
    ids [s]: the rest of the prompt.
    answer [a]: the tokens of the rating, with the end token.
    """

    seen: int
    ids: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class PrefixGroup:
    """Targets that share one prefix. A target that shares nothing is a group of one.

    prefix [p]: token ids; may be the complete prompt of a group of one.
    lines [l]: indices into `prefix` of the tokens of ratings that carry loss with trainer.history_loss_weight.
    suffixes: one of each target, in ascending order of `seen`; may be empty.
    """

    prefix: np.ndarray
    lines: np.ndarray
    suffixes: tuple[Suffix, ...]


@dataclass(frozen=True)
class Shapes:
    """The token counts of n targets, and which of their prefixes are shared.

    group [n]: equal for targets that share a prefix.
    prefix [n]: the number of tokens at the start of each prompt that can be shared.
    suffix [n]: the number of tokens after them.
    """

    group: np.ndarray
    prefix: np.ndarray
    suffix: np.ndarray

    @property
    def prompts(self) -> np.ndarray:
        """The tokens of each prompt: [n]."""
        return self.prefix + self.suffix
