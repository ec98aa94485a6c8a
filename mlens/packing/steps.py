"""What a training step is made of. No torch here: settings name it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """What a step is made of. targets: of one update, over all ranks; pieces: it is made of at least so many pieces,
    each of one user's neighbouring targets (1 target each where they share nothing); history_loss_weight: what a
    label token in a history counts beside one of an answer."""

    targets: int
    pieces: int
    history_loss_weight: float = 0.0
