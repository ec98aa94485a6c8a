"""The learning-rate schedule."""

from __future__ import annotations

import math

from mlens.training.settings import Trainer


def warmup(trainer: Trainer, total: int) -> int:
    """Return the steps of the warm-up: by the ratio where it is given, else the number, and at most `total`."""
    steps = trainer.warmup_steps if trainer.warmup_ratio is None else round(trainer.warmup_ratio * total)
    return min(steps, total)


def rate_factor(trainer: Trainer, step: int, total: int) -> float:
    """Return the factor of the base learning rate for update `step` (0 … total - 1).

    Rises linearly to 1 over the warm-up; then stays (constant), or falls to 0 after the last step, linearly or along
    half a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts).

    >>> trainer = Trainer(schedule="linear", warmup_steps=2)
    >>> [rate_factor(trainer, step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    rising = warmup(trainer, total)
    if step < rising:
        return (step + 1) / rising
    if trainer.schedule == "constant":
        return 1.0
    done = (step - rising) / max(1, total - rising)
    return 1 - done if trainer.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
