"""CancelOrderLines: what is not with the customer yet is free again."""

from __future__ import annotations

import asyncio

import pytest

from onhand.domain.stock import Level
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import BREAD, CALLER, DEPOT, MILK, NORTH, Shop, cents, fulfillment_of, refused, told


async def test_some_units_are_cancelled_and_then_the_rest(shop: Shop) -> None:
    order = (await shop.place({NORTH: {BREAD: 1, MILK: 3}})).order
    number = {line.sku: line.line_number for line in order.lines}
    first = await shop.cancel(order.order_id, {number[MILK]: 2})
    assert cents(first.refund) == 398
    assert first.order.state == pb.ORDER_STATE_OPEN
    assert {n.sku: n.cancelled_quantity for n in first.order.lines} == {BREAD: 0, MILK: 2}
    assert await shop.level(NORTH, MILK) == Level(available=9, allocated=1)
    assert await shop.atp(NORTH, MILK) == 9

    rest = await shop.cancel(order.order_id, {number[MILK]: 1, number[BREAD]: 1})
    assert cents(rest.refund) == 199 + 250
    assert cents(rest.order.refunded) == cents(rest.order.total)
    assert rest.order.state == pb.ORDER_STATE_CANCELLED
    assert [f.state for f in rest.order.fulfillment_orders] == [pb.FULFILLMENT_STATE_CANCELLED]
    assert (await shop.level(NORTH, MILK), await shop.atp(NORTH, BREAD)) == (Level(available=10), 10)
    assert [name for name, _ in await shop.events("onhand.order.")] == [
        "onhand.order.placed.v1",
        "onhand.order.lines_cancelled.v1",
        "onhand.order.cancelled.v1",
        "onhand.order.lines_cancelled.v1",
    ]


@pytest.mark.parametrize("progress", [0, 1, 2, 3])
async def test_a_pickup_can_be_cancelled_until_it_is_handed_over(shop: Shop, progress: int) -> None:
    placed = await shop.place({NORTH: {MILK: 2}})
    work = placed.order.fulfillment_orders[0].fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.mark_ready)[:progress]:
        await step(work)
    await shop.cancel(placed.order.order_id, {1: 1})
    assert fulfillment_of(await shop.order(placed.order.order_id), NORTH).lines[0].cancelled_quantity == 1
    assert (await shop.cancel(placed.order.order_id, {1: 1})).order.state == pb.ORDER_STATE_CANCELLED


async def test_what_was_handed_over_is_returned_and_not_cancelled(shop: Shop) -> None:
    order = await shop.picked_up({NORTH: {MILK: 2}})
    assert await told(shop.cancel(order.order_id, {1: 1})) == (
        "CANCEL_EXCEEDED",
        {"order_id": order.order_id, "line_number": "1", "sku": MILK, "requested": "1", "cancellable": "0"},
    )


async def test_what_is_left_after_a_cancellation_is_handed_over(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 3}})
    (code,) = placed.pickup_codes
    await shop.cancel(placed.order.order_id, {1: 1})
    for step in (shop.accept, shop.pick, shop.mark_ready):
        await step(code.fulfillment_order_id)
    await shop.hand_over(code.fulfillment_order_id, code.pickup_code)
    order = await shop.order(placed.order.order_id)
    assert (order.state, order.lines[0].fulfilled_quantity) == (pb.ORDER_STATE_COMPLETED, 2)
    assert await shop.level(NORTH, MILK) == Level(available=8)


async def test_a_line_that_was_cancelled_whole_is_not_handed_over(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 3, BREAD: 1}})
    ((order_id,),) = await shop.fetch("SELECT order_id::text FROM orders")
    milk = next(line.line_number for line in (await shop.order(order_id)).lines if line.sku == MILK)
    await shop.cancel(order_id, {milk: 3})
    await shop.hand_over(work, code)
    assert await shop.level(NORTH, MILK) == Level(available=10)
    assert await shop.level(NORTH, BREAD) == Level(available=9)


async def test_of_a_split_line_the_work_that_nobody_began_is_cancelled(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 2}, DEPOT: {MILK: 2}}, pb.FULFILLMENT_KIND_SHIP)).order
    await shop.accept(fulfillment_of(order, DEPOT).fulfillment_order_id)
    order = (await shop.cancel(order.order_id, {1: 3})).order
    assert fulfillment_of(order, NORTH).state == pb.FULFILLMENT_STATE_CANCELLED
    assert fulfillment_of(order, DEPOT).lines[0].cancelled_quantity == 1


async def test_an_order_whose_last_open_part_is_cancelled_is_completed_by_the_others(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 1}, DEPOT: {BREAD: 1}}, pb.FULFILLMENT_KIND_SHIP)).order
    depot = fulfillment_of(order, DEPOT).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.ship, shop.deliver):
        await step(depot)
    (milk,) = (n.line_number for n in order.lines if n.sku == MILK)
    assert (await shop.cancel(order.order_id, {milk: 1})).order.state == pb.ORDER_STATE_COMPLETED


async def test_more_than_is_open_or_a_line_that_is_not_there_cancels_nothing(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 2, BREAD: 1}})).order
    for lines, reason in [
        ({1: 1, 2: 3}, "CANCEL_EXCEEDED"),
        ({1: 1, 3: 1}, "ORDER_LINE_NOT_FOUND"),
    ]:
        assert (await refused(shop.cancel(order.order_id, lines))).reason == reason
    twice = pb.CancelOrderLinesRequest(
        request_id=request_id(), order_id=order.order_id, lines=[pb.CancelLine(line_number=1, quantity=1)] * 2
    )
    assert (await refused(shop.orders.cancel_order_lines(twice, CALLER))).reason == "INVALID_REQUEST"
    assert await shop.order(order.order_id) == order


async def test_units_are_cancelled_or_handed_over_but_never_both(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 2}})
    ((order_id,),) = await shop.fetch("SELECT order_id::text FROM orders")
    cancelled, handed_over = await asyncio.gather(
        shop.cancel(order_id, {1: 2}), shop.hand_over(work, code), return_exceptions=True
    )
    (refusal,) = (result for result in (cancelled, handed_over) if isinstance(result, BaseException))
    assert getattr(refusal, "reason", refusal) in ("CANCEL_EXCEEDED", "ILLEGAL_TRANSITION")


async def test_a_repeated_cancellation_cancels_once(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 3}})).order
    request = pb.CancelOrderLinesRequest(
        request_id=request_id(), order_id=order.order_id, lines=[pb.CancelLine(line_number=1, quantity=1)]
    )
    answers = await asyncio.gather(*(shop.orders.cancel_order_lines(request, CALLER) for _ in range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert await shop.level(NORTH, MILK) == Level(available=8, allocated=2)
    request.lines[0].quantity = 2
    assert (await refused(shop.orders.cancel_order_lines(request, CALLER))).reason == "REQUEST_ID_REUSED"
