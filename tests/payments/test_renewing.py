"""Authorizations that end before the goods leave are renewed, once, and whoever declines that is seen."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import Gateway
from onhand.crash import watched
from onhand.v1 import order_pb2 as orders
from onhand.v1 import payment_pb2 as pb
from payments.test_one_cart import Interleaved
from purse import back, by_gateway, days_pass, do_jobs, operations, payments, state, tender
from shop import CALLER, MILK, NORTH, SOUTH, Shop, cents, fulfillment_of

SHIP = orders.FULFILLMENT_KIND_SHIP


async def waiting(shop: Shop, quantity: int = 3) -> orders.Order:
    """An order whose goods leave some day."""
    request = await by_gateway(shop, kind=SHIP, quantity=quantity, capture_at="FULFILLMENT")
    order = (await shop.orders.place_order(request, CALLER)).order
    await do_jobs(shop)
    return order


async def payment_of(shop: Shop, order: orders.Order) -> pb.Payment:
    """Its only one."""
    (payment,) = await payments(shop, order.order_id)
    return payment


async def ship(shop: Shop, order: orders.Order, place: str = NORTH) -> None:
    """The goods leave."""
    work = fulfillment_of(order, place).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.ship):
        await step(work)
    await do_jobs(shop)


def books(gateway: Gateway) -> list[tuple[int, int, int, int]]:
    """(authorized, captured, refunded, still held) of each authorization, oldest first."""
    return [
        (p.authorized_minor, p.captured_minor, p.refunded_minor, p.capturable_minor)
        for p in gateway.books.payments.values()
    ]


async def test_it_is_renewed_before_its_end_and_captured_once(shop: Shop, gateway: Gateway) -> None:
    order = await waiting(shop)
    payment = await payment_of(shop, order)
    left = payment.authorization_expire_time.ToDatetime() - payment.created_time.ToDatetime()
    assert 6 <= left.days <= 7
    ((due,),) = await shop.fetch(
        "SELECT execute_after - now() FROM pgqueuer WHERE entrypoint = 'payment.renew' AND status = 'queued'"
    )
    assert due.days in (5, 6)
    for _ in range(2):  # for weeks
        await days_pass(shop)
        await do_jobs(shop)
    assert books(gateway) == [(597, 0, 0, 0), (597, 0, 0, 0), (597, 0, 0, 597)]
    payment = await payment_of(shop, order)
    assert (state(payment), cents(payment.authorized), cents(payment.voided)) == ("AUTHORIZED", 597, 0)
    assert [k for k, _, _ in operations(payment)] == ["AUTHORIZE", "RENEW", "RELEASE", "RENEW", "RELEASE"]
    await ship(shop, order)
    assert books(gateway)[-1] == (597, 597, 0, 0)
    await days_pass(shop)
    await do_jobs(shop)
    assert len(books(gateway)) == 3


@pytest.mark.parametrize("fault", ["silent", "acts"])
async def test_a_renewal_that_is_not_known_is_asked_for_again_and_made_once(
    shop: Shop, gateway: Gateway, fault: str
) -> None:
    await waiting(shop)
    await days_pass(shop)
    gateway.faults = [fault, fault]
    await do_jobs(shop)
    assert books(gateway) == [(597, 0, 0, 0), (597, 0, 0, 597)]


async def test_whatever_happens_while_it_is_renewed_is_of_one_authorization(shop: Shop, gateway: Gateway) -> None:
    order = await waiting(shop)
    await days_pass(shop)  # asked for, and not done yet

    async def leaves() -> Any:
        work = fulfillment_of(order, NORTH).fulfillment_order_id
        for step in (shop.accept, shop.pick, shop.ship):
            await step(work)

    with watched(Interleaved("after", "provider.ask", leaves)):
        await do_jobs(shop)
    assert books(gateway) == [(597, 0, 0, 0), (597, 597, 0, 0)]
    assert state(await payment_of(shop, order)) == "CAPTURED"


async def test_an_order_that_is_cancelled_while_it_is_renewed_holds_nothing(shop: Shop, gateway: Gateway) -> None:
    order = await waiting(shop)
    await days_pass(shop)
    await shop.cancel(order.order_id, {1: 3})
    await do_jobs(shop)
    assert [held for *_, held in books(gateway)] == [0, 0]
    assert state(await payment_of(shop, order)) == "VOIDED"


async def test_a_decline_is_seen_and_what_leaves_in_time_is_paid(shop: Shop, gateway: Gateway) -> None:
    order = await waiting(shop)
    await days_pass(shop)
    gateway.faults = ["no"]
    await do_jobs(shop)
    payment = await payment_of(shop, order)
    assert (state(payment), payment.is_renewal_declined) == ("AUTHORIZED", True)
    event = "SELECT data ->> 'kind', data ? 'authorization_expires_time' FROM events WHERE type = 'onhand.payment.declined.v1'"
    assert await shop.fetch(event) == [("RENEW", True)]
    await days_pass(shop)  # it is asked once more
    await do_jobs(shop)
    assert not (await payment_of(shop, order)).is_renewal_declined
    await ship(shop, order)
    assert books(gateway) == [(597, 0, 0, 0), (597, 597, 0, 0)]


async def test_what_was_captured_of_two_authorizations_goes_back_to_both(shop: Shop, gateway: Gateway) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 1}, SOUTH: {MILK: 2}})
    card = tender("CARD", 597, payment_method="pm_1", capture_at=orders.CAPTURE_AT_FULFILLMENT)
    request = shop.place_request(reservation_id, dict.fromkeys((NORTH, SOUTH), SHIP), 597, tenders=[card])
    order = (await shop.orders.place_order(request, CALLER)).order
    await do_jobs(shop)
    await ship(shop, order)
    await days_pass(shop)
    await do_jobs(shop)
    await ship(shop, order, SOUTH)
    assert books(gateway) == [(597, 199, 0, 0), (398, 398, 0, 0)]
    for _ in range(3):
        await shop.take_back(order.order_id, SOUTH, back(1))
        await do_jobs(shop)
    assert books(gateway) == [(597, 199, 199, 0), (398, 398, 398, 0)]
    assert state(await payment_of(shop, order)) == "REFUNDED"


async def of_two_places(shop: Shop, north: int, south: int) -> orders.Order:
    """An order of milk, whose goods leave two places some day."""
    reservation_id = await shop.reserve({NORTH: {MILK: north}, SOUTH: {MILK: south}})
    cost = 199 * (north + south)
    card = tender("CARD", cost, payment_method="pm_1", capture_at=orders.CAPTURE_AT_FULFILLMENT)
    request = shop.place_request(reservation_id, dict.fromkeys((NORTH, SOUTH), SHIP), cost, tenders=[card])
    order = (await shop.orders.place_order(request, CALLER)).order
    await do_jobs(shop)
    return order


@pytest.mark.parametrize("fault", ["", "no"])
async def test_what_is_refunded_while_it_is_renewed_is_of_what_was_captured(
    shop: Shop, gateway: Gateway, fault: str
) -> None:
    order = await of_two_places(shop, 2, 1)
    await ship(shop, order)
    await days_pass(shop)  # asked for, and not done yet
    gateway.faults = [fault]
    await shop.cancel(order.order_id, {1: 1})
    await shop.take_back(order.order_id, NORTH, back(1))
    await do_jobs(shop)
    await shop.take_back(order.order_id, NORTH, back(1))
    await do_jobs(shop)
    assert books(gateway)[0] == (597, 398, 398, 0)
    assert books(gateway)[1:] == ([] if fault else [(199, 0, 0, 0)])
    assert state(await payment_of(shop, order)) == "REFUNDED"


@pytest.mark.parametrize("fault", ["", "no"])
async def test_what_is_refunded_behind_a_renewal_is_of_what_is_captured_then(
    shop: Shop, gateway: Gateway, fault: str
) -> None:
    order = await of_two_places(shop, 1, 2)
    await ship(shop, order)
    await days_pass(shop)
    work = fulfillment_of(order, SOUTH).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.ship):
        await step(work)
    await shop.take_back(order.order_id, SOUTH, back(2))
    gateway.faults = [fault]
    await do_jobs(shop)
    await shop.take_back(order.order_id, SOUTH, back(1))
    await do_jobs(shop)
    assert books(gateway) == ([(597, 597, 597, 0)] if fault else [(597, 199, 199, 0), (398, 398, 398, 0)])
    assert state(await payment_of(shop, order)) == "REFUNDED"


async def test_it_covers_what_an_open_capture_turns_out_not_to_take(shop: Shop, gateway: Gateway) -> None:
    order = await of_two_places(shop, 1, 2)
    work = fulfillment_of(order, NORTH).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.ship):
        await step(work)
    gateway.faults = ["silent"]
    await days_pass(shop)
    gateway.faults = ["no"]
    await do_jobs(shop)
    await days_pass(shop)
    await do_jobs(shop)
    await ship(shop, order, SOUTH)
    assert books(gateway) == [(597, 0, 0, 0), (597, 597, 0, 0)]


async def test_what_nothing_is_left_for_is_not_renewed(shop: Shop, gateway: Gateway) -> None:
    order = await waiting(shop)
    gateway.faults = ["no"]
    await ship(shop, order)
    await days_pass(shop)
    await do_jobs(shop)
    assert books(gateway) == [(597, 0, 0, 597)]
