"""The config node `comparison`."""

from __future__ import annotations

from dataclasses import dataclass

from mlens.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """equal: what the jobs of a comparison are given alike: as many `targets` to train on, or as much `time`."""

    equal: str = "targets"

    def __post_init__(self) -> None:
        if self.equal not in ("targets", "time"):
            raise UserError(f"comparison.equal must be targets or time, not {self.equal}")
