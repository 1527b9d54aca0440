"""By when an order can be ready: from a location's opening hours, in its own zone, its cut-off, capacity and lead time.

Work is done while the location is open, and minutes are real ones: where clocks are set forward or back meanwhile, an opening is
an hour shorter or longer than its hours say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAYS_MAX = 60
"""How far ahead is looked: a location that works less than its lead time in as long is never ready."""


@dataclass(frozen=True)
class Schedule:
    """When a location works. Hashable: many locations have the same."""

    hours: tuple[tuple[int, int, int], ...] = ()
    """(ISO weekday, minute of the day at which it opens, minute at which it closes); none: it is always open."""
    time_zone: str = "UTC"
    lead_minutes: int = 0
    """Working minutes from an order to its goods being ready."""
    cut_off_minute: int = 0
    """Minute of the day from which on an order is the next opening day's work; 0: there is no such minute."""


def ready_time(schedule: Schedule, now: datetime, *, has_capacity_today: bool = True) -> datetime | None:
    """When an order that comes at `now` is ready; in UTC. None: not within DAYS_MAX days.

    An order after the cut-off, or on a day whose capacity is spent, is begun at the next opening of a later local day.
    """
    zone = ZoneInfo(schedule.time_zone)
    local = now.astimezone(zone)
    day = local.date()
    is_late = bool(schedule.cut_off_minute) and local.hour * 60 + local.minute >= schedule.cut_off_minute
    if is_late or not has_capacity_today:
        day += timedelta(days=1)
    left = timedelta(minutes=schedule.lead_minutes)
    for opens, closes in _openings(schedule, zone, day):
        begins = max(opens, now)
        if begins >= closes:
            continue
        if begins + left <= closes:
            return begins + left
        left -= closes - begins
    return None


def opens_within(schedule: Schedule, now: datetime, minutes: int) -> bool:
    """Whether it is open now, or opens within so many minutes."""
    zone = ZoneInfo(schedule.time_zone)
    until = now + timedelta(minutes=minutes)
    for opens, closes in _openings(schedule, zone, now.astimezone(zone).date()):
        if closes > now:
            return opens <= until
    return False


def is_before_cut_off(schedule: Schedule, now: datetime) -> bool:
    """Whether an order that comes now is still today's work."""
    local = now.astimezone(ZoneInfo(schedule.time_zone))
    return not schedule.cut_off_minute or local.hour * 60 + local.minute < schedule.cut_off_minute


def day_of(time_zone: str, now: datetime) -> tuple[datetime, datetime]:
    """When the local day of a moment begins and ends, in UTC."""
    zone = ZoneInfo(time_zone)
    day = now.astimezone(zone).date()
    return _at(zone, day, 0), _at(zone, day + timedelta(days=1), 0)


def _openings(schedule: Schedule, zone: ZoneInfo, first: date) -> Iterator[tuple[datetime, datetime]]:
    """Openings of DAYS_MAX days from a local day on, as UTC, in order and without overlaps."""
    if not schedule.hours:
        yield _at(zone, first, 0), _at(zone, first + timedelta(days=DAYS_MAX), 0)
        return
    last: datetime | None = None
    for n in range(DAYS_MAX):
        day = first + timedelta(days=n)
        for opens, closes in sorted(hours[1:] for hours in schedule.hours if hours[0] == day.isoweekday()):
            begins, ends = _at(zone, day, opens), _at(zone, day, closes)
            if last is not None:
                begins = max(begins, last)
            if begins < ends:
                last = ends
                yield begins, ends


def _at(zone: ZoneInfo, day: date, minute: int) -> datetime:
    """A minute of a local day. One that the clocks skip counts as after the gap, one that comes twice as its first."""
    days, minute = divmod(minute, 24 * 60)
    local = datetime.combine(day + timedelta(days=days), time(minute // 60, minute % 60), zone)
    return local.astimezone(UTC)
