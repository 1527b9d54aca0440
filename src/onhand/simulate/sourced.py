"""What is sent comes from wherever sourcing says: planned over all locations, then reserved, one basket a parcel."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onhand.simulate.amounts import minor_of
from onhand.simulate.steps import RESERVATION_SECONDS, Steps, digest, sums_of
from onhand.v1 import catalog_pb2, inventory_pb2, order_pb2, sourcing_pb2, types_pb2

TRIES_MAX = 3
"""How often an order is planned anew, because somebody else took what the plan wanted."""
NOTHING = "NOTHING_TO_ORDER"

Basket = inventory_pb2.LocationBasket
Lines = Sequence[types_pb2.BasketLine]


class Sourced(Steps):
    """An order that is brought by whoever can."""

    async def order_sourced(self, lines: Lines, prices: dict[str, catalog_pb2.Price]) -> order_pb2.Order | str:
        """The order of what can be sent, or the reason why there is none."""
        if self.world.is_continued and (order := await self._find_order()) is not None:
            self.world.books.paid(order.order_id, order.tenders)
            return order
        reason, excluded = NOTHING, set[str]()
        for _ in range(TRIES_MAX):
            held = await self.source_and_reserve(lines, excluded)
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

    async def source_and_reserve(self, lines: Lines, excluded: Collection[str]) -> inventory_pb2.Reservation | str:
        """Plans who sends the lines, and reserves them there. What nobody has is left out."""
        plan = await self.plan(lines, order_pb2.FULFILLMENT_KIND_SHIP, excluded)
        if not plan.parcels:
            return NOTHING
        baskets = [Basket(location_id=parcel.location_id, lines=parcel.lines) for parcel in plan.parcels]
        wanted = inventory_pb2.ReserveRequest(baskets=baskets)
        held = await self.reserve(baskets, RESERVATION_SECONDS, f"reserve-{digest(wanted)}")
        if not isinstance(held, str):
            self.world.tally.add("lines_left_out_unsourced", len(plan.unsourced))
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
        plan = answer.plan
        brought = sums_of(line for parcel in plan.parcels for line in parcel.lines)
        for line in plan.unsourced:
            brought[line.sku] = brought.get(line.sku, 0) + line.quantity
        self.check(brought == sums_of(lines), "a plan brings, or leaves, something else than was asked for")
        is_kept = not any(parcel.location_id in excluded for parcel in plan.parcels)
        self.check(is_kept, "a plan has a location that was excluded")
        return plan

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
