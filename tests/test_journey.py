"""The whole journey over gRPC: from looking at what is there to bringing it back, with the stock's figures at each step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.type.latlng_pb2 import LatLng

from api import (
    APP,
    BREAD,
    BREAD_CENTS,
    DEPOT,
    MILK,
    MILK_BARCODE,
    MILK_CENTS,
    NORTH,
    POS,
    SOUTH,
    WEB,
    Api,
    Code,
    card,
    cents,
    dollars,
    eventually,
    fulfillment_of,
    lines,
    opened,
    place,
    refused,
    request_id,
)
from onhand.v1 import cart_pb2 as carts
from onhand.v1 import inventory_pb2 as inventory
from onhand.v1 import order_pb2 as pb

PICKUP, SHIP = pb.FULFILLMENT_KIND_PICKUP, pb.FULFILLMENT_KIND_SHIP
ADDRESS = pb.Address(recipient="Ada", lines=["1 Main St"], locality="Springfield", region_code="US")


@pytest.fixture
async def api(database_dsn: str, redis_url: str) -> AsyncIterator[Api]:
    """Ten of milk and of bread at two stores and a warehouse; every invariant is checked at the end."""
    async with opened(database_dsn, redis_url) as api:
        yield api


async def holds(
    api: Api, location_id: str, sku: str, *, reserved: int = 0, atp: int | None = None, **buckets: int
) -> None:
    """A position has exactly these figures (buckets not named are empty), and so do its movements and its promise."""
    position = await api.position(location_id, sku)
    level = tuple(buckets.get(name, 0) for name in ("available", "allocated", "damaged", "quarantine"))
    assert (position.available, position.allocated, position.damaged, position.quarantine) == level
    assert position.on_hand == sum(level)
    assert position.reserved == reserved
    assert await api.sums(location_id, sku) == level
    expected = level[0] - reserved if atp is None else atp
    assert await api.atp(location_id, sku) == await api.atp(location_id, sku, POS) == expected


async def step(api: Api, name: str, fulfillment_order_id: str, **fields: Any) -> pb.FulfillmentOrder:
    """One step of a location's work, by its rpc."""
    request = getattr(pb, f"{name}Request")(
        **{"request_id": request_id()} | fields, fulfillment_order_id=fulfillment_order_id
    )
    answer = await getattr(api.orders, name)(request)
    assert await getattr(api.orders, name)(request) == answer  # a repeat gets the first answer
    return answer.fulfillment_order


def hand_over(api: Api, fulfillment_order_id: str, code: str, request: str = "") -> Any:
    return api.orders.HandOverFulfillmentOrder(
        pb.HandOverFulfillmentOrderRequest(
            request_id=request or request_id(), fulfillment_order_id=fulfillment_order_id, pickup_code=code
        )
    )


async def order_of(api: Api, order_id: str) -> pb.Order:
    return (await api.orders.GetOrder(pb.GetOrderRequest(order_id=order_id))).order


async def queue(api: Api, location_id: str) -> list[str]:
    listed = await api.orders.ListFulfillmentOrders(pb.ListFulfillmentOrdersRequest(location_id=location_id))
    return [f.fulfillment_order_id for f in listed.fulfillment_orders]


async def ready(api: Api, placed: pb.PlaceOrderResponse) -> tuple[str, str]:
    """A pickup that waits for its customer, and its code."""
    (code,) = placed.pickup_codes
    for name in ("AcceptFulfillmentOrder", "PickFulfillmentOrder", "MarkReadyForPickup"):
        await step(api, name, code.fulfillment_order_id)
    return code.fulfillment_order_id, code.pickup_code


def returned(line_number: int, quantity: int, disposition: int) -> pb.ReturnedLine:
    return pb.ReturnedLine(
        line_number=line_number, quantity=quantity, disposition=disposition, reason="changed my mind"
    )


async def take_back(api: Api, order_id: str, location_id: str, *what: pb.ReturnedLine) -> pb.Return:
    request = pb.CreateReturnRequest(
        request_id=request_id(), order_id=order_id, location_id=location_id, channel=POS, lines=what
    )
    answer = await api.orders.CreateReturn(request)
    assert await api.orders.CreateReturn(request) == answer
    return answer.returned


