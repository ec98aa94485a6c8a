"""Parsing of numbers and times in text."""

from __future__ import annotations

import math
from datetime import UTC, datetime

# The description of a time in errors.
A_TIME = "seconds or an ISO 8601 date"


def number(value: object) -> float | None:
    """Convert a number, or text that contains one, to float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        return None  # Python would parse 0_5 as 5, and digits of any script
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def seconds(value: object) -> int | None:
    """Convert a time to seconds since 1970, rounded down; None where it is neither a number nor an ISO 8601 date.

    A date without a time zone is UTC.

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
