"""onhand as its clients have it: a server on a real port, stubs, and the errors that it answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest.mock import patch

import asyncpg
import grpc
import pytest
from google.rpc import error_details_pb2
from google.type.latlng_pb2 import LatLng
from google.type.money_pb2 import Money
from grpc_status import rpc_status

import keeper
from onhand.app import App
from onhand.edge.server import Server
from onhand.ids import new_id
from onhand.postgres import asyncpg_dsn
from onhand.v1 import (
    cart_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    counting_pb2_grpc,
    inventory_pb2_grpc,
    order_pb2_grpc,
    receiving_pb2_grpc,
    types_pb2,
)
from onhand.v1 import inventory_pb2 as inventory
from onhand.v1 import order_pb2 as orders
from shop import AUDIT
from snapshot import built

NORTH, SOUTH, DEPOT = "store-north", "store-south", "depot"
MILK, BREAD = "milk", "bread"
MILK_BARCODE = "4006381333931"
MILK_CENTS, BREAD_CENTS = 199, 250
WEB, APP, POS = types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_APP, types_pb2.CHANNEL_POS
EVENTUALLY_SECONDS_MAX = 60.0
"""How long something that happens behind an answer may take. No test asserts how long it took."""

Result = TypeVar("Result")
Code = grpc.StatusCode
LEVEL_FIELDS = ("available", "allocated", "damaged", "quarantine")


def request_id() -> str:
    """A new one."""
    return str(new_id())


def dollars(cents: int) -> Money:
    """Cents as google.type.Money."""
    return Money(currency_code="USD", units=cents // 100, nanos=cents % 100 * 10_000_000)


def cents(money: Money) -> int:
    """The inverse of `dollars`."""
    assert money.currency_code == "USD"
    return money.units * 100 + money.nanos // 10_000_000


def lines(quantities: Mapping[str, int]) -> list[types_pb2.BasketLine]:
    """Basket lines of quantities by sku."""
    return [types_pb2.BasketLine(sku=sku, quantity=quantity) for sku, quantity in quantities.items()]


@dataclass
class Refusal:
    """What a refused call told its caller, in each of the forms that the design promises."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    shorts: dict[str, str] = field(default_factory=dict)
    retry_seconds: int | None = None


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads google.rpc.Status and its details."""
    refusal = Refusal(error.code(), error.details() or "")
    # Fails where status, code and message contradict each other.
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    assert len({detail.type_url for detail in status.details}) == len(status.details)
    info, bad, short, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.PreconditionFailure(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        if detail.Unpack(info):
            assert info.domain == "onhand"
            refusal.reason, refusal.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            refusal.fields = {violation.field: violation.description for violation in bad.field_violations}
        elif detail.Unpack(short):
            refusal.shorts = {violation.subject: violation.description for violation in short.violations}
            assert {violation.type for violation in short.violations} == {refusal.reason}
        elif detail.Unpack(retry):
            refusal.retry_seconds = retry.retry_delay.seconds
        else:
            raise AssertionError(f"unknown detail {detail.type_url}")
    return refusal


async def refused(call: Awaitable[Any], code: grpc.StatusCode, reason: str, /, **metadata: object) -> Refusal:
    """The refusal that a call must get, with at least these values."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (code, reason), refusal
    assert refusal.metadata | {k: str(v) for k, v in metadata.items()} == refusal.metadata, refusal
    if not refusal.shorts:
        assert all(value in refusal.message for value in refusal.metadata.values()) or len(refusal.message) >= 400
    assert (refusal.retry_seconds is not None) == (code is Code.UNAVAILABLE or reason == "OVERLOADED"), refusal
    return refusal


