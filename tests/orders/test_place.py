"""PlaceOrder: what it refuses, and that a refusal leaves everything as it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from onhand.domain.errors import InvalidRequest, Refusal, ReservationShort
from onhand.domain.stock import Level
from onhand.ids import new_id
from onhand.v1 import order_pb2 as pb
from shelf import request_id, set_price
from shop import ADDRESS, BREAD, CALLER, DEPOT, FUEL, MILK, NORTH, SOUTH, Shop, card, cents, dollars, refused, told

PICKUP, SHIP, CARRY_OUT = pb.FULFILLMENT_KIND_PICKUP, pb.FULFILLMENT_KIND_SHIP, pb.FULFILLMENT_KIND_CARRY_OUT


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"reservation_id": str(new_id())}, "RESERVATION_NOT_FOUND"),
        ({"reservation_id": "nonsense"}, "INVALID_REQUEST"),
        ({"fulfillments": []}, "FULFILLMENT_CHOICE_MISMATCH"),
        ({"fulfillments": [pb.FulfillmentChoice(location_id=SOUTH, kind=PICKUP)]}, "FULFILLMENT_CHOICE_MISMATCH"),
        (
            {"fulfillments": [pb.FulfillmentChoice(location_id=place, kind=PICKUP) for place in (NORTH, SOUTH)]},
            "FULFILLMENT_CHOICE_MISMATCH",
        ),
        ({"fulfillments": [pb.FulfillmentChoice(location_id=NORTH, kind=PICKUP)] * 2}, "INVALID_REQUEST"),
        ({"fulfillments": [pb.FulfillmentChoice(location_id=NORTH, kind=CARRY_OUT)]}, "INVALID_REQUEST"),
        ({"fulfillments": [pb.FulfillmentChoice(location_id=NORTH)]}, "INVALID_REQUEST"),
        ({"fulfillments": [pb.FulfillmentChoice(location_id=NORTH, kind=SHIP)]}, "INVALID_REQUEST"),
        ({"currency_code": ""}, "INVALID_REQUEST"),
        ({"currency_code": "XXX"}, "CURRENCY_UNKNOWN"),
        ({"currency_code": "EUR"}, "PRICE_NOT_FOUND"),
        ({"cart_id": str(new_id())}, "CART_NOT_FOUND"),
        ({"cart_id": "nonsense"}, "INVALID_REQUEST"),
        ({"expected_total": dollars(199)}, "TOTAL_CHANGED"),
        ({"expected_total": {"currency_code": "EUR", "units": 3, "nanos": 980_000_000}}, "CURRENCY_MISMATCH"),
        ({"tenders": []}, "TENDERS_MISMATCH"),
        ({"tenders": card(397)}, "TENDERS_MISMATCH"),
        ({"tenders": card(399)}, "TENDERS_MISMATCH"),
        ({"tenders": [*card(398), pb.Tender(kind=pb.TENDER_KIND_CASH, amount=dollars(0))]}, "INVALID_REQUEST"),
        ({"tenders": [pb.Tender(amount=dollars(398))]}, "INVALID_REQUEST"),
        ({"tenders": [pb.Tender(kind=77, amount=dollars(398))]}, "INVALID_REQUEST"),
        (
            {"tenders": [pb.Tender(kind=pb.TENDER_KIND_CASH, amount={"currency_code": "EUR", "units": 1})]},
            "CURRENCY_MISMATCH",
        ),
        ({"customer_id": "eve"}, "RESERVATION_OF_ANOTHER_CUSTOMER"),
    ],
)
async def test_a_refused_order_leaves_its_reservation_active(shop: Shop, fields: dict[str, Any], reason: str) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 2}}, "ada")
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 398, **fields)
    assert (await refused(shop.orders.place_order(request, CALLER))).reason == reason
    assert await shop.fetch("SELECT count(*) FROM orders") == [(0,)]
    assert await shop.level(NORTH, MILK) == Level(available=10)
    placed = await shop.orders.place_order(shop.place_request(reservation_id, {NORTH: PICKUP}, 398), CALLER)
    assert placed.order.customer_id == "ada"


async def test_a_tender_may_be_split(shop: Shop) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    tenders = [*card(300), pb.Tender(kind=pb.TENDER_KIND_GIFT_CARD, amount=dollars(98), reference="...4711")]
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 0, tenders=tenders)
    assert list((await shop.orders.place_order(request, CALLER)).order.tenders) == tenders


async def test_a_total_that_changed_is_shown_and_nothing_is_ordered(shop: Shop) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    await set_price(shop.catalog, MILK, dollars(219))
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 398, expected_total=dollars(398))
    assert await told(shop.orders.place_order(request, CALLER)) == (
        "TOTAL_CHANGED",
        {"expected_minor": "398", "total_minor": "438", "currency": "USD"},
    )
    # The refusal had no effect, so the same request is judged anew.
    await set_price(shop.catalog, MILK, dollars(199))
    assert cents((await shop.orders.place_order(request, CALLER)).order.total) == 398


async def test_the_price_of_an_order_stays_what_it_was(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 2}})
    await set_price(shop.catalog, MILK, dollars(999))
    assert (await shop.order(placed.order.order_id)).lines == placed.order.lines


async def test_a_location_must_offer_what_is_chosen(shop: Shop) -> None:
    await shop.execute("UPDATE locations SET offers_pickup = false WHERE location_id = $1", DEPOT)
    reservation_id = await shop.reserve({DEPOT: {MILK: 1}})
    refusal = await refused(shop.orders.place_order(shop.place_request(reservation_id, {DEPOT: PICKUP}, 199), CALLER))
    assert (refusal.reason, refusal.metadata()["location_id"]) == ("FULFILLMENT_NOT_OFFERED", DEPOT)
    await shop.orders.place_order(shop.place_request(reservation_id, {DEPOT: SHIP}, 199), CALLER)


@pytest.mark.parametrize(
    ("in_cart", "sku", "quantities"),
    [({MILK: 3}, MILK, (3, 2)), ({MILK: 2, BREAD: 1}, BREAD, (1, 0)), ({BREAD: 1}, BREAD, (1, 0))],
)
async def test_a_cart_that_is_not_what_is_reserved_is_not_ordered(
    shop: Shop, in_cart: dict[str, int], sku: str, quantities: tuple[int, int]
) -> None:
    cart_id = await shop.cart(in_cart)
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 398, cart_id=cart_id)
    assert await told(shop.orders.place_order(request, CALLER)) == (
        "CART_CHANGED",
        {"cart_id": cart_id, "sku": sku, "in_cart": str(quantities[0]), "reserved": str(quantities[1])},
    )
    assert await shop.fetch("SELECT state FROM carts") == [("OPEN",)]


async def test_a_cart_is_matched_over_all_locations_of_the_reservation(shop: Shop) -> None:
    cart_id = await shop.cart({MILK: 3})
    reservation_id = await shop.reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 1}})
    request = shop.place_request(reservation_id, {NORTH: PICKUP, SOUTH: PICKUP}, 597, cart_id=cart_id)
    placed = await shop.orders.place_order(request, CALLER)
    assert len(placed.pickup_codes) == 2
    assert len({code.pickup_code for code in placed.pickup_codes}) == 2


async def test_a_cart_is_ordered_once(shop: Shop) -> None:
    cart_id = await shop.cart({MILK: 1})
    first, second = [await shop.reserve({NORTH: {MILK: 1}}) for _ in range(2)]
    await shop.orders.place_order(shop.place_request(first, {NORTH: PICKUP}, 199, cart_id=cart_id), CALLER)
    request = shop.place_request(second, {NORTH: PICKUP}, 199, cart_id=cart_id)
    assert (await refused(shop.orders.place_order(request, CALLER))).reason == "CART_NOT_OPEN"


async def test_a_cart_of_another_customer_is_not_ordered(shop: Shop) -> None:
    cart_id = await shop.cart({MILK: 1}, "ada")
    reservation_id = await shop.reserve({NORTH: {MILK: 1}}, "eve")
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 199, cart_id=cart_id)
    assert (await refused(shop.orders.place_order(request, CALLER))).reason == "CART_OF_ANOTHER_CUSTOMER"


async def test_a_cart_of_another_currency_is_not_ordered_in_this_one(shop: Shop) -> None:
    cart_id = await shop.cart({MILK: 1})
    reservation_id = await shop.reserve({NORTH: {MILK: 1}})
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 199, cart_id=cart_id, currency_code="EUR")
    assert (await refused(shop.orders.place_order(request, CALLER))).reason == "CURRENCY_MISMATCH"


async def test_a_guest_becomes_the_customer_of_the_cart(shop: Shop) -> None:
    cart_id = await shop.cart({MILK: 1}, "ada")
    reservation_id = await shop.reserve({NORTH: {MILK: 1}})
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 199, cart_id=cart_id)
    assert (await shop.orders.place_order(request, CALLER)).order.customer_id == "ada"


async def test_a_sku_without_a_price_is_not_ordered(shop: Shop) -> None:
    await shop.execute("DELETE FROM prices WHERE sku = $1", MILK)
    reservation_id = await shop.reserve({NORTH: {MILK: 1}})
    refusal = await refused(shop.orders.place_order(shop.place_request(reservation_id, {NORTH: PICKUP}, 199), CALLER))
    assert (refusal.reason, refusal.metadata()) == ("PRICE_NOT_FOUND", {"sku": MILK, "currency": "USD"})


async def test_a_reservation_is_ordered_once_however_many_try(shop: Shop) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    tries = [
        shop.orders.place_order(shop.place_request(reservation_id, {NORTH: PICKUP}, 398), CALLER) for _ in range(8)
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, pb.PlaceOrderResponse) for result in results) == 1
    refusals = [result for result in results if isinstance(result, Refusal)]
    assert [(r.reason, r.metadata()["state"]) for r in refusals] == [("RESERVATION_NOT_ACTIVE", "CONFIRMED")] * 7
    assert await shop.level(NORTH, MILK) == Level(available=8, allocated=2)


async def test_a_reservation_past_its_deadline_can_not_be_ordered(shop: Shop) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    await shop.execute("UPDATE claims SET deadline = now() - interval '1 second' WHERE state = 'active'")
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 398)
    assert await told(shop.orders.place_order(request, CALLER)) == (
        "RESERVATION_NOT_ACTIVE",
        {"reservation_id": reservation_id, "state": "EXPIRED"},
    )
    await shop.sweeper.expire()
    assert await shop.atp(NORTH, MILK) == 10


async def test_a_reservation_whose_goods_were_carried_out_is_refused_whole(shop: Shop) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 8, BREAD: 1}, SOUTH: {MILK: 1}})
    await shop.sell(NORTH, {MILK: 5}, 995)
    request = shop.place_request(reservation_id, {NORTH: PICKUP, SOUTH: PICKUP}, 9 * 199 + 250)
    refusal = await refused(shop.orders.place_order(request, CALLER))
    assert isinstance(refusal, ReservationShort)
    assert refusal.reason == "RESERVATION_SHORT"
    assert [(p.location_id, p.sku, p.requested, p.available) for p in refusal.shorts] == [(NORTH, MILK, 8, 5)]
    assert await shop.level(SOUTH, MILK) == Level(available=10)
    # What comes back, or is received, makes the promise good.
    await shop.receive(NORTH, {MILK: 3})
    await shop.orders.place_order(request, CALLER)
    assert await shop.level(NORTH, MILK) == Level(allocated=8)


async def test_a_repeated_order_is_one_order_with_the_first_codes(shop: Shop) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 398)
    answers = await asyncio.gather(*(shop.orders.place_order(request, CALLER) for _ in range(5)))
    await set_price(shop.catalog, MILK, dollars(999))
    assert all(answer == answers[0] for answer in [*answers, await shop.orders.place_order(request, CALLER)])
    assert await shop.fetch("SELECT count(*) FROM orders") == [(1,)]
    request.tenders[0].reference = "another"
    assert (await refused(shop.orders.place_order(request, CALLER))).reason == "REQUEST_ID_REUSED"


async def test_a_pickup_code_is_kept_nowhere_but_in_the_answer(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 1}})
    code = placed.pickup_codes[0].pickup_code
    assert len(code) >= 6
    assert not set(code) & set("0O1IL")
    rows = await shop.fetch("SELECT f::text FROM fulfillment_orders f UNION ALL SELECT e::text FROM events e")
    assert not any(code in text for (text,) in rows)
    assert code not in str(await shop.order(placed.order.order_id))


async def test_a_shipped_order_keeps_its_address(shop: Shop) -> None:
    placed = await shop.place({DEPOT: {MILK: 1}}, SHIP)
    assert (await shop.order(placed.order.order_id)).ship_to == ADDRESS


async def test_nothing_is_said_of_an_order_that_does_not_exist(shop: Shop) -> None:
    missing = str(new_id())
    assert (await refused(shop.order(missing))).reason == "ORDER_NOT_FOUND"
    assert isinstance(await refused(shop.order("x")), InvalidRequest)
    assert (await refused(shop.cancel(missing, {1: 1}))).reason == "ORDER_NOT_FOUND"


async def test_tenders_are_asked_for_where_goods_are_free(shop: Shop) -> None:
    await set_price(shop.catalog, MILK, dollars(0))
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 0, tenders=card(1))
    assert (await refused(shop.orders.place_order(request, CALLER))).reason == "TENDERS_MISMATCH"
    free = shop.place_request(reservation_id, {NORTH: PICKUP}, 0, tenders=[], request_id=request_id())
    assert cents((await shop.orders.place_order(free, CALLER)).order.total) == 0


async def test_a_sum_that_is_no_amount_any_more_is_refused(shop: Shop) -> None:
    await set_price(shop.catalog, FUEL, dollars(10**15))
    await shop.receive(NORTH, {FUEL: 10})
    reservation_id = await shop.reserve({NORTH: {FUEL: 2}})
    request = shop.place_request(reservation_id, {NORTH: PICKUP}, 1)
    assert (await refused(shop.orders.place_order(request, CALLER))).reason == "AMOUNT_TOO_LARGE"
