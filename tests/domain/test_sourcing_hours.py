"""By when an order is ready: opening hours in the store's own zone, cut-off, capacity, lead time, and clocks that change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.sourcing.hours import Schedule, day_of, is_before_cut_off, opens_within, ready_time

BERLIN = ZoneInfo("Europe/Berlin")
DAILY = tuple((day, 9 * 60, 20 * 60) for day in range(1, 8))
WEEKDAYS = tuple((day, 9 * 60, 18 * 60) for day in range(1, 6))


def shop(hours: tuple[tuple[int, int, int], ...] = DAILY, lead: int = 60, cut_off: int = 0) -> Schedule:
    return Schedule(hours, "Europe/Berlin", lead, cut_off)


def at(day: int, hour: int, minute: int = 0, month: int = 6) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("schedule", "now", "ready"),
    [
        (shop(), at(1, 12), at(1, 13)),
        (shop(), at(1, 7), at(1, 10)),  # before it opens
        (shop(), at(1, 21), at(2, 10)),  # after it closed
        (shop(), at(1, 19, 30), at(2, 9, 30)),  # half today, half tomorrow
        (shop(), at(1, 19), at(1, 20)),  # at the last minute
        (shop(lead=0), at(1, 12), at(1, 12)),
        (shop(lead=0), at(1, 21), at(2, 9)),
        (shop(WEEKDAYS), at(5, 17, 30), at(8, 9, 30)),  # a Friday, then a Monday
        (shop(cut_off=15 * 60), at(1, 14, 59), at(1, 15, 59)),
        (shop(cut_off=15 * 60), at(1, 15), at(2, 10)),
        (shop(()), at(1, 3), at(1, 4)),  # always open
        (shop((), lead=30 * 60), at(1, 3), at(2, 9)),
        (shop(lead=24 * 60), at(1, 9), at(3, 11)),  # 11 hours a day
        (shop(((1, 540, 720), (1, 780, 1080))), at(1, 11, 30), at(1, 13, 30)),  # a break at noon
        (shop(((1, 540, 720), (1, 600, 1080))), at(1, 11, 30), at(1, 12, 30)),  # hours that overlap
        (shop(((1, 0, 1440), (2, 0, 1440))), at(1, 23, 30), at(2, 0, 30)),  # through midnight
    ],
)
def test_an_order_is_ready_after_its_lead_time_of_open_hours(
    schedule: Schedule, now: datetime, ready: datetime
) -> None:
    assert ready_time(schedule, now.astimezone(UTC)) == ready.astimezone(UTC)


def test_a_day_whose_capacity_is_spent_is_over() -> None:
    assert ready_time(shop(), at(1, 10), has_capacity_today=False) == at(2, 10)
    assert ready_time(shop(()), at(1, 10), has_capacity_today=False) == at(2, 1)


def test_a_location_that_never_works_long_enough_is_never_ready() -> None:
    assert ready_time(shop(((1, 540, 541),), lead=600), at(1, 9)) is None


@pytest.mark.parametrize(
    ("now", "lead", "ready"),
    [
        # 2026-03-29: 02:00 becomes 03:00. From 01:30 on, an hour of work ends at 03:30 by the clock on the wall.
        (datetime(2026, 3, 29, 0, 30, tzinfo=UTC), 60, datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        # 2026-10-25: 03:00 becomes 02:00 again.
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), 60, datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
    ],
)
def test_minutes_are_real_ones_while_clocks_change(now: datetime, lead: int, ready: datetime) -> None:
    assert ready_time(shop(tuple((day, 0, 1440) for day in range(1, 8)), lead), now) == ready


def test_openings_follow_the_clock_on_the_wall_across_its_change() -> None:
    # Nine o'clock is 08:00 UTC before the change and 07:00 UTC after it.
    assert ready_time(shop(lead=0), at(28, 21, month=3)) == datetime(2026, 3, 29, 7, tzinfo=UTC)
    assert ready_time(shop(lead=0), at(24, 21, month=10)) == datetime(2026, 10, 25, 8, tzinfo=UTC)
    # A night shift from 01:00 to 04:00 is two hours long in March, and four in October.
    night = tuple((day, 60, 240) for day in range(1, 8))
    assert ready_time(shop(night, 150), at(28, 12, month=3)) == at(30, 1, 30, month=3)
    assert ready_time(shop(night, 240), at(24, 12, month=10)) == at(25, 4, month=10)


def test_an_opening_that_the_clocks_skip_begins_after_the_gap() -> None:
    assert ready_time(shop(((7, 150, 300),), 0), at(28, 12, month=3)) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_a_store_is_open_or_opens_soon() -> None:
    assert opens_within(shop(), at(1, 9), 0)
    assert not opens_within(shop(), at(1, 20), 0)
    assert not opens_within(shop(), at(1, 8, 29), 30)
    assert opens_within(shop(), at(1, 8, 30), 30)
    assert opens_within(shop(()), at(1, 3), 0)


def test_a_cut_off_is_a_minute_of_the_stores_own_day() -> None:
    assert is_before_cut_off(shop(cut_off=900), at(1, 14, 59).astimezone(UTC))
    assert not is_before_cut_off(shop(cut_off=900), at(1, 15).astimezone(UTC))
    assert is_before_cut_off(shop(), at(1, 23, 59))


@given(
    minutes=st.integers(0, 400 * 1440),
    lead=st.integers(0, 3000),
    opens=st.integers(0, 1438),
    length=st.integers(1, 1440),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"]),
)
def test_what_comes_later_is_never_ready_earlier_and_never_before_its_lead_time(
    minutes: int, lead: int, opens: int, length: int, zone: str
) -> None:
    schedule = Schedule(tuple((day, opens, min(1440, opens + length)) for day in range(1, 8)), zone, lead)
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ready = ready_time(schedule, now)
    if ready is None:
        return
    assert ready >= now + timedelta(minutes=lead)
    later = ready_time(schedule, now + timedelta(minutes=37))
    assert later is None or later >= ready
    assert not lead or opens_within(schedule, ready - timedelta(seconds=1), 0)


@pytest.mark.parametrize(
    ("zone", "now", "begins", "hours"),
    [
        ("Europe/Zurich", "2026-06-01T22:30", "2026-06-01T22:00", 24),  # 00:30 of the next day there
        ("Europe/Zurich", "2026-03-29T00:30", "2026-03-28T23:00", 23),
        (
            "America/Havana",
            "2026-11-01T05:30",
            "2026-11-01T04:00",
            25,
        ),  # midnight comes twice: the first begins the day
        ("America/Havana", "2026-03-08T06:00", "2026-03-08T05:00", 23),  # midnight is skipped
    ],
)
def test_a_local_day_is_as_long_as_its_clocks_make_it(zone: str, now: str, begins: str, hours: int) -> None:
    since, until = day_of(zone, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert since == datetime.fromisoformat(begins).replace(tzinfo=UTC)
    assert until - since == timedelta(hours=hours)
