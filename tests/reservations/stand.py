"""Server processes on one ledger and one gate, and the means to stop, cut and crash them where a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import redis.asyncio

from onhand.app import App
from onhand.caller import Caller
from onhand.domain.errors import Refusal
from onhand.domain.stock import Bucket, Movement, sale_movements
from onhand.ids import new_id
from onhand.inventory import Promise, Stock, Transfers
from onhand.ledger.migrate import asyncpg_dsn
from onhand.ledger.transaction import Transaction
from onhand.redis import Command, Unreachable
from onhand.v1 import inventory_pb2 as v1
from onhand.v1 import order_pb2, types_pb2

CALLER = Caller("tester", None)
NORTH, SOUTH, EAST = "north", "south", "east"
MILK, BREAD = "milk", "bread"
Baskets = Mapping[str, Mapping[str, int]]

# Every bucket is the sum of its movements. Each query returns what breaks a rule.
CONSERVATION = """
SELECT s.location_id, s.sku, s.available, m.available FROM stock_levels s LEFT JOIN LATERAL (
    SELECT coalesce(sum(quantity) FILTER (WHERE to_bucket = 'available'), 0)
           - coalesce(sum(quantity) FILTER (WHERE from_bucket = 'available'), 0) AS available,
           coalesce(sum(quantity) FILTER (WHERE to_bucket = 'allocated'), 0)
           - coalesce(sum(quantity) FILTER (WHERE from_bucket = 'allocated'), 0) AS allocated
      FROM stock_movements m WHERE m.location_id = s.location_id AND m.sku = s.sku) m ON true
 WHERE (s.available, s.allocated) IS DISTINCT FROM (m.available, m.allocated)"""
PROMISED = """
SELECT s.location_id, s.sku, s.available - coalesce((
           SELECT sum((line ->> 1)::int8) FROM claims c, jsonb_array_elements(c.lines) AS line
            WHERE c.location_id = s.location_id AND c.state = 'active' AND line ->> 0 = s.sku), 0)::int8
  FROM stock_levels s"""
WAITING = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%' AND pid <> pg_backend_pid()"""

TABLES = """
SELECT quote_ident(tablename) FROM pg_tables
 WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'policy_version')"""


class Crash(Exception):
    """A process dies here: nothing of what follows may run."""


class Pause:
    """Stops the first call of a method, before or after it did its work, until `go` is set, or it crashes."""

    def __init__(self, target: object, name: str, *, after: bool = False) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self.is_crash = False
        original = getattr(target, name)
        is_used = False

        async def stopped(*values: Any, **named: Any) -> Any:
            nonlocal is_used
            if is_used:
                return await original(*values, **named)
            is_used = True
            result = await original(*values, **named) if after else None
            self.reached.set()
            await self.go.wait()
            if self.is_crash:
                raise Crash
            return result if after else await original(*values, **named)

        setattr(target, name, stopped)

    def crash(self) -> None:
        """Lets the method end in a crash."""
        self.is_crash = True
        self.go.set()


class Line:
    """The wire from one process to the gate: what is sent can be lost, or its answer."""

    def __init__(self, app: App) -> None:
        self.lost: set[str] = set()
        self.cut_after: str = ""
        self.unanswered: set[str] = set()
        self.sent: list[str] = []
        original = app.connections.pipeline

        async def pipeline(build: Callable[[str], Sequence[Command]], **options: float) -> list[Any]:
            functions: list[str] = []

            def seen(run_id: str) -> Sequence[Command]:
                commands = build(run_id)
                functions.extend(str(c[1]).removeprefix("onhand_3_") for c in commands if str(c[0]).startswith("FCALL"))
                if "*" in self.lost or self.lost & set(functions):
                    raise Unreachable("the wire is cut")
                return commands

            replies = await original(seen, **options)
            self.sent += functions
            if self.cut_after in functions:
                self.cut()
            if self.unanswered & set(functions):
                raise Unreachable("the answer is lost")
            return replies

        app.connections.pipeline = pipeline  # type: ignore[method-assign]

    def cut(self) -> None:
        """Nothing gets through."""
        self.lost.add("*")

    def mend(self) -> None:
        """Everything gets through again."""
        self.lost.clear()
        self.unanswered.clear()


