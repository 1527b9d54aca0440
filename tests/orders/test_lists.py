"""Lists of orders, of work and of returns: filters, order, pages."""

from __future__ import annotations

from onhand.orders import codes
from onhand.v1 import order_pb2 as pb
from onhand.v1 import types_pb2
from shop import BREAD, CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, refused

SHIP = pb.FULFILLMENT_KIND_SHIP


async def _orders(shop: Shop, **filters: object) -> list[str]:
    response = await shop.orders.list_orders(pb.ListOrdersRequest(**filters), CALLER)  # type: ignore[arg-type]
    return [order.order_id for order in response.orders]


async def test_orders_are_found_by_customer_location_state_and_number(shop: Shop) -> None:
    ada = (await shop.place({NORTH: {MILK: 1}}, customer_id="ada")).order
    split = (await shop.place({NORTH: {MILK: 1}, DEPOT: {BREAD: 1}}, SHIP, "bob")).order
    sale = await shop.sell(SOUTH, {MILK: 1}, 199)
    await shop.cancel(ada.order_id, {1: 1})
    every = [sale.order_id, split.order_id, ada.order_id]
    assert await _orders(shop) == every
    assert await _orders(shop, customer_id="ada") == [ada.order_id]
    assert await _orders(shop, location_id=NORTH) == [split.order_id, ada.order_id]
    assert await _orders(shop, location_id=SOUTH) == [sale.order_id]
    assert await _orders(shop, state=pb.ORDER_STATE_OPEN) == [split.order_id]
    assert await _orders(shop, state=pb.ORDER_STATE_CANCELLED, customer_id="ada") == [ada.order_id]
    assert await _orders(shop, state=pb.ORDER_STATE_CANCELLED, customer_id="bob") == []
    said = split.order_number.lower().replace("-", " ")
    assert await _orders(shop, order_number=said) == [split.order_id]
    assert (await refused(_orders(shop, state=77))).reason == "INVALID_REQUEST"


async def test_a_list_of_orders_goes_on_page_by_page(shop: Shop) -> None:
    made = [(await shop.sell(NORTH, {MILK: 1}, 199)).order_id for _ in range(5)]
    request = pb.ListOrdersRequest(location_id=NORTH, page_size=2)
    seen: list[str] = []
    while True:
        page = await shop.orders.list_orders(request, CALLER)
        seen += [order.order_id for order in page.orders]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == made[::-1]
    other = pb.ListOrdersRequest(location_id=SOUTH, page_token=request.page_token)
    assert (await refused(shop.orders.list_orders(other, CALLER))).reason == "PAGE_TOKEN_INVALID"
    negative = pb.ListOrdersRequest(page_size=-1)
    assert (await refused(shop.orders.list_orders(negative, CALLER))).reason == "INVALID_REQUEST"


async def _work(shop: Shop, **filters: object) -> list[str]:
    request = pb.ListFulfillmentOrdersRequest(**{"location_id": NORTH, **filters})  # type: ignore[arg-type]
    response = await shop.orders.list_fulfillment_orders(request, CALLER)
    return [f.fulfillment_order_id for f in response.fulfillment_orders]


async def test_a_store_sees_what_it_has_to_do_oldest_first(shop: Shop) -> None:
    first, second, third = [
        (await shop.place({NORTH: {MILK: 1}}, kind)).order.fulfillment_orders[0].fulfillment_order_id
        for kind in (pb.FULFILLMENT_KIND_PICKUP, SHIP, SHIP)
    ]
    await shop.place({SOUTH: {MILK: 1}})
    await shop.sell(NORTH, {MILK: 1}, 199)
    await shop.accept(second)
    assert await _work(shop) == [first, second, third]
    assert await _work(shop, kind=SHIP) == [second, third]
    assert await _work(shop, states=[pb.FULFILLMENT_STATE_ACCEPTED]) == [second]
    await shop.pick(second)
    await shop.ship(second)
    assert await _work(shop) == [first, third]
    assert await _work(shop, states=[pb.FULFILLMENT_STATE_SHIPPED, pb.FULFILLMENT_STATE_REQUESTED]) == [
        first,
        second,
        third,
    ]
    page = pb.ListFulfillmentOrdersRequest(location_id=NORTH, page_size=1)
    answer = await shop.orders.list_fulfillment_orders(page, CALLER)
    page.page_token = answer.next_page_token
    answer = await shop.orders.list_fulfillment_orders(page, CALLER)
    assert ([f.fulfillment_order_id for f in answer.fulfillment_orders], answer.next_page_token) == ([third], "")
    assert (await refused(_work(shop, location_id="nowhere"))).reason == "LOCATION_NOT_FOUND"
    assert (await refused(_work(shop, states=[0]))).reason == "INVALID_REQUEST"
    assert await _work(shop, location_id=DEPOT) == []


async def test_the_queue_of_a_store_is_read_from_its_own_index(shop: Shop) -> None:
    async with shop.database.connection() as connection:
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT f.fulfillment_order_id FROM fulfillment_orders f WHERE f.location_id = $1 AND f.state IN"
            " ('REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP') ORDER BY f.fulfillment_order_id LIMIT 51",
            NORTH,
        )
        await connection.execute("RESET ALL")
    assert "fulfillment_orders_queue" in "\n".join(row[0] for row in plan)


async def test_returns_are_found_by_order_location_and_customer(shop: Shop) -> None:
    line = pb.ReturnedLine(line_number=1, quantity=1, disposition=pb.DISPOSITION_DAMAGED, reason="sour")
    sale = await shop.sell(NORTH, {MILK: 3}, 597)
    first = (await shop.take_back(sale.order_id, NORTH, line)).return_id
    second = (await shop.take_back(sale.order_id, SOUTH, line)).return_id

    async def found(**filters: object) -> list[str]:
        response = await shop.orders.list_returns(pb.ListReturnsRequest(**filters), CALLER)  # type: ignore[arg-type]
        return [r.return_id for r in response.returns]

    assert await found() == [second, first]
    assert await found(order_id=sale.order_id) == [second, first]
    assert await found(location_id=SOUTH) == [second]
    assert await found(customer_id="nobody") == []
    page = await shop.orders.list_returns(pb.ListReturnsRequest(page_size=1), CALLER)
    assert await found(page_size=1, page_token=page.next_page_token) == [first]
    (only,) = page.returns[0].lines
    assert (only.reason, only.disposition, page.returns[0].channel) == (
        "sour",
        pb.DISPOSITION_DAMAGED,
        types_pb2.CHANNEL_POS,
    )


def test_codes_are_read_as_people_write_them() -> None:
    number = codes.new_order_number()
    assert codes.order_number(number.lower().replace("-", " ")) == number
    assert codes.plain(" k7qf-3m9d ") == "K7QF3M9D"
    assert len({codes.new_order_number() for _ in range(100)}) == 100
