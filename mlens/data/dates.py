"""The days of ratings in UTC, which prompts print with prompt.dates=true, and split.ties=day compares."""

from __future__ import annotations

import numpy as np

from mlens.data.chunked import BLOCK
from mlens.data.rating_table import RatingTable
from mlens.errors import UserError

DAY = 86_400
# 1980-01-01 and 10000-01-01, in seconds since 1970. No data set has ratings from before, and a number outside of this
# range is something else: a line number in place of a missing time, milliseconds, a rank.
EARLIEST, NO_DATE = 315_532_800, 253_402_300_800


def has_dates(table: RatingTable) -> bool:
    """Return whether the times of the data are dates, by the largest of them."""
    return EARLIEST <= int(table.timestamp.max()) < NO_DATE


def require_dates(table: RatingTable, setting: str = "prompt.dates=true", instead: str = "prompt.dates=false") -> None:
    """Raise UserError unless the times of the data are dates.

    setting: the override that needs dates.
    instead: the override that doesn't.
    """
    if not has_dates(table):
        raise UserError(
            f"{setting}: the data have no dates: their times are line numbers, or other numbers than seconds "
            f"since 1970 (the largest is {int(table.timestamp.max()):,}). Set {instead}"
        )


def distinct_days(table: RatingTable) -> np.ndarray:
    """Return the days of all ratings, in days since 1970: [days] int64, ascending.

    Raises UserError where the data have no dates.
    """
    require_dates(table)
    time = table.timestamp
    found = np.zeros(int(time.max()) // DAY + 1, dtype=bool)
    for start in range(0, len(time), BLOCK):
        found[time[start : start + BLOCK] // DAY] = True
    return np.flatnonzero(found)


def day_texts(days: np.ndarray) -> list[str]:
    """Return days since 1970 as ISO 8601 dates.

    >>> day_texts(np.array([0, 10298]))
    ['1970-01-01', '1998-03-13']
    """
    return np.datetime_as_string(days.astype("datetime64[D]")).tolist()
