"""The composition of a training step. Doesn't import torch, because settings import it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """The composition of a training step.

    targets: the targets of one update, over all ranks.
    pieces: the least number of pieces; each is made of consecutive targets of one user (a single target where they
        share nothing).
    history_loss_weight: the weight of a label token in a history, relative to one in an answer.
    """

    targets: int
    pieces: int
    history_loss_weight: float = 0.0
