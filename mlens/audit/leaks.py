"""What a leak is, and how one is told."""

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
    "plan": "the plan makes no sense",
    "other_stage": "a target of another stage",
    "another_user": "another user's rating",
    "itself": "the target itself",
    "later": "a later rating",
    "same_second": "a rating of the target's own second under split.ties=strict",
    "held_out_in_training": "a held-out rating in a training prompt",
    "test_in_validation": "a test rating in a validation prompt",
    "held_out_in_evaluation": "a held-out rating under split.eval_history=train",
    "not_visible": "a place outside the list of ratings that the target may see",
    "out_of_order": "the shown ratings are not in the order of time",
    "tags": "tags that are not the table's",
    "later_tag": "a tag that is not earlier than the target",
    "target_tag": "a tag of the target's own movie",
}


@dataclass(frozen=True)
class Leak:
    """prompts: how many prompts have a leak of this kind (`cold_start`: users; `table`, `split_order`: ratings);
    example: the first of them, by raw ids."""

    kind: str
    prompts: int
    example: str


@dataclass
class Finder:
    """Counts leaks by kind, block after block, and keeps the first of each."""

    table: RatingTable
    found: dict[str, Leak] = field(default_factory=dict)

    def add(self, kind: str, leaks: np.ndarray, example: Callable[[int], str]) -> None:
        """leaks [n] bool; example(i) tells of leak i."""
        count = int(np.count_nonzero(leaks))
        if not count:
            return
        before = self.found.get(kind)
        if before is None:
            self.found[kind] = Leak(kind, count, example(int(np.argmax(leaks))))
        else:
            self.found[kind] = Leak(kind, before.prompts + count, before.example)

    def target(self, stage: str, rating: int) -> str:
        return f"the {stage} target {self.rating(rating)}"

    def rating(self, rating: int) -> str:
        return f"({self.table.named(rating)})"

    def sees(self, stage: str, target: int, roles: np.ndarray, rating: int) -> str:
        role = int(roles[int(rating) % len(self.table)])
        return f"{self.target(stage, target)} sees the {STAGES[role]} rating {self.rating(rating)}"
