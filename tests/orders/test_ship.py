"""Parcels: packed, sent one by one, delivered, brought back. Each test ends with every rule of verify."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from broken import verified
from onhand.domain.stock import Level
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import BREAD, CALLER, MILK, NORTH, SOUTH, Shop, cents, refused, told

SHIP = pb.FULFILLMENT_KIND_SHIP
SHIPPED, DELIVERED, RETURNED = (
    pb.FULFILLMENT_STATE_SHIPPED,
    pb.FULFILLMENT_STATE_DELIVERED,
    pb.FULFILLMENT_STATE_RETURNED,
)


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop


async def picked(shop: Shop, units: Mapping[str, int]) -> tuple[pb.Order, str]:
    """An order that is sent, off the shelf."""
    order = (await shop.place({NORTH: units}, SHIP)).order
    work = order.fulfillment_orders[0].fulfillment_order_id
    await shop.accept(work)
    await shop.pick(work)
    return order, work


async def pack(shop: Shop, work: str, *parcels: Mapping[int, int], id: str = "") -> pb.FulfillmentOrder:
    """Which units go in which parcel."""
    request = pb.PackFulfillmentOrderRequest(
        request_id=id or request_id(),
        fulfillment_order_id=work,
        parcels=[
            pb.Parcel(lines=[pb.ParcelLine(line_number=n, quantity=q) for n, q in parcel.items()]) for parcel in parcels
        ],
    )
    return (await shop.orders.pack_fulfillment_order(request, CALLER)).fulfillment_order


async def ship(
    shop: Shop, work: str, lines: Mapping[int, int] | None = None, **fields: Any
) -> pb.ShipFulfillmentOrderResponse:
    """A parcel leaves."""
    request = pb.ShipFulfillmentOrderRequest(
        **{
            "request_id": request_id(),
            "fulfillment_order_id": work,
            "carrier": "UPS",
            "tracking_reference": "1Z999",
            "lines": [pb.WorkLine(line_number=n, quantity=q) for n, q in (lines or {}).items()],
            **fields,
        }
    )
    return await shop.orders.ship_fulfillment_order(request, CALLER)


async def bring_back(shop: Shop, work: str, *lines: pb.ReturnedLine, **fields: Any) -> pb.ReturnUndeliveredResponse:
    """The carrier could not deliver it."""
    request = pb.ReturnUndeliveredRequest(
        **{"request_id": request_id(), "fulfillment_order_id": work, "lines": lines, **fields}
    )
    return await shop.orders.return_undelivered(request, CALLER)


async def test_parcels_of_one_order_leave_and_arrive_each_by_itself(shop: Shop) -> None:
    order, work = await picked(shop, {MILK: 5, BREAD: 2})
    id = request_id()
    packed = await pack(shop, work, {1: 1, 2: 3}, {1: 1, 2: 2}, id=id)
    assert await pack(shop, work, {1: 1, 2: 3}, {1: 1, 2: 2}, id=id) == packed
    assert packed.state == pb.FULFILLMENT_STATE_PICKED
    first, second = packed.shipments
    assert [(n.line_number, n.quantity) for n in first.lines] == [(1, 1), (2, 3)]
    assert not first.HasField("shipped_time")

    sent = await ship(shop, work, shipment_id=first.shipment_id, tracking_reference="A")
    assert (sent.fulfillment_order.state, [s.tracking_reference for s in sent.fulfillment_order.shipments]) == (
        SHIPPED,
        ["A"],
    )
    rest = sent.rest
    assert (rest.state, [s.shipment_id for s in rest.shipments]) == (packed.state, [second.shipment_id])
    assert await shop.level(NORTH, MILK) == Level(available=5, allocated=2)
    later = await ship(shop, rest.fulfillment_order_id, shipment_id=second.shipment_id, tracking_reference="B")
    assert not later.HasField("rest")
    await shop.deliver(rest.fulfillment_order_id)
    assert (await shop.order(order.order_id)).state == pb.ORDER_STATE_OPEN
    done = await shop.deliver(work)
    assert done.shipments[0].HasField("delivered_time")
    now = await shop.order(order.order_id)
    assert (now.state, {f.state for f in now.fulfillment_orders}) == (pb.ORDER_STATE_COMPLETED, {DELIVERED})
    assert [n.fulfilled_quantity for n in now.lines] == [2, 5]


async def test_a_part_leaves_without_being_packed_before(shop: Shop) -> None:
    _, work = await picked(shop, {MILK: 5})
    sent = await ship(shop, work, {1: 2})
    assert [(n.line_number, n.quantity) for n in sent.fulfillment_order.shipments[0].lines] == [(1, 2)]
    assert [n.quantity for n in sent.rest.lines] == [3]
    assert not sent.rest.shipments
    await ship(shop, sent.rest.fulfillment_order_id)
    assert await shop.level(NORTH, MILK) == Level(available=5)


async def test_what_is_packed_leaves_by_the_name_of_its_parcel(shop: Shop) -> None:
    _, work = await picked(shop, {MILK: 5})
    assert (await refused(pack(shop, work, {1: 3}, {1: 3}))).reason == "FULFILLMENT_LINE_EXCEEDED"
    packed = await pack(shop, work, {1: 3})
    assert await told(ship(shop, work)) == ("PARCEL_NOT_NAMED", {"fulfillment_order_id": work, "parcels": "1"})
    assert (await refused(ship(shop, work, shipment_id=work))).reason == "PARCEL_NOT_FOUND"
    named = packed.shipments[0].shipment_id
    assert (await refused(ship(shop, work, {1: 1}, shipment_id=named))).reason == "INVALID_REQUEST"
    again = await pack(shop, work, {1: 2}, {1: 3})
    assert named not in {s.shipment_id for s in again.shipments}
    assert (await refused(ship(shop, work, shipment_id=named))).reason == "PARCEL_NOT_FOUND"


@pytest.mark.parametrize("change", ["cancel", "reject", "unpick"])
async def test_parcels_are_forgotten_where_what_is_in_them_changes(shop: Shop, change: str) -> None:
    order, work = await picked(shop, {MILK: 5})
    await pack(shop, work, {1: 3}, {1: 2})
    if change == "cancel":
        await shop.cancel(order.order_id, {1: 1})
    elif change == "reject":
        await shop.reject(work, (1, 1, pb.REJECT_REASON_DAMAGED))
    else:
        request = pb.UnpickFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work)
        await shop.orders.unpick_fulfillment_order(request, CALLER)
    assert all(not f.shipments for f in (await shop.order(order.order_id)).fulfillment_orders)


async def test_a_parcel_that_comes_back_is_a_return_that_somebody_looks_at(shop: Shop) -> None:
    order, work = await picked(shop, {MILK: 2, BREAD: 1})
    await ship(shop, work)
    id = request_id()
    back = await bring_back(shop, work, request_id=id)
    assert await bring_back(shop, work, request_id=id) == back
    assert back.fulfillment_order.state == RETURNED
    assert back.fulfillment_order.shipments[0].HasField("returned_time")
    assert cents(back.returned.refund) == 2 * 199 + 250
    assert await shop.level(NORTH, MILK) == Level(available=8, quarantine=2)
    now = await shop.order(order.order_id)
    assert (now.state, [n.returned_quantity for n in now.lines]) == (pb.ORDER_STATE_COMPLETED, [1, 2])
    assert (await refused(shop.deliver(work))).reason == "ILLEGAL_TRANSITION"
    assert (await refused(bring_back(shop, work))).reason == "ILLEGAL_TRANSITION"


async def test_of_each_unit_that_comes_back_it_is_said_what_becomes_of_it_and_where(shop: Shop) -> None:
    _, work = await picked(shop, {MILK: 2})
    await ship(shop, work)
    new, broken = pb.DISPOSITION_AVAILABLE, pb.DISPOSITION_DAMAGED
    one = pb.ReturnedLine(line_number=1, quantity=1, disposition=new)
    assert await told(bring_back(shop, work, one)) == (
        "PARCEL_INCOMPLETE",
        {"fulfillment_order_id": work, "line_number": "1", "came_back": "1", "shipped": "2"},
    )
    assert (await refused(bring_back(shop, work, one, one))).reason == "INVALID_REQUEST"
    other = pb.ReturnedLine(line_number=1, quantity=1, disposition=broken)
    assert (await refused(bring_back(shop, work, one, other, location_id="nowhere"))).reason == "LOCATION_NOT_FOUND"
    await bring_back(shop, work, one, other, location_id=SOUTH)
    assert await shop.level(SOUTH, MILK) == Level(available=11, damaged=1)
    assert await shop.atp(SOUTH, MILK) == 11
