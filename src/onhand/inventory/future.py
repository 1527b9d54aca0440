"""What can be promised for a date: what is there, and what open notices and transfers bring by then, less what orders lack."""

from __future__ import annotations

from typing import Any

from onhand.caller import Caller
from onhand.crash import step
from onhand.domain.errors import LocationNotFound, invalid
from onhand.domain.stock import Position, atp
from onhand.ledger.floors import FLOOR
from onhand.ledger.mutation import Ledger
from onhand.reservations.policy import is_online
from onhand.v1 import receiving_pb2 as v1
from onhand.wire import channel_name, moment, timestamp

CELLS_MAX = 2_000
"""Skus times locations in one GetFutureAvailability."""
LATE_HOURS_MAX = 24
"""How late supply may be and still count: later, somebody has to say anew when it comes."""

KNOWN = "SELECT location_id FROM locations WHERE location_id = ANY ($1) AND deleted_time IS NULL"
# $1 locations, $2 skus, $3 channel.
FIGURES = f"""
WITH reserved AS (
    SELECT c.location_id, line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS units
      FROM claims c CROSS JOIN jsonb_array_elements(c.lines) AS line
     WHERE c.state = 'active' AND c.location_id = ANY ($1) AND line ->> 0 = ANY ($2) GROUP BY 1, 2)
SELECT l.location_id, k.sku, coalesce(s.available, 0) AS available, coalesce(s.short, 0) AS short,
       coalesce({FLOOR.format("s.")}, 0) AS floor, coalesce(r.units, 0) AS reserved, coalesce(t.quantity, 0) AS threshold
  FROM unnest($1::text[]) AS l (location_id) CROSS JOIN unnest($2::text[]) AS k (sku)
  LEFT JOIN stock_levels s ON s.location_id = l.location_id AND s.sku = k.sku
  LEFT JOIN reserved r ON r.location_id = l.location_id AND r.sku = k.sku
  LEFT JOIN channel_thresholds t ON t.channel = $3 AND t.sku = k.sku"""
# $3: by when.
SUPPLY = f"""
SELECT n.location_id, l.sku, 'advance_notice/' || n.advance_notice_id AS document, n.expected_time,
       l.expected - l.received AS units
  FROM advance_notices n JOIN advance_notice_lines l USING (advance_notice_id)
 WHERE n.location_id = ANY ($1) AND n.state IN ('EXPECTED', 'RECEIVING')
   AND n.expected_time BETWEEN now() - interval '{LATE_HOURS_MAX} hours' AND $3
   AND l.sku = ANY ($2) AND l.expected > l.received
 UNION ALL
SELECT t.to_location_id, l.sku, 'transfer/' || t.transfer_id, t.expected_time,
       l.dispatched + l.over - l.received - l.lost - l.returned
  FROM transfers t JOIN transfer_lines l USING (transfer_id)
 WHERE t.to_location_id = ANY ($1) AND t.state = 'IN_TRANSIT'
   AND t.expected_time BETWEEN now() - interval '{LATE_HOURS_MAX} hours' AND $3
   AND l.sku = ANY ($2) AND l.dispatched + l.over > l.received + l.lost + l.returned
 ORDER BY expected_time, document"""


class Future:
    """Availability for a date, from the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def get_future_availability(
        self, request: v1.GetFutureAvailabilityRequest, caller: Caller
    ) -> v1.GetFutureAvailabilityResponse:
        """Answers what can be promised for a date, and why."""
        skus, places = list(dict.fromkeys(request.skus)), list(dict.fromkeys(request.location_ids))
        if len(skus) * len(places) > CELLS_MAX:
            raise invalid("skus", f"{len(skus)} skus at {len(places)} locations are more than {CELLS_MAX} figures")
        channel, by_time = channel_name(request.channel), moment("by_time", request.by_time)
        known, figures, supply = await self._look(places, skus, channel, by_time)
        for place in places:
            if place not in known:
                raise LocationNotFound(place)
        supplies: dict[Position, list[Any]] = {}
        for row in supply:
            supplies.setdefault((row["location_id"], row["sku"]), []).append(row)
        found = {(row["location_id"], row["sku"]): row for row in figures}
        return v1.GetFutureAvailabilityResponse(
            items=[
                _message(found[place, sku], supplies.get((place, sku), []), channel) for place in places for sku in skus
            ]
        )

    @step("ledger.future")
    async def _look(self, places: list[str], skus: list[str], channel: str, by_time: object) -> tuple[Any, Any, Any]:
        """Of one moment: what leaves a notice and what comes into stock are the same units."""
        async with self._ledger.database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
            known = {row["location_id"] for row in await snapshot.fetch(KNOWN, places)}
            figures = await snapshot.fetch(FIGURES, places, skus, channel)
            return known, figures, await snapshot.fetch(SUPPLY, places, skus, by_time)


def _message(row: Any, supplies: list[Any], channel: str) -> v1.FutureAvailability:
    coming = sum(supply["units"] for supply in supplies)
    return v1.FutureAvailability(
        location_id=row["location_id"],
        sku=row["sku"],
        available_to_promise=atp(
            available=row["available"] + coming - row["short"],
            reserved=row["reserved"],
            floor=row["floor"] if is_online(channel) else 0,
            channel_threshold=row["threshold"],
        ),
        available_quantity=row["available"],
        reserved_quantity=row["reserved"],
        short_quantity=row["short"],
        supplies=[
            v1.IncomingSupply(document=s["document"], expected_time=timestamp(s["expected_time"]), quantity=s["units"])
            for s in supplies
        ],
    )
