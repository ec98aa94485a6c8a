"""The config node `evaluation`."""

from __future__ import annotations

from dataclasses import dataclass

from mlens.errors import UserError


@dataclass(frozen=True)
class Evaluation:
    """seed: of the histories drawn in validation and test; draws: how many times a random history is drawn (all
    figures are their mean; their spread and the metrics of the averaged prediction are reported too); max_users:
    validate and test on the targets of so many users, drawn by `seed` over all degrees of activity (null: all)."""

    seed: int = 1234
    draws: int = 1
    max_users: int | None = None

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UserError(f"evaluation.draws must be at least 1, not {self.draws}")
        if self.max_users is not None and self.max_users < 1:
            raise UserError(f"evaluation.max_users must be at least 1 or null, not {self.max_users}")
