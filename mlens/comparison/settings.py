"""The config node `comparison`."""

from __future__ import annotations

from dataclasses import dataclass

from mlens.checks import require_choice


@dataclass(frozen=True)
class Comparison:
    """What a comparison keeps equal.

    equal: the training budget shared by all jobs: the number of `targets`, or `time`.
    """

    equal: str = "targets"

    def __post_init__(self) -> None:
        require_choice("comparison.equal", self.equal, ("targets", "time"))
