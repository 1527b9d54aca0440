"""What customers bring back: at another store, by mail, for other goods, or without a proof that they bought it."""

from __future__ import annotations

from onhand.simulate.amounts import CURRENCY, line_refund, minor_of, money, tenders_of
from onhand.simulate.audit import Flow
from onhand.simulate.plan import Kind
from onhand.simulate.sending import Sending
from onhand.v1 import order_pb2, returns_pb2, types_pb2

RETURN_WHOLE_ONE_IN = 2
"""Of how many returns one brings the whole order back."""
BY_MAIL_ONE_IN = 2
"""Of how many returns of shipments one is sent."""
OVERRIDE_ONE_IN = 2
"""Of how many returns without a proof one has a manager who lets pass what the policy refuses."""
DEARER_MINOR = 150
CHEAPER_MINOR = 100
"""By how much what is taken instead costs more, or less, where it does not cost the same."""


class BringingBack(Sending):
    """Goods that come back."""

    async def bring_back(self, order: order_pb2.Order) -> None:
        """In whole or one line in part; of four lines one is damaged. Nobody brings fuel back."""
        lines = self._returnable(order)
        is_whole = self.draw("return whole", RETURN_WHOLE_ONE_IN) == 0
        if not lines:
            return
        if not is_whole:
            lines = [lines[self.draw("return line", len(lines))]]
        others = sorted(store for store in self.world.stores if store != self.store) or [self.store]
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
        if self.play.kind is Kind.SHIPMENT and self.draw("mail", BY_MAIL_ONE_IN) == 0:
            returned = await self._by_mail(order, place, wanted)
        else:
            returned = await self._at_counter(order, place, wanted)
        units = {each.line_number: each.quantity for each in returned.lines}
        due = sum(line_refund(line, line.cancelled_quantity, units.get(line.line_number, 0)) for line in lines)
        refund = minor_of(returned.refund)
        self.check(refund == due, f"what came back cost {due} cents, {refund} were refunded")
        self.world.books.refunded(order.order_id, refund)
        for item in returned.lines:
            self.moved(place, item.sku, Flow.CAME_BACK, item.quantity)
        self.world.tally.add("returns")
        self.world.tally.add("returned_units", sum(item.quantity for item in returned.lines))

    def _returnable(self, order: order_pb2.Order) -> list[order_pb2.OrderLine]:
        fuel = {line.sku for line in self.play.basket.lines if line.is_fuel}
        return [line for line in order.lines if line.fulfilled_quantity and line.sku not in fuel]

    async def _at_counter(
        self, order: order_pb2.Order, place: str, wanted: list[order_pb2.ReturnedLine]
    ) -> order_pb2.Return:
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
        self.check(sum(e.quantity for e in returned.lines) == sum(e.quantity for e in wanted), "a return lost units")
        return returned

    async def _by_mail(
        self, order: order_pb2.Order, place: str, wanted: list[order_pb2.ReturnedLine]
    ) -> order_pb2.Return:
        """Announced, sent, and inspected: of several units one is refused, and goes back to the customer."""
        returns = self.stubs.returns
        announced = await self.change(
            returns.AuthorizeReturn,
            returns_pb2.AuthorizeReturnRequest(
                request_id=self.request_id("announce"),
                order_id=order.order_id,
                channel=self.channel,
                lines=[
                    returns_pb2.AnnouncedLine(line_number=line.line_number, quantity=line.quantity) for line in wanted
                ],
            ),
        )
        id = announced.return_authorization.return_authorization_id
        refused = []
        if wanted[0].quantity > 1:
            wanted[0].quantity -= 1
            refused = [returns_pb2.RefusedLine(line_number=wanted[0].line_number, quantity=1, reason="worn")]
        answer = await self.change(
            returns.ReceiveReturn,
            returns_pb2.ReceiveReturnRequest(
                request_id=self.request_id("inspect"),
                return_authorization_id=id,
                location_id=place,
                accepted=wanted,
                refused=refused,
            ),
        )
        is_over = answer.return_authorization.state == returns_pb2.RETURN_AUTHORIZATION_STATE_RECEIVED
        self.check(is_over, "an announced return of which all came is not RECEIVED")
        self.world.tally.add("mail_returns")
        return answer.returned

    async def exchange(self, order: order_pb2.Order) -> order_pb2.Order | None:
        """A line for another item of the store, which costs the same, more or less. Answers the order of what left."""
        lines = self._returnable(order)
        if not lines:
            return None
        line = lines[self.draw("exchanged line", len(lines))]
        refund = line_refund(line, line.cancelled_quantity, line.fulfilled_quantity)
        difference = (0, DEARER_MINOR, -CHEAPER_MINOR)[self.draw("difference", 3)]
        total = max(0, refund + difference)
        tenders = tenders_of(max(0, total - refund), order_pb2.TENDER_KIND_CASH)
        answer = await self.change(
            self.stubs.returns.CreateExchange,
            returns_pb2.CreateExchangeRequest(
                request_id=self.request_id("exchange"),
                order_id=order.order_id,
                location_id=self.store,
                returned=[
                    order_pb2.ReturnedLine(
                        line_number=line.line_number,
                        quantity=line.fulfilled_quantity,
                        disposition=order_pb2.DISPOSITION_AVAILABLE,
                        reason="replayed",
                    )
                ],
                sold=[
                    order_pb2.SaleLine(
                        sku=self.play.spares[0] if self.play.spares else line.sku, quantity=1, total=money(total)
                    )
                ],
                currency_code=CURRENCY,
                tenders=tenders,
            ),
        )
        done = answer.exchange
        carried, books = min(refund, total), self.world.books
        told = tuple(minor_of(amount) for amount in (done.returned.refund, done.carried, done.refunded, done.paid))
        due = refund, carried, refund - carried, total - carried
        self.check(told == due, f"an exchange was settled by (back, carried, refunded, paid) {told}, not {due}")
        credit = tenders_of(carried, order_pb2.TENDER_KIND_STORE_CREDIT)
        books.refunded(order.order_id, refund)
        books.paid(done.order.order_id, [*credit, *tenders])
        self.moved(self.store, line.sku, Flow.CAME_BACK, line.fulfilled_quantity)
        self.world.tally.add("exchanges")
        return done.order

    async def bring_without_proof(self) -> None:
        """A unit of something that the store sells, for a gift card."""
        brought = [line for line in self.play.goods if line.paid_minor]
        prices = await self.prices([line.sku for line in brought]) if brought else {}
        brought = [line for line in brought if line.sku in prices]
        if not brought:
            return
        line = brought[self.draw("brought", len(brought))]
        is_overridden = self.draw("override", OVERRIDE_ONE_IN) == 0
        manager = order_pb2.ManagerOverride(manager="replay manager", reason="a regular customer")
        answer = await self.attempt(
            self.stubs.returns.CreateBlindReturn,
            returns_pb2.CreateBlindReturnRequest(
                request_id=self.request_id("blind"),
                location_id=self.store,
                customer_id=self.play.basket.customer_id,
                lines=[
                    returns_pb2.BlindLine(
                        barcode=line.gtin, quantity=1, disposition=order_pb2.DISPOSITION_AVAILABLE, reason="replayed"
                    )
                ],
                currency_code=CURRENCY,
                refund_kind=order_pb2.TENDER_KIND_STORE_CREDIT,
                gift_card_code=self.card_code("blindcard"),
                override=manager if is_overridden else None,
            ),
            # The policy limits how much one customer brings so in a day.
            () if is_overridden else ("BLIND_RETURN_LIMIT",),
        )
        if isinstance(answer, str):
            self.world.tally.add("blind_returns_refused")
            return
        refund, price = minor_of(answer.returned.refund), prices[line.sku]
        most = (2 * minor_of(price.amount) + price.price_quantity) // (2 * price.price_quantity)
        self.check(refund <= most, f"{refund} cents were refunded without a proof for what costs {most}")
        if answer.gift_card_id:
            self.world.books.cards[answer.gift_card_id] = refund
        self.moved(self.store, line.sku, Flow.CAME_BACK, 1)
        self.world.tally.add("blind_returns")
        self.world.tally.add("blind_refunds_minor", refund)
