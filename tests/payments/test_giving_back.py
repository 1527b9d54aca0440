"""What a cancellation or a return gives back goes to the tenders it came from, once."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from onhand.v1 import order_pb2 as orders
from onhand.v1 import payment_pb2 as pb
from purse import back, operations, payments, purse, refunded, sold, state, tender
from shop import CALLER, MILK, NORTH, SOUTH, Shop, cents, told


async def test_a_till_s_tender_is_captured_by_being_recorded(shop: Shop) -> None:
    order = await sold(shop, 2, tender("CASH", 300, reference="drawer 3"), tender("CARD", 98))
    first, second = await payments(shop, order.order_id)
    assert (state(first), cents(first.amount), cents(first.captured), first.reference) == (
        "CAPTURED",
        300,
        300,
        "drawer 3",
    )
    assert (first.tender_number, second.tender_number) == (1, 2)
    assert first.provider == pb.PAYMENT_PROVIDER_TILL
    assert (operations(first), cents(first.owed)) == ([], 0)


async def test_a_return_gives_back_to_the_card_before_the_drawer(shop: Shop) -> None:
    order = await sold(shop, 3, tender("CASH", 297), tender("CARD", 300))
    returned = await shop.take_back(order.order_id, SOUTH, back(2))
    cash, card = await payments(shop, order.order_id)
    assert (cents(cash.refunded), cents(card.refunded)) == (98, 300)
    assert (state(cash), state(card)) == ("PARTIALLY_REFUNDED", "REFUNDED")
    (operation,) = card.operations
    assert (operation.reason_code, operation.reference_document) == ("RETURN", f"return/{returned.return_id}")
    assert operations(card) == [("REFUND", "SUCCEEDED", 300)]
    assert operation.HasField("ended_time")
    await shop.take_back(order.order_id, NORTH, back(1))
    assert await refunded(shop, order.order_id) == [297, 300]


async def test_a_cancellation_gives_back_too(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 3}})).order
    await shop.cancel(order.order_id, {1: 1})
    (payment,) = await payments(shop, order.order_id)
    assert operations(payment) == [("REFUND", "SUCCEEDED", 199)]
    assert payment.operations[0].reference_document == f"order/{order.order_id}"
    assert payment.operations[0].reason_code == "ORDER_CANCELLED"


async def test_what_is_free_gives_nothing_back(shop: Shop) -> None:
    request = orders.SellRequest(
        request_id="free-goods-1",
        location_id=NORTH,
        lines=[orders.SaleLine(sku=MILK, quantity=1, total={"currency_code": "USD"})],
        currency_code="USD",
    )
    order = (await shop.orders.sell(request, CALLER)).order
    await shop.take_back(order.order_id, NORTH, back(1))
    assert await payments(shop, order.order_id) == []


async def test_returns_at_the_same_moment_share_what_was_paid(shop: Shop) -> None:
    order = await sold(shop, 6, tender("CASH", 400), tender("CARD", 400), tender("GIFT_CARD", 394))
    await asyncio.gather(*(shop.take_back(order.order_id, NORTH, back(1)) for _ in range(6)))
    assert await refunded(shop, order.order_id) == [400, 400, 394]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_comes_back_or_is_cancelled_the_money_is_where_it_was_or_with_the_customer(
    shop: Shop, seed: int
) -> None:
    chance = random.Random(seed)
    kinds = [chance.choice(["CASH", "CARD", "GIFT_CARD", "STORE_CREDIT", "OTHER"]) for _ in range(chance.randint(1, 4))]
    quantity = chance.randint(4, 9)
    left = quantity * 199
    tenders = []
    for kind in kinds[1:]:
        tenders.append(tender(kind, chance.randint(1, left - len(kinds))))
        left -= cents(tenders[-1].amount)
        if left <= len(kinds):
            break
    tenders.append(tender(kinds[0], left))
    order = await sold(shop, quantity, *tenders)
    while quantity:
        now = chance.randint(1, quantity)
        await shop.take_back(order.order_id, chance.choice([NORTH, SOUTH]), back(now))
        quantity -= now
        given_back = sum(await refunded(shop, order.order_id))
        assert given_back == cents((await shop.order(order.order_id)).refunded)
    assert await refunded(shop, order.order_id) == [cents(t.amount) for t in tenders]


async def test_one_payment_is_found_by_its_number_and_pages_go_on(shop: Shop) -> None:
    order = await sold(shop, 3, tender("CASH", 200), tender("CARD", 200), tender("OTHER", 197))
    second = await purse(shop).get_payment(pb.GetPaymentRequest(order_id=order.order_id, tender_number=2), CALLER)
    assert cents(second.payment.amount) == 200
    first = await purse(shop).list_payments(pb.ListPaymentsRequest(order_id=order.order_id, page_size=2), CALLER)
    rest = await purse(shop).list_payments(
        pb.ListPaymentsRequest(order_id=order.order_id, page_size=2, page_token=first.next_page_token), CALLER
    )
    assert [p.tender_number for p in (*first.payments, *rest.payments)] == [1, 2, 3]
    assert rest.next_page_token == ""


async def test_a_payment_that_does_not_exist_is_refused(shop: Shop) -> None:
    order = await sold(shop, 1, tender("CASH", 199))
    assert await told(
        purse(shop).get_payment(pb.GetPaymentRequest(order_id=order.order_id, tender_number=2), CALLER)
    ) == ("PAYMENT_NOT_FOUND", {"order_id": order.order_id, "tender_number": "2"})
    missing = "00000000-0000-0000-0000-000000000000"
    assert (await told(purse(shop).list_payments(pb.ListPaymentsRequest(order_id=missing), CALLER)))[
        0
    ] == "ORDER_NOT_FOUND"


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tenders SET refunded_minor = 200, given_back_minor = 200",
        "UPDATE tenders SET given_back_minor = 200",
        "UPDATE tenders SET captured_minor = 200",
        "UPDATE tenders SET voided_minor = 1",
        "UPDATE tenders SET refunded_minor = 1",
        "UPDATE tenders SET amount_minor = 300",
        "UPDATE payment_operations SET amount_minor = 1",
        "DELETE FROM payment_operations",
        "DELETE FROM payment_outcomes",
    ],
)
async def test_the_database_lets_no_money_appear_or_be_forgotten(shop: Shop, damage: str) -> None:
    order = await sold(shop, 2, tender("CASH", 199), tender("CARD", 199))
    await shop.take_back(order.order_id, NORTH, back(1))
    with pytest.raises(asyncpg.PostgresError) as refused:
        await shop.execute(damage)
    assert isinstance(refused.value, (asyncpg.CheckViolationError, asyncpg.RestrictViolationError))
