"""Which settings a resumed run may change."""

from __future__ import annotations

from mlens.config import flatten, is_below
from mlens.errors import UserError
from mlens.identity import NOT_RESULT

# Settings of a run's length, which move the horizon of the schedule.
HORIZON = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_minutes")
# Settings that may change, besides NOT_RESULT.
MAY_CHANGE = (*HORIZON, "trainer.early_stopping.patience")


def refuse_changes(before: dict, now: dict) -> list[str]:
    """Raise UserError where a resumed run changes settings that it may not change.

    before: the resolved config that the run was started with
    now: the resolved config of the resumed run

    Returns the changed keys that move the horizon of the learning-rate schedule.
    """
    old, new = flatten(before), flatten(now)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    refused = [key for key in changed if not is_below(key, NOT_RESULT + MAY_CHANGE)]
    if refused:
        parts = ", ".join(f"{key} (was {old.get(key)}, now {new.get(key)})" for key in refused)
        raise UserError(f"a resumed run can't change {parts}: give the values of the run, or another output_dir")
    return [key for key in changed if key in HORIZON]
