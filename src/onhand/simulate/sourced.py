"""What is sent comes from wherever sourcing says: planned over all locations and reserved at once, one basket a parcel."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onhand.simulate.amounts import minor_of
from onhand.simulate.steps import RESERVATION_SECONDS, Steps, digest, sums_of
from onhand.v1 import catalog_pb2, inventory_pb2, order_pb2, sourcing_pb2, types_pb2

TRIES_MAX = 3
"""How often an order is planned anew, because somebody else took what the plan wanted."""
NOTHING = "NOTHING_TO_ORDER"

Lines = Sequence[types_pb2.BasketLine]


class Sourced(Steps):
    """An order that is brought by whoever can."""

    async def order_sourced(self, lines: Lines, prices: dict[str, catalog_pb2.Price]) -> order_pb2.Order | str:
        """The order of what can be sent, or the reason why there is none."""
        if self.world.is_continued and (order := await self._find_order()) is not None:
            self.world.books.paid(order.order_id, order.tenders)
            return order
        reason, excluded = NOTHING, set[str]()
        for n in range(TRIES_MAX):
            held = await self.source_and_reserve(lines, excluded, f"source{n}")
            if isinstance(held, str):
                reason = held
                if reason == NOTHING:
                    break
                continue
            total = sum(
                # Half a cent rounds up, once a line.
                (2 * minor_of(prices[sku].amount) * units + prices[sku].price_quantity)
                // (2 * prices[sku].price_quantity)
                for sku, units in sums_of(line for basket in held.baskets for line in basket.lines).items()
            )
            kind = order_pb2.FULFILLMENT_KIND_SHIP
            placed = await self.place(held, kind, total, await self.tenders(total))
            if not isinstance(placed, str):
                return placed.order
            reason = placed
            # What was promised there is not there: the next plan does without these stores.
            excluded |= {basket.location_id for basket in held.baskets} - set(self.world.warehouses)
        return reason

    async def source_and_reserve(
        self, lines: Lines, excluded: Collection[str], step: str
    ) -> inventory_pb2.Reservation | str:
        """Has it planned who sends the lines, and reserved there. What nobody has is left out."""
        request = sourcing_pb2.SourceReservationRequest(
            channel=self.channel,
            method=order_pb2.FULFILLMENT_KIND_SHIP,
            lines=lines,
            position=self.world.stores.get(self.store),
            excluded_location_ids=sorted(excluded),
            accepts_partial=True,
            ttl_seconds=RESERVATION_SECONDS,
            customer_id=self.play.basket.customer_id,
        )
        request.request_id = self.request_id(f"{step}-{digest(request)}")
        fair = ("NOT_SOURCED", "INSUFFICIENT_STOCK")
        answer = await self.attempt(self.stubs.sourcing.SourceReservation, request, fair)
        if isinstance(answer, str):
            return NOTHING if answer == "NOT_SOURCED" else answer
        self._check_plan(answer.plan, lines, excluded)
        held = answer.reservation
        self.check(held.state == inventory_pb2.RESERVATION_STATE_ACTIVE, "a new reservation is not ACTIVE")
        planned = {parcel.location_id: sums_of(parcel.lines) for parcel in answer.plan.parcels}
        is_planned = {basket.location_id: sums_of(basket.lines) for basket in held.baskets} == planned
        self.check(is_planned, "a reservation is not what its plan says")
        self.world.tally.add("lines_left_out_unsourced", len(answer.plan.unsourced))
        return held

    async def plan(
        self, lines: Lines, kind: order_pb2.FulfillmentKind.ValueType, excluded: Collection[str] = ()
    ) -> sourcing_pb2.SourcingPlan:
        """Who would bring the lines now, for a customer who lives where the basket was bought."""
        answer = await self.read(
            self.stubs.sourcing.PreviewSourcing,
            sourcing_pb2.PreviewSourcingRequest(
                channel=self.channel,
                method=kind,
                lines=lines,
                position=self.world.stores.get(self.store),
                excluded_location_ids=sorted(excluded),
            ),
        )
        self._check_plan(answer.plan, lines, excluded)
        return answer.plan

    def _check_plan(self, plan: sourcing_pb2.SourcingPlan, lines: Lines, excluded: Collection[str]) -> None:
        brought = sums_of(line for parcel in plan.parcels for line in parcel.lines)
        for line in plan.unsourced:
            brought[line.sku] = brought.get(line.sku, 0) + line.quantity
        self.check(brought == sums_of(lines), "a plan brings, or leaves, something else than was asked for")
        is_kept = not any(parcel.location_id in excluded for parcel in plan.parcels)
        self.check(is_kept, "a plan has a location that was excluded")

    async def _find_order(self) -> order_pb2.Order | None:
        """The order that the interrupted run placed for this basket, if it did."""
        token, own = "", self.request_id("parcel")
        while True:
            page = await self.read(
                self.stubs.orders.ListOrders,
                order_pb2.ListOrdersRequest(customer_id=self.play.basket.customer_id, page_size=500, page_token=token),
            )
            for order in page.orders:
                if own in order.ship_to.lines:
                    return order
            token = page.next_page_token
            if not token:
                return None
