"""What is missing of an order: somebody else brings it, supply arrives for it, or the customer gets the money back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf import timestamp_pb2

from onhand.simulate.amounts import line_refund, minor_of
from onhand.simulate.audit import Flow
from onhand.simulate.counting import Counting
from onhand.simulate.sourced import TRIES_MAX
from onhand.simulate.steps import basket_line, digest
from onhand.v1 import inventory_pb2, order_pb2, receiving_pb2, types_pb2

SUPPLIES_MAX = 20
"""How often supply is sent for until everybody who waits longer has theirs."""
EXPECTED_SECONDS = 4_102_444_800
"""When announced goods should arrive at the latest: 2100. They arrive at once."""

_SHIP, _PICKUP = order_pb2.FULFILLMENT_KIND_SHIP, order_pb2.FULFILLMENT_KIND_PICKUP
_BY_LOCATION = (
    order_pb2.SHORTFALL_CAUSE_NOT_FOUND,
    order_pb2.SHORTFALL_CAUSE_DAMAGED,
    order_pb2.SHORTFALL_CAUSE_CLOSED,
)


class Mending(Counting):
    """An order of which units are missing."""

    codes: dict[str, str]
    """What the customer was told to fetch goods with, by fulfillment order."""

    # ------------------------------------------------------------------------------------------------ somebody else
    async def mend(self, order: order_pb2.Order, work: order_pb2.FulfillmentOrder) -> None:
        """A location does not bring units: for each line the customer has another bring them, or the money."""
        lines = {line.line_number: line for line in order.lines}
        for short in work.shortfalls:
            if not short.open_quantity or short.cause not in _BY_LOCATION:
                continue
            line = lines[short.line_number]
            refund = line_refund(line, line.cancelled_quantity, short.open_quantity)
            if not await self._resource(order, work, short, refund):
                await self._cancel(order, short, refund)
                line.cancelled_quantity += short.open_quantity

    async def _resource(
        self, order: order_pb2.Order, work: order_pb2.FulfillmentOrder, short: order_pb2.Shortfall, refund: int
    ) -> bool:
        """Whether another location brings it: of eight customers one wants the money, two fetch it elsewhere, five have it sent."""
        shown = await self.read(
            self.stubs.orders.ListShortfallAlternatives,
            order_pb2.ListShortfallAlternativesRequest(shortfall_id=short.shortfall_id, page_size=20),
        )
        told = minor_of(shown.refund)
        self.check(told == refund, f"{told} cents are offered for what is worth {refund}")
        choice = self.draw(f"choice {short.sku}", 8)
        if choice == 0:
            return False
        kind = _SHIP if choice <= 5 or work.kind == _SHIP else _PICKUP
        if self.draw(f"chooser {short.sku}", 2) == 0:
            # The server's own policy says who.
            return await self._take_over(short, "", kind) or (
                kind == _PICKUP and await self._take_over(short, "", _SHIP)
            )
        excluded = {each.location_id for each in order.fulfillment_orders if each.reject_reason} | {short.location_id}
        for _ in range(TRIES_MAX):
            place = await self._someone(short, kind, excluded, shown.alternatives)
            if not place and kind == _PICKUP:
                kind = _SHIP
                continue
            if not place:
                return False
            if await self._take_over(short, place, kind):
                return True
            excluded.add(place)
        return False

    async def _someone(
        self,
        short: order_pb2.Shortfall,
        kind: order_pb2.FulfillmentKind.ValueType,
        excluded: set[str],
        alternatives: Iterable[order_pb2.ShortfallAlternative],
    ) -> str:
        """Who brings all of it, as sourcing plans it; else whoever has it."""
        plan = await self.plan([basket_line(short.sku, short.open_quantity)], kind, excluded)
        for parcel in plan.parcels:
            if sum(line.quantity for line in parcel.lines) == short.open_quantity:
                return parcel.location_id
        for other in alternatives:
            offers = other.offers_shipping if kind == _SHIP else other.offers_pickup
            if offers and other.location_id not in excluded:
                return other.location_id
        return ""

    async def _take_over(
        self, short: order_pb2.Shortfall, place: str, kind: order_pb2.FulfillmentKind.ValueType
    ) -> bool:
        answer = await self.attempt(
            self.stubs.orders.DecideShortfall,
            order_pb2.DecideShortfallRequest(
                request_id=self.request_id(f"decide-{short.shortfall_id[-12:]}-{kind}{place}"),
                shortfall_id=short.shortfall_id,
                decision=order_pb2.SHORTFALL_DECISION_RESOURCE,
                location_id=place,
                kind=kind,
                ship_to=self.address() if kind == _SHIP else None,
            ),
            ("INSUFFICIENT_STOCK",) if place else ("INSUFFICIENT_STOCK", "RESOURCING_NOT_OFFERED"),
        )
        if isinstance(answer, str):
            return False
        parts = [answer.fulfillment_order, *answer.further_fulfillment_orders]
        places = {work.location_id for work in parts}
        is_other = places == {place} if place else short.location_id not in places
        self.check(is_other, f"{places} took over from {short.location_id} what {place or 'any'} was asked for")
        brings = [(work.location_id, line.sku, line.quantity) for work in parts for line in work.lines]
        is_all = {sku for _, sku, _ in brings} == {short.sku} and sum(n for *_, n in brings) == short.open_quantity
        self.check(is_all, f"{brings} was taken over, not {short.open_quantity}")
        self.check(answer.shortfall.open_quantity == 0, "what was taken over is still short")
        for location_id, sku, units in brings:
            self.moved(location_id, sku, Flow.TAKEN_OVER, units)
        for code in (answer.pickup_code, *answer.further_pickup_codes):
            if code.pickup_code:
                self.codes[code.fulfillment_order_id] = code.pickup_code
        return True

    async def _cancel(self, order: order_pb2.Order, short: order_pb2.Shortfall, refund: int) -> None:
        cancelled = await self.change(
            self.stubs.orders.CancelOrderLines,
            order_pb2.CancelOrderLinesRequest(
                request_id=self.request_id(f"cancel-{short.shortfall_id[-12:]}"),
                order_id=order.order_id,
                lines=[order_pb2.CancelLine(line_number=short.line_number, quantity=short.open_quantity)],
            ),
        )
        told = minor_of(cancelled.refund)
        self.check(told == refund, f"{told} cents were given back for what is worth {refund}")
        self.world.books.refunded(order.order_id, told)

    # ----------------------------------------------------------------------------------------------------- supply
    async def permit_backorders(self) -> None:
        """The store lets customers wait for these items."""
        for sku, limit in self.play.backorder_limits:
            await self.change(
                self.stubs.inventory.SetStockPolicy,
                inventory_pb2.SetStockPolicyRequest(
                    request_id=self.request_id(f"policy{sku}"), location_id=self.store, sku=sku, backorder_limit=limit
                ),
            )

    async def wait_for_supply(self, order_id: str) -> order_pb2.Order:
        """Sends for what an order waits for, until it is there: first come, first served."""
        for number in range(SUPPLIES_MAX):
            order = await self.order(order_id)
            waiting = [
                short
                for work in order.fulfillment_orders
                for short in work.shortfalls
                if short.open_quantity and short.next_step == types_pb2.SHORTFALL_STEP_WAIT
            ]
            if not waiting:
                return order
            for place in sorted({short.location_id for short in waiting}):
                lacks: dict[str, int] = {}
                for short in waiting:
                    if short.location_id == place:
                        lacks[short.sku] = lacks.get(short.sku, 0) + short.open_quantity
                await self._supply(place, lacks, number)
        self.check(False, f"order {order_id} still waits after supply came {SUPPLIES_MAX} times")
        return await self.order(order_id)

    async def _supply(self, place: str, lacks: Mapping[str, int], number: int) -> None:
        """From a supplier, announced or not, or from a warehouse."""
        lines = [basket_line(sku, units) for sku, units in sorted(lacks.items())]
        request = inventory_pb2.ReceiveStockRequest(location_id=place, lines=lines)
        step = f"{number}-{digest(request)}"
        way = self.draw(f"supply {number}", 3)
        if way == 0 and await self.transfer(f"supply{step}", place, lines):
            return
        if way == 1:
            noticed = await self.change(
                self.stubs.receiving.CreateAdvanceNotice,
                receiving_pb2.CreateAdvanceNoticeRequest(
                    request_id=self.request_id(f"notice{step}"),
                    location_id=place,
                    supplier="replay",
                    expected_time=timestamp_pb2.Timestamp(seconds=EXPECTED_SECONDS),
                    lines=lines,
                ),
            )
            notice = noticed.advance_notice
            received = await self.change(
                self.stubs.receiving.ReceiveAdvanceNotice,
                receiving_pb2.ReceiveAdvanceNoticeRequest(
                    request_id=self.request_id(f"arrival{step}"), advance_notice_id=notice.advance_notice_id
                ),
            )
            is_whole = received.advance_notice.state == receiving_pb2.ADVANCE_NOTICE_STATE_RECEIVED
            self.check(is_whole, "a notice of which all arrived is not RECEIVED")
        else:
            request.request_id = self.request_id(f"receipt{step}")
            await self.change(self.stubs.inventory.ReceiveStock, request)
        for line in lines:
            self.moved(place, line.sku, Flow.RECEIVED, line.quantity)
