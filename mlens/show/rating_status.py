"""The status of each of a user's ratings with respect to one target's prompt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mlens.data.split import STAGES, TRAIN, Split, tie_times
from mlens.packing.dataset import RatingDataset

TARGET, CHOSEN, DROPPED, NOT_CHOSEN, HIDDEN = "target", "chosen", "dropped", "not chosen", "hidden"


@dataclass(frozen=True)
class RatingStatus:
    """The status of one rating.

    rating: index into the table.
    t: index among the user's ratings.
    role: train, val or test.
    kind: `target`, `hidden` (the target must not see it), or of a visible rating: `not chosen` by the strategy,
        `dropped` (requested by the strategy, but over the budget) or `chosen` (shown in the prompt).
    reason: why a hidden rating is hidden, and why the strategy requested one that is chosen or dropped, if it says so.
    line: number of a chosen rating's line in the prompt.
    """

    rating: int
    t: int
    role: str
    kind: str
    reason: str = ""
    line: int | None = None


def rating_statuses(dataset: RatingDataset, roles: np.ndarray, split: Split, i: int) -> list[RatingStatus]:
    """Return the status of each rating of target i's user, in their order.

    roles: [n] of all ratings of the table.
    """
    table, stage, target = dataset.table, dataset.stage, int(dataset.stage.targets[i])
    user = int(table.user[target])
    first, stop = int(table.user_offsets[user]), int(table.user_offsets[user + 1])
    visible, wanted = set(stage.visible_to(i).tolist()), set(dataset.wanted(i).tolist())
    lines = dataset.renderer.template.line_order(dataset.history(i))
    line = {rating: k for k, rating in enumerate(lines.tolist(), 1)}
    reasons = _reasons(dataset, i)

    def status(rating: int) -> RatingStatus:
        t, role = rating - first, STAGES[roles[rating]]
        if rating == target:
            return RatingStatus(rating, t, role, TARGET)
        if rating not in visible:
            return RatingStatus(rating, t, role, HIDDEN, _hidden_reason(dataset, roles, split, target, rating))
        if rating in line:
            return RatingStatus(rating, t, role, CHOSEN, reasons.get(rating, ""), line[rating])
        return RatingStatus(rating, t, role, DROPPED if rating in wanted else NOT_CHOSEN, reasons.get(rating, ""))

    return [status(rating) for rating in range(first, stop)]


def _reasons(dataset: RatingDataset, i: int) -> dict[int, str]:
    """Return why the strategy requests each rating that it requests for target i; empty if it gives no reasons."""
    if not dataset.renderer.template.ablation.history:
        return {}
    reasons = dataset.strategy.wish(dataset.table, dataset.stage, dataset.seed, dataset.epoch).reasons
    if reasons is None:
        return {}
    indices = dataset.histories.wanted(i)
    return dict(zip(dataset.stage.visible_to(i)[indices].tolist(), reasons(i, indices), strict=True))


def _hidden_reason(dataset: RatingDataset, roles: np.ndarray, split: Split, target: int, rating: int) -> str:
    time, name = dataset.table.timestamp, dataset.stage.name
    same_second = time[rating] == time[target]
    one, other = tie_times(time[[rating, target]], split)
    if split.ties != "order" and one == other:
        return f"the target's {'day' if split.ties == 'day' else 'second'} (split.ties={split.ties})"
    if rating > target:
        return "later in the same second, in the data's order" if same_second else "later"
    role = STAGES[roles[rating]]
    if name != STAGES[TRAIN] and split.eval_history == "train":
        return f"a {role} rating (split.eval_history=train)"
    return f"held out as {role}"


def count_kinds(statuses: list[RatingStatus]) -> dict[str, int]:
    """Return the number of ratings of each kind, in the order of the page."""
    found = Counter(status.kind for status in statuses)
    return {kind: found[kind] for kind in (CHOSEN, DROPPED, NOT_CHOSEN, HIDDEN)}
