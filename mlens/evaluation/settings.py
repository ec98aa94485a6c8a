"""The config node `evaluation`."""

from __future__ import annotations

from dataclasses import dataclass

from mlens.checks import require_number


@dataclass(frozen=True)
class Evaluation:
    """How validation and test are evaluated.

    seed: seed of the histories drawn in validation and test.
    draws: number of draws of a random history. Metrics are means over draws; their standard deviation and the metrics
        of the averaged prediction are reported too.
    max_users: number of users whose targets are evaluated, drawn by `seed` in proportion from all degrees of activity
        (null: all users).
    """

    seed: int = 1234
    draws: int = 1
    max_users: int | None = None

    def __post_init__(self) -> None:
        require_number("evaluation.draws", self.draws, at_least=1)
        require_number("evaluation.max_users", self.max_users, at_least=1, null=True)
