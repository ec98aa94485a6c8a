"""The error for a split that leaves a stage empty, with suggestions that were tried on the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mlens.data.dates import has_dates, require_dates
from mlens.data.rating_table import RatingTable
from mlens.data.split import STAGES, TEST, TRAIN, VAL, Split, assign_roles, tie_times
from mlens.errors import UserError

# Values of min_ratings: enough for a rating in each stage, in two of them, and in one.
MIN_RATINGS_TRIED = (3, 2, 1)
# The ratio tried in place of a larger one.
RATIO_TRIED = 0.1


def required_roles(split: Split) -> tuple[int, ...]:
    """Return the roles that must have ratings."""
    return (TRAIN, VAL, TEST) if split.method == "leave_last" or split.val_ratio else (TRAIN, TEST)


def check_stages(table: RatingTable, roles: np.ndarray, split: Split) -> None:
    """Raise UserError, with suggestions, where a required stage has no ratings under `roles` [n], split.ties=strict or
    split.ties=day hides every history, or split.ties=day meets data without dates.
    """
    empty = _empty_roles(roles, split)
    if empty:
        message = f"split={split.method} leaves no {STAGES[empty[0]]} rating among "
        message += f"{_count_phrase(len(table), 'rating')} of {_count_phrase(len(table.users), 'user')}"
        enough = int((np.diff(table.user_offsets) >= split.min_ratings).sum())
        message += f" ({enough:,} of them with at least split.min_ratings={split.min_ratings}"
        message += "; ratings of one second stay together)" if split.method == "global_time" else ")"
        suggestions = _suggestions(table, split)
        raise UserError(
            f"{message}. "
            + (f"Set {', or '.join(suggestions)}" if suggestions else "No other split does: take more data")
        )
    if split.ties == "day":
        require_dates(table, "split.ties=day", "split.ties=order")
    if _hides_all_histories(table, split):
        same = "day" if split.ties == "day" else "timestamp"
        reason = f"all ratings of each user have the same {same}"
        raise UserError(f"split.ties={split.ties} leaves every history empty: {reason}. Set split.ties=order")


def _hides_all_histories(table: RatingTable, split: Split) -> bool:
    if split.ties == "order" or len(table) == len(table.users):
        return False
    time = tie_times(table.timestamp, split)
    return not ((time[1:] != time[:-1]) & (table.user[1:] == table.user[:-1])).any()


def _count_phrase(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _empty_roles(roles: np.ndarray, split: Split) -> list[int]:
    sizes = np.bincount(roles, minlength=3)
    return [role for role in (TRAIN, TEST, VAL) if role in required_roles(split) and not sizes[role]]


def _suggestions(table: RatingTable, split: Split) -> list[str]:
    """Return the first working change with the same method and the first with another one, as overrides."""
    # `random` holds out as many ratings as `temporal`, so that the two succeed or fail together.
    alike = ("temporal", "random") if split.method in ("temporal", "random") else (split.method,)
    others = [method for method in ("temporal", "global_time", "user") if method not in alike]
    found = (next(_working_overrides(table, split, methods), None) for methods in ([split.method], others))
    return [text for text in found if text is not None]


def _working_overrides(table: RatingTable, split: Split, methods: list[str]) -> Iterator[str]:
    for change in _changes(split):
        for method in methods:
            fields = {name: value for name, value in change.items() if method != "leave_last" or name == "min_ratings"}
            if method == "user" and split.eval_history == "train":
                fields["eval_history"] = "all"
            tried = replace(split, method=method, **fields)
            counted = replace(tried, method="temporal") if method == "random" else tried
            if not _empty_roles(assign_roles(table, counted), tried):
                texts = [f"split={method}"] if method != split.method else []
                texts += [f"split.{name}={value}" for name, value in fields.items()]
                no_days = split.ties == "day" and not has_dates(table)
                order = ["split.ties=order"] if no_days or _hides_all_histories(table, split) else []
                yield " ".join([*texts, *order])


def _changes(split: Split) -> Iterator[dict[str, Any]]:
    """Yield fields to change, the smallest change first."""
    some_test = {"test_ratio": RATIO_TRIED} if split.test_ratio == 0 else {}
    smaller = {name: RATIO_TRIED for name in ("val_ratio", "test_ratio") if getattr(split, name) > RATIO_TRIED}
    for ratios in (some_test, some_test | smaller, some_test | {"val_ratio": 0}):
        if ratios.get("val_ratio", split.val_ratio) + ratios.get("test_ratio", split.test_ratio) < 1:
            for least in ({}, *({"min_ratings": n} for n in MIN_RATINGS_TRIED if n < split.min_ratings)):
                yield ratios | least
