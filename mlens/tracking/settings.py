"""The config's key `tracker` and its node `wandb`. No library of a tracker here."""

from __future__ import annotations

from dataclasses import dataclass

from mlens.checks import require_choice
from mlens.errors import UserError

TRACKERS = ("wandb", "tensorboard", "trackio")
NONE = "none"


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases.

    mode: offline (files only), online or disabled.
    project, name, group: as Weights & Biases defines them.
    """

    mode: str = "offline"
    project: str = "Qwen3-MovieLens"
    name: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        require_choice("wandb.mode", self.mode, ("offline", "online", "disabled"))


def require_trackers(value: object) -> None:
    """Raise UserError unless `value` is a tracker's name, none, or a list of distinct trackers' names."""
    if not isinstance(value, list):
        require_choice("tracker", value, (*TRACKERS, NONE))
        return
    for name in value:
        require_choice("tracker, as a list,", name, TRACKERS)
    if len(set(value)) < len(value):
        raise UserError(f"tracker=[{','.join(value)}] names a tracker twice")


def enabled_trackers(value: str | list[str], wandb: Wandb) -> tuple[str, ...]:
    """Return the trackers that a run logs to: those of the key `tracker`, without wandb where it is disabled.

    >>> enabled_trackers(["wandb", "tensorboard"], Wandb(mode="disabled"))
    ('tensorboard',)
    """
    names = value if isinstance(value, list) else [value]
    disabled = {NONE, "wandb"} if wandb.mode == "disabled" else {NONE}
    return tuple(name for name in names if name not in disabled)
