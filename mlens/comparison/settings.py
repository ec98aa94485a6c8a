"""The config node `comparison`."""

from __future__ import annotations

from dataclasses import dataclass

from mlens.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """What a comparison keeps equal.

    equal: the training budget shared by all jobs: the number of `targets`, or `time`.
    """

    equal: str = "targets"

    def __post_init__(self) -> None:
        if self.equal not in ("targets", "time"):
            raise UserError(f"comparison.equal must be targets or time, not {self.equal}")
