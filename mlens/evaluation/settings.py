"""The config node `evaluation`."""

from __future__ import annotations

from dataclasses import dataclass

from mlens.errors import UserError


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
        if self.draws < 1:
            raise UserError(f"evaluation.draws must be at least 1, not {self.draws}")
        if self.max_users is not None and self.max_users < 1:
            raise UserError(f"evaluation.max_users must be at least 1 or null, not {self.max_users}")
