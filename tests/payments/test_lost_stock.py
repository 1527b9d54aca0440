"""A paid order is never silently short: what went while its customer paid is brought by others, waited for, or given back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from broken import verified
from gateway import Gateway
from onhand.crash import watched
from onhand.domain.lost_stock import LostStockPolicy, Otherwise
from onhand.domain.payment import Provider
from onhand.domain.stock import Level
from onhand.settings import Unusable, lost_stock_policy
from onhand.v1 import inventory_pb2 as stock
from onhand.v1 import order_pb2 as orders
from onhand.v1 import types_pb2
from payments.test_one_cart import Interleaved
from purse import by_gateway, do_jobs, payments, tender
from shelf import request_id
from shop import CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, cents, told

PICKUP, SHIP = orders.FULFILLMENT_KIND_PICKUP, orders.FULFILLMENT_KIND_SHIP
Open = Callable[..., AbstractAsyncContextManager[Shop]]


@pytest.fixture
def open_with(database_dsn: str, redis_url: str, gateway: Gateway) -> Open:
    """A shop with a policy."""
    return partial(verified, database_dsn, redis_url, {Provider.STRIPE: gateway})


def policy(text: str) -> LostStockPolicy:
    """As a setting says it."""
    return lost_stock_policy({"ONHAND_LOST_STOCK_POLICY": text})


async def short_order(shop: Shop, gateway: Gateway, kind: orders.FulfillmentKind.ValueType = SHIP) -> orders.Order:
    """Nine units that were paid for; four of the ten there went over the till meanwhile."""
    request = await by_gateway(shop, quantity=9, kind=kind)
    gateway.faults = ["acts"]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    await shop.sell(NORTH, {MILK: 4}, 4 * 199)
    return (await shop.orders.place_order(request, CALLER)).order


def short(order: orders.Order) -> list[tuple[str, str, int]]:
    """(cause, next step, open units) of what an order lacks or lacked."""
    return [
        (
            orders.ShortfallCause.Name(s.cause).removeprefix("SHORTFALL_CAUSE_"),
            types_pb2.ShortfallStep.Name(s.next_step).removeprefix("SHORTFALL_STEP_"),
            s.open_quantity,
        )
        for f in order.fulfillment_orders
        for s in f.shortfalls
    ]


async def money(shop: Shop, order: orders.Order) -> tuple[int, int]:
    """(captured, refunded) in cents."""
    (payment,) = await payments(shop, order.order_id)
    return cents(payment.captured), cents(payment.refunded)


async def sell_out(shop: Shop) -> None:
    """Nobody else has any."""
    for place in (SOUTH, DEPOT):
        await shop.sell(place, {MILK: 10}, 1990)


async def test_it_waits_for_what_comes_in_next(open_with: Open, gateway: Gateway) -> None:
    async with open_with(lost_stock=policy("backorder")) as shop:
        order = await short_order(shop, gateway)
        assert short(order) == [("LOST", "WAIT", 3)]
        assert await shop.level(NORTH, MILK) == Level(available=0, allocated=6)
        (told_of,) = await shop.fetch("SELECT data FROM events WHERE type = 'onhand.order.lost_stock.v1'")
        assert (told_of[0]["order_id"], told_of[0]["policy"]) == (order.order_id, "backorder")
        assert [(n["sku"], n["quantity"]) for n in told_of[0]["lines"]] == [(MILK, 3)]
        await do_jobs(shop)
        assert await money(shop, order) == (9 * 199, 0)
        await shop.receive(NORTH, {MILK: 5})
        assert short(await shop.order(order.order_id)) == [("LOST", "NONE", 0)]
        assert await shop.level(NORTH, MILK) == Level(available=2, allocated=9)
        assert await shop.atp(NORTH, MILK) == 2


async def test_another_location_brings_it(open_with: Open, gateway: Gateway) -> None:
    async with open_with(lost_stock=policy("resource,void")) as shop:
        order = await short_order(shop, gateway)
        assert short(order) == [("LOST", "CHOOSE", 3)]
        await do_jobs(shop)
        order = await shop.order(order.order_id)
        assert sorted(sum(n.quantity - n.moved_quantity for n in f.lines) for f in order.fulfillment_orders) == [3, 6]
        assert short(order) == [("LOST", "NONE", 0)]
        assert await money(shop, order) == (9 * 199, 0)


@pytest.mark.parametrize("kind", [SHIP, PICKUP], ids=["nobody has it", "a pickup is not moved without its customer"])
async def test_what_nobody_brings_is_cancelled_and_given_back(
    open_with: Open, gateway: Gateway, kind: orders.FulfillmentKind.ValueType
) -> None:
    async with open_with(lost_stock=policy("resource, void")) as shop:
        if kind is SHIP:
            await sell_out(shop)
        order = await short_order(shop, gateway, kind)
        await do_jobs(shop)
        order = await shop.order(order.order_id)
        assert (short(order), order.lines[0].cancelled_quantity) == ([("LOST", "NONE", 0)], 3)
        assert await money(shop, order) == (9 * 199, 3 * 199)
        reason = "SELECT data ->> 'reason_code' FROM events WHERE type = 'onhand.order.lines_cancelled.v1'"
        assert await shop.fetch(reason) == [("LOST_STOCK",)]


async def test_what_nobody_brings_waits(open_with: Open, gateway: Gateway) -> None:
    async with open_with(lost_stock=policy("resource,backorder")) as shop:
        await sell_out(shop)
        order = await short_order(shop, gateway)
        await do_jobs(shop)
        assert short(await shop.order(order.order_id)) == [("LOST", "WAIT", 3)]


async def test_what_came_in_while_nobody_was_found_is_not_cancelled(open_with: Open, gateway: Gateway) -> None:
    async with open_with(lost_stock=policy("resource,void")) as shop:
        await sell_out(shop)
        order = await short_order(shop, gateway)

        async def arrives() -> Any:
            return await shop.receive(NORTH, {MILK: 3})

        with watched(Interleaved("after", "ledger.read_lost", arrives)):
            await do_jobs(shop)
        order = await shop.order(order.order_id)
        assert (short(order), order.lines[0].cancelled_quantity) == ([("LOST", "NONE", 0)], 0)
        assert await shop.level(NORTH, MILK) == Level(allocated=9)


async def test_what_its_customer_gave_up_before_is_not_counted_again(open_with: Open, gateway: Gateway) -> None:
    async with open_with(lost_stock=policy("resource,void")) as shop:
        await sell_out(shop)
        order = await short_order(shop, gateway)
        await shop.cancel(order.order_id, {1: 1})
        await do_jobs(shop)
        order = await shop.order(order.order_id)
        assert (short(order), order.lines[0].cancelled_quantity) == ([("LOST", "NONE", 0)], 3)
        assert await money(shop, order) == (9 * 199, 3 * 199)


async def test_what_the_same_line_waits_for_elsewhere_is_not_cancelled_instead(
    open_with: Open, gateway: Gateway
) -> None:
    async with open_with(lost_stock=policy("resource,void")) as shop:
        permit = stock.SetStockPolicyRequest(request_id=request_id(), location_id=NORTH, sku=MILK, backorder_limit=5)
        await shop.promise.set_stock_policy(permit, CALLER)
        await shop.sell(DEPOT, {MILK: 10}, 1990)
        reservation_id = await shop.reserve({NORTH: {MILK: 12}, SOUTH: {MILK: 9}})
        card = tender("CARD", 21 * 199, payment_method="pm_1")
        fields: dict[str, Any] = {"tenders": [card], "accepts_backorder": True}
        request = shop.place_request(reservation_id, dict.fromkeys((NORTH, SOUTH), SHIP), 21 * 199, **fields)
        gateway.faults = ["acts"]
        assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
        await shop.sell(SOUTH, {MILK: 4}, 4 * 199)
        order = (await shop.orders.place_order(request, CALLER)).order
        assert sorted(short(order)) == [("BACKORDER", "WAIT", 2), ("LOST", "CHOOSE", 3)]
        await do_jobs(shop)
        assert sorted(short(await shop.order(order.order_id))) == [("BACKORDER", "WAIT", 2), ("LOST", "NONE", 0)]
        assert await money(shop, order) == (21 * 199, 3 * 199)


async def test_two_jobs_at_once_settle_it_once(open_with: Open, gateway: Gateway) -> None:
    async with open_with(lost_stock=policy("resource,void")) as shop:
        await sell_out(shop)
        order = await short_order(shop, gateway)

        async def again() -> None:
            await shop.app.lost_stock._settle({"order_id": order.order_id}, 1)

        with watched(Interleaved("after", "ledger.read_lost", again)):
            await do_jobs(shop)
        assert (await shop.order(order.order_id)).lines[0].cancelled_quantity == 3
        assert await money(shop, order) == (9 * 199, 3 * 199)


async def test_who_gives_up_an_order_that_another_placed_meanwhile_takes_nothing_back(
    open_with: Open, gateway: Gateway
) -> None:
    async with open_with(lost_stock=policy("void")) as shop:
        request = await by_gateway(shop, quantity=9)
        gateway.faults = ["acts"]
        assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
        await shop.sell(NORTH, {MILK: 4}, 4 * 199)
        placed = []

        async def comes_in_and_is_placed() -> None:
            await shop.receive(NORTH, {MILK: 4})
            placed.append((await shop.orders.place_order(request, CALLER)).order)

        with watched(Interleaved("before", "ledger.abandon_checkout", comes_in_and_is_placed)):
            assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
        await do_jobs(shop)
        assert await money(shop, placed[0]) == (9 * 199, 0)
        assert (await shop.orders.place_order(request, CALLER)).order == placed[0]


def test_a_policy_is_one_of_four() -> None:
    assert policy("") == LostStockPolicy(is_resourced=False, otherwise=Otherwise.VOID)
    assert policy("Resource, backorder") == LostStockPolicy(is_resourced=True, otherwise=Otherwise.BACKORDER)
    with pytest.raises(Unusable, match="resource,void"):
        policy("backorder,resource")
