"""What to set where a split leaves a stage without ratings: only what was tried on the table and leaves none empty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mlens.data.split import STAGES, TEST, TRAIN, VAL, Split, assign_roles
from mlens.data.table import RatingTable
from mlens.errors import UserError

# Ratings that a user needs for one in each stage, for one in two of them, and at all.
FEWEST = (3, 2, 1)
# Shares that are tried where larger ones were asked for.
USUAL = 0.1


def asked_for(split: Split) -> tuple[int, ...]:
    """The roles that must not be empty."""
    return (TRAIN, VAL, TEST) if split.method == "leave_last" or split.val_ratio else (TRAIN, TEST)


def check_stages(table: RatingTable, roles: np.ndarray, split: Split) -> None:
    """Raises UserError, with what to set, where a stage that was asked for has no ratings under `roles` [n], or
    split.ties=strict hides every history."""
    empty = _empty(roles, split)
    if empty:
        said = f"split={split.method} leaves no {STAGES[empty[0]]} rating among "
        said += f"{_counted(len(table), 'rating')} of {_counted(len(table.users), 'user')}"
        enough = int((np.diff(table.user_offsets) >= split.min_ratings).sum())
        said += f" ({enough:,} of them with at least split.min_ratings={split.min_ratings}"
        said += "; ratings of one second stay together)" if split.method == "global_time" else ")"
        advice = _advice(table, split)
        raise UserError(
            f"{said}. " + (f"Set {', or '.join(advice)}" if advice else "No other split does: take more data")
        )
    if _hides_all(table, split):
        reason = "all ratings of each user have the same timestamp"
        raise UserError(f"split.ties=strict leaves every history empty: {reason}. Set split.ties=order")


def _hides_all(table: RatingTable, split: Split) -> bool:
    if split.ties == "order" or len(table) == len(table.users):
        return False
    return not ((table.timestamp[1:] != table.timestamp[:-1]) & (table.user[1:] == table.user[:-1])).any()


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _empty(roles: np.ndarray, split: Split) -> list[int]:
    sizes = np.bincount(roles, minlength=3)
    return [role for role in (TRAIN, TEST, VAL) if role in asked_for(split) and not sizes[role]]


def _advice(table: RatingTable, split: Split) -> list[str]:
    """The first change that works with the same method and the first with another one, as overrides."""
    # Which ratings `random` holds out is drawn; how many is as in `temporal`.
    alike = ("temporal", "random") if split.method in ("temporal", "random") else (split.method,)
    others = [method for method in ("temporal", "global_time", "user") if method not in alike]
    found = (next(_working(table, split, methods), None) for methods in ([split.method], others))
    return [text for text in found if text is not None]


def _working(table: RatingTable, split: Split, methods: list[str]) -> Iterator[str]:
    for change in _changes(split):
        for method in methods:
            own = {name: value for name, value in change.items() if method != "leave_last" or name == "min_ratings"}
            if method == "user" and split.eval_history == "train":
                own["eval_history"] = "all"
            tried = replace(split, method=method, **own)
            counted = replace(tried, method="temporal") if method == "random" else tried
            if not _empty(assign_roles(table, counted), tried):
                texts = [f"split={method}"] if method != split.method else []
                texts += [f"split.{name}={value}" for name, value in own.items()]
                yield " ".join([*texts, "split.ties=order"] if _hides_all(table, split) else texts)


def _changes(split: Split) -> Iterator[dict[str, Any]]:
    """Fields to change, the least change first."""
    some_test = {"test_ratio": USUAL} if split.test_ratio == 0 else {}
    smaller = {name: USUAL for name in ("val_ratio", "test_ratio") if getattr(split, name) > USUAL}
    for ratios in (some_test, some_test | smaller, some_test | {"val_ratio": 0}):
        if ratios.get("val_ratio", split.val_ratio) + ratios.get("test_ratio", split.test_ratio) < 1:
            for least in ({}, *({"min_ratings": n} for n in FEWEST if n < split.min_ratings)):
                yield ratios | least
