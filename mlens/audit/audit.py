"""The leak audit: verifies before training that no prompt shows its target a rating or tag it must not see.

It verifies the rules of docs/guide/splits.md on the plan itself (how much of which list each target sees, and what is
drawn from it), independently of the code that made the plan. The result for the lists applies to all
epochs, because every draw is taken from them: `fit` rejects a strategy that selects anything else, and the prefix that
targets share is asserted for every row.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mlens.audit.fitted import audit_fits
from mlens.audit.leaks import KINDS, Finder, Leak
from mlens.audit.shown import ShownCoverage, audit_shown
from mlens.audit.visible import audit_split, audit_visible
from mlens.data.split import Split
from mlens.errors import UserError
from mlens.packing.dataset import RatingDataset

# Seed of the samples, where checking every target would take too long.
SEED = 0


@dataclass(frozen=True)
class StageCoverage:
    """The extent of the audit of one stage.

    targets: all targets of the stage.
    visible: pairs of a target and a rating that it may see, all of them.
    shown: the histories and tags that were checked.
    """

    targets: int
    visible: int
    shown: ShownCoverage


@dataclass(frozen=True)
class Audit:
    """The result of the audit.

    stages: coverage by stage.
    fits: how often a fitted strategy was fitted to changed ratings.
    leaks: one for each kind that was found.
    seconds: duration of the audit.
    """

    stages: dict[str, StageCoverage]
    fits: int
    leaks: tuple[Leak, ...]
    seconds: float


def find_leaks(datasets: Mapping[str, RatingDataset], roles: np.ndarray, split: Split) -> Audit:
    """Audit all targets' lists of visible ratings under `roles` [n] and, if these have no leak, the histories."""
    started = time.perf_counter()
    finder = Finder(next(iter(datasets.values())).table)
    audit_split(finder, roles, split)
    visible, shown = dict.fromkeys(datasets, 0), dict.fromkeys(datasets, ShownCoverage())
    if "table" not in finder.found:
        visible = {name: audit_visible(finder, dataset.stage, roles, split) for name, dataset in datasets.items()}
    fits = 0
    if not finder.found:
        fits = audit_fits(finder, datasets, roles, SEED)
        shown = {name: audit_shown(finder, dataset, SEED) for name, dataset in datasets.items()}
    stages = {name: StageCoverage(len(dataset), visible[name], shown[name]) for name, dataset in datasets.items()}
    return Audit(stages, fits, tuple(finder.found.values()), time.perf_counter() - started)


def audit(datasets: Mapping[str, RatingDataset], roles: np.ndarray, split: Split) -> dict:
    """Return the audit's entry in summary.json. Raises UserError if there is a leak.

    stages: see `StageCoverage`.
    fits: see `Audit`.
    leaks: 0 for each of KINDS.
    seconds: duration of the audit.
    """
    found = find_leaks(datasets, roles, split)
    if found.leaks:
        lines = [f"{leak.example}: {KINDS[leak.kind]} ({leak.kind}: {leak.prompts:,} found)" for leak in found.leaks]
        raise UserError(f"the leak audit ends this run before training: {'; '.join(lines)}")
    stages = {name: asdict(stage) for name, stage in found.stages.items()}
    return {"leaks": dict.fromkeys(KINDS, 0), "stages": stages, "fits": found.fits, "seconds": found.seconds}
