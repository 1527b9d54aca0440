"""Parcels: packed, sent, delivered, or brought back by the carrier. And what the work of a location is, whoever does it."""

from __future__ import annotations

from collections.abc import Iterable

from onhand.simulate.amounts import minor_of
from onhand.simulate.audit import Flow
from onhand.simulate.changing import Changing
from onhand.simulate.plan import Twist
from onhand.v1 import order_pb2

TWO_PARCELS_ONE_IN = 3
"""Of how many shipments of several lines one leaves in two parcels."""

Work = order_pb2.FulfillmentOrder

REQUESTED = order_pb2.FULFILLMENT_STATE_REQUESTED
ACCEPTED = order_pb2.FULFILLMENT_STATE_ACCEPTED
PICKED = order_pb2.FULFILLMENT_STATE_PICKED
READY = order_pb2.FULFILLMENT_STATE_READY_FOR_PICKUP
PICKED_UP = order_pb2.FULFILLMENT_STATE_PICKED_UP
SHIPPED = order_pb2.FULFILLMENT_STATE_SHIPPED
DELIVERED = order_pb2.FULFILLMENT_STATE_DELIVERED
CANCELLED = order_pb2.FULFILLMENT_STATE_CANCELLED
REJECTED = order_pb2.FULFILLMENT_STATE_REJECTED
MOVED = order_pb2.FULFILLMENT_STATE_MOVED
NO_SHOW = order_pb2.FULFILLMENT_STATE_NO_SHOW
RESTOCKED = order_pb2.FULFILLMENT_STATE_RESTOCKED
RETURNED = order_pb2.FULFILLMENT_STATE_RETURNED

OVER = (PICKED_UP, DELIVERED, CANCELLED, MOVED, RESTOCKED, RETURNED)
"""States in which nothing is to be done any more."""


def open_units(line: order_pb2.FulfillmentLine) -> int:
    """What a location still has to bring, or brought."""
    return line.quantity - line.cancelled_quantity - line.moved_quantity


def given_up(works: Iterable[Work]) -> dict[int, int]:
    """By line, units that were short already when they were rejected: they were not in stock any more."""
    units: dict[int, int] = {}
    for work in works:
        for short in work.shortfalls:
            for end in short.ends:
                if end.reason == order_pb2.SHORTFALL_END_REASON_REJECTED:
                    units[short.line_number] = units.get(short.line_number, 0) + end.quantity
    return units


class Sending(Changing):
    """An order of which something is sent."""

    def step_of(self, name: str, work: Work) -> str:
        """The request_id of a step of a location's work."""
        return self.request_id(f"{name}-{work.fulfillment_order_id}")

    async def send(self, order: order_pb2.Order, work: Work, *, is_first: bool) -> None:
        """A parcel on its way; others stay behind, as work of their own."""
        if work.state == SHIPPED:
            return await self._arrive(order, work, is_first=is_first)
        lines = [line for line in work.lines if open_units(line)]
        if not work.shipments and len(lines) > 1 and self.draw("two parcels", TWO_PARCELS_ONE_IN) == 0:
            work = await self._pack(work, lines)
        shipped = await self.change(
            self.stubs.orders.ShipFulfillmentOrder,
            order_pb2.ShipFulfillmentOrderRequest(
                request_id=self.step_of("ship", work),
                fulfillment_order_id=work.fulfillment_order_id,
                carrier="Replay Parcel",
                tracking_reference=f"RP{self.play.basket.basket_id}",
                shipment_id=work.shipments[0].shipment_id if work.shipments else "",
            ),
        )
        self.is_in(shipped.fulfillment_order, SHIPPED)
        if len(work.shipments) > 1:
            self.is_in(shipped.rest, PICKED)
        return await self._arrive(order, shipped.fulfillment_order, is_first=is_first)

    async def _pack(self, work: Work, lines: list[order_pb2.FulfillmentLine]) -> Work:
        """The first line by itself, the others together."""
        parcels = [
            order_pb2.Parcel(
                lines=[order_pb2.ParcelLine(line_number=e.line_number, quantity=open_units(e)) for e in some]
            )
            for some in (lines[:1], lines[1:])
        ]
        packed = await self.change(
            self.stubs.orders.PackFulfillmentOrder,
            order_pb2.PackFulfillmentOrderRequest(
                request_id=self.step_of("pack", work), fulfillment_order_id=work.fulfillment_order_id, parcels=parcels
            ),
        )
        self.check(len(packed.fulfillment_order.shipments) == len(parcels), "parcels that were packed are not there")
        return packed.fulfillment_order

    async def _arrive(self, order: order_pb2.Order, work: Work, *, is_first: bool) -> None:
        orders, id = self.stubs.orders, work.fulfillment_order_id
        if is_first and self.play.twist is Twist.UNDELIVERED:
            back = await self.change(
                orders.ReturnUndelivered,
                order_pb2.ReturnUndeliveredRequest(request_id=self.step_of("back", work), fulfillment_order_id=id),
            )
            self.is_in(back.fulfillment_order, RETURNED)
            self.world.books.refunded(order.order_id, minor_of(back.returned.refund))
            for line in back.returned.lines:
                self.moved(work.location_id, line.sku, Flow.CAME_BACK, line.quantity)
            return
        delivered = await self.change(
            orders.DeliverFulfillmentOrder,
            order_pb2.DeliverFulfillmentOrderRequest(request_id=self.step_of("deliver", work), fulfillment_order_id=id),
        )
        self.is_in(delivered.fulfillment_order, DELIVERED)
