"""Kinds of leaks, and the messages that describe them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mlens.data.rating_table import RatingTable
from mlens.data.split import STAGES

KINDS = {
    "table": "the table is not in the order of users and time",
    "cold_start": "a cold-start user on both sides of the split",
    "split_order": "held out, but not after the training ratings",
    "plan": "the plan is inconsistent",
    "other_stage": "a target of another stage",
    "another_user": "another user's rating",
    "itself": "the target itself",
    "later": "a later rating",
    "same_second": "a rating of the same second as the target under split.ties=strict",
    "same_day": "a rating of the same day as the target under split.ties=day",
    "held_out_in_training": "a held-out rating in a training prompt",
    "test_in_validation": "a test rating in a validation prompt",
    "held_out_in_evaluation": "a held-out rating under split.eval_history=train",
    "not_visible": "an index outside the list of ratings that the target may see",
    "out_of_order": "the shown ratings are not in time order",
    "fitted_on_held_out": "a history by a strategy that is fitted on held-out ratings",
    "fitted_on_its_user": "a history by a strategy that is fitted on the ratings of the target's user",
    "tags": "tags that differ from the table's",
    "later_tag": "a tag that is not earlier than the target",
    "target_tag": "a tag of the target movie",
}


@dataclass(frozen=True)
class Leak:
    """All leaks of one kind.

    kind: a key of KINDS.
    prompts: number of prompts with such a leak (`cold_start`: of users; `table`, `split_order`: of ratings).
    example: description of the first, by raw ids.
    """

    kind: str
    prompts: int
    example: str


@dataclass
class Finder:
    """Counter of leaks by kind that is filled block by block and keeps the first example of each kind."""

    table: RatingTable
    found: dict[str, Leak] = field(default_factory=dict)

    def add(self, kind: str, leaks: np.ndarray, example: Callable[[int], str]) -> None:
        """Add leaks of one kind.

        leaks: [n] bool.
        example: example(i) describes leak i.
        """
        count = int(np.count_nonzero(leaks))
        if not count:
            return
        before = self.found.get(kind)
        if before is None:
            self.found[kind] = Leak(kind, count, example(int(np.argmax(leaks))))
        else:
            self.found[kind] = Leak(kind, before.prompts + count, before.example)

    def target(self, stage: str, rating: int) -> str:
        """Describe a target (an index into the table)."""
        return f"the {stage} target {self.rating(rating)}"

    def rating(self, rating: int) -> str:
        """Describe a rating (an index into the table) by raw ids."""
        return f"({self.table.named(rating)})"

    def sees(self, stage: str, target: int, roles: np.ndarray, rating: int) -> str:
        """Describe a target that sees a rating."""
        role = int(roles[int(rating) % len(self.table)])
        return f"{self.target(stage, target)} sees the {STAGES[role]} rating {self.rating(rating)}"
