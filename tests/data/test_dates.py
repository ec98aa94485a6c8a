"""The days of ratings, compared with Python's calendar."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data import dates
from mlens.data.dates import EARLIEST, NO_DATE, day_texts, distinct_days, require_dates
from mlens.errors import UserError
from tests.helpers.reference import make_table


def table_at(times):
    return make_table([[(0, 3.0, time) for time in sorted(times)]])


@given(st.lists(st.integers(0, NO_DATE - 1), min_size=1, max_size=8), st.integers(EARLIEST, NO_DATE - 1))
def test_the_days_are_those_of_the_calendar(times, last):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dates, "BLOCK", 3)
        found = day_texts(distinct_days(table_at([*times, last])))
    assert found == sorted({f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}" for time in [*times, last]})


@pytest.mark.parametrize("latest", [0, EARLIEST - 1, NO_DATE, 2**53 - 1])
def test_other_numbers_are_no_dates(latest):
    with pytest.raises(UserError, match=f"the largest is {latest:,}"):
        require_dates(table_at([0, latest]))


def test_the_first_and_the_last_date():
    for latest, text in ((EARLIEST, "1980-01-01"), (NO_DATE - 1, "9999-12-31")):
        require_dates(table_at([0, latest]))
        assert day_texts(np.array([latest // 86_400])) == [text]
