"""Locations and location groups."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.type import latlng_pb2

from onhand.caller import Caller
from onhand.domain.errors import LocationExists, LocationGroupNotFound, LocationInUse, LocationNotFound, invalid
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.paging import cut, decode_token, encode_token, fill, page_size
from onhand.v1 import inventory_pb2 as v1
from onhand.wire import check_etag, etag, mask_paths, timestamp

WORK = ("lead_minutes", "cut_off_minute", "daily_orders_max", "daily_units_max")
"""How much work it takes on, and how fast: columns and fields of the same names, that sourcing goes by."""
CHANGEABLE = (
    "name",
    "position",
    "time_zone",
    "opening_hours",
    "offers_pickup",
    "offers_shipping",
    "pickup_hold_seconds",
    *WORK,
)

COLUMNS = """location_id, kind, name, latitude, longitude, time_zone, opening_hours, offers_pickup, offers_shipping, version,
       created_time, lead_minutes, cut_off_minute, daily_orders_max, daily_units_max, pickup_hold_seconds"""
INSERT = f"""
INSERT INTO locations (location_id, kind, name, latitude, longitude, time_zone, opening_hours, offers_pickup, offers_shipping,
       lead_minutes, cut_off_minute, daily_orders_max, daily_units_max, pickup_hold_seconds)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING RETURNING {COLUMNS}"""
# Epochs and delta heads outlive a location: their numbers are never used twice.
INSERT_EPOCH = "INSERT INTO location_epochs (location_id) VALUES ($1) ON CONFLICT DO NOTHING"
INSERT_HEAD = "INSERT INTO location_delta_heads (location_id) VALUES ($1) ON CONFLICT DO NOTHING"
GET = f"SELECT {COLUMNS} FROM locations WHERE location_id = $1 AND deleted_time IS NULL"
UPDATE = f"""
UPDATE locations SET name = $2, latitude = $3, longitude = $4, time_zone = $5, opening_hours = $6, offers_pickup = $7,
       offers_shipping = $8, lead_minutes = $9, cut_off_minute = $10, daily_orders_max = $11, daily_units_max = $12,
       pickup_hold_seconds = $13, version = version + 1, updated_time = now()
 WHERE location_id = $1 RETURNING {COLUMNS}"""
LIST = f"""
SELECT {COLUMNS} FROM locations l
 WHERE deleted_time IS NULL AND location_id > $1 AND ($2::text IS NULL OR kind = $2)
   AND ($3 = '' OR EXISTS (SELECT FROM location_group_members m
                            WHERE m.location_group_id = $3 AND m.location_id = l.location_id))
 ORDER BY location_id LIMIT $4"""
# What a location rejected is undone there, too: cancelled, or given to another one.
HOLDS = """
SELECT (SELECT coalesce(sum(available + allocated + damaged + quarantine), 0)::int8 FROM stock_levels WHERE location_id = $1)
           AS units,
       (SELECT count(*) FROM claims WHERE location_id = $1 AND state = 'active') AS reservations,
       (SELECT count(*) FROM fulfillment_orders WHERE location_id = $1
           AND state IN ('REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP')) + (
        SELECT count(*) FROM fulfillment_orders WHERE location_id = $1 AND state = 'REJECTED') AS fulfillment_orders,
       (SELECT count(*) FROM transfers
         WHERE state IN ('REQUESTED', 'IN_TRANSIT') AND $1 IN (from_location_id, to_location_id)) AS transfers,
       (SELECT count(*) FROM advance_notices WHERE location_id = $1 AND state IN ('EXPECTED', 'RECEIVING')) AS notices,
       (SELECT count(*) FROM counts WHERE location_id = $1 AND state IN ('COUNTING', 'REVIEW')) AS counts"""
DELETE = "UPDATE locations SET deleted_time = now() WHERE location_id = $1"
LEAVE_GROUPS = "DELETE FROM location_group_members WHERE location_id = $1"

SET_GROUP = """
INSERT INTO location_groups (location_group_id, name) VALUES ($1, $2)
ON CONFLICT (location_group_id) DO UPDATE SET name = $2, version = location_groups.version + 1"""
CLEAR_GROUP = "DELETE FROM location_group_members WHERE location_group_id = $1"
FILL_GROUP = "INSERT INTO location_group_members (location_group_id, location_id) SELECT $1, unnest($2::text[])"
# Held until the commit, and before the group: no member is deleted meanwhile, and a deletion takes its locks in this order too.
HOLD_MEMBERS = """
SELECT location_id FROM locations WHERE location_id = ANY ($1) AND deleted_time IS NULL ORDER BY 1 FOR KEY SHARE"""
LIST_GROUPS = """
SELECT g.location_group_id, g.name,
       ARRAY(SELECT location_id FROM location_group_members m WHERE m.location_group_id = g.location_group_id ORDER BY 1) AS ids
  FROM location_groups g WHERE g.location_group_id > $1 ORDER BY 1 LIMIT $2"""
GROUP_EXISTS = "SELECT true FROM location_groups WHERE location_group_id = $1"
MEMBERS = "SELECT location_id FROM location_group_members WHERE location_group_id = $1 ORDER BY 1"


class Locations:
    """Where stock is."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def create_location(self, request: v1.CreateLocationRequest, caller: Caller) -> v1.CreateLocationResponse:
        """Adds a location."""
        if not request.location.kind:
            raise invalid("location.kind", "must be set")
        values = _values(request.location)

        async def work(transaction: Transaction) -> v1.CreateLocationResponse:
            connection = transaction.connection
            kind = kind_name(request.location.kind)
            row = await connection.fetchrow(INSERT, request.location.location_id, kind, *values)
            if row is None:
                raise LocationExists(request.location.location_id)
            await connection.execute(INSERT_EPOCH, request.location.location_id)
            await connection.execute(INSERT_HEAD, request.location.location_id)
            return v1.CreateLocationResponse(location=_message(row))

        return await self._ledger.mutate(request, v1.CreateLocationResponse, work)

    async def get_location(self, request: v1.GetLocationRequest, caller: Caller) -> v1.GetLocationResponse:
        """Reads a location."""
        async with self._ledger.read() as connection:
            row = await connection.fetchrow(GET, request.location_id)
        if row is None:
            raise LocationNotFound(request.location_id)
        return v1.GetLocationResponse(location=_message(row))

    async def list_locations(self, request: v1.ListLocationsRequest, caller: Caller) -> v1.ListLocationsResponse:
        """Lists locations."""
        size = page_size(request.page_size)
        (after,) = decode_token(request, str) or ("",)
        kind = kind_name(request.kind) if request.kind else None
        async with self._ledger.read() as connection:
            rows = await connection.fetch(LIST, after, kind, request.location_group_id, size + 1)
        page, last = cut(rows, size)
        token = encode_token(request, last["location_id"]) if last else ""
        return v1.ListLocationsResponse(locations=[_message(r) for r in page], next_page_token=token)

    async def update_location(self, request: v1.UpdateLocationRequest, caller: Caller) -> v1.UpdateLocationResponse:
        """Changes the fields in the mask."""
        paths = mask_paths(request.update_mask, CHANGEABLE)
        location_id = request.location.location_id

        async def work(transaction: Transaction) -> v1.UpdateLocationResponse:
            row = await transaction.connection.fetchrow(GET + " FOR UPDATE", location_id)
            if row is None:
                raise LocationNotFound(location_id)
            check_etag(f"location {location_id}", request.location.etag, row["version"])
            merged = _message(row)
            for path in paths:
                merged.ClearField(path)  # type: ignore[arg-type]
                given = v1.Location()
                given.CopyFrom(request.location)
                for field, _ in given.ListFields():
                    if field.name != path:
                        given.ClearField(field.name)  # type: ignore[arg-type]
                merged.MergeFrom(given)
            updated = await transaction.connection.fetchrow(UPDATE, location_id, *_values(merged))
            return v1.UpdateLocationResponse(location=_message(updated))

        return await self._ledger.mutate(request, v1.UpdateLocationResponse, work)

    async def delete_location(self, request: v1.DeleteLocationRequest, caller: Caller) -> v1.DeleteLocationResponse:
        """Deletes a location that holds nothing; its history stays."""

        async def work(transaction: Transaction) -> v1.DeleteLocationResponse:
            connection, location_id = transaction.connection, request.location_id
            if await connection.fetchrow(GET + " FOR UPDATE", location_id) is None:
                raise LocationNotFound(location_id)
            # Nothing can come between the look and the deletion: mutations under way are waited for, later ones refused.
            await transaction.close_location(location_id)
            held = await connection.fetchrow(HOLDS, location_id)
            if held is not None and any(held.values()):
                raise LocationInUse(location_id, *held.values())
            await connection.execute(LEAVE_GROUPS, location_id)
            await connection.execute(DELETE, location_id)
            return v1.DeleteLocationResponse()

        return await self._ledger.mutate(request, v1.DeleteLocationResponse, work)

    async def set_location_group(
        self, request: v1.SetLocationGroupRequest, caller: Caller
    ) -> v1.SetLocationGroupResponse:
        """Makes a group have exactly these members."""
        members = sorted(set(request.location_ids))

        async def work(transaction: Transaction) -> v1.SetLocationGroupResponse:
            connection = transaction.connection
            unknown = set(members) - {r["location_id"] for r in await connection.fetch(HOLD_MEMBERS, members)}
            if unknown:
                raise LocationNotFound(min(unknown))
            await connection.execute(SET_GROUP, request.location_group_id, request.name)
            await connection.execute(CLEAR_GROUP, request.location_group_id)
            await connection.execute(FILL_GROUP, request.location_group_id, members)
            group = v1.LocationGroup(
                location_group_id=request.location_group_id, name=request.name, location_ids=members
            )
            return v1.SetLocationGroupResponse(location_group=group)

        return await self._ledger.mutate(request, v1.SetLocationGroupResponse, work)

    async def list_location_groups(
        self, request: v1.ListLocationGroupsRequest, caller: Caller
    ) -> v1.ListLocationGroupsResponse:
        """Lists groups with their members."""
        size = page_size(request.page_size)
        (after,) = decode_token(request, str) or ("",)
        async with self._ledger.read() as connection:
            rows = await connection.fetch(LIST_GROUPS, after, size + 1)
        groups, last = fill(rows, size, _group_message)
        return v1.ListLocationGroupsResponse(
            location_groups=groups,
            next_page_token=encode_token(request, last["location_group_id"]) if last else "",
        )


