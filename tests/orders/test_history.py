"""What happened to an order, and what it moved: all of it, newest first, with who did it and by which request."""

from __future__ import annotations

from typing import Any

from broken import shorts
from onhand.caller import Caller
from onhand.ids import new_id
from onhand.v1 import inventory_pb2 as stock
from onhand.v1 import order_pb2 as pb
from onhand.v1 import returns_pb2, types_pb2
from shelf import request_id
from shop import CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, refused

OLGA = Caller(actor="support/olga")


async def events(shop: Shop, order_id: str, size: int = 0) -> list[pb.OrderEvent]:
    """All pages of them."""
    request, found = pb.ListOrderEventsRequest(order_id=order_id, page_size=size), []
    while True:
        page = await shop.orders.list_order_events(request, CALLER)
        assert not size or len(page.events) <= size
        found += page.events
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


async def movements(shop: Shop, order_id: str, size: int = 0) -> list[stock.StockMovement]:
    """All pages of them."""
    request, found = pb.ListOrderMovementsRequest(order_id=order_id, page_size=size), []
    while True:
        page = await shop.orders.list_order_movements(request, CALLER)
        assert not size or len(page.movements) <= size
        found += page.movements
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


def short(event: pb.OrderEvent) -> str:
    """Its name, in short."""
    return event.type.removeprefix("onhand.").removesuffix(".v1")


async def test_the_history_of_an_order_is_told_from_placing_to_its_return(shop: Shop) -> None:
    other = await shop.sell(NORTH, {MILK: 1}, 199)
    reservation_id, placing = await shop.reserve({NORTH: {MILK: 4}}), request_id()
    place = shop.place_request(reservation_id, {NORTH: pb.FULFILLMENT_KIND_PICKUP}, 4 * 199, request_id=placing)
    placed = await shop.orders.place_order(place, CALLER)
    order_id, (code,) = placed.order.order_id, placed.pickup_codes
    await shop.accept(code.fulfillment_order_id)
    rejecting = request_id()
    await shop.reject(code.fulfillment_order_id, (1, 1, pb.REJECT_REASON_DAMAGED), request=rejecting)
    (lost,) = await shorts(shop, await shop.order(order_id))
    decision = pb.DecideShortfallRequest(
        request_id=request_id(),
        shortfall_id=lost.shortfall_id,
        decision=pb.SHORTFALL_DECISION_RESOURCE,
        location_id=SOUTH,
    )
    await shop.orders.decide_shortfall(decision, OLGA)
    for step in (shop.pick, shop.mark_ready):
        await step(code.fulfillment_order_id)
    await shop.hand_over(code.fulfillment_order_id, code.pickup_code)
    await shop.cancel(order_id, {1: 1})
    await shop.take_back(
        order_id, DEPOT, pb.ReturnedLine(line_number=1, quantity=2, disposition=pb.DISPOSITION_AVAILABLE)
    )
    announced = await _announce(shop, order_id)

    told = await events(shop, order_id)
    assert [short(event) for event in reversed(told)] == [
        "order.placed",
        "fulfillment_order.requested",
        "fulfillment_order.accepted",
        "fulfillment_order.split",
        "fulfillment_order.rejected",
        "shortfall.opened",
        "fulfillment_order.requested",
        "fulfillment_order.moved",
        "shortfall.resolved",
        "fulfillment_order.picked",
        "fulfillment_order.ready_for_pickup",
        "fulfillment_order.picked_up",
        "fulfillment_order.cancelled",
        "order.completed",
        "order.lines_cancelled",
        "return.created",
        "return.authorized",
        "return.authorization_cancelled",
    ]
    first, opened, taken_over = told[-1], told[-6], told[-7]
    assert (first.actor, first.request_id, first.subject) == (CALLER.actor, placing, f"order/{order_id}")
    assert (opened.request_id, opened.location_id) == (rejecting, NORTH)
    assert (opened.data["cause"], opened.data["open_quantity"]) == ("DAMAGED", 1)
    assert (taken_over.actor, taken_over.request_id) == (OLGA.actor, decision.request_id)
    assert {event.subject for event in told[:2]} == {f"return_authorization/{announced}"}
    assert all(event.request_id and event.event_time.seconds for event in told)
    assert await events(shop, order_id, 4) == told
    assert [short(event) for event in await events(shop, other.order_id)] == ["sale.recorded"]

    moved = await movements(shop, order_id)
    assert [
        (m.reason_code, m.location_id, m.quantity, m.from_bucket, m.to_bucket, m.actor) for m in reversed(moved)
    ] == [
        ("ORDER_PLACED", NORTH, 4, stock.BUCKET_AVAILABLE, stock.BUCKET_ALLOCATED, CALLER.actor),
        ("REJECTED_DAMAGED", NORTH, 1, stock.BUCKET_ALLOCATED, stock.BUCKET_DAMAGED, CALLER.actor),
        ("ORDER_RESOURCED", SOUTH, 1, stock.BUCKET_AVAILABLE, stock.BUCKET_ALLOCATED, OLGA.actor),
        ("PICKED_UP", NORTH, 3, stock.BUCKET_ALLOCATED, stock.BUCKET_CUSTOMER, CALLER.actor),
        ("ORDER_CANCELLED", SOUTH, 1, stock.BUCKET_ALLOCATED, stock.BUCKET_AVAILABLE, CALLER.actor),
        ("RETURN", DEPOT, 2, stock.BUCKET_CUSTOMER, stock.BUCKET_AVAILABLE, CALLER.actor),
    ]
    assert {m.sku for m in moved} == {MILK}
    assert await movements(shop, order_id, 2) == moved
    assert [m.reason_code for m in await movements(shop, other.order_id)] == ["SALE"]


async def _announce(shop: Shop, order_id: str) -> str:
    """A return by mail that is announced, and then is not to come."""
    authorize = returns_pb2.AuthorizeReturnRequest(
        request_id=request_id(),
        order_id=order_id,
        channel=types_pb2.CHANNEL_WEB,
        lines=[returns_pb2.AnnouncedLine(line_number=1, quantity=1)],
    )
    handlers: Any = next(h for h in shop.handlers if hasattr(h, "authorize_return"))
    id = (await handlers.authorize_return(authorize, CALLER)).return_authorization.return_authorization_id
    cancel = returns_pb2.CancelReturnAuthorizationRequest(request_id=request_id(), return_authorization_id=id)
    await handlers.cancel_return_authorization(cancel, CALLER)
    return str(id)


async def test_the_history_of_no_order_is_refused_and_a_page_belongs_to_its_order(shop: Shop) -> None:
    one, two = [(await shop.place({NORTH: {MILK: 1}})).order.order_id for _ in range(2)]
    lists = (
        (shop.orders.list_order_events, pb.ListOrderEventsRequest),
        (shop.orders.list_order_movements, pb.ListOrderMovementsRequest),
    )
    for list_of, request in lists:
        unknown = request(order_id=str(new_id()))
        assert (await refused(list_of(unknown, CALLER))).reason == "ORDER_NOT_FOUND"
    page = await shop.orders.list_order_events(pb.ListOrderEventsRequest(order_id=one, page_size=1), CALLER)
    other = pb.ListOrderEventsRequest(order_id=two, page_token=page.next_page_token)
    assert (await refused(shop.orders.list_order_events(other, CALLER))).reason == "PAGE_TOKEN_INVALID"
