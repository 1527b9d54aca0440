"""What can be promised: availability, stores near a point, reservations, and the policies that keep units back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import LocationNotFound, SkuNotFound, invalid
from onhand.domain.stock import Policy, atp, sum_lines
from onhand.ids import parse_id
from onhand.inventory.counted import record_shortage
from onhand.inventory.locations import group_members
from onhand.ledger import shortfalls
from onhand.ledger.claims import ClaimRefused
from onhand.ledger.mutation import Ledger
from onhand.ledger.shortfalls import SHORT_OF_RESERVATION, SHORT_RESERVATIONS
from onhand.ledger.transaction import Transaction
from onhand.paging import cut, decode_token, encode_token, page_size
from onhand.reservations.availability import Availability, Promised
from onhand.reservations.decrease import UNPROMISED
from onhand.reservations.policy import is_online
from onhand.reservations.reserve import Reservations
from onhand.v1 import inventory_pb2 as v1
from onhand.v1 import types_pb2
from onhand.wire import channel_name, channel_value, timestamp

CELLS_MAX = 20_000
"""Skus times locations in one GetAvailability."""
RADIUS_METRES_DEFAULT = 50_000
STORES_DEFAULT = 10
CANDIDATES_MAX = 200
"""Stores near a point whose stock is looked at."""

# Great-circle distance (haversine, mean earth radius 6,371,008.8 m), after a bounding box that the planner can use.
NEAR = """
WITH near AS (
    SELECT location_id, name, 2 * 6371008.8 * asin(least(1, sqrt(
               sin(radians(latitude - $1) / 2) ^ 2
               + cos(radians($1)) * cos(radians(latitude)) * sin(radians(longitude - $2) / 2) ^ 2))) AS metres
      FROM locations
     WHERE deleted_time IS NULL AND kind = 'STORE' AND offers_pickup AND latitude IS NOT NULL
       AND latitude BETWEEN $1 - $3 / 110574.0 AND $1 + $3 / 110574.0)
