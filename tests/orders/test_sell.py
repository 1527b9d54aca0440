"""Sell: possession wins, and the books say what happened."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onhand.dev.valkey import EmbeddedValkey
from onhand.domain.stock import Level
from onhand.v1 import order_pb2 as pb
from onhand.v1 import types_pb2
from onhand.wire import timestamp
from shelf import request_id, set_price
from shop import (
    BREAD,
    CALLER,
    FUEL,
    MILK,
    MILK_BARCODE,
    NORTH,
    SOUTH,
    Shop,
    card,
    cents,
    dollars,
    open_shop,
    refused,
)


def _sale(total: int, *lines: pb.SaleLine, **fields: Any) -> pb.SellRequest:
    return pb.SellRequest(
        **{
            "request_id": request_id(),
            "location_id": NORTH,
            "lines": lines,
            "currency_code": "USD",
            "tenders": card(total) if total else [],
            **fields,
        }
    )


async def test_a_scanned_item_is_sold_and_gone(shop: Shop) -> None:
    request = _sale(
        648, pb.SaleLine(barcode=MILK_BARCODE, quantity=2), pb.SaleLine(sku=BREAD, quantity=1), customer_id="ada"
    )
    order = (await shop.orders.sell(request, CALLER)).order
    assert (order.state, order.channel, order.customer_id) == (pb.ORDER_STATE_COMPLETED, types_pb2.CHANNEL_POS, "ada")
    assert [(n.sku, n.quantity, n.fulfilled_quantity) for n in order.lines] == [(MILK, 2, 2), (BREAD, 1, 1)]
    (work,) = order.fulfillment_orders
    assert (work.kind, work.state) == (pb.FULFILLMENT_KIND_CARRY_OUT, pb.FULFILLMENT_STATE_PICKED_UP)
    assert await shop.level(NORTH, MILK) == Level(available=8)
    assert await shop.atp(NORTH, MILK) == 8
    assert await shop.fetch("SELECT count(*) FROM count_tasks UNION ALL SELECT count(*) FROM shortages") == [(0,), (0,)]


async def test_an_item_that_is_scanned_twice_is_two_lines_and_one_movement(shop: Shop) -> None:
    line = pb.SaleLine(barcode=MILK_BARCODE, quantity=1)
    order = (await shop.orders.sell(_sale(398, line, line), CALLER)).order
    assert [(n.line_number, n.sku, n.quantity) for n in order.lines] == [(1, MILK, 1), (2, MILK, 1)]
    assert await shop.fetch("SELECT quantity FROM stock_movements WHERE reason_code = 'SALE'") == [(2,)]


async def test_a_sale_beyond_the_stock_is_recorded_and_a_count_asked_for_once(shop: Shop) -> None:
    for sold in (12, 1):
        await shop.sell(NORTH, {MILK: sold}, sold * 199)
    assert await shop.level(NORTH, MILK) == Level()
    assert await shop.atp(NORTH, MILK) == 0
    movements = await shop.fetch(
        "SELECT from_bucket, to_bucket, quantity FROM stock_movements WHERE reason_code <> 'RECEIPT' AND sku = $1"
        " ORDER BY movement_id",
        MILK,
    )
    assert movements == [
        ("adjustment", "available", 2),
        ("available", "customer", 12),
        ("adjustment", "available", 1),
        ("available", "customer", 1),
    ]
    assert await shop.fetch("SELECT location_id, sku, state FROM count_tasks") == [(NORTH, MILK, "OPEN")]
    # Nobody was promised these units.
    assert await shop.fetch("SELECT count(*) FROM shortages") == [(0,)]
    assert await shop.events("onhand.stock") == [("onhand.stock.shortage.v1", NORTH)] * 2
    await shop.receive(NORTH, {MILK: 3})
    assert await shop.atp(NORTH, MILK) == 3


async def test_a_sale_of_reserved_units_says_which_promises_broke(shop: Shop) -> None:
    await shop.reserve({NORTH: {MILK: 9}})
    order = await shop.sell(NORTH, {MILK: 4}, 796)
    assert await shop.level(NORTH, MILK) == Level(available=6)
    assert await shop.fetch("SELECT location_id, sku, quantity, reference_document FROM shortages") == [
        (NORTH, MILK, 3, f"order/{order.order_id}")
    ]
    assert await shop.fetch("SELECT sku FROM count_tasks") == [(MILK,)]


async def test_a_sale_of_units_that_wait_for_a_customer_says_so(shop: Shop) -> None:
    await shop.place({NORTH: {MILK: 10}})
    await shop.sell(NORTH, {MILK: 1}, 199)
    # One of ten is not there any more, as far as anybody knows.
    assert await shop.level(NORTH, MILK) == Level(allocated=9)
    assert await shop.fetch("SELECT quantity FROM shortages") == [(1,)]
    assert await shop.fetch("SELECT open_quantity, next_step FROM shortfalls") == [(1, "COUNT")]


async def test_what_a_store_never_had_can_be_sold_there(shop: Shop) -> None:
    await shop.sell(NORTH, {FUEL: 3785}, 263)
    assert await shop.level(NORTH, FUEL) == Level()


async def test_many_tills_sell_the_same_item_at_once(shop: Shop) -> None:
    await asyncio.gather(*(shop.sell(NORTH, {MILK: 1, BREAD: 1}, 449) for _ in range(15)))
    assert await shop.level(NORTH, MILK) == Level()
    assert await shop.fetch(
        "SELECT sum(quantity)::int8 FROM stock_movements WHERE reason_code = 'SALE' AND sku = $1", MILK
    ) == [(15,)]


async def test_what_the_till_charged_stands_whatever_the_catalog_says(shop: Shop) -> None:
    await set_price(shop.catalog, MILK, dollars(999))
    request = _sale(500, pb.SaleLine(sku=MILK, quantity=3, total=dollars(500)))
    (line,) = (await shop.orders.sell(request, CALLER)).order.lines
    assert (cents(line.total), cents(line.price), line.price_quantity) == (500, 500, 3)


async def test_a_sale_that_comes_late_happened_when_it_happened(shop: Shop) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    request = _sale(199, pb.SaleLine(sku=MILK, quantity=1), occurred_time=timestamp(yesterday))
    order = (await shop.orders.sell(request, CALLER)).order
    assert order.placed_time == timestamp(yesterday)
    assert order.created_time.ToDatetime(UTC) > yesterday
    assert await shop.fetch("SELECT occurred_time FROM stock_movements WHERE reason_code = 'SALE'") == [(yesterday,)]


async def test_a_till_whose_clock_is_ahead_sells_now(shop: Shop) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    request = _sale(199, pb.SaleLine(sku=MILK, quantity=1), occurred_time=timestamp(tomorrow))
    order = (await shop.orders.sell(request, CALLER)).order
    assert order.placed_time == order.created_time
    assert await shop.fetch(
        "SELECT occurred_time <= recorded_time FROM stock_movements WHERE reason_code = 'SALE'"
    ) == [(True,)]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (_sale(199, pb.SaleLine(sku=MILK, quantity=1), location_id="nowhere"), "LOCATION_NOT_FOUND"),
        (_sale(199, pb.SaleLine(sku="caviar", quantity=1)), "SKU_NOT_FOUND"),
        (_sale(199, pb.SaleLine(sku="caviar", quantity=1, total=dollars(199))), "SKU_NOT_FOUND"),
        (_sale(199, pb.SaleLine(barcode="00000000000017", quantity=1)), "BARCODE_NOT_FOUND"),
        (_sale(199, pb.SaleLine(barcode="00000000000018", quantity=1)), "BARCODE_INVALID"),
        (_sale(199, pb.SaleLine(quantity=1)), "INVALID_REQUEST"),
        (_sale(200, pb.SaleLine(sku=MILK, quantity=1)), "TENDERS_MISMATCH"),
        (_sale(199, pb.SaleLine(sku=MILK, quantity=1), currency_code="EUR"), "PRICE_NOT_FOUND"),
        (_sale(199, pb.SaleLine(sku=MILK, quantity=1), currency_code="XXX"), "CURRENCY_UNKNOWN"),
        (
            _sale(199, pb.SaleLine(sku=MILK, quantity=1, total={"currency_code": "EUR", "units": 2})),
            "CURRENCY_MISMATCH",
        ),
    ],
)
async def test_a_sale_that_is_no_sale_changes_nothing(shop: Shop, request_: pb.SellRequest, reason: str) -> None:
    assert (await refused(shop.orders.sell(request_, CALLER))).reason == reason
    await shop.relay.close()  # claims that were given back
    assert await shop.level(NORTH, MILK) == Level(available=10)
    assert await shop.atp(NORTH, MILK) == 10


async def test_a_repeated_sale_is_one_sale(shop: Shop) -> None:
    request = _sale(199, pb.SaleLine(barcode=MILK_BARCODE, quantity=1))
    first = await shop.orders.sell(request, CALLER)
    await shop.execute("DELETE FROM barcodes")
    await set_price(shop.catalog, MILK, dollars(999))
    assert await shop.orders.sell(request, CALLER) == first
    assert await shop.level(NORTH, MILK) == Level(available=9)
    request.lines[0].quantity = 2
    assert (await refused(shop.orders.sell(request, CALLER))).reason == "REQUEST_ID_REUSED"


async def test_a_store_sells_hands_over_and_takes_back_while_the_gate_is_down(
    database_dsn: str, private_redis: EmbeddedValkey
) -> None:
    async with open_shop(database_dsn, private_redis.url) as shop:
        work, code = await shop.ready({NORTH: {MILK: 2}})
        private_redis.kill()
        order = await shop.sell(NORTH, {MILK: 3}, 597)
        assert (await shop.hand_over(work, code)).state == pb.FULFILLMENT_STATE_PICKED_UP
        await shop.take_back(
            order.order_id, SOUTH, pb.ReturnedLine(line_number=1, quantity=1, disposition=pb.DISPOSITION_AVAILABLE)
        )
        assert await shop.level(NORTH, MILK) == Level(available=5)
        assert await shop.level(SOUTH, MILK) == Level(available=11)
        assert (await shop.atp(NORTH, MILK), await shop.atp(SOUTH, MILK)) == (5, 11)
        private_redis.start()