class Server:
    """One server process, and short forms of what its clients ask."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.stock = Stock(app.ledger, app.decreases)
        self.promise = Promise(app.ledger, app.availability, app.reservations)
        self.transfers = Transfers(app.ledger, app.decreases)

    # ------------------------------------------------------------------------------------------------ reservations
    async def reserve(self, baskets: Baskets, request: str = "", channel: str = "WEB", ttl: int = 0) -> v1.Reservation:
        """Holds a basket."""
        message = v1.ReserveRequest(
            request_id=request or request_id(),
            channel=types_pb2.Channel.Value("CHANNEL_" + channel),
            baskets=wire(baskets),
            ttl_seconds=ttl,
        )
        return (await self.promise.reserve(message, CALLER)).reservation

    async def change(self, reservation_id: str, baskets: Baskets, request: str = "") -> v1.Reservation:
        """Holds another basket instead."""
        message = v1.ChangeReservationRequest(
            request_id=request or request_id(), reservation_id=reservation_id, baskets=wire(baskets)
        )
        return (await self.promise.change_reservation(message, CALLER)).reservation

    async def extend(self, reservation_id: str, ttl: int, request: str = "") -> v1.Reservation:
        """Gives it more time."""
        message = v1.ExtendReservationRequest(
            request_id=request or request_id(), reservation_id=reservation_id, ttl_seconds=ttl
        )
        return (await self.promise.extend_reservation(message, CALLER)).reservation

    async def release(self, reservation_id: str, request: str = "") -> v1.Reservation:
        """Gives it back."""
        message = v1.ReleaseReservationRequest(request_id=request or request_id(), reservation_id=reservation_id)
        return (await self.promise.release_reservation(message, CALLER)).reservation

    async def get(self, reservation_id: str) -> v1.Reservation:
        """A reservation as it is now."""
        message = v1.GetReservationRequest(reservation_id=reservation_id)
        return (await self.promise.get_reservation(message, CALLER)).reservation

    async def confirm(self, reservation_id: str, request: str = "") -> dict[str, dict[str, int]]:
        """What placing an order does to stock: confirmed, and its units allocated. Returns what was confirmed."""
        confirmed: dict[str, dict[str, int]] = {}

        async def work(tx: Transaction) -> order_pb2.PlaceOrderResponse:
            claims = await tx.confirm_reservation(UUID(reservation_id), new_id())
            lines = [(c.location_id, sku, quantity) for c in claims for sku, quantity in c.lines]
            await tx.lock_levels((place, sku) for place, sku, _ in lines)
            await tx.post(
                [Movement(p, s, q, Bucket.AVAILABLE, Bucket.ALLOCATED, "ORDER_PLACED", actor="x") for p, s, q in lines]
            )
            for place, sku, quantity in lines:
                confirmed.setdefault(place, {})[sku] = quantity
            return order_pb2.PlaceOrderResponse()

        message = order_pb2.PlaceOrderRequest(request_id=request or request_id(), reservation_id=reservation_id)
        await self.app.ledger.mutate(message, order_pb2.PlaceOrderResponse, work)
        return confirmed

    async def cancel(self, location_id: str, lines: Mapping[str, int]) -> None:
        """Allocated units become available again."""

        async def work(tx: Transaction) -> order_pb2.CancelOrderLinesResponse:
            await tx.lock_levels((location_id, sku) for sku in lines)
            await tx.post(
                [Movement(location_id, s, q, Bucket.ALLOCATED, Bucket.AVAILABLE, "CANCELLED") for s, q in lines.items()]
            )
            return order_pb2.CancelOrderLinesResponse()

        message = order_pb2.CancelOrderLinesRequest(request_id=request_id(), order_id=str(new_id()))
        await self.app.ledger.mutate(message, order_pb2.CancelOrderLinesResponse, work)

    # ------------------------------------------------------------------------------------------------------- stock
    async def sell(self, location_id: str, lines: Mapping[str, int], request: str = "") -> dict[tuple[str, str], int]:
        """A sale of goods in hand, without its money. Returns the promises that it broke."""
        broken: dict[tuple[str, str], int] = {}

        async def work(tx: Transaction, overdrawn: dict[tuple[str, str], int]) -> order_pb2.SellResponse:
            broken.clear()
            broken.update(overdrawn)
            levels = await tx.lock_levels(((location_id, sku) for sku in lines), create=True)
            await tx.post(
                sale_movements(
                    levels,
                    [(location_id, sku, quantity) for sku, quantity in sorted(lines.items())],
                    reference_document="sale",
                    channel="POS",
                    actor="till",
                )
            )
            return order_pb2.SellResponse()

        message = order_pb2.SellRequest(request_id=request or request_id(), location_id=location_id)
        await self.app.decreases.fact(message, order_pb2.SellResponse, [(location_id, sorted(lines.items()))], work)
        return broken

    async def receive(self, location_id: str, lines: Mapping[str, int], request: str = "") -> None:
        """Goods of a supplier."""
        message = v1.ReceiveStockRequest(
            request_id=request or request_id(), location_id=location_id, lines=basket(lines)
        )
        await self.stock.receive_stock(message, CALLER)

    async def count(self, location_id: str, counted: Mapping[str, int]) -> dict[str, int]:
        """What a person counted. Returns the promises that it broke, by sku."""
        message = v1.CountStockRequest(
            request_id=request_id(),
            location_id=location_id,
            lines=[v1.CountedLine(sku=sku, counted_quantity=quantity) for sku, quantity in counted.items()],
        )
        response = await self.stock.count_stock(message, CALLER)
        return {r.level.sku: r.short_quantity for r in response.results if r.short_quantity}

    async def adjust(self, location_id: str, sku: str, quantity: int) -> None:
        """A correction: a decision, if it takes."""
        message = v1.AdjustStockRequest(
            request_id=request_id(), location_id=location_id, sku=sku, quantity=quantity, reason_code="CORRECTION"
        )
        await self.stock.adjust_stock(message, CALLER)

    async def transfer(self, from_id: str, to_id: str, lines: Mapping[str, int], request: str = "") -> str:
        """Units on their way. Returns the transfer's id."""
        message = v1.DispatchTransferRequest(
            request_id=request or request_id(), from_location_id=from_id, to_location_id=to_id, lines=basket(lines)
        )
        return (await self.transfers.dispatch_transfer(message, CALLER)).transfer.transfer_id

    async def set_safety_stock(self, location_id: str, sku: str, quantity: int) -> None:
        """Units kept from online promise at a location."""
        message = v1.SetStockPolicyRequest(
            request_id=request_id(), location_id=location_id, sku=sku, safety_stock=quantity
        )
        await self.promise.set_stock_policy(message, CALLER)

    async def set_threshold(self, channel: str, sku: str, quantity: int) -> None:
        """Units kept from a channel everywhere."""
        message = v1.SetChannelThresholdRequest(
            request_id=request_id(), channel=types_pb2.Channel.Value("CHANNEL_" + channel), sku=sku, quantity=quantity
        )
        await self.promise.set_channel_threshold(message, CALLER)

    async def atp(self, location_id: str, sku: str = MILK, channel: str = "POS") -> int:
        """What a channel is shown, now and for certain."""
        found, is_stale = await self.app.availability.atp([location_id], [sku], channel)
        assert not is_stale
        return found[location_id][0]

    # -------------------------------------------------------------------------------------------------- its workings
    async def quiet(self) -> None:
        """Waits for what this process does behind its answers."""
        while self.app.relay._background or self.app.rebuilder._running:
            await asyncio.gather(
                *self.app.relay._background, *self.app.rebuilder._running.values(), return_exceptions=True
            )

    def pause_journal(self, *, after: bool = False) -> Pause:
        """Stops the next reservation before, or after, it is journalled."""
        return Pause(self.app.reservations._journal, "write", after=after)

    def pause_mutation(self, *, after: bool = False) -> Pause:
        """Stops the next transaction of an exactly-once mutation before it begins, or after its commit."""
        return Pause(self.app.ledger, "_attempt", after=after)

    def pause_snapshot(self, *, after: bool = False) -> Pause:
        """Stops the next rebuild before (or after) it loads what it read."""
        return Pause(self.app.gate, "load", after=after)


