"""The ways of a basket through the channels, each from its first call to its last."""

from __future__ import annotations

from onhand.simulate.calls import Refused
from onhand.simulate.plan import Kind, Line
from onhand.simulate.steps import (
    ABANDONED_SECONDS,
    CURRENCY,
    RESERVATION_SECONDS,
    Outcome,
    Steps,
    basket_line,
    basket_lines,
    minor_of,
    money,
    tenders_of,
)
from onhand.v1 import order_pb2, types_pb2

RETURN_WHOLE_ONE_IN = 2
"""Of how many returns one brings the whole order back."""


class Journey(Steps):
    """One basket on its way."""

    async def run(self) -> Outcome:
        """The whole way. Raises GaveUp where the server stays away."""
        match self.play.kind:
            case Kind.SALE:
                return await self.sale()
            case Kind.PICKUP:
                return await self.pickup()
            case Kind.SHIPMENT:
                return await self.shipment()
            case Kind.ABANDONED:
                return await self.abandon()

    # ------------------------------------------------------------------------------------------------------- ways
    async def sale(self) -> Outcome:
        """Goods in hand at the till, by sku or by barcode, for what the real till charged. Never refused."""
        paid = sum(line.paid_minor for line in self.play.lines)
        answer = await self.change(
            self.stubs.orders.Sell,
            order_pb2.SellRequest(
                request_id=self.request_id("sell"),
                location_id=self.store,
                lines=[self._sale_line(line) for line in self.play.lines],
                currency_code=CURRENCY,
                tenders=tenders_of(paid, order_pb2.TENDER_KIND_CASH if self.draw("cash", 3) == 0 else None),
                customer_id=self.play.basket.customer_id,
            ),
        )
        order = answer.order
        self.check(order.state == order_pb2.ORDER_STATE_COMPLETED, "a sale is not a completed order")
        self.check(minor_of(order.total) == paid, f"a sale of {paid} cents was booked as {minor_of(order.total)}")
        return await self._completed(order)

    async def pickup(self) -> Outcome:
        """A cart filled on one channel and seen on another, reserved, ordered, picked, and handed over by its code."""
        await self.browse()
        cart = await self.fill_cart()
        if not cart.lines:
            return Outcome("refused", reason="NOTHING_TO_ORDER")
        reservation = await self.reserve([self.store], basket_lines(cart.lines), RESERVATION_SECONDS)
        if isinstance(reservation, str):
            return Outcome("refused", reason=reservation)
        kind = order_pb2.FULFILLMENT_KIND_PICKUP
        placed = await self.place(reservation, kind, minor_of(cart.total), cart_id=cart.cart_id)
        if isinstance(placed, str):
            return Outcome("refused", reason=placed)
        self.check(len(placed.pickup_codes) == 1, f"{len(placed.pickup_codes)} pickup codes for one pickup")
        self.world.tally.add("placed_pickups")
        order = placed.order
        try:
            work = await self.pick(order)
            orders, state = self.stubs.orders, order_pb2
            ready = await self.change(
                orders.MarkReadyForPickup,
                state.MarkReadyForPickupRequest(request_id=self.request_id("ready"), fulfillment_order_id=work),
            )
            self.is_in(ready.fulfillment_order, state.FULFILLMENT_STATE_READY_FOR_PICKUP)
            await self.try_a_wrong_code(work)
            handed = await self.change(
                orders.HandOverFulfillmentOrder,
                state.HandOverFulfillmentOrderRequest(
                    request_id=self.request_id("handover"),
                    fulfillment_order_id=work,
                    pickup_code=placed.pickup_codes[0].pickup_code,
                ),
            )
            self.is_in(handed.fulfillment_order, state.FULFILLMENT_STATE_PICKED_UP)
        except Refused as refused:
            return await self.broken(order.order_id, refused)
        return await self._completed(await self.order(order.order_id))

    async def shipment(self) -> Outcome:
        """Ordered without a cart; shipped from the customer's store, or from a warehouse where the store is short."""
        await self.browse()
        lines, total = await self.priced_lines()
        if not lines:
            return Outcome("refused", reason="NOTHING_TO_ORDER")
        first = self.draw("warehouse", max(1, len(self.world.warehouses)))
        places = [self.store, *self.world.warehouses[first:], *self.world.warehouses[:first]]
        reservation = await self.reserve(places, lines, RESERVATION_SECONDS)
        if isinstance(reservation, str):
            return Outcome("refused", reason=reservation)
        placed = await self.place(reservation, order_pb2.FULFILLMENT_KIND_SHIP, total)
        if isinstance(placed, str):
            return Outcome("refused", reason=placed)
        self.world.tally.add("placed_shipments")
        self.world.tally.add(
            "shipped_from_store" if reservation.baskets[0].location_id == self.store else "shipped_from_warehouse"
        )
        order = placed.order
        try:
            work = await self.pick(order)
            orders, state = self.stubs.orders, order_pb2
            shipped = await self.change(
                orders.ShipFulfillmentOrder,
                state.ShipFulfillmentOrderRequest(
                    request_id=self.request_id("ship"),
                    fulfillment_order_id=work,
                    carrier="Replay Parcel",
                    tracking_reference=f"RP{self.play.basket.basket_id}",
                ),
            )
            self.is_in(shipped.fulfillment_order, state.FULFILLMENT_STATE_SHIPPED)
            delivered = await self.change(
                orders.DeliverFulfillmentOrder,
                state.DeliverFulfillmentOrderRequest(request_id=self.request_id("deliver"), fulfillment_order_id=work),
            )
            self.is_in(delivered.fulfillment_order, state.FULFILLMENT_STATE_DELIVERED)
        except Refused as refused:
            return await self.broken(order.order_id, refused)
        return await self._completed(await self.order(order.order_id))

    async def abandon(self) -> Outcome:
        """Reserved, and then released, or left until it expires."""
        lines = [basket_line(line.sku, line.quantity) for line in self.play.lines]
        is_released = self.draw("release", 2) == 0
        ttl = RESERVATION_SECONDS if is_released else ABANDONED_SECONDS
        reservation = await self.reserve([self.store], lines, ttl)
        if isinstance(reservation, str):
            return Outcome("refused", reason=reservation)
        if is_released:
            await self.release(reservation)
        else:
            expires = reservation.expire_time.seconds + reservation.expire_time.nanos / 1e9
            self.world.tally.left_to_expire.append((reservation.reservation_id, expires))
        self.world.tally.add("released" if is_released else "left_to_expire")
        return Outcome("abandoned")

    # --------------------------------------------------------------------------------------------- afterwards
    async def _completed(self, order: order_pb2.Order) -> Outcome:
        """Takes note of what left, and brings some of it back."""
        self.check(order.state == order_pb2.ORDER_STATE_COMPLETED, "an order that went its whole way is not COMPLETED")
        left = self.world.findings.left
        for work in order.fulfillment_orders:
            for line in work.lines:
                position = (work.location_id, line.sku)
                if position in self.world.followed:
                    left[position] = (
                        left.get(position, 0) + line.quantity - line.cancelled_quantity - line.moved_quantity
                    )
        fuel = {line.sku for line in self.play.lines if line.is_fuel}
        if self.play.is_returned:
            await self._return(order, fuel)
        return Outcome(
            "completed",
            lines=sum(1 for line in order.lines if line.fulfilled_quantity),
            units=sum(line.fulfilled_quantity for line in order.lines if line.sku not in fuel),
            fuel_milliliters=sum(line.fulfilled_quantity for line in order.lines if line.sku in fuel),
        )

    async def _return(self, order: order_pb2.Order, fuel: set[str]) -> None:
        """At another store, in whole or one line in part; of four lines one is damaged. Nobody brings fuel back."""
        lines = [line for line in order.lines if line.fulfilled_quantity and line.sku not in fuel]
        is_whole = self.draw("return whole", RETURN_WHOLE_ONE_IN) == 0
        if not is_whole and lines:
            lines = [lines[self.draw("return line", len(lines))]]
        others = [store for store in self.world.stores if store != self.store] or [self.store]
        place = others[self.draw("return store", len(others))]
        wanted = [
            order_pb2.ReturnedLine(
                line_number=line.line_number,
                quantity=line.fulfilled_quantity
                if is_whole
                else 1 + self.draw("return units", line.fulfilled_quantity),
                disposition=order_pb2.DISPOSITION_DAMAGED
                if self.draw(f"damaged {line.sku}", 4) == 0
                else order_pb2.DISPOSITION_AVAILABLE,
                reason="replayed",
            )
            for line in lines
        ]
        if not wanted:
            return
        answer = await self.change(
            self.stubs.orders.CreateReturn,
            order_pb2.CreateReturnRequest(
                request_id=self.request_id("return"),
                order_id=order.order_id,
                location_id=place,
                channel=types_pb2.CHANNEL_POS,
                lines=wanted,
            ),
        )
        returned = answer.returned
        charged = sum(minor_of(line.total) for line in lines)
        refund = minor_of(returned.refund)
        self.check(
            refund == charged if is_whole else 0 <= refund <= charged,
            f"{charged} cents were paid for what came back, {refund} were refunded",
        )
        self.check(sum(e.quantity for e in returned.lines) == sum(e.quantity for e in wanted), "a return lost units")
        came_back = self.world.findings.came_back
        for item in returned.lines:
            position = (place, item.sku)
            if position in self.world.followed:
                came_back[position] = came_back.get(position, 0) + item.quantity
        self.world.tally.add("returns")
        self.world.tally.add("returned_units", sum(item.quantity for item in returned.lines))

    def _sale_line(self, line: Line) -> order_pb2.SaleLine:
        total = money(line.paid_minor)
        if self.draw(f"scan {line.sku}", 2):
            return order_pb2.SaleLine(barcode=line.gtin, quantity=line.quantity, total=total)
        return order_pb2.SaleLine(sku=line.sku, quantity=line.quantity, total=total)
