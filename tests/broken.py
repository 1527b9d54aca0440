"""Broken promises: what orders and reservations show of them, and calls that are made to meet at a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

import keeper
from onhand.postgres import asyncpg_dsn
from onhand.v1 import inventory_pb2, types_pb2
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import CALLER, MILK, NORTH, SOUTH, Shop, card, open_shop

LEVEL = "SELECT FROM stock_levels WHERE location_id = $1 AND sku = $2"
HEAD = "SELECT FROM location_delta_heads WHERE location_id = $1"

COUNT, CHOOSE, WAIT, NONE = (
    types_pb2.SHORTFALL_STEP_COUNT,
    types_pb2.SHORTFALL_STEP_CHOOSE,
    types_pb2.SHORTFALL_STEP_WAIT,
    types_pb2.SHORTFALL_STEP_NONE,
)
COUNTED, COVERED, IN_HAND, CANCELLED = (
    pb.SHORTFALL_END_REASON_COUNTED,
    pb.SHORTFALL_END_REASON_COVERED,
    pb.SHORTFALL_END_REASON_IN_HAND,
    pb.SHORTFALL_END_REASON_CANCELLED,
)


@asynccontextmanager
async def verified(dsn: str, redis_url: str, providers: Any = None, **settings: Any) -> AsyncIterator[Shop]:
    """A shop in which every rule holds at the end."""
    async with open_shop(dsn, redis_url, providers, **settings) as shop:
        yield shop
        assert await broken_rules(shop) == []


async def broken_rules(shop: Shop) -> list[tuple[str, Any]]:
    """The rules of verify that do not hold, with their evidence."""
    return list((await keeper.broken_rules(shop.database.dsn)).items())


async def in_turn(
    dsn: str, shop: Shop, *calls: Callable[[], Awaitable[Any]], row: str = LEVEL, key: tuple[str, ...] = (NORTH, MILK)
) -> list[Any]:
    """Results, or what was raised, of calls that come to a row one after the other, and find it held until all are there."""
    connection = await asyncpg.connect(asyncpg_dsn(dsn))
    under_way: list[Any] = []
    try:
        async with connection.transaction():
            assert await connection.fetch(f"{row} FOR UPDATE", *key)
            for call in calls:
                under_way.append(asyncio.ensure_future(call()))
                await until_waiting(shop, under_way)
    finally:
        await connection.close()
    return await asyncio.gather(*under_way, return_exceptions=True)


async def until_waiting(shop: Shop, under_way: list[Any]) -> None:
    """Returns when each of the calls waits for a lock in this test's database."""
    query = """
        SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND state = 'active'"""
    while await shop.fetch(query) != [(len(under_way),)]:
        assert not any(task.done() for task in under_way), under_way
        await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------------------------------------- short forms
async def pickup(shop: Shop, quantity: int, sku: str = MILK, location_id: str = NORTH) -> pb.Order:
    """An order of one line."""
    return (await shop.place({location_id: {sku: quantity}})).order


async def shorts(shop: Shop, order: pb.Order) -> list[pb.Shortfall]:
    """The shortfalls that the order shows."""
    return [s for work in (await shop.order(order.order_id)).fulfillment_orders for s in work.shortfalls]


async def open_at(shop: Shop, location_id: str = "", **fields: Any) -> list[pb.Shortfall]:
    """The open shortfalls of a location, or all."""
    request = pb.ListShortfallsRequest(location_id=location_id, **fields)
    return list((await shop.orders.list_shortfalls(request, CALLER)).shortfalls)


async def tasks(shop: Shop) -> list[tuple[str, str]]:
    """The count tasks that are open."""
    found = []
    for location_id in (NORTH, SOUTH):
        request = inventory_pb2.ListCountTasksRequest(location_id=location_id)
        found += [(t.location_id, t.sku) for t in (await shop.stock.list_count_tasks(request, CALLER)).count_tasks]
    return found


async def decide(shop: Shop, shortfall_id: str, decision: pb.ShortfallDecision.ValueType, id: str = "") -> pb.Shortfall:
    """Somebody says what becomes of a shortfall."""
    request = pb.DecideShortfallRequest(request_id=id or request_id(), shortfall_id=shortfall_id, decision=decision)
    return (await shop.orders.decide_shortfall(request, CALLER)).shortfall


async def reservation(shop: Shop, reservation_id: str) -> inventory_pb2.Reservation:
    """A reservation as it is now."""
    request = inventory_pb2.GetReservationRequest(reservation_id=reservation_id)
    return (await shop.promise.get_reservation(request, CALLER)).reservation


async def short_of(shop: Shop, reservation_id: str) -> int:
    """How many units a reservation of one line is short."""
    return sum(s.short_quantity for s in (await reservation(shop, reservation_id)).shortfalls)


async def short_reservations(shop: Shop, **fields: Any) -> list[tuple[str, int]]:
    """What ListShortReservations says."""
    request = inventory_pb2.ListShortReservationsRequest(**fields)
    answer = await shop.promise.list_short_reservations(request, CALLER)
    return [(s.reservation_id, s.short_quantity) for s in answer.shortfalls]


async def buy(shop: Shop, reservation_id: str, quantity: int) -> pb.PlaceOrderResponse:
    """The order of a reservation of milk in the north."""
    kinds: Mapping[str, Any] = {NORTH: pb.FULFILLMENT_KIND_PICKUP}
    return await shop.orders.place_order(shop.place_request(reservation_id, kinds, quantity * 199), CALLER)


def sale(quantity: int) -> pb.SellRequest:
    """Milk at the till of the north."""
    return pb.SellRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[pb.SaleLine(sku=MILK, quantity=quantity)],
        currency_code="USD",
        tenders=card(quantity * 199),
    )


def ends(shortfall: pb.Shortfall) -> list[tuple[int, int]]:
    """(quantity, reason) of how it ended."""
    assert all(end.HasField("ended_time") for end in shortfall.ends)
    return [(end.quantity, end.reason) for end in shortfall.ends]
