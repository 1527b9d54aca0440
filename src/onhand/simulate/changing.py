"""Customers who want their order otherwise, before anybody works on it: less, more, or sent instead of fetched."""

from __future__ import annotations

from onhand.simulate.amounts import line_refund, minor_of, tenders_of
from onhand.simulate.mending import Mending
from onhand.simulate.sourced import TRIES_MAX
from onhand.simulate.steps import digest
from onhand.v1 import order_pb2

FAIR = ("CHANGE_OUTDATED", "INSUFFICIENT_STOCK")
"""Somebody else was faster: the order, or what there is, is not as it was previewed."""


class Changing(Mending):
    """An order that is changed as it was previewed."""

    async def change_order(self, order: order_pb2.Order) -> order_pb2.Order:
        """The order after it: of three one is of a unit less, one of a unit more, and one is sent."""
        line = order.lines[self.draw("changed line", len(order.lines))]
        wish = self.draw("change", 3)
        wanted = order_pb2.WantedQuantity(line_number=line.line_number, quantity=line.quantity + (-1, 1)[wish % 2])
        change = order_pb2.OrderChange(quantities=order_pb2.EditQuantities(lines=[wanted]))
        refund = line_refund(line, line.cancelled_quantity, 1) if wish == 0 else 0
        if wish == 2:
            move = order_pb2.MoveFulfillment(
                fulfillment_order_id=order.fulfillment_orders[0].fulfillment_order_id,
                kind=order_pb2.FULFILLMENT_KIND_SHIP,
                ship_to=self.address(),
            )
            change = order_pb2.OrderChange(move=move)
        for _ in range(TRIES_MAX):
            changed = await self._change(order, change, refund, is_charged=wish == 1)
            if changed is not None:
                self.world.tally.add("changed")
                return changed
        self.world.tally.add("changes_refused")
        return await self.order(order.order_id)

    async def _change(
        self, order: order_pb2.Order, change: order_pb2.OrderChange, refund: int, *, is_charged: bool
    ) -> order_pb2.Order | None:
        """The order after it; None where a race was in its way."""
        orders, id = self.stubs.orders, order.order_id
        preview = await self.read(
            orders.PreviewOrderChange, order_pb2.PreviewOrderChangeRequest(order_id=id, change=change)
        )
        charge = minor_of(preview.charge)
        self.check(minor_of(preview.refund) == refund, f"a change gives back {minor_of(preview.refund)}, not {refund}")
        self.check(is_charged or charge == 0, f"a change that costs nothing is charged {charge} cents")
        tenders = tenders_of(charge)
        request = order_pb2.ApplyOrderChangeRequest(order_id=id, change=change, etag=preview.etag, tenders=tenders)
        request.request_id = self.request_id(f"change-{digest(request)}")
        done = await self.attempt(orders.ApplyOrderChange, request, FAIR)
        if isinstance(done, str):
            return None
        told = minor_of(done.refund), minor_of(done.charge)
        self.check(told == (refund, charge), f"a change gave back and cost {told}, previewed were {(refund, charge)}")
        self.world.books.refunded(id, refund)
        self.world.books.charged(id, tenders)
        return done.order
