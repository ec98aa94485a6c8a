"""Printed precision of figures that come from random resamples: digits below their Monte Carlo error are dropped.

Another seed of the generator gives other resamples, and so another interval or p-value. The unit of the last printed
digit is at least three standard errors of that variation, so that between seeds a printed figure almost never differs
by more than one unit.
"""

from __future__ import annotations

import math

ERRORS = 3
# Maximum number of decimals: of figures in stars, and of p, which has at least one.
MOST, MOST_OF_P = 4, 3
# A p whose resamples can't distinguish it from zero is printed as below one of these.
BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1)


def decimals(error: float, most: int = MOST) -> int:
    """Return the number of decimals that a standard error allows; negative numbers stand for tens, hundreds, …

    >>> decimals(0.0002), decimals(0.004), decimals(4.0), decimals(0.0)
    (3, 1, -2, 4)
    """
    return most if error <= 0 else min(most, math.floor(-math.log10(ERRORS * error)))


def interval(low: float, high: float, error: float, sign: str = "") -> str:
    """Format an interval whose ends have at most this standard error; one narrower than its last digit is rounded
    outwards, so that it never has width 0.

    sign: `+` prints the signs of its ends.

    >>> interval(-0.01234, 0.05678, 0.0002, "+"), interval(-0.3, 0.3, 0.2, "+")
    ('-0.012 to +0.057', '-1 to +1')
    """
    places = max(decimals(error), 0)
    return " to ".join(f"{end:{sign}.{places}f}" for end in _ends(low, high, error))


def excludes_zero(low: float, high: float, error: float) -> bool:
    """Return whether an interval doesn't hold 0 as it is printed.

    >>> excludes_zero(-0.034, -0.0123, 0.0002), excludes_zero(-0.034, -0.0003, 0.0002)
    (True, False)
    """
    low, high = _ends(low, high, error)
    return low > 0 or high < 0


def _ends(low: float, high: float, error: float) -> list[float]:
    """Round the ends of an interval to the digits that their standard error leaves certain."""
    places = decimals(error)
    ends = [round(low, places), round(high, places)]
    if low < high and ends[0] == ends[1]:
        unit = 10.0**-places
        ends = [round(math.floor(low / unit) * unit, places), round(math.ceil(high / unit) * unit, places)]
    return [end + 0.0 for end in ends]  # no negative zero


def p_value(p: float, error: float) -> str:
    """Format p, given its standard error, as `p 0.03` or `p < 0.001`.

    >>> p_value(0.0312, 0.0017), p_value(0.0001, 0.0001), p_value(0.0045, 0.0045)
    ('p 0.03', 'p < 0.001', 'p < 0.05')
    """
    places = max(1, decimals(error, MOST_OF_P))
    if round(p, places) > 0:
        return f"p {p:.{places}f}"
    return f"p < {next(bound for bound in BOUNDS if bound > p + ERRORS * error or bound == BOUNDS[-1])}"