async def invalid(call: Awaitable[Any], *fields: str) -> Refusal:
    """An INVALID_REQUEST that names exactly these fields."""
    refusal = await refused(call, Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert sorted(refusal.fields) == sorted(fields), refusal
    return refusal


async def eventually(look: Callable[[], Awaitable[Result]], expected: Result) -> None:
    """Waits until a look shows what it should."""
    until = asyncio.get_running_loop().time() + EVENTUALLY_SECONDS_MAX
    while (seen := await look()) != expected:
        assert asyncio.get_running_loop().time() < until, f"{seen!r} never became {expected!r}"
        await asyncio.sleep(0.02)


class Api:
    """Stubs on one connection, SQL beside them, and short forms of what many tests do."""

    def __init__(self, app: App, server: Server, dsn: str, channel: grpc.aio.Channel, port: int) -> None:
        self.app = app
        self.server = server
        self.dsn = dsn
        self.channel = channel
        self.port = port
        self.inventory = inventory_pb2_grpc.InventoryServiceStub(channel)
        self.receiving = receiving_pb2_grpc.ReceivingServiceStub(channel)
        self.counting = counting_pb2_grpc.CountServiceStub(channel)
        self.catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        self.carts = cart_pb2_grpc.CartServiceStub(channel)
        self.orders = order_pb2_grpc.OrderServiceStub(channel)

    async def open(self) -> None:
        """Two stores and a warehouse, milk and bread with prices, a barcode; ten of each everywhere."""
        await self.add_location(NORTH, position=LatLng(latitude=47.37, longitude=8.54), time_zone="Europe/Zurich")
        await self.add_location(SOUTH, position=LatLng(latitude=46.00, longitude=8.95))
        await self.add_location(DEPOT, kind=inventory.LOCATION_KIND_WAREHOUSE, offers_pickup=False)
        await self.add_product(MILK, MILK_CENTS)
        await self.add_product(BREAD, BREAD_CENTS)
        await self.catalog.SetBarcodes(
            catalog_pb2.SetBarcodesRequest(request_id=request_id(), sku=MILK, gtins=[MILK_BARCODE])
        )
        for location_id in (NORTH, SOUTH, DEPOT):
            await self.receive(location_id, {MILK: 10, BREAD: 10})

    # ------------------------------------------------------------------------------------------------- locations, goods
    async def add_location(self, location_id: str, **fields: Any) -> inventory.Location:
        """A store that offers everything, unless told otherwise."""
        fields = {
            "kind": inventory.LOCATION_KIND_STORE,
            "name": location_id,
            "offers_pickup": True,
            "offers_shipping": True,
        } | fields
        location = inventory.Location(location_id=location_id, **fields)
        request = inventory.CreateLocationRequest(request_id=request_id(), location=location)
        return (await self.inventory.CreateLocation(request)).location

    async def add_product(self, sku: str, price_cents: int | None = None) -> None:
        """A product, and what one of it costs."""
        product = catalog_pb2.Product(sku=sku, name=sku)
        await self.catalog.CreateProduct(catalog_pb2.CreateProductRequest(request_id=request_id(), product=product))
        if price_cents is not None:
            await self.catalog.SetPrice(
                catalog_pb2.SetPriceRequest(request_id=request_id(), sku=sku, amount=dollars(price_cents))
            )

    async def add_products(self, skus: Sequence[str]) -> None:
        """Many of them, past the API."""
        await self.execute("INSERT INTO products (sku, name) SELECT s, s FROM unnest($1::text[]) AS s", list(skus))

    async def delete_location(self, location_id: str) -> None:
        """Deletes it."""
        await self.inventory.DeleteLocation(
            inventory.DeleteLocationRequest(request_id=request_id(), location_id=location_id)
        )

    # ------------------------------------------------------------------------------------------------------------- stock
    async def receive(
        self, location_id: str, quantities: Mapping[str, int], *, actor: str = "", reference: str = ""
    ) -> list[inventory.StockLevel]:
        """Goods of a supplier."""
        request = inventory.ReceiveStockRequest(
            request_id=request_id(), location_id=location_id, lines=lines(quantities), reference_document=reference
        )
        metadata = (("x-onhand-actor", actor),) if actor else ()
        return list((await self.inventory.ReceiveStock(request, metadata=metadata)).levels)

    async def adjust(
        self, location_id: str, sku: str, quantity: int, bucket: int = inventory.BUCKET_AVAILABLE, **fields: Any
    ) -> inventory.StockLevel:
        """A correction."""
        request = inventory.AdjustStockRequest(
            **{"request_id": request_id(), "reason_code": "CORRECTION"} | fields,
            location_id=location_id,
            sku=sku,
            quantity=quantity,
            bucket=bucket,
        )
        return (await self.inventory.AdjustStock(request)).level

    async def move(
        self, location_id: str, sku: str, quantity: int, from_bucket: int, to_bucket: int
    ) -> inventory.StockLevel:
        """From one bucket to another."""
        request = inventory.MoveStockRequest(
            request_id=request_id(),
            location_id=location_id,
            sku=sku,
            quantity=quantity,
            from_bucket=from_bucket,
            to_bucket=to_bucket,
            reason_code="INSPECTED",
        )
        return (await self.inventory.MoveStock(request)).level

    async def count(self, location_id: str, counted: Mapping[str, int]) -> list[inventory.CountResult]:
        """What a person counted."""
        request = inventory.CountStockRequest(
            request_id=request_id(),
            location_id=location_id,
            lines=[inventory.CountedLine(sku=sku, counted_quantity=n) for sku, n in counted.items()],
            reference_document="count_sheet/1",
        )
        return list((await self.inventory.CountStock(request)).results)

    async def dispatch(
        self, from_location_id: str, to_location_id: str, quantities: Mapping[str, int]
    ) -> inventory.Transfer:
        """Units on their way."""
        request = inventory.DispatchTransferRequest(
            request_id=request_id(),
            from_location_id=from_location_id,
            to_location_id=to_location_id,
            lines=lines(quantities),
        )
        return (await self.inventory.DispatchTransfer(request)).transfer

    async def arrive(self, transfer_id: str, quantities: Mapping[str, int], **fields: Any) -> inventory.Transfer:
        """Units of a transfer that arrived; none: all that is on its way."""
        request = inventory.ReceiveTransferRequest(
            request_id=request_id(), transfer_id=transfer_id, lines=lines(quantities), **fields
        )
        return (await self.inventory.ReceiveTransfer(request)).transfer

    async def reserve(
        self,
        baskets: Mapping[str, Mapping[str, int]],
        *,
        channel: int = WEB,
        ttl_seconds: int = 0,
        customer_id: str = "",
    ) -> inventory.Reservation:
        """A reservation."""
        request = inventory.ReserveRequest(
            request_id=request_id(),
            channel=channel,
            customer_id=customer_id,
            ttl_seconds=ttl_seconds,
            baskets=[inventory.LocationBasket(location_id=where, lines=lines(what)) for where, what in baskets.items()],
        )
        return (await self.inventory.Reserve(request)).reservation

    async def release(self, reservation_id: str) -> inventory.Reservation:
        """Gives it back."""
        request = inventory.ReleaseReservationRequest(request_id=request_id(), reservation_id=reservation_id)
        return (await self.inventory.ReleaseReservation(request)).reservation

    # ----------------------------------------------------------------------------------------------------- what is there
    async def position(self, location_id: str, sku: str) -> inventory.StockPosition:
        """Every figure of a sku at a location."""
        request = inventory.GetStockPositionRequest(location_id=location_id, sku=sku)
        return (await self.inventory.GetStockPosition(request)).position

    async def level(self, location_id: str, sku: str) -> tuple[int, int, int, int]:
        """(available, allocated, damaged, quarantine)."""
        position = await self.position(location_id, sku)
        return position.available, position.allocated, position.damaged, position.quarantine

    async def atp(self, location_id: str, sku: str, channel: int = WEB) -> int:
        """What can be promised."""
        request = inventory.GetAvailabilityRequest(channel=channel, skus=[sku], location_ids=[location_id])
        answer = await self.inventory.GetAvailability(request)
        assert not answer.is_stale
        return int(answer.locations[0].items[0].available_to_promise)

    async def movements(self, location_id: str, sku: str = "", page_size: int = 500) -> list[inventory.StockMovement]:
        """All of them, newest first, over as many pages as it takes."""
        found: list[inventory.StockMovement] = []
        token = ""
        while True:
            request = inventory.ListMovementsRequest(
                location_id=location_id, sku=sku, page_size=page_size, page_token=token
            )
            page = await self.inventory.ListMovements(request)
            assert len(page.movements) <= page_size
            found += page.movements
            token = page.next_page_token
            if not token:
                return found

    async def sums(self, location_id: str, sku: str) -> tuple[int, int, int, int]:
        """What the movements of a position add up to, by bucket."""
        held = dict.fromkeys(inventory.Bucket.values(), 0)
        for movement in await self.movements(location_id, sku):
            assert movement.quantity > 0
            held[movement.from_bucket] -= movement.quantity
            held[movement.to_bucket] += movement.quantity
        return tuple(held[inventory.Bucket.Value("BUCKET_" + name.upper())] for name in LEVEL_FIELDS)  # type: ignore[return-value]

    # -------------------------------------------------------------------------------------------------------------- SQL
    async def fetch(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the ledger."""
        async with self.app.database.connection() as connection:
            return [tuple(row) for row in await connection.fetch(query, *values)]

    async def execute(self, statement: str, *values: Any) -> None:
        """A change past the API."""
        async with self.app.database.connection() as connection:
            await connection.execute(statement, *values)

    @asynccontextmanager
    async def locked(self, query: str, *values: Any) -> AsyncIterator[None]:
        """Holds rows of the ledger against every call, to make one wait at a chosen place."""
        connection = await asyncpg.connect(asyncpg_dsn(self.dsn))
        try:
            async with connection.transaction():
                assert await connection.fetch(query + " FOR UPDATE", *values), "nothing to lock"
                yield
        finally:
            await connection.close()

    @asynccontextmanager
    async def locked_table(self, table: str) -> AsyncIterator[None]:
        """Holds a table against every call, reads too."""
        connection = await asyncpg.connect(asyncpg_dsn(self.dsn))
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                yield
        finally:
            await connection.close()

    async def until_waiting(self, count: int = 1) -> None:
        """Returns when so many statements wait for a lock in this test's database."""
        waiting = """
            SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock' AND state = 'active'"""
        await eventually(lambda: self.fetch(waiting), [(count,)])

    async def audit(self) -> None:
        """Every rule still holds, and every position can be promised as its figures say."""
        assert await keeper.found(self.dsn, AUDIT) == {}
        rows = await self.fetch(
            "SELECT location_id, sku FROM stock_levels JOIN locations USING (location_id) WHERE deleted_time IS NULL LIMIT 20"
        )
        for location_id, sku in rows:

            async def differences(location_id: str = location_id, sku: str = sku) -> int:
                expected = {c.channel: c.available_to_promise for c in (await self.position(location_id, sku)).channels}
                return sum([await self.atp(location_id, sku, channel) != expected[channel] for channel in (WEB, POS)])

            # Claims of refused calls are given back behind the answer.
            await eventually(differences, 0)


@asynccontextmanager
async def serving(dsn: str, redis_url: str) -> AsyncIterator[Api]:
    """A server process's insides, on a free port, with a client."""
    app = await App.open(dsn, redis_url)
    try:
        server = app.server()
        app.start_loops()
        port = await server.start("127.0.0.1:0")
        try:
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                yield Api(app, server, dsn, channel, port)
        finally:
            # Nobody calls any more, so nobody has to be told.
            with patch("onhand.edge.method.DRAIN_SECONDS_MIN", 0):
                await server.stop()
    finally:
        await app.close()


@asynccontextmanager
async def opened(dsn: str, redis_url: str) -> AsyncIterator[Api]:
    """A server with the small retailer of `Api.open`, audited at the end of a test that went well."""
    await built("api", dsn, redis_url, _furnish)
    async with serving(dsn, redis_url) as api:
        yield api
        await api.audit()


async def _furnish(dsn: str, redis_url: str) -> None:
    async with serving(dsn, redis_url) as api:
        await api.open()


async def cancelled(call: Any) -> None:
    """Cancels a call that is under way, as a client that goes away."""
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
        raise AssertionError("the call was not cancelled")


async def place(
    api: Api, baskets: Mapping[str, Mapping[str, int]], kind: int = orders.FULFILLMENT_KIND_PICKUP, **fields: Any
) -> orders.PlaceOrderResponse:
    """An order of milk and bread, reserved and paid by card."""
    prices = {MILK: MILK_CENTS, BREAD: BREAD_CENTS}
    total = sum(prices[sku] * quantity for basket in baskets.values() for sku, quantity in basket.items())
    reservation = await api.reserve(baskets)
    request = orders.PlaceOrderRequest(
        **{"request_id": request_id(), "currency_code": "USD", "tenders": card(total)} | fields,
        reservation_id=reservation.reservation_id,
        fulfillments=[orders.FulfillmentChoice(location_id=where, kind=kind) for where in baskets],
    )
    return await api.orders.PlaceOrder(request)


def card(amount_cents: int) -> list[orders.Tender]:
    """A payment by card."""
    return [orders.Tender(kind=orders.TENDER_KIND_CARD, amount=dollars(amount_cents), reference="auth-1")]


def fulfillment_of(order: orders.Order, location_id: str) -> orders.FulfillmentOrder:
    """The work of one location."""
    (found,) = (f for f in order.fulfillment_orders if f.location_id == location_id)
    return found
