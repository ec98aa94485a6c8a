"""What a training step is made of. Doesn't import torch, since settings import it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """What a training step is made of.

    targets: the targets of one update, over all ranks.
    pieces: the least number of pieces, each of neighbouring targets of one user (a single target where they share
        nothing).
    history_loss_weight: the weight of a label token in a history, where one in an answer has 1.
    """

    targets: int
    pieces: int
    history_loss_weight: float = 0.0
