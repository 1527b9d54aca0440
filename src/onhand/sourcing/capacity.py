"""What a location takes on in a day of its own zone: one definition, for plans and for what is placed.

A day's work are the orders of which a location had to bring something from that day on, for pickup or shipping, and the units of
them, but for what was cancelled, rejected or moved: that is given back. Work that was split off counts as what it was split from. A
checkout holds its place while it is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from onhand.crash import step
from onhand.domain.sourcing.hours import day_of
from onhand.domain.sourcing_errors import LocationAtCapacity
from onhand.ledger.transaction import Transaction
from onhand.postgres import Connection

# $4: an order; `own` says that it is among them. What a checkout pays for now is today's work too, unless it is that order's.
TAKEN_ON = """
WITH work AS (
    SELECT w.location_id, f.order_id, p.units
      FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS w (location_id, since, until)
      JOIN fulfillment_orders f ON f.location_id = w.location_id AND f.created_time >= w.since AND f.kind <> 'CARRY_OUT'
     CROSS JOIN LATERAL (SELECT coalesce(sum(quantity - cancelled_quantity - moved_quantity), 0) AS units
                           FROM fulfillment_lines WHERE fulfillment_order_id = f.fulfillment_order_id) AS p
     WHERE coalesce(f.taken_on_time, f.created_time) >= w.since AND coalesce(f.taken_on_time, f.created_time) < w.until
       AND f.state NOT IN ('CANCELLED', 'REJECTED', 'MOVED')
    UNION ALL
    SELECT k.location_id, coalesce(c.change_of, c.order_id),
           (SELECT sum((line ->> 1)::int8) FROM jsonb_array_elements(k.lines) AS line)
      FROM checkouts c JOIN claims k ON k.reservation_id = c.reservation_id AND k.state = 'active'
     WHERE c.state = 'PENDING' AND c.order_id IS DISTINCT FROM $4 AND k.location_id = ANY ($1))
SELECT location_id, count(DISTINCT order_id) AS orders, sum(units)::int8 AS units, coalesce(bool_or(order_id = $4), false) AS own
  FROM work GROUP BY location_id"""
# Who adds to a day's work holds the day of the location until the commit, so the next one counts it. Locations without a capacity
# are left alone. No lock of their rows: an import shares those until its end, and orders would wait for it.
HOLD_DAYS = """
SELECT location_id, time_zone, daily_orders_max, daily_units_max, now() AS now,
       pg_advisory_xact_lock(hashtextextended('day of ' || location_id, 0))
  FROM (SELECT location_id, time_zone, daily_orders_max, daily_units_max FROM locations
         WHERE location_id = ANY ($1) AND (daily_orders_max > 0 OR daily_units_max > 0) ORDER BY location_id OFFSET 0) AS l"""


class Day(NamedTuple):
    """What a location took on. `has_order`: the order that was asked about is among it."""

    orders: int = 0
    units: int = 0
    has_order: bool = False


async def taken_on(
    connection: Connection, days: Sequence[tuple[str, tuple[datetime, datetime]]], order_id: UUID | None = None
) -> dict[str, Day]:
    """The work of (location_id, day) that count as of now."""
    rows = await connection.fetch(
        TAKEN_ON, [d[0] for d in days], [d[1][0] for d in days], [d[1][1] for d in days], order_id
    )
    found = {row["location_id"]: Day(row["orders"], row["units"], row["own"]) for row in rows}
    return {location_id: found.get(location_id, Day()) for location_id, _ in days}


@step("ledger.hold_days")
async def hold_days(tx: Transaction, location_ids: Sequence[str]) -> Sequence[Any]:
    """Locks the locations among them that have a capacity, in order: before epochs and levels."""
    return await tx.connection.fetch(HOLD_DAYS, sorted(location_ids))


@step("ledger.take_on")
async def take_on(tx: Transaction, order_id: UUID, wanted: Mapping[str, int]) -> None:
    """Makes sure that locations may take on units of an order today. Raises LocationAtCapacity.

    Nobody else takes on anything there until this transaction ends.
    """
    rows = await hold_days(tx, list(wanted))
    if not rows:
        return
    days = [(row["location_id"], day_of(row["time_zone"], row["now"])) for row in rows]
    taken = await taken_on(tx.connection, days, order_id)
    for row, (location_id, (_, until)) in zip(rows, days, strict=True):
        day = taken[location_id]
        for what, limit, has, more in (
            ("orders", row["daily_orders_max"], day.orders, 0 if day.has_order else 1),
            ("units", row["daily_units_max"], day.units, wanted[location_id]),
        ):
            if limit and more and has + more > limit:
                raise LocationAtCapacity(location_id, what, limit, has, more, until.isoformat())
