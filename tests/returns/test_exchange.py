"""Goods for other goods, in one operation: stock and money move once, and the difference is settled."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest

from bring import DAMAGED, MANAGER, SOUTH, age, bring, desk, exchange, exchanged, sold_line, units
from onhand.domain.stock import Level
from onhand.ids import new_id
from onhand.redis import Unreachable
from onhand.v1 import order_pb2 as orders
from onhand.v1 import returns_pb2 as pb
from purse import issue, operations, payments, refunded, sold, state, tender
from shop import BREAD, CALLER, MILK, NORTH, Shop, cents, refused, told

CODE = "K7QF-3M9D-X2PA-88HT"


def amounts(done: pb.Exchange) -> tuple[int, int, int]:
    """What was carried over, given back and paid, in cents."""
    return cents(done.carried), cents(done.refunded), cents(done.paid)


async def test_one_for_one_costs_nothing(shop: Shop) -> None:
    order = await sold(shop, 2, tender("CARD", 398))
    done = await exchange(shop, order.order_id, [units(1, DAMAGED)], [sold_line(MILK)])
    assert amounts(done) == (199, 0, 0)
    assert await shop.level(SOUTH, MILK) == Level(available=9, damaged=1)
    (paid,) = done.order.tenders
    assert (paid.kind, paid.reference) == (orders.TENDER_KIND_STORE_CREDIT, f"exchange/{done.exchange_id}")
    assert (done.returned.kind, done.returned.order_id) == (orders.RETURN_KIND_EXCHANGE, order.order_id)
    assert done.order.state == orders.ORDER_STATE_COMPLETED
    (card,) = await payments(shop, order.order_id)
    assert (operations(card), state(card)) == ([("REFUND", "SUCCEEDED", 199)], "PARTIALLY_REFUNDED")
    assert card.operations[0].reason_code == "EXCHANGE"


async def test_the_unit_that_came_back_may_leave_again(shop: Shop) -> None:
    order = await sold(shop, 10, tender("CARD", 1990))
    done = await exchange(shop, order.order_id, [units(2)], [sold_line(MILK)], location_id=NORTH)
    assert await shop.level(NORTH, MILK) == Level(available=1)
    assert amounts(done) == (199, 199, 0)
    assert await shop.atp(NORTH, MILK) == 1


async def test_dearer_goods_are_paid_for(shop: Shop) -> None:
    order = await sold(shop, 1, tender("CASH", 199))
    done = await exchange(
        shop, order.order_id, [units()], [sold_line(BREAD)], tenders=[tender("CARD", 51, reference="auth-9")]
    )
    assert amounts(done) == (199, 0, 51)
    assert [cents(t.amount) for t in done.order.tenders] == [199, 51]


async def test_cheaper_goods_give_back_the_rest_as_a_return_does(shop: Shop) -> None:
    card = await issue(shop, CODE, 300)
    order = await sold(shop, 3, tender("CASH", 297), tender("GIFT_CARD", 300, gift_card_code=CODE))
    done = await exchange(shop, order.order_id, [units(3)], [sold_line(BREAD)])
    assert amounts(done) == (250, 347, 0)
    # Cash pays for the bread; the card has its money before the drawer opens.
    assert await refunded(shop, order.order_id) == [297, 300]
    assert await shop.fetch("SELECT balance_minor FROM gift_cards") == [(300,)]
    assert card.gift_card_id


async def test_what_a_gift_card_paid_pays_for_other_goods_and_is_not_on_it_again(shop: Shop) -> None:
    await issue(shop, CODE, 300)
    order = await sold(shop, 1, tender("GIFT_CARD", 199, gift_card_code=CODE))
    done = await exchange(
        shop, order.order_id, [units()], [sold_line(BREAD)], tenders=[tender("GIFT_CARD", 51, gift_card_code=CODE)]
    )
    assert amounts(done) == (199, 0, 51)
    assert await shop.fetch("SELECT balance_minor FROM gift_cards") == [(50,)]
    assert await refunded(shop, order.order_id) == [199]


async def test_what_was_exchanged_comes_back_as_credit(shop: Shop) -> None:
    order = await sold(shop, 1, tender("CASH", 199))
    done = await exchange(shop, order.order_id, [units()], [sold_line(BREAD)], tenders=[tender("CARD", 51)])
    await bring(shop, done.order.order_id)
    credit, card = await payments(shop, done.order.order_id)
    assert (cents(credit.refunded), cents(card.refunded)) == (199, 51)
    assert (await refused(exchange(shop, order.order_id, [units()], [sold_line(MILK)]))).reason == "RETURN_EXCEEDED"


async def test_a_repeat_is_one_exchange(shop: Shop) -> None:
    order = await sold(shop, 2, tender("CARD", 398))
    request = exchanged(order.order_id, [units()], [sold_line(MILK)])
    first, again = [await shop_exchange(shop, request) for _ in range(2)]
    assert first == again
    assert await shop.level(SOUTH, MILK) == Level(available=10)
    request.sold[0].quantity = 2
    assert (await refused(shop_exchange(shop, request))).reason == "REQUEST_ID_REUSED"


async def shop_exchange(shop: Shop, request: pb.CreateExchangeRequest) -> pb.Exchange:
    """The exchange of a request."""
    return (await desk(shop).create_exchange(request, CALLER)).exchange


async def test_goods_in_hand_leave_though_they_are_promised_or_unknown(shop: Shop) -> None:
    order = await sold(shop, 1, tender("CARD", 199))
    await shop.reserve({SOUTH: {BREAD: 10}})
    await exchange(shop, order.order_id, [units()], [sold_line(BREAD)], tenders=[tender("CARD", 51)])
    assert await shop.level(SOUTH, BREAD) == Level(available=9)
    order = await sold(shop, 1, tender("CARD", 199))
    paid = [tender("CARD", 250 * 12 - 199)]
    await exchange(shop, order.order_id, [units()], [sold_line(BREAD, 12)], tenders=paid)
    assert await shop.level(SOUTH, BREAD) == Level(available=0)
    tasks = await shop.fetch("SELECT location_id, sku FROM count_tasks WHERE state = 'OPEN'")
    assert tasks == [(SOUTH, BREAD)]


async def test_it_goes_on_while_the_gate_is_down(shop: Shop) -> None:
    order = await sold(shop, 2, tender("CARD", 398))
    with patch.object(type(shop.app.connections), "pipeline", side_effect=Unreachable("cut off")):
        await exchange(shop, order.order_id, [units()], [sold_line(BREAD)], tenders=[tender("CARD", 51)])
    assert (await shop.atp(SOUTH, MILK), await shop.atp(SOUTH, BREAD)) == (11, 9)


async def test_units_are_exchanged_once_however_many_bring_them(shop: Shop) -> None:
    order = await sold(shop, 3, tender("CARD", 597))
    calls = [exchange(shop, order.order_id, [units()], [sold_line(MILK)]) for _ in range(6)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(each, pb.Exchange) for each in results) == 3
    assert {getattr(e, "reason", e) for e in results if isinstance(e, BaseException)} == {"RETURN_EXCEEDED"}
    assert await shop.level(SOUTH, MILK) == Level(available=10)
    assert await refunded(shop, order.order_id) == [597]


async def test_a_manager_lets_the_return_pass(shop: Shop) -> None:
    order = await sold(shop, 1, tender("CARD", 199))
    await age(shop, order.order_id, days=91)
    assert (
        await refused(exchange(shop, order.order_id, [units()], [sold_line(MILK)]))
    ).reason == "RETURN_WINDOW_PASSED"
    done = await exchange(shop, order.order_id, [units()], [sold_line(MILK)], override=MANAGER)
    assert list(done.returned.override.overridden) == ["RETURN_WINDOW_PASSED"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tenders": [tender("CARD", 50)]}, "TENDERS_MISMATCH"),
        ({"tenders": []}, "TENDERS_MISMATCH"),
        ({"currency_code": "EUR"}, "CURRENCY_MISMATCH"),
        ({"location_id": "nowhere"}, "LOCATION_NOT_FOUND"),
        ({"order_id": str(new_id())}, "ORDER_NOT_FOUND"),
        ({"returned": [units(2)]}, "RETURN_EXCEEDED"),
        ({"sold": [sold_line("none")]}, "PRICE_NOT_FOUND"),
        ({"sold": [orders.SaleLine(barcode="96385074", quantity=1)]}, "BARCODE_NOT_FOUND"),
        ({"tenders": [tender("GIFT_CARD", 51, gift_card_code=CODE)]}, "GIFT_CARD_NOT_FOUND"),
    ],
)
async def test_what_is_refused_moves_nothing(shop: Shop, fields: dict[str, object], reason: str) -> None:
    order = await sold(shop, 1, tender("CARD", 199))
    request = exchanged(order.order_id, [units()], [sold_line(BREAD)], **{"tenders": [tender("CARD", 51)], **fields})
    assert (await told(shop_exchange(shop, request)))[0] == reason
    assert await shop.level(SOUTH, BREAD) == await shop.level(SOUTH, MILK) == Level(available=10)
    assert await refunded(shop, order.order_id) == [0]
    assert await shop.atp(SOUTH, BREAD) == 10
