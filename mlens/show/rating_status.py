"""What became of each rating of a user on the way to one target's prompt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mlens.data.split import STAGES, TRAIN, Split
from mlens.packing.dataset import RatingDataset

TARGET, CHOSEN, DROPPED, NOT_CHOSEN, HIDDEN = "target", "chosen", "dropped", "not chosen", "hidden"


@dataclass(frozen=True)
class RatingStatus:
    """Of one rating: an index into the table. place: t, in its user's order; role: train, val or test; kind: `target`;
    `hidden`, which the target may not see; of what it may see `not chosen` by the strategy, `dropped` by the budget
    from what was chosen, or `chosen` and shown; why: of a hidden one; line: of a chosen one, its number in the prompt.
    """

    rating: int
    place: int
    role: str
    kind: str
    why: str = ""
    line: int | None = None


def rating_statuses(dataset: RatingDataset, roles: np.ndarray, split: Split, i: int) -> list[RatingStatus]:
    """Of every rating of the user of target i, in their order; `roles` [n] are those of the whole table."""
    table, stage, target = dataset.table, dataset.stage, int(dataset.stage.targets[i])
    user = int(table.user[target])
    first, stop = int(table.user_offsets[user]), int(table.user_offsets[user + 1])
    visible, wanted = set(stage.visible_to(i).tolist()), set(dataset.wanted(i).tolist())
    line = {rating: k for k, rating in enumerate(dataset.history(i).tolist(), 1)}

    def status(rating: int) -> RatingStatus:
        place, role = rating - first, STAGES[roles[rating]]
        if rating == target:
            return RatingStatus(rating, place, role, TARGET)
        if rating not in visible:
            return RatingStatus(rating, place, role, HIDDEN, _why_hidden(dataset, roles, split, target, rating))
        if rating in line:
            return RatingStatus(rating, place, role, CHOSEN, line=line[rating])
        return RatingStatus(rating, place, role, DROPPED if rating in wanted else NOT_CHOSEN)

    return [status(rating) for rating in range(first, stop)]


def _why_hidden(dataset: RatingDataset, roles: np.ndarray, split: Split, target: int, rating: int) -> str:
    time, name = dataset.table.timestamp, dataset.stage.name
    same_second = time[rating] == time[target]
    if same_second and split.ties == "strict":
        return "the target's own second (split.ties=strict)"
    if rating > target:
        return "later in the same second, in the data's order" if same_second else "later"
    role = STAGES[roles[rating]]
    if name != STAGES[TRAIN] and split.eval_history == "train":
        return f"a {role} rating (split.eval_history=train)"
    return f"held out as {role}"


def counts(statuses: list[RatingStatus]) -> dict[str, int]:
    """How many there are of each kind, in the order in which they are told."""
    found = Counter(status.kind for status in statuses)
    return {kind: found[kind] for kind in (CHOSEN, DROPPED, NOT_CHOSEN, HIDDEN)}
