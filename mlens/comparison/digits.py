"""With how many digits a figure is printed that comes from random resamples: no more than their number leaves certain.

Another seed of the generator gives other resamples, and so another interval or p. The unit of the last printed digit is
at least three standard errors of that, so that a printed figure nearly never differs by more than one such unit.
"""

from __future__ import annotations

import math

ERRORS = 3
# Decimals at most: of figures in stars, and of p, which has one at least.
MOST, MOST_OF_P = 4, 3
# A p that may be zero as far as resamples tell is said to be below one of these.
BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1)


def decimals(error: float, most: int = MOST) -> int:
    """How many decimals a standard error leaves; negative ones stand for tens, hundreds, …

    >>> decimals(0.0002), decimals(0.004), decimals(4.0), decimals(0.0)
    (3, 1, -2, 4)
    """
    return most if error <= 0 else min(most, math.floor(-math.log10(ERRORS * error)))


def interval(low: float, high: float, error: float, sign: str = "") -> str:
    """An interval whose ends have at most this standard error. sign: `+` prints signs. One that is narrower than its
    digits can tell is rounded outwards: it never reads as a certainty.

    >>> interval(-0.01234, 0.05678, 0.0002, "+"), interval(-0.3, 0.3, 0.2, "+")
    ('-0.012 to +0.057', '-1 to +1')
    """
    places = decimals(error)
    ends = [round(low, places), round(high, places)]
    if low < high and ends[0] == ends[1]:
        unit = 10.0**-places
        ends = [round(math.floor(low / unit) * unit, places), round(math.ceil(high / unit) * unit, places)]
    ends = [end + 0.0 for end in ends]  # without a negative zero
    return " to ".join(f"{end:{sign}.{max(places, 0)}f}" for end in ends)


def p_value(p: float, error: float) -> str:
    """p with its standard error, as `p 0.03` or `p < 0.001`.

    >>> p_value(0.0312, 0.0017), p_value(0.0001, 0.0001), p_value(0.0045, 0.0045)
    ('p 0.03', 'p < 0.001', 'p < 0.05')
    """
    places = max(1, decimals(error, MOST_OF_P))
    if round(p, places) > 0:
        return f"p {p:.{places}f}"
    return f"p < {next(bound for bound in BOUNDS if bound > p + ERRORS * error or bound == BOUNDS[-1])}"