class Stand:
    """All of it: the servers, and the ledger and the gate past them."""

    def __init__(self, dsn: str, url: str) -> None:
        self.dsn, self.url = dsn, url
        self.servers: list[Server] = []
        self.pool: Any = None
        self.redis: Any = None

    async def open(self) -> None:
        """Three locations, two skus, nothing in stock, whatever was there before."""
        self.pool = await asyncpg.create_pool(asyncpg_dsn(self.dsn), min_size=1, max_size=6)
        self.redis = redis.asyncio.Redis.from_url(self.url, decode_responses=True)
        tables = await self.fetch(TABLES)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")  # past triggers and references
            for (table,) in tables:
                await connection.execute(f"DELETE FROM {table}")
        self._deadlocks = await self._all_deadlocks()
        await self.execute(
            "INSERT INTO locations (location_id, kind, name) SELECT l, 'STORE', l FROM unnest($1::text[]) AS l",
            [NORTH, SOUTH, EAST],
        )
        for table in ("location_epochs", "location_delta_heads"):
            await self.execute(f"INSERT INTO {table} (location_id) SELECT location_id FROM locations")
        await self.execute("INSERT INTO products (sku, name) VALUES ($1, 'Milk'), ($2, 'Bread')", MILK, BREAD)

    async def server(self) -> Server:
        """A further server process, without its loops: a test takes their steps."""
        server = Server(await App.open(self.dsn, self.url))
        self.servers.append(server)
        return server

    async def close(self) -> None:
        """Ends everything."""
        for server in self.servers:
            await server.app.close()
        if self.redis is not None:
            await self.redis.aclose()
        if self.pool is not None:
            await asyncio.wait_for(self.pool.close(), 5)

    async def crash(self, server: Server) -> None:
        """The process is gone, with its connections."""
        self.servers.remove(server)
        server.app.database.pool.terminate()
        await server.app.connections.close()

    # ----------------------------------------------------------------------------------------------------- the ledger
    async def fetch(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the ledger."""
        return [tuple(row) for row in await self.pool.fetch(query, *values)]

    async def execute(self, statement: str, *values: Any) -> None:
        """A change past all servers."""
        await self.pool.execute(statement, *values)

    async def deadlocks(self) -> int:
        """Transactions that PostgreSQL ended for one, since this stand was opened."""
        return await self._all_deadlocks() - self._deadlocks

    async def _all_deadlocks(self) -> int:
        ((count,),) = await self.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(count)

    async def stocked(self, location_id: str, lines: Mapping[str, int]) -> None:
        """Goods received, in a gate that knows of them."""
        server = self.servers[0] if self.servers else await self.server()
        await server.receive(location_id, lines)
        await server.app.rebuilder.rebuild(location_id)

    async def pass_deadline(self, reservation_id: str) -> None:
        """Its time is over: in the ledger, and in the gate's hint."""
        rows = await self.fetch(
            "UPDATE claims SET deadline = clock_timestamp() - interval '1 second'"
            " WHERE reservation_id = $1 AND state = 'active' RETURNING location_id, claim_id",
            UUID(reservation_id),
        )
        for location_id, claim_id in rows:
            await self.redis.zadd(key(location_id, "due"), {str(claim_id): 1}, xx=True)

    async def pass_all_hints(self) -> None:
        """The sweeper is to look at every claim that the gate holds."""
        for location_id in (NORTH, SOUTH, EAST):
            for claim_id in await self.redis.zrange(key(location_id, "due"), 0, -1):
                await self.redis.zadd(key(location_id, "due"), {claim_id: 1})

    async def sweep(self, server: Server | None = None) -> None:
        """What the loops of a server do, once."""
        server = server or self.servers[0]
        await server.app.sweeper.expire()
        while not await server.app.sweeper.patrol():
            pass
        await server.quiet()

    async def epoch(self, location_id: str = NORTH) -> int:
        """The ledger's."""
        ((epoch,),) = await self.fetch("SELECT epoch FROM location_epochs WHERE location_id = $1", location_id)
        return int(epoch)

    async def raise_epoch(self, location_id: str = NORTH) -> None:
        """As a bypass, or a rebuilder that stalls, does."""
        await self.execute("UPDATE location_epochs SET epoch = epoch + 1 WHERE location_id = $1", location_id)

    async def states(self, location_id: str | None = None) -> list[str]:
        """The states of the ledger's claims, sorted."""
        rows = await self.fetch(
            "SELECT state FROM claims WHERE $1::text IS NULL OR location_id = $1 ORDER BY 1", location_id
        )
        return [state for (state,) in rows]

    async def waits_for_lock(self, query: str, count: int = 1) -> None:
        """Returns once so many statements with these words wait for a lock."""
        async with asyncio.timeout(60):
            while True:
                if (await self.fetch(WAITING, query))[0][0] >= count:
                    return
                await asyncio.sleep(0.005)

    # ------------------------------------------------------------------------------------------------------- the gate
    async def gate_atp(self, location_id: str = NORTH, sku: str = MILK) -> int:
        """What the gate's data says, trusted or not."""
        return int(await self.redis.hget(key(location_id, "stock"), sku) or 0)

    async def held(self, location_id: str = NORTH) -> list[str]:
        """The claims that the gate holds."""
        return sorted(await self.redis.hkeys(key(location_id, "claims")))

    # ------------------------------------------------------------------------------------------------------ what holds
    async def assert_safe(self) -> None:
        """Invariants 1, 2 and 5, which hold at every moment: what the ledger trusts promises no more than there is."""
        assert await self.fetch(CONSERVATION) == []
        epochs = dict(await self.fetch("SELECT location_id, epoch FROM location_epochs"))
        server = self.servers[0]
        for location_id, sku, unpromised in await self.fetch(PROMISED):
            dump = await server.app.gate.dump(location_id)
            if dump is not None and dump.epoch == epochs[location_id]:
                assert dump.atp.get(sku, 0) <= unpromised, f"{sku} at {location_id}: {dump.atp} > {unpromised}"

    async def audit(self, *, broken: int = 0) -> None:
        """Safe, and once all is quiet gate and ledger are the same, and every server shows it."""
        for server in self.servers:
            await server.quiet()
        await self.assert_safe()
        for location_id, sku, unpromised in await self.fetch(PROMISED):
            assert unpromised >= -broken, f"{sku} at {location_id} is oversold"
            for server in self.servers:
                assert await server.app.reconciler.differences(location_id) in ([], None), location_id
                assert await server.atp(location_id, sku) == max(0, unpromised), f"{sku} at {location_id}"
                await server.quiet()


def request_id() -> str:
    """A new one."""
    return str(new_id())


def basket(lines: Mapping[str, int]) -> list[types_pb2.BasketLine]:
    """Lines for the wire."""
    return [types_pb2.BasketLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()]


def wire(baskets: Baskets) -> list[v1.LocationBasket]:
    """Baskets for the wire."""
    return [v1.LocationBasket(location_id=place, lines=basket(lines)) for place, lines in baskets.items()]


def key(location_id: str, part: str) -> str:
    """A key of the gate."""
    return "oh:{" + location_id + "}:" + part


async def refused(call: Awaitable[object]) -> Refusal:
    """The refusal that a call ends in."""
    try:
        result = await call
    except Refusal as refusal:
        return refusal
    raise AssertionError(f"not refused: {result}")


async def reason(call: Awaitable[object]) -> str:
    """The reason of the refusal that a call ends in."""
    return (await refused(call)).reason


async def outcomes(calls: Sequence[Awaitable[Any]]) -> tuple[list[Any], list[str]]:
    """The answers, and the reasons of the refusals, of calls at once. Anything else is an error."""
    answers, reasons = [], []
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, Refusal):
            reasons.append(result.reason)
        elif isinstance(result, BaseException):
            raise result
        else:
            answers.append(result)
    return answers, reasons
