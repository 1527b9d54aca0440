"""The ways of a basket through the channels, each from its first call to its last."""

from __future__ import annotations

from onhand.simulate.amounts import CURRENCY, minor_of, money
from onhand.simulate.audit import Flow
from onhand.simulate.bringing_back import BringingBack
from onhand.simulate.fulfilling import Fulfilling
from onhand.simulate.plan import After, Kind, Line, Twist
from onhand.simulate.sending import DELIVERED, NO_SHOW, PICKED_UP, RESTOCKED, RETURNED, open_units
from onhand.simulate.steps import (
    ABANDONED_SECONDS,
    RESERVATION_SECONDS,
    Outcome,
    basket_line,
    basket_lines,
)
from onhand.v1 import inventory_pb2, order_pb2

OUT = (PICKED_UP, DELIVERED, RETURNED)
"""States of work whose goods left."""
CAME = (order_pb2.SHORTFALL_END_REASON_COVERED, order_pb2.SHORTFALL_END_REASON_COUNTED)
"""How those who wait get what they wait for: it came in, or a count found it."""


class Journey(Fulfilling, BringingBack):
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
        tenders = await self.tenders(paid, order_pb2.TENDER_KIND_CASH if self.draw("cash", 3) == 0 else None)
        answer = await self.change(
            self.stubs.orders.Sell,
            order_pb2.SellRequest(
                request_id=self.request_id("sell"),
                location_id=self.store,
                lines=[self._sale_line(line) for line in self.play.lines],
                currency_code=CURRENCY,
                tenders=tenders,
                customer_id=self.play.basket.customer_id,
            ),
        )
        order = answer.order
        self.world.books.paid(order.order_id, tenders)
        self.check(order.state == order_pb2.ORDER_STATE_COMPLETED, "a sale is not a completed order")
        self.check(minor_of(order.total) == paid, f"a sale of {paid} cents was booked as {minor_of(order.total)}")
        if self.play.is_refilled:
            await self.refill()
        if self.play.is_counted:
            await self.count()
        if self.play.has_blind_return:
            await self.bring_without_proof()
        return await self._ended(order)

    async def pickup(self) -> Outcome:
        """A cart filled on one channel and seen on another, reserved at its store, ordered, picked, and handed over."""
        await self.browse()
        cart = await self.fill_cart()
        if not cart.lines:
            return Outcome("refused", reason="NOTHING_TO_ORDER")
        accepts_backorder = self.play.twist is Twist.BACKORDERED
        if accepts_backorder:
            await self.permit_backorders()
        basket = inventory_pb2.LocationBasket(location_id=self.store, lines=basket_lines(cart.lines))
        reservation = await self.reserve([basket], RESERVATION_SECONDS)
        if isinstance(reservation, str):
            return Outcome("refused", reason=reservation)
        total = minor_of(cart.total)
        placed = await self.place(
            reservation,
            order_pb2.FULFILLMENT_KIND_PICKUP,
            total,
            await self.tenders(total),
            cart.cart_id,
            accepts_backorder=accepts_backorder,
        )
        if isinstance(placed, str):
            return Outcome("refused", reason=placed)
        self.check(len(placed.pickup_codes) == 1, f"{len(placed.pickup_codes)} pickup codes for one pickup")
        return await self._ended(await self.fulfil(placed.order, placed.pickup_codes))

    async def shipment(self) -> Outcome:
        """Ordered without a cart; sent by whoever sourcing chooses, in one parcel or several."""
        await self.browse()
        prices = await self.prices(line.sku for line in self.play.lines)
        self.world.tally.add("lines_left_out_unpriced", len(self.play.lines) - len(prices))
        lines = [basket_line(line.sku, line.quantity) for line in self.play.lines if line.sku in prices]
        if not lines:
            return Outcome("refused", reason="NOTHING_TO_ORDER")
        order = await self.order_sourced(lines, prices)
        if isinstance(order, str):
            return Outcome("refused", reason=order)
        order = await self.fulfil(order)
        is_told = any(not decision.fulfillment_order_id for decision in order.sourcing_decisions)
        self.check(is_told, f"order {order.order_id} does not tell why its locations bring it")
        return await self._ended(order)

    async def abandon(self) -> Outcome:
        """Reserved, and then released, or left until it expires."""
        lines = [basket_line(line.sku, line.quantity) for line in self.play.lines]
        is_released = self.draw("release", 2) == 0
        ttl = RESERVATION_SECONDS if is_released else ABANDONED_SECONDS
        basket = inventory_pb2.LocationBasket(location_id=self.store, lines=lines)
        reservation = await self.reserve([basket], ttl)
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
    async def _ended(self, order: order_pb2.Order) -> Outcome:
        """Takes note of how an order ended; some of it comes back."""
        name = order_pb2.OrderState.Name(order.state)
        is_over = order.state in (order_pb2.ORDER_STATE_COMPLETED, order_pb2.ORDER_STATE_CANCELLED)
        self.check(is_over, f"order {order.order_id}, which went its whole way, is {name}")
        self._note(order)
        fuel = {line.sku for line in self.play.lines if line.is_fuel}
        if self.play.twist is not Twist.UNDELIVERED:
            if self.play.after is After.RETURNED:
                await self.bring_back(order)
            elif self.play.after is After.EXCHANGED and (taken := await self.exchange(order)) is not None:
                self._note(taken)
        return Outcome(
            "completed" if order.state == order_pb2.ORDER_STATE_COMPLETED else "cancelled",
            lines=sum(1 for line in order.lines if line.fulfilled_quantity),
            units=sum(line.fulfilled_quantity for line in order.lines if line.sku not in fuel),
            fuel_milliliters=sum(line.fulfilled_quantity for line in order.lines if line.sku in fuel),
        )

    def _note(self, order: order_pb2.Order) -> None:
        """What an order shows of what happened to it, and of what left."""
        tally = self.world.tally
        tally.add("substitutions", sum(1 for line in order.lines if line.substitutes_line_number))
        for work in order.fulfillment_orders:
            if work.state in OUT:
                for line in work.lines:
                    self.moved(work.location_id, line.sku, Flow.LEFT, open_units(line))
                if work.kind == order_pb2.FULFILLMENT_KIND_SHIP:
                    is_store = work.location_id in self.world.stores
                    tally.add("shipped_from_store" if is_store else "shipped_from_warehouse")
            tally.add("undelivered", int(work.state == RETURNED))
            tally.add("no_shows", int(work.state in (NO_SHOW, RESTOCKED)))
            tally.add("rejected_lines", len(work.lines) if work.reject_reason else 0)
            for short in work.shortfalls:
                ends = {end.reason for end in short.ends}
                tally.add("resourced", int(order_pb2.SHORTFALL_END_REASON_RESOURCED in ends))
                if short.cause == order_pb2.SHORTFALL_CAUSE_BACKORDER:
                    units = sum(end.quantity for end in short.ends if end.reason in CAME)
                    tally.add("backordered")
                    tally.add("backorders_filled", int(units == short.quantity))

    def _sale_line(self, line: Line) -> order_pb2.SaleLine:
        total = money(line.paid_minor)
        if self.draw(f"scan {line.sku}", 2):
            return order_pb2.SaleLine(barcode=line.gtin, quantity=line.quantity, total=total)
        return order_pb2.SaleLine(sku=line.sku, quantity=line.quantity, total=total)
