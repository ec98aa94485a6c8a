"""Checks of the fields that all data sources share; each source calls them from its `__post_init__`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from mlens.checks import require_number
from mlens.errors import UserError


def check_max_users(max_users: int | None) -> None:
    """Raise UserError unless `max_users` is None or at least 1."""
    require_number("data.max_users", max_users, at_least=1, null=True)


def check_min_ratings(min_user_ratings: int | None, min_item_ratings: int | None) -> None:
    """Raise UserError unless each is None or at least 1."""
    require_number("data.min_user_ratings", min_user_ratings, at_least=1, null=True)
    require_number("data.min_item_ratings", min_item_ratings, at_least=1, null=True)


def check_rating_scale(scale: Sequence[float] | None) -> None:
    """Raise UserError unless `scale` is None or two or more finite numbers in ascending order."""
    if scale is None:
        return
    finite = all(math.isfinite(rating) for rating in scale)
    if len(scale) < 2 or not finite or any(low >= high for low, high in pairwise(scale)):
        raise UserError(f"data.rating_scale must be two or more finite ratings in ascending order, not {list(scale)}")


def given_file(field: str, path: str) -> Path:
    """Return the file that a field such as data.path names. Raises UserError where it doesn't exist."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise UserError(f"{field}={file}: is a folder. Give the file in it")
    if not file.is_file():
        raise UserError(f"{field}={file}: no such file")
    return file
