"""The whole way of an order, from a cart to the customer's hands."""

from __future__ import annotations

import shop as s
from onhand.domain.stock import Level
from onhand.v1 import order_pb2 as pb
from onhand.v1 import types_pb2
from shop import BREAD, CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, cents, dollars, fulfillment_of

PICKUP, SHIP = pb.FULFILLMENT_KIND_PICKUP, pb.FULFILLMENT_KIND_SHIP


async def test_a_cart_is_reserved_ordered_picked_handed_over_and_brought_back_elsewhere(shop: Shop) -> None:
    cart_id = await shop.cart({MILK: 3, BREAD: 1}, "ada")
    reservation_id = await shop.reserve({NORTH: {MILK: 3, BREAD: 1}}, "ada")
    assert await shop.atp(NORTH, MILK) == 7
    placed = await shop.orders.place_order(
        shop.place_request(
            reservation_id,
            {NORTH: PICKUP},
            847,
            cart_id=cart_id,
            currency_code="",
            expected_total=dollars(847),
        ),
        CALLER,
    )
    order = placed.order
    assert (order.state, order.customer_id, order.channel) == (pb.ORDER_STATE_OPEN, "ada", types_pb2.CHANNEL_WEB)
    assert [(n.line_number, n.sku, n.quantity, cents(n.total)) for n in order.lines] == [
        (1, MILK, 3, 597),
        (2, BREAD, 1, 250),
    ]
    assert (cents(order.total), cents(order.tenders[0].amount), order.tenders[0].reference) == (847, 847, "auth-1")
    assert (order.cart_id, order.reservation_id) == (cart_id, reservation_id)
    assert await shop.fetch("SELECT state, order_id::text FROM carts") == [("ORDERED", order.order_id)]
    assert await shop.level(NORTH, MILK) == Level(available=7, allocated=3)
    assert await shop.atp(NORTH, MILK) == 7

    (code,) = placed.pickup_codes
    work = code.fulfillment_order_id
    assert (await shop.accept(work)).state == pb.FULFILLMENT_STATE_ACCEPTED
    assert (await shop.pick(work)).state == pb.FULFILLMENT_STATE_PICKED
    assert (await shop.mark_ready(work)).state == pb.FULFILLMENT_STATE_READY_FOR_PICKUP
    assert (await shop.level(NORTH, MILK)).allocated == 3
    typed = f" {code.pickup_code[:4].lower()}-{code.pickup_code[4:]}"
    assert (await shop.hand_over(work, typed)).state == pb.FULFILLMENT_STATE_PICKED_UP

    order = await shop.order(order.order_id)
    assert order.state == pb.ORDER_STATE_COMPLETED
    assert [n.fulfilled_quantity for n in order.lines] == [3, 1]
    assert await shop.level(NORTH, MILK) == Level(available=7)
    returned = await shop.take_back(
        order.order_id,
        SOUTH,
        pb.ReturnedLine(line_number=1, quantity=2, disposition=pb.DISPOSITION_AVAILABLE, reason="too much"),
        pb.ReturnedLine(line_number=2, quantity=1, disposition=pb.DISPOSITION_DAMAGED, reason="squashed"),
    )
    assert cents(returned.refund) == 398 + 250
    assert await shop.level(SOUTH, MILK) == Level(available=12)
    assert await shop.level(SOUTH, BREAD) == Level(available=10, damaged=1)
    assert (await shop.atp(SOUTH, MILK), await shop.atp(SOUTH, BREAD)) == (12, 10)
    assert [name for name, _ in await shop.events("onhand.")][-9:] == [
        "onhand.cart.line_set.v1",
        "onhand.order.placed.v1",
        "onhand.fulfillment_order.requested.v1",
        "onhand.fulfillment_order.accepted.v1",
        "onhand.fulfillment_order.picked.v1",
        "onhand.fulfillment_order.ready_for_pickup.v1",
        "onhand.fulfillment_order.picked_up.v1",
        "onhand.order.completed.v1",
        "onhand.return.created.v1",
    ]


async def test_an_order_is_shipped_from_two_locations_and_completed_by_the_last_delivery(shop: Shop) -> None:
    placed = await shop.place({DEPOT: {MILK: 2}, NORTH: {MILK: 1, BREAD: 1}}, SHIP)
    order = placed.order
    assert not placed.pickup_codes
    assert order.ship_to == s.ADDRESS
    # One line a sku, however many locations bring it.
    assert sorted((n.sku, n.quantity) for n in order.lines) == [(BREAD, 1), (MILK, 3)]
    depot, north = (fulfillment_of(order, place).fulfillment_order_id for place in (DEPOT, NORTH))
    for work in (depot, north):
        await shop.accept(work)
        await shop.pick(work)
        shipped = await shop.ship(work)
        assert shipped.state == pb.FULFILLMENT_STATE_SHIPPED
        assert [(p.carrier, p.tracking_reference) for p in shipped.shipments] == [("UPS", "1Z999")]
        assert not shipped.shipments[0].HasField("delivered_time")
    assert await shop.level(DEPOT, MILK) == Level(available=8)
    assert (await shop.order(order.order_id)).state == pb.ORDER_STATE_OPEN
    delivered = await shop.deliver(depot)
    assert delivered.shipments[0].HasField("delivered_time")
    assert (await shop.order(order.order_id)).state == pb.ORDER_STATE_OPEN
    await shop.deliver(north)
    assert (await shop.order(order.order_id)).state == pb.ORDER_STATE_COMPLETED


async def test_one_order_may_be_fetched_here_and_sent_from_there(shop: Shop) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 1}, DEPOT: {BREAD: 1}})
    placed = await shop.orders.place_order(
        shop.place_request(reservation_id, {NORTH: PICKUP, DEPOT: SHIP}, 449), CALLER
    )
    assert fulfillment_of(placed.order, NORTH).kind == PICKUP
    assert fulfillment_of(placed.order, DEPOT).kind == SHIP
    assert [c.location_id for c in placed.pickup_codes] == [NORTH]


async def test_goods_priced_by_measure_cost_what_they_measure(shop: Shop) -> None:
    await shop.receive(NORTH, {s.FUEL: 50_000})
    order = await shop.sell(NORTH, {s.FUEL: 40_000}, 2779)
    (line,) = order.lines
    assert (cents(line.price), line.price_quantity, cents(line.total)) == (263, 3785, 2779)
