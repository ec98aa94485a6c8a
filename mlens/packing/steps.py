"""The composition of a training step, and its loss. Doesn't import torch, because settings import it."""

from __future__ import annotations

from dataclasses import dataclass

# The losses, each with what it measures and its unit. `ce` is over tokens, the others are over the legal ratings.
LOSSES = {
    "ce": "cross-entropy, nats a label token",
    "expected": "squared error of the expected rating, squared stars",
    "ordinal": "Wasserstein-1 distance of the predicted distribution to the true rating, stars",
    "ce+expected": "cross-entropy, nats an answer, plus the weighted squared error of the expected rating",
}


@dataclass(frozen=True)
class Steps:
    """The composition of a training step, and its loss.

    targets: the targets of one update, over all ranks.
    pieces: the least number of pieces; each is made of consecutive targets of one user (a single target where they
        share nothing).
    history_loss_weight: the weight of a label token in a history, relative to one in an answer; 0 unless the loss is
        `ce`.
    loss: one of LOSSES.
    expected_loss_weight: with `ce+expected`, the weight of the second part.
    """

    targets: int
    pieces: int
    history_loss_weight: float = 0.0
    loss: str = "ce"
    expected_loss_weight: float = 1.0
