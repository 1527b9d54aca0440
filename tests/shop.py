"""A retailer on a real ledger and gate: three locations, three products, and what a test of orders does again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import pytest
from google.type.money_pb2 import Money

import keeper
from onhand.app import App
from onhand.caller import Caller
from onhand.carts import Carts
from onhand.catalog import Catalog
from onhand.domain.errors import Refusal
from onhand.domain.stock import Level
from onhand.inventory.locations import Locations
from onhand.inventory.promise import Promise
from onhand.inventory.stock import Stock
from onhand.orders import Orders
from onhand.v1 import cart_pb2, catalog_pb2, inventory_pb2, types_pb2
from onhand.v1 import order_pb2 as pb
from shelf import add_product, request_id, set_price
from snapshot import built

Handler = TypeVar("Handler")

CALLER = Caller("tester", None)
NORTH, SOUTH, DEPOT = "store-north", "store-south", "depot"
MILK, BREAD, FUEL = "milk", "bread", "fuel"
MILK_BARCODE = "04006381333931"
ADDRESS = pb.Address(recipient="Ada", lines=["1 Main St"], locality="Springfield", region_code="US")

# The rules that hold after whatever a test did. Each query returns the rows that break one.
AUDIT = {
    "each bucket is the sum of its movements": """
        SELECT s.location_id, s.sku FROM stock_levels s LEFT JOIN LATERAL (
            SELECT coalesce(sum(quantity) FILTER (WHERE to_bucket = 'available'), 0)
                   - coalesce(sum(quantity) FILTER (WHERE from_bucket = 'available'), 0) AS available,
                   coalesce(sum(quantity) FILTER (WHERE to_bucket = 'allocated'), 0)
                   - coalesce(sum(quantity) FILTER (WHERE from_bucket = 'allocated'), 0) AS allocated,
                   coalesce(sum(quantity) FILTER (WHERE to_bucket = 'damaged'), 0)
                   - coalesce(sum(quantity) FILTER (WHERE from_bucket = 'damaged'), 0) AS damaged,
                   coalesce(sum(quantity) FILTER (WHERE to_bucket = 'quarantine'), 0)
                   - coalesce(sum(quantity) FILTER (WHERE from_bucket = 'quarantine'), 0) AS quarantine
              FROM stock_movements m WHERE m.location_id = s.location_id AND m.sku = s.sku) m ON true
         WHERE (s.available, s.allocated, s.damaged, s.quarantine)
               IS DISTINCT FROM (m.available, m.allocated, m.damaged, m.quarantine)""",
    "allocated is what open fulfillment orders hold": """
        SELECT s.location_id, s.sku FROM stock_levels s LEFT JOIN LATERAL (
            SELECT coalesce(sum(p.quantity - p.cancelled_quantity - p.moved_quantity), 0) AS held
              FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
             WHERE f.location_id = s.location_id AND p.sku = s.sku
               AND f.state IN ('REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP')) f ON true
         WHERE s.allocated + s.short <> f.held""",
    "a line's parts are the line": """
        SELECT l.order_id, l.line_number FROM order_lines l LEFT JOIN LATERAL (
            SELECT sum(p.quantity - p.moved_quantity) AS quantity, sum(p.cancelled_quantity) AS cancelled,
                   coalesce(sum(p.quantity - p.cancelled_quantity - p.moved_quantity)
                            FILTER (WHERE f.state IN ('PICKED_UP', 'SHIPPED', 'DELIVERED', 'RETURNED')), 0) AS fulfilled
              FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
             WHERE f.order_id = l.order_id AND p.line_number = l.line_number) p ON true
         WHERE (l.quantity, l.cancelled_quantity, l.fulfilled_quantity)
               IS DISTINCT FROM (p.quantity, p.cancelled, p.fulfilled)""",
    "an order is its lines, and its tenders cover it": """
        SELECT order_id FROM orders o
         WHERE total_minor <> (SELECT sum(total_minor) FROM order_lines l WHERE l.order_id = o.order_id)
            OR total_minor <> (SELECT coalesce(sum(amount_minor), 0) FROM tenders t
                                WHERE t.order_id = o.order_id AND t.change_id IS NULL)
                 + (SELECT coalesce(sum(total_minor), 0) FROM order_lines l
                     WHERE l.order_id = o.order_id AND l.substitutes_line IS NOT NULL)""",
    "a return is its lines, and what they say was returned": """
        SELECT return_id FROM returns r
         WHERE refund_minor <> (SELECT sum(refund_minor) FROM return_lines l WHERE l.return_id = r.return_id)
        UNION ALL
        SELECT l.order_id FROM order_lines l
         WHERE returned_quantity <> (SELECT coalesce(sum(q.quantity), 0) FROM returns r JOIN return_lines q USING (return_id)
                                      WHERE r.order_id = l.order_id AND q.line_number = l.line_number)""",
}


def dollars(cents: int) -> Money:
    """Cents as google.type.Money."""
    return Money(currency_code="USD", units=cents // 100, nanos=cents % 100 * 10_000_000)


def cents(money: Money) -> int:
    """The inverse of `dollars`."""
    assert money.currency_code == "USD"
    return money.units * 100 + money.nanos // 10_000_000


def card(amount: int) -> list[pb.Tender]:
    """A payment by card, in cents."""
    return [pb.Tender(kind=pb.TENDER_KIND_CARD, amount=dollars(amount), reference="auth-1")]


class Shop:
    """The handlers, and short forms of what leads up to an order."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.database = app.database
        self.relay, self.sweeper, self.availability = app.relay, app.sweeper, app.availability
        self.handlers = [handler for service in app.services.values() for handler in service]
        self.catalog, self.carts, self.orders = self._one(Catalog), self._one(Carts), self._one(Orders)
        self.locations, self.stock, self.promise = self._one(Locations), self._one(Stock), self._one(Promise)

    def _one(self, kind: type[Handler]) -> Handler:
        (found,) = (handler for handler in self.handlers if isinstance(handler, kind))
        return found

    async def open(self) -> None:
        """Locations, products and ten units of each at each."""
        for location_id in (NORTH, SOUTH, DEPOT):
            await self.add_location(location_id)
        await add_product(self.catalog, MILK, dollars(199))
        await add_product(self.catalog, BREAD, dollars(250))
        await add_product(self.catalog, FUEL)
        await set_price(self.catalog, FUEL, dollars(263), 3785)
        await self.catalog.set_barcodes(
            catalog_pb2.SetBarcodesRequest(request_id=request_id(), sku=MILK, gtins=[MILK_BARCODE]), CALLER
        )
        for location_id in (NORTH, SOUTH, DEPOT):
            await self.receive(location_id, {MILK: 10, BREAD: 10})

    async def add_location(self, location_id: str, **fields: Any) -> None:
        """A store that offers everything."""
        location = inventory_pb2.Location(
            location_id=location_id,
            kind=inventory_pb2.LOCATION_KIND_STORE,
            name=location_id,
            offers_pickup=True,
            offers_shipping=True,
            **fields,
        )
        request = inventory_pb2.CreateLocationRequest(request_id=request_id(), location=location)
        await self.locations.create_location(request, CALLER)

    # ------------------------------------------------------------------------------------------------------- stock
    async def receive(self, location_id: str, lines: Mapping[str, int]) -> None:
        """Goods of a supplier."""
        request = inventory_pb2.ReceiveStockRequest(
            request_id=request_id(),
            location_id=location_id,
            lines=[types_pb2.BasketLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()],
        )
        await self.stock.receive_stock(request, CALLER)

    async def count(self, location_id: str, counted: Mapping[str, int]) -> list[inventory_pb2.CountResult]:
        """Somebody counted."""
        request = inventory_pb2.CountStockRequest(
            request_id=request_id(),
            location_id=location_id,
            lines=[inventory_pb2.CountedLine(sku=sku, counted_quantity=quantity) for sku, quantity in counted.items()],
            reference_document="count_sheet/1",
        )
        return list((await self.stock.count_stock(request, CALLER)).results)

    async def level(self, location_id: str, sku: str) -> Level:
        """What the ledger holds."""
        rows = await self.fetch(
            "SELECT available, allocated, damaged, quarantine FROM stock_levels WHERE location_id = $1 AND sku = $2",
            location_id,
            sku,
        )
        return Level(*rows[0]) if rows else Level()

    async def atp(self, location_id: str, sku: str) -> int:
        """What a till is shown, from gate and ledger together."""
        by_location, is_stale = await self.availability.atp([location_id], [sku], "POS")
        assert not is_stale
        return by_location[location_id][0]

    # ------------------------------------------------------------------------------------------------ towards an order
    async def reserve(
        self, baskets: Mapping[str, Mapping[str, int]], customer_id: str = "", ttl_seconds: int = 0
    ) -> str:
        """A reservation's id."""
        request = inventory_pb2.ReserveRequest(
            request_id=request_id(),
            channel=types_pb2.CHANNEL_WEB,
            customer_id=customer_id,
            ttl_seconds=ttl_seconds,
            baskets=[
                inventory_pb2.LocationBasket(
                    location_id=location_id,
                    lines=[types_pb2.BasketLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()],
                )
                for location_id, lines in baskets.items()
            ],
        )
        return (await self.promise.reserve(request, CALLER)).reservation.reservation_id

    async def cart(self, lines: Mapping[str, int], customer_id: str = "") -> str:
        """A cart's id."""
        created = await self.carts.create_cart(
            cart_pb2.CreateCartRequest(
                request_id=request_id(),
                channel=types_pb2.CHANNEL_WEB,
                currency_code="USD",
                customer_id=customer_id,
            ),
            CALLER,
        )
        for sku, quantity in lines.items():
            await self.carts.add_cart_line(
                cart_pb2.AddCartLineRequest(
                    request_id=request_id(),
                    cart_id=created.cart.cart_id,
                    line=types_pb2.BasketLine(sku=sku, quantity=quantity),
                ),
                CALLER,
            )
        return created.cart.cart_id

    def place_request(
        self, reservation_id: str, kinds: Mapping[str, pb.FulfillmentKind.ValueType], total: int, /, **fields: Any
    ) -> pb.PlaceOrderRequest:
        """A PlaceOrder in dollars, paid by card."""
        return pb.PlaceOrderRequest(
            **{
                "request_id": request_id(),
                "reservation_id": reservation_id,
                "fulfillments": [pb.FulfillmentChoice(location_id=place, kind=kind) for place, kind in kinds.items()],
                "ship_to": ADDRESS if pb.FULFILLMENT_KIND_SHIP in kinds.values() else None,
                "currency_code": "USD",
                "tenders": card(total),
                **fields,
            }
        )

    async def place(
        self,
        baskets: Mapping[str, Mapping[str, int]],
        kind: pb.FulfillmentKind.ValueType = pb.FULFILLMENT_KIND_PICKUP,
        customer_id: str = "",
    ) -> pb.PlaceOrderResponse:
        """An order of milk and bread, all of one kind."""
        prices = {MILK: 199, BREAD: 250}
        total = sum(prices[sku] * quantity for lines in baskets.values() for sku, quantity in lines.items())
        reservation_id = await self.reserve(baskets, customer_id)
        return await self.orders.place_order(
            self.place_request(reservation_id, dict.fromkeys(baskets, kind), total), CALLER
        )

    async def sell(self, location_id: str, lines: Mapping[str, int], total: int) -> pb.Order:
        """A sale at the till, by sku."""
        request = pb.SellRequest(
            request_id=request_id(),
            location_id=location_id,
            lines=[pb.SaleLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()],
            currency_code="USD",
            tenders=card(total),
        )
        return (await self.orders.sell(request, CALLER)).order

    # ---------------------------------------------------------------------------------------------------------- steps
    async def accept(self, fulfillment_order_id: str) -> pb.FulfillmentOrder:
        """REQUESTED to ACCEPTED."""
        request = pb.AcceptFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=fulfillment_order_id)
        return (await self.orders.accept_fulfillment_order(request, CALLER)).fulfillment_order

    async def pick(self, fulfillment_order_id: str) -> pb.FulfillmentOrder:
        """ACCEPTED to PICKED."""
        request = pb.PickFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=fulfillment_order_id)
        return (await self.orders.pick_fulfillment_order(request, CALLER)).fulfillment_order

    async def mark_ready(self, fulfillment_order_id: str) -> pb.FulfillmentOrder:
        """PICKED to READY_FOR_PICKUP."""
        request = pb.MarkReadyForPickupRequest(request_id=request_id(), fulfillment_order_id=fulfillment_order_id)
        return (await self.orders.mark_ready_for_pickup(request, CALLER)).fulfillment_order

    async def hand_over(self, fulfillment_order_id: str, code: str, request: str = "") -> pb.FulfillmentOrder:
        """READY_FOR_PICKUP to PICKED_UP."""
        message = pb.HandOverFulfillmentOrderRequest(
            request_id=request or request_id(), fulfillment_order_id=fulfillment_order_id, pickup_code=code
        )
        return (await self.orders.hand_over_fulfillment_order(message, CALLER)).fulfillment_order

    async def reset_code(self, fulfillment_order_id: str) -> str:
        """A new pickup code."""
        request = pb.ResetPickupCodeRequest(request_id=request_id(), fulfillment_order_id=fulfillment_order_id)
        return (await self.orders.reset_pickup_code(request, CALLER)).pickup_code.pickup_code

    async def ship(self, fulfillment_order_id: str) -> pb.FulfillmentOrder:
        """PICKED to SHIPPED."""
        request = pb.ShipFulfillmentOrderRequest(
            request_id=request_id(),
            fulfillment_order_id=fulfillment_order_id,
            carrier="UPS",
            tracking_reference="1Z999",
        )
        return (await self.orders.ship_fulfillment_order(request, CALLER)).fulfillment_order

    async def deliver(self, fulfillment_order_id: str) -> pb.FulfillmentOrder:
        """SHIPPED to DELIVERED."""
        request = pb.DeliverFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=fulfillment_order_id)
        return (await self.orders.deliver_fulfillment_order(request, CALLER)).fulfillment_order

    async def reject(
        self, fulfillment_order_id: str, *lines: tuple[int, int, pb.RejectReason.ValueType], request: str = ""
    ) -> pb.RejectFulfillmentOrderResponse:
        """The location does not bring (line_number, quantity, reason)."""
        message = pb.RejectFulfillmentOrderRequest(
            request_id=request or request_id(),
            fulfillment_order_id=fulfillment_order_id,
            lines=[pb.RejectedLine(line_number=n, quantity=q, reason=reason) for n, q, reason in lines],
        )
        return await self.orders.reject_fulfillment_order(message, CALLER)

    async def ready(self, baskets: Mapping[str, Mapping[str, int]]) -> tuple[str, str]:
        """A pickup that waits for its customer: the ids of its fulfillment order, and its code."""
        placed = await self.place(baskets)
        (code,) = placed.pickup_codes
        for step in (self.accept, self.pick, self.mark_ready):
            await step(code.fulfillment_order_id)
        return code.fulfillment_order_id, code.pickup_code

    async def picked_up(self, baskets: Mapping[str, Mapping[str, int]]) -> pb.Order:
        """An order that its customer has."""
        fulfillment_order_id, code = await self.ready(baskets)
        return await self.order((await self.hand_over(fulfillment_order_id, code)).order_id)

    async def cancel(self, order_id: str, lines: Mapping[int, int]) -> pb.CancelOrderLinesResponse:
        """Cancels quantities of lines."""
        request = pb.CancelOrderLinesRequest(
            request_id=request_id(),
            order_id=order_id,
            lines=[pb.CancelLine(line_number=number, quantity=quantity) for number, quantity in lines.items()],
        )
        return await self.orders.cancel_order_lines(request, CALLER)

    async def take_back(self, order_id: str, location_id: str, *lines: pb.ReturnedLine) -> pb.Return:
        """A return at a till."""
        request = pb.CreateReturnRequest(
            request_id=request_id(),
            order_id=order_id,
            location_id=location_id,
            channel=types_pb2.CHANNEL_POS,
            lines=lines,
        )
        return (await self.orders.create_return(request, CALLER)).returned

    async def order(self, order_id: str) -> pb.Order:
        """The order as it is now."""
        return (await self.orders.get_order(pb.GetOrderRequest(order_id=order_id), CALLER)).order

    # ---------------------------------------------------------------------------------------------------- what remains
    async def fetch(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the ledger."""
        async with self.database.connection() as connection:
            return [tuple(row) for row in await connection.fetch(query, *values)]

    async def execute(self, statement: str, *values: Any) -> None:
        """A change past all handlers."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def events(self, type_prefix: str) -> list[tuple[str, str]]:
        """(type, location_id) of the events so far."""
        rows = await self.fetch("SELECT type, location_id FROM events ORDER BY transaction, sequence")
        return [(name, location_id) for name, location_id in rows if name.startswith(type_prefix)]

    async def audit(self) -> None:
        """Every rule still holds, and the gate promises what the ledger has."""
        assert await keeper.found(self.database.dsn, AUDIT) == {}
        for location_id, sku, unpromised in await self.fetch("""
            SELECT s.location_id, s.sku, s.available - coalesce((
                SELECT sum((line ->> 1)::int8) FROM claims c, jsonb_array_elements(c.lines) AS line
                 WHERE c.location_id = s.location_id AND c.state = 'active' AND line ->> 0 = s.sku), 0)::int8
              FROM stock_levels s"""):
            assert await self.atp(location_id, sku) == max(0, unpromised), f"ATP of {sku} at {location_id}"


async def refused(work: Any) -> Refusal:
    """The refusal that a call ends in."""
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value


async def told(work: Any) -> tuple[str, dict[str, str]]:
    """The reason and the values of the refusal that a call ends in."""
    refusal = await refused(work)
    return refusal.reason, refusal.metadata()


def fulfillment_of(order: pb.Order, location_id: str) -> pb.FulfillmentOrder:
    """The work of one location."""
    (found,) = (f for f in order.fulfillment_orders if f.location_id == location_id)
    return found


def is_uuid(text: str) -> bool:
    """Whether an id has its canonical form."""
    return str(UUID(text)) == text


async def furnish(dsn: str, redis_url: str) -> None:
    """Opens a shop in an empty ledger."""
    app = await App.open(dsn, redis_url)
    try:
        await Shop(app).open()
    finally:
        await app.close()


@asynccontextmanager
async def open_shop(dsn: str, redis_url: str, providers: Any = None, **settings: Any) -> AsyncIterator[Shop]:
    """A shop of one test, audited at its end."""
    await built("shop", dsn, redis_url, furnish)
    app = await App.open(dsn, redis_url, providers, **settings)
    shop = Shop(app)
    try:
        yield shop
        await shop.audit()
    finally:
        await app.close()
