"""The lengths of a dataset's prompts, and how much of the histories the budget cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlens.packing.dataset import RatingDataset

# Longer stages are measured on this number of evenly spaced targets.
MAX_MEASURED = 20_000


@dataclass(frozen=True)
class Lengths:
    """The prompt lengths of one stage.

    targets: of the stage.
    measured: the number of targets that were measured.
    tokens_min, tokens_median, tokens_p90, tokens_p99, tokens_max: of a prompt with the longest answer.
    tokens_total: of all targets, estimated from the measured ones.
    trimmed: the share of targets whose history was cut.
    ratings_dropped: the share of the wanted ratings that were cut.
    without_history: the share of targets that see no history.
    """

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
    chosen = np.arange(n) if n <= MAX_MEASURED else np.unique(np.linspace(0, n - 1, MAX_MEASURED).astype(np.int64))
    tokens = dataset.prompt_lengths(chosen) + dataset.renderer.template.longest_answer
    wanted = np.array([len(dataset.wanted(int(i))) for i in chosen])
    shown = np.array([len(dataset.history(int(i))) for i in chosen])
    return Lengths(
        targets=n,
        measured=len(chosen),
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
