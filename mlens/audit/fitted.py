"""The audit of fitted strategies: no history depends, by the fit, on ratings that the fit must not know.

It changes ratings, fits the strategy again, and compares the histories that it requests; so it holds for any strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from mlens.audit.leaks import Finder
from mlens.data.split import STAGES, TRAIN
from mlens.data.stage import Stage
from mlens.history.strategy import FittedStrategy
from mlens.packing.dataset import RatingDataset

# Maximum number of users whose ratings are changed, each with a fit of its own, and of targets of a stage that are
# compared after a fit.
MAX_USERS, MAX_COMPARED = 5, 200


def audit_fits(finder: Finder, datasets: Mapping[str, RatingDataset], roles: np.ndarray, seed: int) -> int:
    """Find leaks of the kinds `fitted_on_held_out` and `fitted_on_its_user`; returns the number of fits.

    All held-out ratings are changed at once, for targets of some users of each stage; then all ratings of each of some
    users, for this user's training targets.

    seed: of the samples and of the changed ratings.
    """
    some = next(iter(datasets.values()))
    strategy, table = some.strategy, some.table
    if not (isinstance(strategy, FittedStrategy) and some.renderer.template.ablation.history):
        return 0
    unfitted, random = strategy.unfitted, np.random.default_rng(seed)

    def compare(kind: str, changed: np.ndarray, targets: Mapping[str, np.ndarray]) -> None:
        """Fit after a change of these ratings [n] bool, and compare the histories of some targets of each stage."""
        shift = random.integers(1, max(2, len(table.scale)), len(table))
        other = np.array(table.scale, dtype=np.float32)[(table.rating_index + shift) % len(table.scale)]
        changed_table = replace(table, rating=np.where(changed, other, table.rating), path=None)
        fitted = unfitted.fit(changed_table, roles == TRAIN)
        for name, of_stage in targets.items():
            before, after = (one.histories for one in (datasets[name], datasets[name].with_strategy(fitted)))
            different = [not np.array_equal(before.wanted(t), after.wanted(t)) for t in of_stage.tolist()]
            example = partial(_example, finder, name, datasets[name].stage.targets[of_stage])
            finder.add(kind, np.array(different, dtype=bool), example)

    def sample(values: np.ndarray, most: int) -> np.ndarray:
        return values if len(values) <= most else np.sort(random.choice(values, most, replace=False))

    def sample_users(stage: Stage) -> np.ndarray:
        return sample(np.unique(stage.user[stage.count > 0]), MAX_USERS)

    def targets_of(stage: Stage, users: np.ndarray) -> np.ndarray:
        return sample(np.flatnonzero(np.isin(stage.user, users)), MAX_COMPARED)

    stages = {name: dataset.stage for name, dataset in datasets.items()}
    some_of_each = {name: targets_of(stage, sample_users(stage)) for name, stage in stages.items()}
    compare("fitted_on_held_out", roles != TRAIN, some_of_each)
    train = stages.get(STAGES[TRAIN])
    if train is None:
        return 1
    users = sample_users(train)
    for user in users:
        compare("fitted_on_its_user", table.user == user, {train.name: targets_of(train, np.array([user]))})
    return 1 + len(users)


def _example(finder: Finder, stage: str, targets: np.ndarray, k: int) -> str:
    return finder.target(stage, targets[k])