async def group_members(ledger: Ledger, location_group_id: str) -> list[str]:
    """The members of a group. Raises LocationGroupNotFound."""
    async with ledger.read() as connection:
        rows = await connection.fetch(MEMBERS, location_group_id)
        if not rows and not await connection.fetchval(GROUP_EXISTS, location_group_id):
            raise LocationGroupNotFound(location_group_id)
    return [r["location_id"] for r in rows]


def kind_name(kind: int) -> str:
    """LOCATION_KIND_STORE -> STORE."""
    return v1.LocationKind.Name(kind).removeprefix("LOCATION_KIND_")  # type: ignore[arg-type]


def _values(location: v1.Location) -> tuple[Any, ...]:
    """The changeable columns. Raises InvalidRequest."""
    if not location.name:
        raise invalid("location.name", "must not be empty")
    try:
        ZoneInfo(location.time_zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is an OSError
        raise invalid("location.time_zone", f"{location.time_zone!r} is no IANA time zone") from None
    hours = []
    for n, day in enumerate(location.opening_hours):
        if day.close_minute <= day.open_minute:
            raise invalid(f"location.opening_hours[{n}].close_minute", "must be later than open_minute")
        hours.append([day.iso_weekday, day.open_minute, day.close_minute])
    has_position = location.HasField("position")
    return (
        location.name,
        location.position.latitude if has_position else None,
        location.position.longitude if has_position else None,
        location.time_zone or "UTC",
        hours,
        location.offers_pickup,
        location.offers_shipping,
        *(getattr(location, name) for name in WORK),
        location.pickup_hold_seconds or None,
    )


def _message(row: Any) -> v1.Location:
    return v1.Location(
        location_id=row["location_id"],
        kind=v1.LocationKind.Value("LOCATION_KIND_" + row["kind"]),
        name=row["name"],
        position=None
        if row["latitude"] is None
        else latlng_pb2.LatLng(latitude=row["latitude"], longitude=row["longitude"]),
        time_zone=row["time_zone"],
        opening_hours=[
            v1.OpeningHours(iso_weekday=day, open_minute=opens, close_minute=closes)
            for day, opens, closes in row["opening_hours"]
        ],
        offers_pickup=row["offers_pickup"],
        offers_shipping=row["offers_shipping"],
        etag=etag(row["version"]),
        created_time=timestamp(row["created_time"]),
        pickup_hold_seconds=row["pickup_hold_seconds"] or 0,
        **{name: row[name] for name in WORK},
    )


def _group_message(row: Any) -> v1.LocationGroup:
    return v1.LocationGroup(location_group_id=row["location_group_id"], name=row["name"], location_ids=row["ids"])
