"""What a rule asks of a place before it is a candidate: the first filter that it does not pass is the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing.hours import DAYS_MAX, Schedule, is_before_cut_off, opens_within, ready_time
from onhand.domain.sourcing.parts import Line, Place, Why
from onhand.domain.sourcing.policy import Rule

NEVER_MINUTES = DAYS_MAX * 24 * 60
"""What counts for a place that is not ready within any time that is looked at."""


@dataclass
class Moment:
    """What is true of schedules now, each looked at once: many places have the same."""

    now: datetime
    _ready: dict[tuple[Schedule, bool], datetime | None] = field(default_factory=dict)
    _opens: dict[tuple[Schedule, int], bool] = field(default_factory=dict)

    def ready(self, schedule: Schedule, *, has_capacity: bool) -> datetime | None:
        """When an order that comes now is ready."""
        key = (schedule, has_capacity)
        if key not in self._ready:
            self._ready[key] = ready_time(schedule, self.now, has_capacity_today=has_capacity)
        return self._ready[key]

    def opens_within(self, schedule: Schedule, minutes: int) -> bool:
        """Whether it is open, or soon."""
        key = (schedule, minutes)
        if key not in self._opens:
            self._opens[key] = opens_within(schedule, self.now, minutes)
        return self._opens[key]

    def minutes_until(self, moment: datetime | None) -> int:
        """Whole minutes, begun ones counted."""
        return NEVER_MINUTES if moment is None else -((self.now - moment) // timedelta(minutes=1))


Refused = tuple[Why, str, tuple[object, ...]]
"""Why, and what is said of it: a template and its values."""


def refusals(rule: Rule, method: FulfillmentKind, moment: Moment) -> Callable[[Place, bool], Refused | None]:
    """Tells why a place is no candidate of a rule, whatever it has of the lines; None: it is one.

    The flag: it brings something by an earlier rule, so today's capacity has this order in it already.
    """
    kinds, groups, not_groups, metres_max = rule.kinds, rule.groups, rule.not_groups, rule.distance_metres_max
    orders_min, units_min = max(1, rule.orders_left_min), max(1, rule.units_left_min)
    is_timed = rule.opens_within_minutes is not None or rule.is_before_cut_off or rule.ready_within_minutes is not None

    def refused(place: Place, is_opened: bool) -> Refused | None:
        if method not in place.methods:
            return Why.METHOD, "offers no {}", (method.value,)
        if kinds and place.kind not in kinds:
            return Why.KIND, "is a {}; the rule is for {}", (place.kind, Names(kinds))
        if groups and not groups & place.groups:
            return Why.GROUP, "is in none of {}", (Names(groups),)
        if not_groups and not_groups & place.groups:
            return Why.GROUP, "is in {}", (Names(not_groups & place.groups),)
        if metres_max is not None:
            if place.distance_metres is None:
                return Why.DISTANCE_UNKNOWN, "no position is known, of it or of the customer", ()
            if place.distance_metres > metres_max:
                return Why.DISTANCE, "{} m away; {} m at most", (place.distance_metres, metres_max)
        orders_left, units_left = place.orders_left, place.units_left
        if orders_left is not None and orders_left < orders_min and not is_opened:
            return Why.CAPACITY, "{} orders left today; {} needed", (orders_left, orders_min)
        if units_left is not None and units_left < units_min:
            return Why.CAPACITY, "{} units left today; {} needed", (units_left, units_min)
        return _untimely(rule, place, moment) if is_timed else None

    return refused


def _untimely(rule: Rule, place: Place, moment: Moment) -> Refused | None:
    schedule = place.schedule
    if rule.opens_within_minutes is not None and not moment.opens_within(schedule, rule.opens_within_minutes):
        return Why.CLOSED, "closed, and not open within {} min", (rule.opens_within_minutes,)
    if rule.is_before_cut_off and not is_before_cut_off(schedule, moment.now):
        minute = schedule.cut_off_minute
        return Why.CUT_OFF, "orders after {:02}:{:02} there are tomorrow's", divmod(minute, 60)
    if rule.ready_within_minutes is not None:
        minutes = moment.minutes_until(moment.ready(schedule, has_capacity=True))
        if minutes > rule.ready_within_minutes:
            return Why.NOT_READY, "ready in {} min; {} at most", (minutes, rule.ready_within_minutes)
    return None


def nothing_to_give(rule: Rule, place: Place, lines: Sequence[Line]) -> Refused:
    """Why a place may give none of the lines."""
    if any(place.atp.get(line.sku, 0) for line in lines):
        return Why.SAFETY_STOCK, "has no more of each sku than the {} that stay there", (rule.safety_stock,)
    return Why.NOTHING_THERE, "has none of {} lines", (len(lines),)


class Names(frozenset[str]):
    """Names that are put in words when somebody reads them."""

    def __str__(self) -> str:
        return ", ".join(sorted(self))

    def __format__(self, _: str) -> str:
        return str(self)
