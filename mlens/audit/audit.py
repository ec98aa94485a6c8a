"""The leak audit: before anything is trained, whether any prompt could show its target what it must not see.

It proves from the plan itself (who sees how much of which list, and what is drawn from it) that section "what is
visible" of the guide holds, and asks none of the code that made the plan. What holds for the lists holds for all
epochs, because whatever is drawn is taken from them: `fit` refuses a strategy that wants anything else, and what
targets share is asserted with every row that is made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mlens.audit.leaks import KINDS, Finder, Leak
from mlens.audit.shown import Looked, audit_shown
from mlens.audit.visible import audit_split, audit_visible
from mlens.data.split import Split
from mlens.errors import UserError
from mlens.packing.dataset import RatingDataset

# Of the samples that are drawn where all would take too long.
SEED = 0


@dataclass(frozen=True)
class Checked:
    """Of one stage: targets, all of them; visible: pairs of a target and a rating that it may see, all of them; shown:
    what is drawn from that."""

    targets: int
    visible: int
    shown: Looked


@dataclass(frozen=True)
class Audit:
    stages: dict[str, Checked]
    leaks: tuple[Leak, ...]
    seconds: float


def find_leaks(datasets: Mapping[str, RatingDataset], roles: np.ndarray, split: Split) -> Audit:
    """Look at all targets' lists under `roles` [n] and, where these are right, at what is drawn from them."""
    started = time.perf_counter()
    finder = Finder(next(iter(datasets.values())).table)
    audit_split(finder, roles, split)
    visible, shown = dict.fromkeys(datasets, 0), dict.fromkeys(datasets, Looked())
    if "table" not in finder.found:
        visible = {name: audit_visible(finder, dataset.stage, roles, split) for name, dataset in datasets.items()}
    if not finder.found:
        shown = {name: audit_shown(finder, dataset, SEED) for name, dataset in datasets.items()}
    stages = {name: Checked(len(dataset), visible[name], shown[name]) for name, dataset in datasets.items()}
    return Audit(stages, tuple(finder.found.values()), time.perf_counter() - started)


def audit(datasets: Mapping[str, RatingDataset], roles: np.ndarray, split: Split) -> dict:
    """What was checked, as summary.json has it: `stages` (see `Checked`), `leaks` (0 of each of KINDS), `seconds`.

    Raises UserError where there is a leak.
    """
    found = find_leaks(datasets, roles, split)
    if found.leaks:
        told = [f"{leak.example}: {KINDS[leak.kind]} ({leak.kind}: {leak.prompts:,} found)" for leak in found.leaks]
        raise UserError(f"the leak audit ends this run before training: {'; '.join(told)}")
    stages = {name: asdict(stage) for name, stage in found.stages.items()}
    return {"leaks": dict.fromkeys(KINDS, 0), "stages": stages, "seconds": found.seconds}
