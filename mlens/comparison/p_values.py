"""p-values: from draws of a null distribution, their critical value, and their adjustment for several tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def permutation_p(one: float, other: float, null: np.ndarray) -> float:
    """Return the p-value of the difference of two weighted means under draws of the null distribution [resamples]."""
    # Swaps that reproduce the observed difference must count despite another order of summation.
    far = np.abs(null) >= abs(one - other) - 1e-12 * (one + other)
    return (1 + int(far.sum())) / (1 + len(null))


def critical_value(null: np.ndarray, alpha: float) -> float:
    """Return the value that a difference must exceed in size for a p-value of at most alpha; infinite if no difference
    has one.

    null: [resamples] draws of the null distribution.
    """
    beyond = int(alpha * (1 + len(null)) * (1 + 1e-12))
    return float(np.partition(np.abs(null), -beyond)[-beyond]) if beyond else float("inf")


def p_error(p: float, resamples: int) -> float:
    """Return the Monte Carlo standard error of p; for 0 and 1, that of the nearest values between them."""
    inside = min(max(p, 1 / (1 + resamples)), resamples / (1 + resamples))
    return float(np.sqrt(inside * (1 - inside) / resamples))


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p-values, which control the family-wise error rate.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.25, 0.0625, 0.5])
    [0.5, 0.1875, 0.5]
    """
    return [min(1.0, one * times) for one, times in holm_factors(p)]


def holm_factors(p: Sequence[float]) -> list[tuple[float, int]]:
    """Return, for each p, the p-value and the factor whose product (at most 1) is the adjusted p-value."""
    order, times = np.argsort(p), np.arange(len(p), 0, -1)
    product = np.sort(p) * times
    new = product == np.maximum.accumulate(product)
    source = np.empty(len(p), dtype=np.int64)
    source[order] = np.maximum.accumulate(np.where(new, np.arange(len(p)), 0))
    return [(float(p[order[rank]]), int(times[rank])) for rank in source]
