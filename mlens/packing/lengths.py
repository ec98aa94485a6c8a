"""How long a dataset's prompts are, and what the budget cut: what a reader must know before trusting a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.packing.dataset import RatingDataset

# Longer stages are measured on so many targets, evenly spaced.
MOST = 20_000


@dataclass(frozen=True)
class Lengths:
    """Of one stage. tokens_*: of prompts with the longest answer; trimmed: share of targets whose history was cut;
    ratings_dropped: share of the chosen ratings that were cut; without_history: share of targets that see none;
    measured: on how many of `targets`."""

    targets: int
    measured: int
    tokens_min: int
    tokens_median: int
    tokens_p90: int
    tokens_p99: int
    tokens_max: int
    tokens_total: int
    trimmed: float
    ratings_dropped: float
    without_history: float


def measure_lengths(dataset: RatingDataset) -> Lengths:
    """Measure a stage that has at least one target."""
    n = len(dataset)
    places = np.arange(n) if n <= MOST else np.unique(np.linspace(0, n - 1, MOST).astype(np.int64))
    tokens = dataset.prompt_lengths(places) + dataset.renderer.template.longest_answer
    wanted = np.array([len(dataset.wanted(int(i))) for i in places])
    shown = np.array([len(dataset.history(int(i))) for i in places])
    return Lengths(
        targets=n,
        measured=len(places),
        tokens_min=int(tokens.min()),
        tokens_median=int(np.median(tokens)),
        tokens_p90=int(np.percentile(tokens, 90)),
        tokens_p99=int(np.percentile(tokens, 99)),
        tokens_max=int(tokens.max()),
        tokens_total=int(tokens.mean() * n),
        trimmed=float(np.mean(shown < wanted)),
        ratings_dropped=float((wanted.sum() - shown.sum()) / max(1, wanted.sum())),
        without_history=float(np.mean(shown == 0)),
    )