async def test_a_basket_from_the_web_is_picked_up_and_comes_back_at_another_store(api: Api) -> None:
    # Browse: the nearest store that has it all.
    basket = {MILK: 3, BREAD: 2}
    near = await api.inventory.FindStores(
        inventory.FindStoresRequest(
            channel=WEB, position=LatLng(latitude=47.4, longitude=8.5), lines=lines(basket), complete_only=True
        )
    )
    assert [store.location_id for store in near.stores] == [NORTH]

    # A cart is made on the web, and the same cart is seen and changed in the app.
    made = await api.carts.CreateCart(
        carts.CreateCartRequest(request_id=request_id(), channel=WEB, currency_code="USD", customer_id="ada")
    )
    cart_id = made.cart.cart_id
    for sku, quantity in ((MILK, 3), (BREAD, 1)):
        await api.carts.AddCartLine(
            carts.AddCartLineRequest(request_id=request_id(), cart_id=cart_id, line=lines({sku: quantity})[0])
        )
    seen = (await api.carts.GetCustomerCart(carts.GetCustomerCartRequest(customer_id="ada"))).cart
    assert (seen.cart_id, seen.channel, cents(seen.total)) == (cart_id, WEB, 3 * MILK_CENTS + BREAD_CENTS)
    again = await api.carts.CreateCart(
        carts.CreateCartRequest(request_id=request_id(), channel=APP, currency_code="USD", customer_id="ada")
    )
    assert (again.cart.cart_id, again.is_existing) == (cart_id, True)
    in_app = await api.carts.SetCartLine(
        carts.SetCartLineRequest(request_id=request_id(), cart_id=cart_id, sku=BREAD, quantity=2, etag=seen.etag)
    )
    total = 3 * MILK_CENTS + 2 * BREAD_CENTS
    assert cents(in_app.cart.total) == total
    assert [(line.sku, line.quantity) for line in in_app.cart.lines] == [(MILK, 3), (BREAD, 2)]
    await holds(api, NORTH, MILK, available=10)  # a cart holds nothing

    # Reserved in the app for pickup; others see less at once.
    reservation = await api.reserve({NORTH: basket}, channel=APP, customer_id="ada", ttl_seconds=600)
    await holds(api, NORTH, MILK, available=10, reserved=3)
    await holds(api, NORTH, BREAD, available=10, reserved=2)
    await refused(api.reserve({NORTH: {MILK: 8}}), Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", available=7)

    # Ordered. The same request again is the same order.
    order_request = pb.PlaceOrderRequest(
        request_id=request_id(),
        reservation_id=reservation.reservation_id,
        cart_id=cart_id,
        fulfillments=[pb.FulfillmentChoice(location_id=NORTH, kind=PICKUP)],
        expected_total=dollars(total),
        tenders=card(total),
    )
    placed = await api.orders.PlaceOrder(order_request)
    assert await api.orders.PlaceOrder(order_request) == placed
    order = placed.order
    assert (order.customer_id, order.channel, order.state) == ("ada", APP, pb.ORDER_STATE_OPEN)
    assert (order.cart_id, order.reservation_id, cents(order.total)) == (cart_id, reservation.reservation_id, total)
    await holds(api, NORTH, MILK, available=7, allocated=3)
    await holds(api, NORTH, BREAD, available=8, allocated=2)
    cart = (await api.carts.GetCart(carts.GetCartRequest(cart_id=cart_id))).cart
    assert (cart.state, cart.order_id) == (carts.CART_STATE_ORDERED, order.order_id)
    get = inventory.GetReservationRequest(reservation_id=reservation.reservation_id)
    confirmed = (await api.inventory.GetReservation(get)).reservation
    assert (confirmed.state, confirmed.order_id) == (inventory.RESERVATION_STATE_CONFIRMED, order.order_id)
    call = api.release(reservation.reservation_id)
    await refused(call, Code.FAILED_PRECONDITION, "RESERVATION_NOT_ACTIVE", state="CONFIRMED")

    # The store's work, in its order and no other.
    work = fulfillment_of(order, NORTH)
    assert await queue(api, NORTH) == [work.fulfillment_order_id]
    await refused(
        step(api, "PickFulfillmentOrder", work.fulfillment_order_id),
        Code.FAILED_PRECONDITION,
        "ILLEGAL_TRANSITION",
        state="REQUESTED",
    )
    for name, state in (
        ("AcceptFulfillmentOrder", pb.FULFILLMENT_STATE_ACCEPTED),
        ("PickFulfillmentOrder", pb.FULFILLMENT_STATE_PICKED),
        ("MarkReadyForPickup", pb.FULFILLMENT_STATE_READY_FOR_PICKUP),
    ):
        assert (await step(api, name, work.fulfillment_order_id)).state == state
        await holds(api, NORTH, MILK, available=7, allocated=3)

    # Handed over against the code only.
    (code,) = placed.pickup_codes
    assert code.fulfillment_order_id == work.fulfillment_order_id
    wrong_request = request_id()
    for _ in range(2):  # the repeat of a wrong attempt is not another one
        await refused(
            hand_over(api, work.fulfillment_order_id, "AAAA", wrong_request),
            Code.FAILED_PRECONDITION,
            "PICKUP_CODE_WRONG",
            attempts_left=4,
        )
    await holds(api, NORTH, MILK, available=7, allocated=3)
    right = request_id()
    gone = await hand_over(
        api, work.fulfillment_order_id, f" {code.pickup_code.lower()[:4]}-{code.pickup_code[4:]}", right
    )
    assert gone.fulfillment_order.state == pb.FULFILLMENT_STATE_PICKED_UP
    await holds(api, NORTH, MILK, available=7)
    await holds(api, NORTH, BREAD, available=8)
    assert await queue(api, NORTH) == []
    assert (await order_of(api, order.order_id)).state == pb.ORDER_STATE_COMPLETED

    # Returned at another store: one as new, one broken, one to be looked at.
    back = await take_back(
        api,
        order.order_id,
        SOUTH,
        returned(1, 1, pb.DISPOSITION_AVAILABLE),
        returned(1, 1, pb.DISPOSITION_DAMAGED),
        returned(2, 1, pb.DISPOSITION_QUARANTINE),
    )
    assert cents(back.refund) == 2 * MILK_CENTS + BREAD_CENTS
    await holds(api, SOUTH, MILK, available=11, damaged=1)
    await holds(api, SOUTH, BREAD, available=10, quarantine=1)
    await holds(api, NORTH, MILK, available=7)
    for quantity, reason in ((2, "RETURN_EXCEEDED"), (1_000_000_000, "RETURN_EXCEEDED")):
        call = take_back(api, order.order_id, NORTH, returned(1, quantity, pb.DISPOSITION_AVAILABLE))
        await refused(call, Code.FAILED_PRECONDITION, reason, bought=3, fulfilled=3, returned=2)
    call = take_back(api, order.order_id, "nowhere", returned(1, 1, pb.DISPOSITION_AVAILABLE))
    await refused(call, Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="nowhere")
    last = await take_back(
        api,
        order.order_id,
        NORTH,
        returned(1, 1, pb.DISPOSITION_AVAILABLE),
        returned(2, 1, pb.DISPOSITION_AVAILABLE),
    )
    assert cents(back.refund) + cents(last.refund) == total
    await holds(api, NORTH, MILK, available=8)
    found = await api.orders.ListReturns(pb.ListReturnsRequest(customer_id="ada"))
    assert [r.return_id for r in found.returns] == [last.return_id, back.return_id]
    assert cents((await order_of(api, order.order_id)).refunded) == total


async def test_an_order_is_shipped_from_the_warehouse_and_a_store(api: Api) -> None:
    placed = await place(api, {DEPOT: {MILK: 10}, SOUTH: {MILK: 2, BREAD: 1}}, SHIP, ship_to=ADDRESS)
    assert list(placed.pickup_codes) == []
    total = 12 * MILK_CENTS + BREAD_CENTS
    assert cents(placed.order.total) == total
    assert [(line.sku, line.quantity) for line in placed.order.lines] == [(BREAD, 1), (MILK, 12)]
    await holds(api, DEPOT, MILK, allocated=10)
    await holds(api, SOUTH, MILK, available=8, allocated=2)

    for location_id, state in ((DEPOT, pb.ORDER_STATE_OPEN), (SOUTH, pb.ORDER_STATE_COMPLETED)):
        work = fulfillment_of(placed.order, location_id).fulfillment_order_id
        for name in ("AcceptFulfillmentOrder", "PickFulfillmentOrder"):
            await step(api, name, work)
        parcel = {"carrier": "UPS", "tracking_reference": f"1Z-{location_id}"}
        shipped = await step(api, "ShipFulfillmentOrder", work, **parcel)
        assert shipped.state == pb.FULFILLMENT_STATE_SHIPPED
        assert [s.tracking_reference for s in shipped.shipments] == [f"1Z-{location_id}"]
        delivered = await step(api, "DeliverFulfillmentOrder", work)
        assert delivered.shipments[0].delivered_time.seconds
        assert (await order_of(api, placed.order.order_id)).state == state

    await holds(api, DEPOT, MILK)
    await holds(api, SOUTH, MILK, available=8)
    back = await take_back(api, placed.order.order_id, NORTH, returned(2, 12, pb.DISPOSITION_AVAILABLE))
    assert cents(back.refund) == 12 * MILK_CENTS
    await holds(api, NORTH, MILK, available=22)
    assert placed.order.ship_to == ADDRESS


def sale(location_id: str, sold: list[pb.SaleLine], total: int, **fields: Any) -> pb.SellRequest:
    return pb.SellRequest(
        **{"request_id": request_id(), "currency_code": "USD", "tenders": card(total)} | fields,
        location_id=location_id,
        lines=sold,
    )


async def test_goods_in_the_hand_are_sold_beyond_stock_and_what_broke_is_shown(api: Api) -> None:
    held = await api.reserve({NORTH: {MILK: 9}})
    request = sale(
        NORTH, [pb.SaleLine(barcode=MILK_BARCODE, quantity=12), pb.SaleLine(sku=BREAD, quantity=1)], 12 * 199 + 250
    )

    sold = await api.orders.Sell(request)

    assert await api.orders.Sell(request) == sold
    assert (sold.order.state, sold.order.channel) == (pb.ORDER_STATE_COMPLETED, POS)
    assert [(line.sku, line.fulfilled_quantity) for line in sold.order.lines] == [(MILK, 12), (BREAD, 1)]
    # Ten were known, two are found; the nine reserved ones are broken until somebody mends it.
    await holds(api, NORTH, MILK, reserved=9, atp=0)
    await holds(api, NORTH, BREAD, available=9)
    newest = (await api.movements(NORTH, MILK))[:2]
    assert [(m.reason_code, m.quantity, m.channel) for m in newest] == [("SALE", 12, POS), ("FOUND_AT_SALE", 2, POS)]
    tasks = await api.inventory.ListCountTasks(inventory.ListCountTasksRequest(location_id=NORTH))
    assert [(task.sku, task.reference_document) for task in tasks.count_tasks] == [
        (MILK, f"order/{sold.order.order_id}")
    ]
    assert await api.fetch("SELECT sku, quantity FROM shortages") == [(MILK, 9)]

    # The reservation stays as it is, and cannot become an order.
    call = api.orders.PlaceOrder(
        pb.PlaceOrderRequest(
            request_id=request_id(),
            reservation_id=held.reservation_id,
            currency_code="USD",
            fulfillments=[pb.FulfillmentChoice(location_id=NORTH, kind=PICKUP)],
            tenders=card(9 * MILK_CENTS),
        )
    )
    await refused(call, Code.FAILED_PRECONDITION, "RESERVATION_SHORT", sku=MILK, requested=9, available=0)
    await api.release(held.reservation_id)
    await holds(api, NORTH, MILK)
    await api.count(NORTH, {MILK: 1})
    await holds(api, NORTH, MILK, available=1)
    empty = await api.inventory.ListCountTasks(inventory.ListCountTasksRequest(location_id=NORTH))
    assert list(empty.count_tasks) == []


async def test_a_sale_is_refused_only_for_what_can_be_no_sale(api: Api) -> None:
    one = [pb.SaleLine(sku=MILK, quantity=1)]
    for request, code, reason in (
        (sale("nowhere", one, 199), Code.NOT_FOUND, "LOCATION_NOT_FOUND"),
        (sale(NORTH, [pb.SaleLine(sku="unknown", quantity=1)], 199), Code.NOT_FOUND, "SKU_NOT_FOUND"),
        (sale(NORTH, [pb.SaleLine(barcode="4006381333948", quantity=1)], 1), Code.NOT_FOUND, "BARCODE_NOT_FOUND"),
        (sale(NORTH, one, 198), Code.FAILED_PRECONDITION, "TENDERS_MISMATCH"),
        (sale(NORTH, one, 199, currency_code="EUR"), Code.FAILED_PRECONDITION, "PRICE_NOT_FOUND"),
        (sale(NORTH, [pb.SaleLine(quantity=1)], 1), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (sale(NORTH, [], 1), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (sale(NORTH, [pb.SaleLine(sku=MILK, quantity=0)], 1), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ):
        await refused(api.orders.Sell(request), code, reason)
    await eventually(lambda: api.atp(NORTH, MILK), 10)
    await holds(api, NORTH, MILK, available=10)
    assert await api.fetch("SELECT count(*) FROM orders") == [(0,)]


async def test_some_lines_are_cancelled_and_the_rest_is_picked_up(api: Api) -> None:
    placed = await place(api, {NORTH: {MILK: 5, BREAD: 3}})
    numbers = {line.sku: line.line_number for line in placed.order.lines}

    def cancel(**quantities: int) -> Any:
        return api.orders.CancelOrderLines(
            pb.CancelOrderLinesRequest(
                request_id=request_id(),
                order_id=placed.order.order_id,
                lines=[pb.CancelLine(line_number=numbers[sku], quantity=n) for sku, n in quantities.items()],
            )
        )

    cancelled = await cancel(milk=2, bread=3)
    assert cents(cancelled.refund) == 2 * MILK_CENTS + 3 * BREAD_CENTS
    assert cancelled.order.state == pb.ORDER_STATE_OPEN
    await holds(api, NORTH, MILK, available=7, allocated=3)
    await holds(api, NORTH, BREAD, available=10)
    await refused(cancel(milk=4), Code.FAILED_PRECONDITION, "CANCEL_EXCEEDED", requested=4, cancellable=3)
    await refused(cancel(milk=1, bread=1), Code.FAILED_PRECONDITION, "CANCEL_EXCEEDED", sku=BREAD, cancellable=0)
    await holds(api, NORTH, MILK, available=7, allocated=3)

    work, code = await ready(api, placed)
    await hand_over(api, work, code)
    await holds(api, NORTH, MILK, available=7)
    await refused(cancel(milk=1), Code.FAILED_PRECONDITION, "CANCEL_EXCEEDED", cancellable=0)
    call = take_back(api, placed.order.order_id, NORTH, returned(numbers[MILK], 4, pb.DISPOSITION_AVAILABLE))
    await refused(call, Code.FAILED_PRECONDITION, "RETURN_EXCEEDED", fulfilled=3, requested=4)
    back = await take_back(api, placed.order.order_id, NORTH, returned(numbers[MILK], 3, pb.DISPOSITION_AVAILABLE))
    assert cents(back.refund) + cents(cancelled.refund) == cents(placed.order.total)
    await holds(api, NORTH, MILK, available=10)


async def test_an_order_that_is_cancelled_whole_frees_all_of_it(api: Api) -> None:
    placed = await place(api, {NORTH: {MILK: 5}, SOUTH: {MILK: 1}})
    cancelled = await api.orders.CancelOrderLines(
        pb.CancelOrderLinesRequest(
            request_id=request_id(), order_id=placed.order.order_id, lines=[pb.CancelLine(line_number=1, quantity=6)]
        )
    )
    assert cancelled.order.state == pb.ORDER_STATE_CANCELLED
    assert {f.state for f in cancelled.order.fulfillment_orders} == {pb.FULFILLMENT_STATE_CANCELLED}
    assert cancelled.refund == placed.order.total
    await holds(api, NORTH, MILK, available=10)
    await holds(api, SOUTH, MILK, available=10)


async def test_a_code_that_was_wrong_five_times_is_locked_until_it_is_reset(api: Api) -> None:
    work, code = await ready(api, await place(api, {NORTH: {MILK: 1}}))
    for left in (4, 3, 2, 1):
        await refused(hand_over(api, work, "WRONG"), Code.FAILED_PRECONDITION, "PICKUP_CODE_WRONG", attempts_left=left)
    for attempt in ("WRONG", code, "WRONG"):
        await refused(hand_over(api, work, attempt), Code.FAILED_PRECONDITION, "PICKUP_CODE_LOCKED", failures=5)
    listed = await api.orders.ListFulfillmentOrders(pb.ListFulfillmentOrdersRequest(location_id=NORTH))
    assert [f.is_pickup_locked for f in listed.fulfillment_orders] == [True]
    await holds(api, NORTH, MILK, available=9, allocated=1)

    reset = pb.ResetPickupCodeRequest(request_id=request_id(), fulfillment_order_id=work)
    new = (await api.orders.ResetPickupCode(reset)).pickup_code.pickup_code
    await refused(hand_over(api, work, code), Code.FAILED_PRECONDITION, "PICKUP_CODE_WRONG", attempts_left=4)
    await hand_over(api, work, new)
    await holds(api, NORTH, MILK, available=9)


async def test_a_reservation_past_its_deadline_is_nobodys(api: Api) -> None:
    held = await api.reserve({NORTH: {MILK: 10}}, ttl_seconds=600)
    await holds(api, NORTH, MILK, available=10, reserved=10)

    await api.execute(
        "UPDATE claims SET deadline = now() - interval '1 second' WHERE reservation_id = $1::text::uuid",
        held.reservation_id,
    )

    request = pb.PlaceOrderRequest(
        request_id=request_id(),
        reservation_id=held.reservation_id,
        currency_code="USD",
        fulfillments=[pb.FulfillmentChoice(location_id=NORTH, kind=PICKUP)],
        tenders=card(10 * MILK_CENTS),
    )
    await refused(api.orders.PlaceOrder(request), Code.FAILED_PRECONDITION, "RESERVATION_NOT_ACTIVE", state="EXPIRED")
    get = inventory.GetReservationRequest(reservation_id=held.reservation_id)
    assert (await api.inventory.GetReservation(get)).reservation.state == inventory.RESERVATION_STATE_EXPIRED
    # Its units can be sold again, without anybody's asking.
    await eventually(lambda: api.atp(NORTH, MILK), 10)
    await holds(api, NORTH, MILK, available=10)
    placed = await place(api, {NORTH: {MILK: 10}})
    assert placed.order.state == pb.ORDER_STATE_OPEN


async def test_an_order_that_is_refused_leaves_its_reservation_as_it_was(api: Api) -> None:
    held = await api.reserve({NORTH: {MILK: 2}}, customer_id="ada")

    def order(**fields: Any) -> Any:
        return api.orders.PlaceOrder(
            pb.PlaceOrderRequest(
                **{
                    "request_id": request_id(),
                    "reservation_id": held.reservation_id,
                    "currency_code": "USD",
                    "fulfillments": [pb.FulfillmentChoice(location_id=NORTH, kind=PICKUP)],
                    "tenders": card(2 * MILK_CENTS),
                }
                | fields
            )
        )

    pickup_at = [pb.FulfillmentChoice(location_id=SOUTH, kind=PICKUP)]
    missing = request_id()
    for fields, code, reason in (
        ({"reservation_id": missing}, Code.NOT_FOUND, "RESERVATION_NOT_FOUND"),
        ({"cart_id": missing}, Code.NOT_FOUND, "CART_NOT_FOUND"),
        ({"fulfillments": pickup_at}, Code.INVALID_ARGUMENT, "FULFILLMENT_CHOICE_MISMATCH"),
        ({"customer_id": "bob"}, Code.FAILED_PRECONDITION, "RESERVATION_OF_ANOTHER_CUSTOMER"),
        ({"tenders": card(1)}, Code.FAILED_PRECONDITION, "TENDERS_MISMATCH"),
        ({"expected_total": dollars(1)}, Code.FAILED_PRECONDITION, "TOTAL_CHANGED"),
        ({"currency_code": "EUR"}, Code.FAILED_PRECONDITION, "PRICE_NOT_FOUND"),
        ({"currency_code": "XXQ"}, Code.INVALID_ARGUMENT, "CURRENCY_UNKNOWN"),
        ({"tenders": []}, Code.FAILED_PRECONDITION, "TENDERS_MISMATCH"),
    ):
        await refused(order(**fields), code, reason)
    await holds(api, NORTH, MILK, available=10, reserved=2)
    await order()
    await holds(api, NORTH, MILK, available=8, allocated=2)

    # A warehouse does not hand over.
    held = await api.reserve({DEPOT: {MILK: 2}})
    choice = [pb.FulfillmentChoice(location_id=DEPOT, kind=PICKUP)]
    await refused(order(fulfillments=choice), Code.FAILED_PRECONDITION, "FULFILLMENT_NOT_OFFERED", location_id=DEPOT)
    await holds(api, DEPOT, MILK, available=10, reserved=2)
