"""Checks of fields of data sources; each source calls `check_common_fields` from its `__post_init__`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlens.checks import require_choice, require_number
from mlens.data.items import ITEMS
from mlens.errors import UserError


def check_common_fields(source: Any) -> None:
    """Raise UserError unless the fields that all sources share are valid.

    source: a data source. `max_users`, `min_user_ratings` and `min_item_ratings` must be None or at least 1. Where it
        has them, `rating_scale` must be as for `check_rating_scale`, and `item` one of ITEMS.
    """
    for name in ("max_users", "min_user_ratings", "min_item_ratings"):
        require_number(f"data.{name}", getattr(source, name), at_least=1, null=True)
    check_rating_scale(getattr(source, "rating_scale", None))
    if hasattr(source, "item"):
        require_choice("data.item", source.item, tuple(ITEMS))


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
