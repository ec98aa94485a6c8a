"""The days of ratings in UTC, which prompts print with prompt.dates=true."""

from __future__ import annotations

import numpy as np

from mlens.data.chunked import BLOCK
from mlens.data.rating_table import RatingTable
from mlens.errors import UserError

DAY = 86_400
# 1980-01-01 and 10000-01-01, in seconds since 1970. Nobody rated films on a computer before; a time after them, or a
# line number in place of a time, isn't a date.
EARLIEST, NO_DATE = 315_532_800, 253_402_300_800


def distinct_days(table: RatingTable) -> np.ndarray:
    """Return the days of all ratings, in days since 1970: [days] int64, ascending.

    Raises UserError where the data have no dates.
    """
    time = table.timestamp
    blocks = [np.unique(time[start : start + BLOCK] // DAY) for start in range(0, len(time), BLOCK)]
    days = np.unique(np.concatenate(blocks))
    latest = int(days[-1]) * DAY
    if not EARLIEST <= latest < NO_DATE:
        raise UserError(
            "prompt.dates=true: the data have no dates: their times are line numbers, or other numbers than seconds "
            f"since 1970 (the largest is {int(time.max()):,}). Set prompt.dates=false"
        )
    return days


def day_texts(days: np.ndarray) -> list[str]:
    """Return days since 1970 as ISO 8601 dates.

    >>> day_texts(np.array([0, 10298]))
    ['1970-01-01', '1998-03-13']
    """
    return np.datetime_as_string(days.astype("datetime64[D]")).tolist()
