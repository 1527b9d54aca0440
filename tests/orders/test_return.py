"""CreateReturn: anything sold anywhere comes back anywhere, once, for what was paid."""

from __future__ import annotations

import asyncio
import random

from onhand.domain.stock import Level
from onhand.ids import new_id
from onhand.v1 import order_pb2 as pb
from onhand.v1 import types_pb2
from shelf import request_id, set_price
from shop import BREAD, CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, cents, dollars, fulfillment_of, refused, told

AVAILABLE, DAMAGED, QUARANTINE = pb.DISPOSITION_AVAILABLE, pb.DISPOSITION_DAMAGED, pb.DISPOSITION_QUARANTINE


def _line(quantity: int, disposition: pb.Disposition.ValueType = AVAILABLE, number: int = 1) -> pb.ReturnedLine:
    return pb.ReturnedLine(line_number=number, quantity=quantity, disposition=disposition)


async def test_a_part_comes_back_elsewhere_and_too_much_does_not(shop: Shop) -> None:
    order = await shop.picked_up({NORTH: {MILK: 3}})
    returned = await shop.take_back(order.order_id, SOUTH, _line(2))
    assert (cents(returned.refund), returned.order_number, returned.location_id) == (398, order.order_number, SOUTH)
    assert await told(shop.take_back(order.order_id, NORTH, _line(2))) == (
        "RETURN_EXCEEDED",
        {
            "order_id": order.order_id,
            "line_number": "1",
            "sku": MILK,
            "requested": "2",
            "bought": "3",
            "fulfilled": "3",
            "returned": "2",
            "authorized": "0",
        },
    )
    assert cents((await shop.take_back(order.order_id, NORTH, _line(1))).refund) == 199
    assert (await shop.level(NORTH, MILK), await shop.level(SOUTH, MILK)) == (Level(available=8), Level(available=12))
    after = await shop.order(order.order_id)
    assert (cents(after.refunded), after.lines[0].returned_quantity) == (597, 3)


async def test_each_disposition_is_a_bucket(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 6}, 1194)
    await shop.take_back(order.order_id, SOUTH, _line(1), _line(2, DAMAGED), _line(3, QUARANTINE))
    assert await shop.level(SOUTH, MILK) == Level(available=11, damaged=2, quarantine=3)
    assert await shop.atp(SOUTH, MILK) == 11


async def test_what_is_not_with_the_customer_can_not_come_back(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 1}, DEPOT: {MILK: 1}}, pb.FULFILLMENT_KIND_SHIP)).order
    assert (await refused(shop.take_back(order.order_id, NORTH, _line(1)))).reason == "RETURN_EXCEEDED"
    work = fulfillment_of(order, DEPOT).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.ship):
        await step(work)
    assert (await refused(shop.take_back(order.order_id, NORTH, _line(2)))).reason == "RETURN_EXCEEDED"
    await shop.take_back(order.order_id, NORTH, _line(1))


async def test_dispositions_of_one_line_are_counted_together(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 3}, 597)
    refusal = await refused(shop.take_back(order.order_id, NORTH, _line(2), _line(2, DAMAGED)))
    assert refusal.metadata()["requested"] == "4"
    twice = await refused(shop.take_back(order.order_id, NORTH, _line(1), _line(1)))
    assert twice.reason == "INVALID_REQUEST"


async def test_refunds_of_a_line_add_up_to_what_was_paid_for_it(shop: Shop) -> None:
    request = pb.SellRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[pb.SaleLine(sku=MILK, quantity=7, total=dollars(1000))],
        currency_code="USD",
        tenders=[pb.Tender(kind=pb.TENDER_KIND_CASH, amount=dollars(1000))],
    )
    order = (await shop.orders.sell(request, CALLER)).order
    refunds = [cents((await shop.take_back(order.order_id, NORTH, _line(n))).refund) for n in (1, 3, 1, 2)]
    assert (refunds, sum(refunds)) == ([143, 428, 143, 286], 1000)


