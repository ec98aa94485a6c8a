"""What a resumed run may change of its config."""

from __future__ import annotations

from mlens.config import flatten, is_below
from mlens.errors import UserError
from mlens.identity import NOT_RESULT

# Settings of a run's length.
HORIZON = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_minutes")
# What may change besides NOT_RESULT.
MAY_CHANGE = (*HORIZON, "trainer.early_stopping.patience")


def refuse_changes(before: dict, now: dict) -> list[str]:
    """Compare the resolved config of a run that is resumed with the one that it was started with.

    Returns the changed keys that move the horizon of the learning-rate schedule, to warn of. Raises UserError where
    other keys differ than a resume may change.
    """
    old, new = flatten(before), flatten(now)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    refused = [key for key in changed if not is_below(key, NOT_RESULT + MAY_CHANGE)]
    if refused:
        parts = ", ".join(f"{key} (was {old.get(key)}, now {new.get(key)})" for key in refused)
        raise UserError(f"a resumed run can't change {parts}: give the run's own values, or another output_dir")
    return [key for key in changed if key in HORIZON]
