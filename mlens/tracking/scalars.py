"""The metrics of a run as named numbers, for trackers without nested values."""

from __future__ import annotations

from numbers import Real
from typing import Any


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers.

    >>> scalars({"train/loss": 1.5, "train/note": "x", "val/best": None, "val/improved": True})
    {'train/loss': 1.5}
    """
    return {
        name: float(value) for name, value in metrics.items() if isinstance(value, Real) and not isinstance(value, bool)
    }


def summary_scalars(metrics: dict, prefix: str = "summary") -> dict[str, float]:
    """Return nested metrics as numbers with names of their path.

    >>> summary_scalars({"test": {"rmse": 0.9, "by_user_activity": {"1-19": {"rmse": 1.0}}}})
    {'summary/test/rmse': 0.9, 'summary/test/by_user_activity/1-19/rmse': 1.0}
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        path = f"{prefix}/{name}"
        found |= summary_scalars(value, path) if isinstance(value, dict) else scalars({path: value})
    return found
