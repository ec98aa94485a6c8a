"""Metrics of predictions from given histories: cached, so that the jobs of a sweep compute each once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from mlens.data.cache import cached_folder
from mlens.files import write_json

# Predictor -> metric -> value, None in place of NaN.
Metrics = dict[str, dict[str, float | None]]


def cached_metrics(kind: str, key: str, compute: Callable[[], dict[str, dict[str, float]]]) -> Metrics:
    """Return the metrics under `key` of a kind of the cache, computed first where they aren't there."""
    folder = cached_folder(kind, key, lambda folder: write_json(folder / "metrics.json", compute()))
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def mean_over_draws(measured: Sequence[Metrics]) -> Metrics:
    """Return the mean over draws of each metric of each predictor; None where it is None in all draws."""
    if all(draw == measured[0] for draw in measured):  # deterministic histories: avoid the rounding of a sum
        return measured[0]
    return {
        name: {
            metric: None if value is None else float(np.mean([draw[name][metric] for draw in measured]))
            for metric, value in metrics.items()
        }
        for name, metrics in measured[0].items()
    }
