"""Numbers and times as files write them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

# What errors say that a time must be.
A_TIME = "seconds or an ISO 8601 date"


def number(value: object) -> float | None:
    """A number, or text that holds one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        return None  # Python reads 0_5 as 5, and digits of any script
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def seconds(value: object) -> int | None:
    """A time in seconds since 1970, without their fraction: a number, or an ISO 8601 date (UTC where it names no
    zone); None for anything else.

    >>> seconds("1112486027.25"), seconds("2005-04-02T23:53:47.250Z"), seconds("soon")
    (1112486027, 1112486027, None)
    """
    given = number(value)
    if given is not None:
        return math.floor(given) if abs(given) < 2**53 else None
    try:
        date = datetime.fromisoformat(value.strip() if isinstance(value, str) else "")
        return math.floor((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None
