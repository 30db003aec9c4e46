from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.operating import Freeze, frozen_until

WEEKEND = Freeze(start="0 18 * * FRI", end="0 8 * * MON", timezone="Europe/Berlin")


@pytest.mark.parametrize(("moment", "frozen"), [
    ("2026-11-27 17:59:59", False),
    ("2026-11-27 18:00:00", True),
    ("2026-11-29 12:00:00", True),
    ("2026-11-30 07:59:59", True),
    ("2026-11-30 08:00:00", False),
    ("2026-12-01 12:00:00", False),
    # The clocks go back on the Sunday in between.
    ("2026-10-26 07:59:00", True),
    ("2026-10-26 08:00:00", False),
])  # fmt: skip
def test_a_weekend_is_frozen_from_its_first_second_to_its_last(moment, frozen):
    now = datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    end = WEEKEND.until(now.astimezone(UTC))
    assert (end is not None) == frozen
    if end is not None:
        assert (end.weekday(), end.hour, end.minute) == (0, 8, 0)


@given(st.integers(0, 366 * 24 * 60))
def test_outside_of_a_window_the_next_start_comes_before_the_next_end(minutes):
    from croniter import croniter

    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    nightly = Freeze(start="0 22 * * *", end="0 6 * * *")
    following = {part: croniter(getattr(nightly, part), now).get_next(datetime) for part in ("start", "end")}
    assert (nightly.until(now) is not None) == (following["end"] < following["start"])


def test_of_several_windows_the_one_that_ends_last_counts():
    short = Freeze(start="0 0 * * *", end="0 12 * * *")
    long = Freeze(start="0 0 1 * *", end="0 0 3 * *", reason="month's end")
    now = datetime(2026, 5, 1, 10, tzinfo=UTC)
    assert frozen_until((short, long), now) == (long, datetime(2026, 5, 3, tzinfo=UTC))
    assert frozen_until((short, long), now + timedelta(days=10, hours=4)) is None
    assert frozen_until((), now) is None