async def test_cancelled_and_returned_units_give_back_no_more_than_was_paid(shop: Shop) -> None:
    await set_price(shop.catalog, MILK, dollars(100), 3)
    reservation_id = await shop.reserve({NORTH: {MILK: 3}, DEPOT: {MILK: 4}})
    request = shop.place_request(reservation_id, dict.fromkeys((NORTH, DEPOT), pb.FULFILLMENT_KIND_SHIP), 233)
    order = (await shop.orders.place_order(request, CALLER)).order
    work = fulfillment_of(order, NORTH).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.ship):
        await step(work)
    # 33.29 a unit: the shares of 1, 2, 3, 4, 5, 6 and 7 of them are 33, 67, 100, 133, 166, 200 and 233 cents.
    assert cents((await shop.take_back(order.order_id, NORTH, _line(1))).refund) == 33
    assert cents((await shop.cancel(order.order_id, {1: 1})).refund) == 34
    assert cents((await shop.cancel(order.order_id, {1: 2})).refund) == 66
    both = await shop.take_back(order.order_id, NORTH, _line(1), _line(1, DAMAGED))
    assert [cents(line.refund) for line in both.lines] == [33, 34]
    assert cents((await shop.cancel(order.order_id, {1: 1})).refund) == 33
    after = await shop.order(order.order_id)
    assert cents(after.refunded) == cents(after.total) == 233


async def test_a_store_that_never_had_an_item_takes_it_back(shop: Shop) -> None:
    await shop.add_location("new")
    order = await shop.sell(NORTH, {BREAD: 1}, 250)
    await shop.take_back(order.order_id, "new", _line(1))
    assert (await shop.level("new", BREAD), await shop.atp("new", BREAD)) == (Level(available=1), 1)


async def test_a_return_of_nothing_that_was_sold_is_refused(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    cases = {
        "ORDER_NOT_FOUND": shop.take_back(str(new_id()), NORTH, _line(1)),
        "INVALID_REQUEST": shop.take_back("nonsense", NORTH, _line(1)),
        "ORDER_LINE_NOT_FOUND": shop.take_back(order.order_id, NORTH, _line(1, number=2)),
        "LOCATION_NOT_FOUND": shop.take_back(order.order_id, "nowhere", _line(1)),
    }
    for reason, case in cases.items():
        assert (await refused(case)).reason == reason
    unsaid = shop.take_back(order.order_id, NORTH, pb.ReturnedLine(line_number=1, quantity=1))
    assert (await refused(unsaid)).reason == "INVALID_REQUEST"
    no_channel = pb.CreateReturnRequest(
        request_id=request_id(), order_id=order.order_id, location_id=NORTH, lines=[_line(1)]
    )
    assert (await refused(shop.orders.create_return(no_channel, CALLER))).reason == "INVALID_REQUEST"


async def test_units_come_back_once_however_many_bring_them(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 4}, 796)
    places = random.Random(7).choices([NORTH, SOUTH, DEPOT], k=10)
    results = await asyncio.gather(
        *(shop.take_back(order.order_id, place, _line(1)) for place in places), return_exceptions=True
    )
    assert sum(isinstance(result, pb.Return) for result in results) == 4
    assert {getattr(r, "reason", r) for r in results if isinstance(r, BaseException)} == {"RETURN_EXCEEDED"}
    assert (await shop.order(order.order_id)).lines[0].returned_quantity == 4


async def test_a_repeated_return_is_one_return(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    request = pb.CreateReturnRequest(
        request_id=request_id(),
        order_id=order.order_id,
        location_id=SOUTH,
        channel=types_pb2.CHANNEL_POS,
        lines=[_line(1)],
    )
    first, again = [await shop.orders.create_return(request, CALLER) for _ in range(2)]
    assert first == again
    assert await shop.level(SOUTH, MILK) == Level(available=11)
    request.lines[0].quantity = 2
    assert (await refused(shop.orders.create_return(request, CALLER))).reason == "REQUEST_ID_REUSED"
    read = await shop.orders.get_return(pb.GetReturnRequest(return_id=first.returned.return_id), CALLER)
    assert read.returned == first.returned
    assert (await refused(shop.orders.get_return(pb.GetReturnRequest(return_id=str(new_id())), CALLER))).reason == (
        "RETURN_NOT_FOUND"
    )
