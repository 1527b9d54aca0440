"""The places that sourcing may choose from: three queries, and one round to the gate for what they can promise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from onhand.domain.errors import LocationNotFound, SkuNotFound
from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import Line, Place, Schedule
from onhand.domain.sourcing.hours import day_of
from onhand.ledger.mutation import Ledger
from onhand.reservations.availability import Availability
from onhand.sourcing.capacity import Day, taken_on

PLACES_MAX = 1000
"""Places that are looked at, the nearest ones."""
CELLS_MAX = 20_000
"""Places times lines: fewer places where the lines are many."""
ATTEMPTS_MAX = 3
"""How often places are read anew because one of them was deleted meanwhile."""

PRODUCTS = "SELECT sku, brand, base_unit FROM products WHERE sku = ANY ($1)"
# Great-circle distance (haversine, mean earth radius 6,371,008.8 m), null where a position is unknown: least() would pass over it.
_PLACES = """
SELECT l.location_id, l.kind, l.name, l.time_zone, l.opening_hours, l.offers_pickup, l.offers_shipping, l.lead_minutes,
       l.cut_off_minute, l.daily_orders_max, l.daily_units_max,
       CASE WHEN l.latitude IS NOT NULL AND $1::float8 IS NOT NULL THEN round(2 * 6371008.8 * asin(least(1, sqrt(
           sin(radians(l.latitude - $1::float8) / 2) ^ 2
           + cos(radians($1::float8)) * cos(radians(l.latitude)) * sin(radians(l.longitude - $2::float8) / 2) ^ 2))))::int8
           END AS metres,
       ARRAY(SELECT m.location_group_id FROM location_group_members m WHERE m.location_id = l.location_id) AS groups
  FROM locations l WHERE l.deleted_time IS NULL"""
STOCKED = f"""{_PLACES}
   AND l.location_id IN (SELECT s.location_id FROM stock_levels s WHERE s.sku = ANY ($3) AND s.available > 0)
 ORDER BY metres, l.location_id LIMIT $4"""
NAMED = f"""{_PLACES} AND l.location_id = ANY ($3) ORDER BY metres, l.location_id LIMIT $4"""


class Candidates(NamedTuple):
    """What a plan is made from. `is_stale`: the figures of stock may be old."""

    lines: list[Line]
    places: list[Place]
    is_stale: bool


async def read_candidates(
    ledger: Ledger,
    availability: Availability,
    wanted: Sequence[tuple[str, int]],
    *,
    channel: str,
    position: tuple[float, float] | None,
    only: Collection[str],
    now: datetime,
) -> Candidates:
    """Places that have any of the lines, (sku, quantity) with a sku once; or those named in `only`.

    Raises SkuNotFound, LocationNotFound (of `only`), LedgerUnavailable.
    """
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return await _read(ledger, availability, wanted, channel, position, sorted(set(only)), now)
        except LocationNotFound as error:
            if error.location_id in only or attempt == ATTEMPTS_MAX:
                raise
    raise AssertionError("not reached")


async def _read(
    ledger: Ledger,
    availability: Availability,
    wanted: Sequence[tuple[str, int]],
    channel: str,
    position: tuple[float, float] | None,
    only: Sequence[str],
    now: datetime,
) -> Candidates:
    skus = [sku for sku, _ in wanted]
    latitude, longitude = position or (None, None)
    limit = min(PLACES_MAX, CELLS_MAX // len(skus))
    async with ledger.read() as connection:
        products = {row["sku"]: row for row in await connection.fetch(PRODUCTS, skus)}
        if unknown := sorted(set(skus) - products.keys()):
            raise SkuNotFound(unknown[0])
        query, key = (NAMED, only) if only else (STOCKED, skus)
        rows = await connection.fetch(query, latitude, longitude, key, limit)
        if missing := sorted(set(only) - {row["location_id"] for row in rows}):
            raise LocationNotFound(missing[0])
        limited = [row for row in rows if row["daily_orders_max"] or row["daily_units_max"]]
        taken: dict[str, Day] = {}
        if limited:
            days = [(row["location_id"], day_of(row["time_zone"], now)) for row in limited]
            taken = await taken_on(connection, days)
    found, is_stale = (
        await availability.atp([row["location_id"] for row in rows], skus, channel) if rows else ({}, False)
    )
    lines = [
        Line(
            sku=sku,
            quantity=quantity,
            brand=products[sku]["brand"],
            grams=1 if products[sku]["base_unit"] == "GRAM" else 0,
        )
        for sku, quantity in wanted
    ]
    places = [_place(row, dict(zip(skus, found[row["location_id"]], strict=True)), taken) for row in rows]
    return Candidates(lines, places, is_stale)


def _place(row: Any, atp: dict[str, int], taken: dict[str, Day]) -> Place:
    today = taken.get(row["location_id"], Day())
    orders_max, units_max = row["daily_orders_max"], row["daily_units_max"]
    methods = {FulfillmentKind.PICKUP: row["offers_pickup"], FulfillmentKind.SHIP: row["offers_shipping"]}
    return Place(
        location_id=row["location_id"],
        kind=row["kind"],
        name=row["name"],
        methods=frozenset(method for method, is_offered in methods.items() if is_offered),
        groups=frozenset(row["groups"]),
        distance_metres=row["metres"],
        atp=atp,
        schedule=Schedule(
            tuple((day, opens, closes) for day, opens, closes in row["opening_hours"]),
            row["time_zone"],
            row["lead_minutes"],
            row["cut_off_minute"],
        ),
        orders_left=max(0, orders_max - today.orders) if orders_max else None,
        units_left=max(0, units_max - today.units) if units_max else None,
    )
