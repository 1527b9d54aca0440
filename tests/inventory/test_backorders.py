"""Backorders, over gRPC: promised beyond what is there, up to a limit, marked as such, and filled first come first served."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest

from api import (
    BREAD,
    MILK,
    MILK_CENTS,
    NORTH,
    POS,
    SOUTH,
    WEB,
    Api,
    Code,
    card,
    eventually,
    invalid,
    lines,
    place,
    refused,
    request_id,
)
from inventory.rules import kept
from onhand.v1 import inventory_pb2, receiving_pb2, types_pb2
from onhand.v1 import order_pb2 as pb


async def permit(api: Api, limit: int, sku: str = MILK, safety_stock: int = 0) -> None:
    """So many units beyond what is there."""
    request = inventory_pb2.SetStockPolicyRequest(
        request_id=request_id(), location_id=NORTH, sku=sku, safety_stock=safety_stock, backorder_limit=limit
    )
    await api.inventory.SetStockPolicy(request)


async def order(api: Api, quantity: int, sku: str = MILK) -> pb.Order:
    """An order whose customer waits for what is not there."""
    return (await place(api, {NORTH: {sku: quantity}}, accepts_backorder=True)).order


async def confirm(api: Api, reservation_id: str, quantity: int) -> pb.Order:
    """An order of milk that was reserved before."""
    request = pb.PlaceOrderRequest(
        request_id=request_id(),
        reservation_id=reservation_id,
        currency_code="USD",
        fulfillments=[pb.FulfillmentChoice(location_id=NORTH, kind=pb.FULFILLMENT_KIND_PICKUP)],
        tenders=card(quantity * MILK_CENTS),
        accepts_backorder=True,
    )
    return (await api.orders.PlaceOrder(request)).order


async def shortfalls(api: Api) -> list[tuple[Any, ...]]:
    """(cause, next step, open units) of all that are open, the oldest first."""
    found = await api.orders.ListShortfalls(pb.ListShortfallsRequest(location_id=NORTH))
    return [
        (pb.ShortfallCause.Name(s.cause)[16:], types_pb2.ShortfallStep.Name(s.next_step)[15:], s.open_quantity)
        for s in found.shortfalls
    ]


async def cancel(api: Api, placed: pb.Order, quantity: int) -> None:
    """Cancels units of its only line."""
    request = pb.CancelOrderLinesRequest(
        request_id=request_id(),
        order_id=placed.order_id,
        lines=[pb.CancelLine(line_number=1, quantity=quantity)],
    )
    await api.orders.CancelOrderLines(request)


async def test_an_order_is_promised_beyond_what_is_there_up_to_the_limit(api: Api) -> None:
    await refused(api.reserve({NORTH: {MILK: 12}}), Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", available=10)
    await permit(api, 5)
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, POS)] == [15, 10]

    placed = await order(api, 12)

    assert await api.level(NORTH, MILK) == (0, 10, 0, 0)
    assert await shortfalls(api) == [("BACKORDER", "WAIT", 2)]
    assert placed.lines[0].short_quantity == 2
    position = await api.position(NORTH, MILK)
    assert (position.short_quantity, position.backorder_limit, position.backordered_quantity) == (2, 5, 2)
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, POS)] == [3, 0]
    await refused(api.reserve({NORTH: {MILK: 4}}), Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", available=3)
    await order(api, 3)
    assert await api.atp(NORTH, MILK) == 0
    assert await shortfalls(api) == [("BACKORDER", "WAIT", 2), ("BACKORDER", "WAIT", 3)]
    await kept(api)


async def test_nobody_waits_who_did_not_agree_to(api: Api) -> None:
    await permit(api, 5)
    reservation = await api.reserve({NORTH: {MILK: 12}})
    for accepts in (False, True):
        request = pb.PlaceOrderRequest(
            request_id=request_id(),
            reservation_id=reservation.reservation_id,
            currency_code="USD",
            fulfillments=[pb.FulfillmentChoice(location_id=NORTH, kind=pb.FULFILLMENT_KIND_PICKUP)],
            tenders=card(12 * MILK_CENTS),
            accepts_backorder=accepts,
        )
        if accepts:
            assert (await api.orders.PlaceOrder(request)).order.lines[0].short_quantity == 2
        else:
            call = api.orders.PlaceOrder(request)
            await refused(call, Code.FAILED_PRECONDITION, "RESERVATION_SHORT", requested=12, available=10)
    await kept(api)


async def test_units_that_an_older_reservation_holds_are_not_given_to_a_younger_one(api: Api) -> None:
    await permit(api, 5)
    await api.reserve({NORTH: {MILK: 9}})
    await order(api, 2)  # the one that is left, and one that is not there
    assert await api.level(NORTH, MILK) == (9, 1, 0, 0)
    assert await shortfalls(api) == [("BACKORDER", "WAIT", 1)]
    await kept(api)


async def test_what_a_reservation_gives_up_goes_to_who_waits(api: Api) -> None:
    await permit(api, 5)
    held = await api.reserve({NORTH: {MILK: 9}})
    placed = await order(api, 4)
    assert await shortfalls(api) == [("BACKORDER", "WAIT", 3)]
    await api.release(held.reservation_id)
    await eventually(lambda: shortfalls(api), [])
    assert await api.level(NORTH, MILK) == await api.sums(NORTH, MILK) == (6, 4, 0, 0)
    await eventually(lambda: api.atp(NORTH, MILK, POS), 6)
    assert (await api.orders.GetOrder(pb.GetOrderRequest(order_id=placed.order_id))).order.lines[0].short_quantity == 0
    await kept(api)


async def test_who_waits_longer_is_served_before_younger_reservations(api: Api) -> None:
    await permit(api, 5)
    held = await api.reserve({NORTH: {MILK: 9}})
    await order(api, 4)  # waits for three
    younger = await api.reserve({NORTH: {MILK: 2}})
    await api.release(held.reservation_id)
    await eventually(lambda: shortfalls(api), [])
    assert await api.level(NORTH, MILK) == (6, 4, 0, 0)
    await confirm(api, younger.reservation_id, 2)
    assert await api.level(NORTH, MILK) == (4, 6, 0, 0)
    await eventually(lambda: api.atp(NORTH, MILK, POS), 4)
    await kept(api)


async def test_what_comes_in_fills_backorders_the_oldest_first(api: Api) -> None:
    await permit(api, 10)
    first, second = await order(api, 13), await order(api, 4)
    notice = receiving_pb2.CreateAdvanceNoticeRequest(
        request_id=request_id(),
        location_id=NORTH,
        supplier="dairy",
        expected_time={"seconds": 2_000_000_000},
        lines=lines({MILK: 9}),
    )
    notice_id = (await api.receiving.CreateAdvanceNotice(notice)).advance_notice.advance_notice_id
    asked = receiving_pb2.GetFutureAvailabilityRequest(
        channel=WEB, skus=[MILK], location_ids=[NORTH], by_time={"seconds": 2_000_000_001}
    )
    (seen,) = (await api.receiving.GetFutureAvailability(asked)).items
    assert (seen.short_quantity, seen.available_to_promise) == (7, 9 - 7 + 3)

    await api.receive(NORTH, {MILK: 4})
    assert await shortfalls(api) == [("BACKORDER", "WAIT", 3)]
    assert (await api.orders.GetOrder(pb.GetOrderRequest(order_id=first.order_id))).order.lines[0].short_quantity == 0
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, POS)] == [7, 0]

    receive = receiving_pb2.ReceiveAdvanceNoticeRequest(request_id=request_id(), advance_notice_id=notice_id)
    await api.receiving.ReceiveAdvanceNotice(receive)
    assert await shortfalls(api) == []
    assert await api.level(NORTH, MILK) == await api.sums(NORTH, MILK) == (6, 17, 0, 0)
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, POS)] == [16, 6]
    told = await api.fetch(
        "SELECT data ->> 'order_id', data ->> 'reason', (data ->> 'quantity')::int FROM events"
        " WHERE type = 'onhand.shortfall.resolved.v1' AND data ->> 'cause' = 'BACKORDER' ORDER BY sequence"
    )
    assert told == [(first.order_id, "COVERED", 3), (second.order_id, "COVERED", 1), (second.order_id, "COVERED", 3)]
    await kept(api)


async def test_a_cancelled_backorder_makes_room_and_no_units(api: Api) -> None:
    await permit(api, 5)
    placed = await order(api, 14)
    await cancel(api, placed, 3)
    assert await api.level(NORTH, MILK) == (0, 10, 0, 0)
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, POS)] == [4, 0]
    await cancel(api, placed, 11)
    assert await api.level(NORTH, MILK) == (10, 0, 0, 0)
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, POS)] == [15, 10]
    await kept(api)


async def test_goods_in_hand_end_a_backorder(api: Api) -> None:
    await permit(api, 5)
    placed = await order(api, 12)
    work = {"fulfillment_order_id": placed.fulfillment_orders[0].fulfillment_order_id}
    await api.orders.AcceptFulfillmentOrder(pb.AcceptFulfillmentOrderRequest(request_id=request_id(), **work))
    await api.orders.PickFulfillmentOrder(pb.PickFulfillmentOrderRequest(request_id=request_id(), **work))
    assert await shortfalls(api) == []
    assert await api.level(NORTH, MILK) == (0, 12, 0, 0)
    assert await api.atp(NORTH, MILK) == 5
    await kept(api)


async def test_safety_stock_is_kept_before_anything_is_backordered(api: Api) -> None:
    await permit(api, 5, safety_stock=3)
    assert await api.atp(NORTH, MILK) == 12
    await permit(api, 0, safety_stock=3)
    assert await api.atp(NORTH, MILK) == 7
    await permit(api, 5, safety_stock=3)
    request = inventory_pb2.SetStockPolicyRequest(request_id=request_id(), location_id=NORTH, sku=MILK, safety_stock=1)
    await api.inventory.SetStockPolicy(request)  # the limit stays
    assert await api.atp(NORTH, MILK) == 14
    await invalid(permit(api, -1), "backorder_limit")
    await invalid(permit(api, 10**9 + 1), "backorder_limit")


async def test_a_lower_limit_leaves_orders_alone_and_shows_reservations_that_are_short(api: Api) -> None:
    await permit(api, 6)
    await order(api, 12)
    held = await api.reserve({NORTH: {MILK: 3}})
    await permit(api, 3)
    assert await shortfalls(api) == [("BACKORDER", "WAIT", 2)]
    assert await api.atp(NORTH, MILK) == 0
    read = inventory_pb2.GetReservationRequest(reservation_id=held.reservation_id)
    found = (await api.inventory.GetReservation(read)).reservation.shortfalls
    assert [s.short_quantity for s in found] == [2]
    await refused(api.reserve({NORTH: {MILK: 1}}), Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK")
    await api.release(held.reservation_id)
    assert await api.atp(NORTH, MILK) == 1
    await kept(api)


async def test_the_gate_is_rebuilt_with_what_backorder_still_permits(api: Api) -> None:
    await permit(api, 5)
    await order(api, 12)
    held = await api.reserve({NORTH: {MILK: 1}})
    await api.app.rebuilder.rebuild(NORTH, is_forced=True)
    assert await api.atp(NORTH, MILK) == 2
    await api.release(held.reservation_id)
    await api.app.rebuilder.rebuild(NORTH, is_forced=True)
    assert await api.atp(NORTH, MILK) == 3


async def test_a_till_sells_what_is_there_and_breaks_no_backorder(api: Api) -> None:
    await permit(api, 5)
    await api.reserve({NORTH: {MILK: 13}})  # three of them are not there
    answer = await api.orders.Sell(
        pb.SellRequest(
            request_id=request_id(),
            location_id=NORTH,
            lines=[pb.SaleLine(sku=MILK, quantity=2)],
            currency_code="USD",
            tenders=[
                pb.Tender(kind=pb.TENDER_KIND_CASH, amount={"currency_code": "USD", "units": 3, "nanos": 980_000_000})
            ],
        )
    )
    assert answer.order.order_id
    assert await api.level(NORTH, MILK) == (8, 0, 0, 0)
    assert await api.atp(NORTH, MILK) == 0
    await kept(api)


@pytest.mark.parametrize("seed", range(3))
async def test_promised_units_never_exceed_those_there_by_more_than_the_limit(api: Api, seed: int) -> None:
    draw, limit, placed = random.Random(seed), 6, list[pb.Order]()
    await permit(api, limit)
    await permit(api, limit, BREAD)

    async def step() -> None:
        sku, n, what = draw.choice((MILK, BREAD)), draw.randint(1, 5), draw.randrange(9)
        if what < 4:
            placed.append(await order(api, n, sku))
        elif what == 4:
            await api.receive(NORTH, {sku: n})
        elif what == 5 and placed:
            await cancel(api, draw.choice(placed), n)
        elif what == 6:
            await api.reserve({NORTH: {sku: n}}, ttl_seconds=draw.choice((1, 600)))
        elif what == 7:
            await api.count(NORTH, {sku: draw.randint(0, 12)})
        else:
            await api.arrive((await api.dispatch(SOUTH, NORTH, {sku: 1})).transfer_id, {})

    for _ in range(8):
        for result in await asyncio.gather(*(step() for _ in range(6)), return_exceptions=True):
            if isinstance(result, grpc.aio.AioRpcError):
                assert result.code() is Code.FAILED_PRECONDITION, result
            else:
                assert result is None, result
        rows = await api.fetch("SELECT max(backordered), min(backordered) FROM stock_levels")
        assert rows[0][0] <= limit
        assert rows[0][1] >= 0
    await eventually(lambda: _is_kept(api), True)


async def _is_kept(api: Api) -> bool:
    await kept(api)
    return True