SELECT location_id, name, metres FROM near WHERE metres <= $3 ORDER BY round(metres), location_id LIMIT $4"""

POSITION = """
SELECT l.location_id, p.sku, coalesce(s.available, 0) AS available, coalesce(s.allocated, 0) AS allocated,
       coalesce(s.damaged, 0) AS damaged, coalesce(s.quarantine, 0) AS quarantine,
       coalesce(s.safety_stock, 0) AS safety_stock, coalesce(s.short, 0) AS short,
       coalesce(s.backorder_limit, 0) AS backorder_limit, coalesce(s.backordered, 0) AS backordered,
       coalesce((SELECT sum((line ->> 1)::int8) FROM claims c, jsonb_array_elements(c.lines) AS line
                  WHERE c.location_id = $1 AND c.state = 'active' AND line ->> 0 = $2), 0)::int8 AS reserved,
       coalesce((SELECT sum(t.dispatched + t.over - t.received - t.lost - t.returned)
                   FROM transfers JOIN transfer_lines t USING (transfer_id)
                  WHERE to_location_id = $1 AND state = 'IN_TRANSIT' AND t.sku = $2), 0)::int8 AS inbound,
       coalesce((SELECT json_object_agg(channel, quantity) FROM channel_thresholds WHERE sku = $2), '{}') AS thresholds
  FROM (SELECT $1::text AS location_id, $2::text AS sku) AS w
  LEFT JOIN locations l ON l.location_id = w.location_id AND l.deleted_time IS NULL
  LEFT JOIN products p ON p.sku = w.sku
  LEFT JOIN stock_levels s ON s.location_id = l.location_id AND s.sku = p.sku"""

SET_POLICY = """
UPDATE stock_levels SET safety_stock = $3, backorder_limit = $4 WHERE location_id = $1 AND sku = $2"""
SET_THRESHOLD = """
INSERT INTO channel_thresholds (channel, sku, quantity) VALUES ($1, $2, $3)
ON CONFLICT (channel, sku) DO UPDATE SET quantity = $3"""
DROP_THRESHOLD = "DELETE FROM channel_thresholds WHERE channel = $1 AND sku = $2"
NEW_POLICY = "UPDATE policy_version SET version = version + 1"
PRODUCT = "SELECT true FROM products WHERE sku = $1"
LOCATION = "SELECT true FROM locations WHERE location_id = $1 AND deleted_time IS NULL"


class Promise:
    """Availability and reservations."""

    def __init__(self, ledger: Ledger, availability: Availability, reservations: Reservations) -> None:
        self._ledger = ledger
        self._availability = availability
        self._reservations = reservations

    def get_availability(
        self, request: v1.GetAvailabilityRequest, caller: Caller
    ) -> Awaitable[v1.GetAvailabilityResponse]:
        """Answers ATP for skus at locations."""
        if request.location_group_id:
            return self._availability_of_group(request, caller)
        if not request.location_ids:
            raise invalid("location_ids", "must name a location, or location_group_id a group")
        return self._look(request, list(dict.fromkeys(request.location_ids)), caller)

    async def _availability_of_group(
        self, request: v1.GetAvailabilityRequest, caller: Caller
    ) -> v1.GetAvailabilityResponse:
        members = await group_members(self._ledger, request.location_group_id)
        return await self._look(request, list(dict.fromkeys([*request.location_ids, *members])), caller)

    def _look(
        self, request: v1.GetAvailabilityRequest, location_ids: list[str], caller: Caller
    ) -> asyncio.Future[v1.GetAvailabilityResponse]:
        skus = list(dict.fromkeys(request.skus))
        if len(skus) * len(location_ids) > CELLS_MAX:
            raise invalid(
                "skus", f"{len(skus)} skus at {len(location_ids)} locations are more than {CELLS_MAX} figures"
            )

        def answer(promised: Promised, is_stale: bool) -> v1.GetAvailabilityResponse:
            response = v1.GetAvailabilityResponse(is_stale=is_stale)
            for location_id in location_ids:
                add = response.locations.add(location_id=location_id).items.add
                for sku, n in zip(skus, promised[location_id], strict=True):
                    add(sku=sku, available_to_promise=n)
            return response

        return self._availability.ask(location_ids, skus, channel_name(request.channel), answer, caller.deadline)

    async def find_stores(self, request: v1.FindStoresRequest, caller: Caller) -> v1.FindStoresResponse:
        """Finds stores near a point that have the basket, nearest first."""
        channel = channel_name(request.channel)
        lines = sum_lines((line.sku, line.quantity) for line in request.lines)
        radius = float(request.radius_metres or RADIUS_METRES_DEFAULT)
        wanted = request.max_stores or STORES_DEFAULT
        async with self._ledger.read() as connection:
            limit = CANDIDATES_MAX if request.complete_only else wanted
            near = await connection.fetch(NEAR, request.position.latitude, request.position.longitude, radius, limit)
        if not near:
            return v1.FindStoresResponse()
        found, is_stale = await self._availability.atp([r["location_id"] for r in near], [s for s, _ in lines], channel)
        stores = []
        for row in near:
            short = [
                v1.ShortLine(sku=sku, requested=quantity, available=available)
                for (sku, quantity), available in zip(lines, found[row["location_id"]], strict=True)
                if available < quantity
            ]
            if short and request.complete_only:
                continue
            stores.append(
                v1.StoreOffer(
                    location_id=row["location_id"],
                    name=row["name"],
                    distance_metres=round(row["metres"]),
                    can_fulfil=not short,
                    short_lines=short,
                )
            )
        return v1.FindStoresResponse(stores=stores[:wanted], is_stale=is_stale)

    async def get_stock_position(
        self, request: v1.GetStockPositionRequest, caller: Caller
    ) -> v1.GetStockPositionResponse:
        """Explains every figure of ATP, from the ledger."""
        async with self._ledger.read() as connection:
            row = await connection.fetchrow(POSITION, request.location_id, request.sku)
        if row is None or row["location_id"] is None:
            raise LocationNotFound(request.location_id)
        if row["sku"] is None:
            raise SkuNotFound(request.sku)
        position = v1.StockPosition(
            location_id=row["location_id"],
            sku=row["sku"],
            available=row["available"],
            allocated=row["allocated"],
            damaged=row["damaged"],
            quarantine=row["quarantine"],
            on_hand=row["available"] + row["allocated"] + row["damaged"] + row["quarantine"],
            reserved=row["reserved"],
            safety_stock=row["safety_stock"],
            inbound=row["inbound"],
            short_quantity=row["short"],
            backorder_limit=row["backorder_limit"],
            backordered_quantity=row["backordered"],
        )
        policy = Policy(row["safety_stock"], row["backorder_limit"], row["backordered"])
        for value in types_pb2.Channel.values():
            if value == types_pb2.CHANNEL_UNSPECIFIED:
                continue
            name = channel_name(value)
            threshold = row["thresholds"].get(name, 0)
            position.channels.append(
                v1.ChannelPosition(
                    channel=channel_value(name),
                    channel_threshold=threshold,
                    available_to_promise=atp(
                        available=row["available"],
                        reserved=row["reserved"],
                        floor=policy.floor if is_online(name) else 0,
                        channel_threshold=threshold,
                    ),
                )
            )
        return v1.GetStockPositionResponse(position=position)

    # ------------------------------------------------------------------------------------------------ reservations
    def reserve(self, request: v1.ReserveRequest, caller: Caller) -> asyncio.Future[v1.ReserveResponse]:
        """Reserves a basket; goes on whether its caller waits or not."""
        return self._reservations.reserve(request, caller.deadline)

    async def get_reservation(self, request: v1.GetReservationRequest, caller: Caller) -> v1.GetReservationResponse:
        """Reads a reservation."""
        standing = await self._reservations.standing(parse_id("reservation_id", request.reservation_id))
        reservation = standing.message()
        if reservation.state == v1.RESERVATION_STATE_ACTIVE:
            async with self._ledger.read() as connection:
                rows = await connection.fetch(SHORT_OF_RESERVATION, standing.reservation_id)
            reservation.shortfalls.extend(_shortfall(row) for row in rows)
        return v1.GetReservationResponse(reservation=reservation)

    async def list_short_reservations(
        self, request: v1.ListShortReservationsRequest, caller: Caller
    ) -> v1.ListShortReservationsResponse:
        """Lists what active reservations are short of, by location and sku, the oldest first."""
        size = page_size(request.page_size)
        after = decode_token(request, str, str, datetime, UUID) or (
            "",
            "",
            datetime(1970, 1, 1, tzinfo=UTC),
            UUID(int=0),
        )
        async with self._ledger.read() as connection:
            rows = await connection.fetch(SHORT_RESERVATIONS, request.location_id, *after, size + 1)
            if not rows and request.location_id and not await connection.fetchval(LOCATION, request.location_id):
                raise LocationNotFound(request.location_id)
        page, last = cut(rows, size)
        token = (
            encode_token(request, last["location_id"], last["sku"], last["created_time"], last["claim_id"])
            if last
            else ""
        )
        return v1.ListShortReservationsResponse(shortfalls=[_shortfall(row) for row in page], next_page_token=token)

    async def change_reservation(
        self, request: v1.ChangeReservationRequest, caller: Caller
    ) -> v1.ChangeReservationResponse:
        """Replaces the lines of a reservation."""
        return await self._reservations.change(request)

    async def extend_reservation(
        self, request: v1.ExtendReservationRequest, caller: Caller
    ) -> v1.ExtendReservationResponse:
        """Gives a reservation more time."""
        return await self._reservations.extend(request)

    async def release_reservation(
        self, request: v1.ReleaseReservationRequest, caller: Caller
    ) -> v1.ReleaseReservationResponse:
        """Gives a reservation back."""
        return await self._reservations.release(request)

    # -------------------------------------------------------------------------------------------------- policies
    async def set_stock_policy(self, request: v1.SetStockPolicyRequest, caller: Caller) -> v1.SetStockPolicyResponse:
        """Sets safety stock and backorder limit; the gate's floor follows like an increase, in order.

        A lower limit is a decrease that nobody claimed: it raises the epoch, and reservations beyond it are short.
        """
        position = request.location_id, request.sku

        async def work(transaction: Transaction, *, may_shrink: bool) -> v1.SetStockPolicyResponse:
            if may_shrink:
                await transaction.bypass([request.location_id])
            level = (await transaction.lock_levels([position], create=True))[position]
            before = transaction.policy(position)
            limit = request.backorder_limit if request.HasField("backorder_limit") else before.backorder_limit
            after = Policy(request.safety_stock, limit, before.backordered)
            await transaction.connection.execute(SET_POLICY, *position, after.safety_stock, after.backorder_limit)
            transaction.set_floor(*position, after.floor)
            if after.room < before.room and not may_shrink:
                raise ClaimRefused  # epochs come before levels: once more, with a raised one
            if after.room < before.room:
                ((_, unpromised),) = await transaction.connection.fetch(UNPROMISED, position[0], [position[1]])
                broken = min(before.room - after.room, -unpromised - after.room)
                if broken > 0:
                    await shortfalls.mark_overdrawn(transaction, {position: level})
                    await record_shortage(transaction, position, broken, "")
            return v1.SetStockPolicyResponse()

        try:
            return await self._ledger.mutate(request, v1.SetStockPolicyResponse, partial(work, may_shrink=False))
        except ClaimRefused:
            return await self._ledger.mutate(request, v1.SetStockPolicyResponse, partial(work, may_shrink=True))

    async def set_channel_threshold(
        self, request: v1.SetChannelThresholdRequest, caller: Caller
    ) -> v1.SetChannelThresholdResponse:
        """Sets a threshold; every process takes it over before its next read or reservation counts."""
        channel = channel_name(request.channel)
        if not is_online(channel):
            raise invalid("channel", "nothing is kept from POS")

        async def work(transaction: Transaction) -> v1.SetChannelThresholdResponse:
            connection = transaction.connection
            if not await connection.fetchval(PRODUCT, request.sku):
                raise SkuNotFound(request.sku)
            if request.quantity:
                await connection.execute(SET_THRESHOLD, channel, request.sku, request.quantity)
            else:
                await connection.execute(DROP_THRESHOLD, channel, request.sku)
            await connection.execute(NEW_POLICY)
            return v1.SetChannelThresholdResponse()

        return await self._ledger.mutate(request, v1.SetChannelThresholdResponse, work)


def _shortfall(row: Any) -> v1.ReservationShortfall:
    step = types_pb2.SHORTFALL_STEP_COUNT if row["is_to_count"] else types_pb2.SHORTFALL_STEP_CHOOSE
    return v1.ReservationShortfall(
        reservation_id=str(row["reservation_id"]),
        location_id=row["location_id"],
        sku=row["sku"],
        quantity=row["quantity"],
        short_quantity=row["short_quantity"],
        next_step=step,
        expire_time=timestamp(row["deadline"]),
    )
