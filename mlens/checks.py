"""Checks of settings. Each raises a UserError that names the key and says what is legal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlens.errors import UserError


def require_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """Raise UserError unless the value is one of the choices; None is written null.

    >>> require_choice("trainer.schedule", "step", ("constant", "linear", "cosine"))
    Traceback (most recent call last):
    mlens.errors.UserError: trainer.schedule must be constant, linear or cosine, not step
    """
    if value not in choices:
        *others, last = ["null" if choice is None else str(choice) for choice in choices]
        raise UserError(f"{key} must be {', '.join(others)} or {last}, not {value}")


def require_number(
    key: str,
    value: float | None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    null: bool = False,
) -> None:
    """Raise UserError unless the value is a finite number within these bounds, or None where `null` allows it.

    >>> require_number("peft.dropout", 1.0, at_least=0, below=1)
    Traceback (most recent call last):
    mlens.errors.UserError: peft.dropout must be at least 0 and below 1, not 1.0
    """
    if value is None and null:
        return
    within = value is not None and math.isfinite(value)
    if within:
        assert value is not None
        within &= at_least is None or value >= at_least
        within &= above is None or value > above
        within &= at_most is None or value <= at_most
        within &= below is None or value < below
    if not within:
        bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
        legal = " and ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)
        raise UserError(f"{key} must be {legal}{' or null' * null}, not {value}")
