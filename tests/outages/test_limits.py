"""Limits: every queue is bounded, whoever is beyond one is told when to come back, and tills are served all the while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import grpc
import pytest

from api import BREAD, MILK, MILK_CENTS, NORTH, SOUTH, WEB, Api, card, eventually, lines, opened, refused, request_id
from onhand import deadline
from onhand.domain.errors import LedgerUnavailable, Overloaded
from onhand.edge.admission import RETRY_SECONDS_MAX, Budget
from onhand.edge.errors import RETRY_SECONDS
from onhand.edge.server import Server
from onhand.postgres import SESSION, Database, NotReached
from onhand.reservations.combiner import Combiner
from onhand.v1 import inventory_pb2 as pb
from onhand.v1 import order_pb2 as orders

Code = grpc.StatusCode
EPOCH = "SELECT FROM location_epochs WHERE location_id = $1"
RESERVATIONS_MAX = 4


def reserve(location_id: str) -> pb.ReserveRequest:
    return pb.ReserveRequest(
        request_id=request_id(),
        channel=WEB,
        baskets=[pb.LocationBasket(location_id=location_id, lines=lines({MILK: 1}))],
    )


def sale(location_id: str) -> orders.SellRequest:
    return orders.SellRequest(
        request_id=request_id(),
        location_id=location_id,
        currency_code="USD",
        lines=[orders.SaleLine(sku=MILK, quantity=1)],
        tenders=card(MILK_CENTS),
    )


@asynccontextmanager
async def narrow(dsn: str, redis_url: str) -> AsyncIterator[tuple[Api, Server]]:
    """A server that lets in RESERVATIONS_MAX reservations at once."""
    servers: list[Server] = []

    def kept(*values: Any) -> Server:
        servers.append(Server(*values))
        budget = servers[-1].admission.reservations
        budget.limit = budget.limit_min = budget.limit_max = RESERVATIONS_MAX
        return servers[-1]

    with patch("onhand.app.Server", kept):
        async with opened(dsn, redis_url) as api:
            yield api, servers[-1]  # the one before furnished the shop, perhaps


# ------------------------------------------------------------------------------------------------------------- overload
async def test_reservations_beyond_their_budget_are_shed_and_tills_and_reads_go_on(
    database_dsn: str, redis_url: str
) -> None:
    async with narrow(database_dsn, redis_url) as (api, server):
        budget = server.admission.reservations
        async with api.locked(EPOCH, NORTH):  # their journal waits here
            let_in = [asyncio.ensure_future(api.inventory.Reserve(reserve(NORTH))) for _ in range(RESERVATIONS_MAX)]

            async def running() -> int:
                return budget.running

            await eventually(running, RESERVATIONS_MAX)
            first = await refused(api.inventory.Reserve(reserve(SOUTH)), Code.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert first.metadata == {"queue": "reservations", "limit": str(RESERVATIONS_MAX)}
            for _ in range(5):
                await api.orders.Sell(sale(SOUTH))
            assert await api.atp(SOUTH, MILK) == 5
            assert await api.atp(SOUTH, BREAD) == 10
            assert budget.running == RESERVATIONS_MAX
        for call in let_in:
            await call
        await eventually(running, 0)
        await api.inventory.Reserve(reserve(SOUTH))


async def test_a_shed_call_is_not_even_decoded(database_dsn: str, redis_url: str) -> None:
    async with narrow(database_dsn, redis_url) as (api, server):
        garbage = b"\xff\xff\xff"
        call = api.channel.unary_unary("/onhand.v1.InventoryService/Reserve")
        await refused(call(garbage), Code.INVALID_ARGUMENT, "INVALID_REQUEST")
        server.admission.reservations.limit = 0
        await refused(call(garbage), Code.RESOURCE_EXHAUSTED, "OVERLOADED")


async def test_the_more_are_refused_the_longer_they_are_asked_to_wait() -> None:
    budget = Budget("reservations", 8)
    assert RETRY_SECONDS <= budget.retry_seconds() <= 1.5 * RETRY_SECONDS

    async def work() -> Any:
        return None

    await budget.spend(work())
    for _ in range(3):
        budget.refusal()
    assert 4 * RETRY_SECONDS <= budget.retry_seconds() <= 6 * RETRY_SECONDS
    for _ in range(1000):
        budget.refusal()
    assert budget.retry_seconds() == RETRY_SECONDS_MAX


async def test_a_budget_shrinks_while_its_calls_take_too_long_and_grows_again() -> None:
    budget = Budget("reservations", 64)

    async def work() -> Any:
        return None

    async def rounds(calls: int) -> None:
        await asyncio.gather(*(budget.spend(work()) for _ in range(calls)))

    with patch("onhand.edge.admission.CALL_SECONDS_TARGET", -1.0):
        for _ in range(20):
            budget.running = 40  # far fewer than the limit at first
            await rounds(1)
            budget.running = 0
        assert budget.limit == budget.limit_min
        assert budget.limit_min > 0
    smallest = budget.limit
    budget.running = int(budget.limit)
    await rounds(1)
    assert smallest < budget.limit <= budget.limit_max


async def test_a_call_that_waited_until_it_is_in_vain_is_refused_but_not_for_ever() -> None:
    reservations, stores = Budget("reservations", 64), Budget("store calls", 64, 64)

    async def work() -> Any:
        return None

    for budget in (reservations, stores):
        assert budget.refuses(0.0)  # nobody waits for it
        assert not budget.refuses(0.1)  # nothing is known of how long a call takes
        budget._typical_seconds = 0.5
    assert not stores.refuses(0.1)  # a till has its chance, as long as there is one
    assert reservations.refuses(0.1)
    assert not reservations.refuses(0.6)
    refused_calls = 0
    while reservations.refuses(0.1):
        refused_calls += 1
    assert refused_calls < 1000


# ------------------------------------------------------------------------------------------------------------- deadlines
async def test_a_read_that_cannot_be_had_is_answered_before_its_deadline(database_dsn: str, redis_url: str) -> None:
    async with opened(database_dsn, redis_url) as api:
        async with api.locked_table("products"):
            request = pb.GetStockPositionRequest(location_id=NORTH, sku=MILK)
            refusal = await refused(
                api.inventory.GetStockPosition(request, timeout=3.0), Code.UNAVAILABLE, "NOT_IN_TIME"
            )
            assert refusal.retry_seconds
        assert await api.level(NORTH, MILK) == (10, 0, 0, 0)


async def test_a_call_without_a_deadline_has_the_servers(database_dsn: str, redis_url: str) -> None:
    async with opened(database_dsn, redis_url) as api:
        receipt = pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5}))
        with patch("onhand.edge.method.CALL_SECONDS_MAX", 3.0):
            async with api.locked("SELECT FROM stock_levels WHERE location_id = $1", NORTH):
                await refused(api.inventory.ReceiveStock(receipt), Code.UNAVAILABLE, "OUTCOME_UNKNOWN")
        # It went on to its end.
        await eventually(lambda: api.level(NORTH, MILK), (15, 0, 0, 0))
        await api.inventory.ReceiveStock(receipt)
        assert await api.level(NORTH, MILK) == (15, 0, 0, 0)


async def test_what_waited_past_its_deadline_is_not_sent() -> None:
    sent: list[int] = []
    begun, kept, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def round_(items: Sequence[int]) -> Sequence[int]:
        sent.extend(items)
        begun.set()
        if 4 in items:
            kept.set()
        await go.wait()
        return items

    combiner: Combiner[int, int] = Combiner("test", round_, round_items_max=10)
    keeper: Combiner[int, int] = Combiner("keeps", round_, round_items_max=10, keeps_late=True)

    async def submit(to: Combiner[int, int], item: int, until: float | None) -> int:
        deadline.set_until(until)
        return await to.submit(item)

    first = asyncio.ensure_future(submit(combiner, 1, None))
    await begun.wait()
    late, in_time, follows_a_commit = (
        asyncio.ensure_future(submit(to, n, until))
        for to, n, until in ((combiner, 2, 0.0), (combiner, 3, None), (keeper, 4, 0.0))
    )
    await kept.wait()
    go.set()
    assert (await first, await in_time, await follows_a_commit) == (1, 3, 4)
    with pytest.raises(Overloaded):
        await late
    assert sorted(sent) == [1, 3, 4]


# ------------------------------------------------------------------------------------------------------------ the ledger
@asynccontextmanager
async def one_connection(dsn: str) -> AsyncIterator[Database]:
    database = await Database.open(dsn, pool_size=1)
    try:
        yield database
    finally:
        await database.close()


async def ask(database: Database, until: float | None = None) -> int:
    deadline.set_until(until)
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT 1"))


async def test_the_queue_for_connections_is_bounded_and_knows_deadlines(database_dsn: str) -> None:
    async with one_connection(database_dsn) as database:
        async with database.connection():
            with patch("onhand.postgres.WAITING_MAX", 2):
                waiting = [asyncio.ensure_future(ask(database)) for _ in range(2)]
                await asyncio.sleep(0)
                with pytest.raises(Overloaded):
                    await ask(database)
                with pytest.raises(NotReached):  # begins nothing whose caller is gone
                    await ask(database, 0.0)
        assert await asyncio.gather(*waiting) == [1, 1]


async def test_whoever_gives_up_waiting_takes_no_connection_along(database_dsn: str) -> None:
    async with one_connection(database_dsn) as database:
        async with database.connection():
            waiting = [asyncio.ensure_future(ask(database)) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
        waiting[1].cancel()  # at the moment when its turn has come, perhaps
        assert await waiting[2] == 1
        assert await ask(database) == 1


async def test_a_lock_that_is_not_had_in_time_is_certain_to_have_changed_nothing(
    database_dsn: str, redis_url: str
) -> None:
    with patch.dict(SESSION, lock_timeout="100ms"):
        async with opened(database_dsn, redis_url) as api:
            async with api.locked("SELECT FROM stock_levels WHERE location_id = $1", NORTH):
                await refused(api.orders.Sell(sale(NORTH)), Code.UNAVAILABLE, "LEDGER_UNAVAILABLE")
            dump = await api.app.gate.dump(NORTH)
            assert dump is not None
            assert dump.claims == {}  # given back before the answer, not left to the sweeper
            assert await api.atp(NORTH, MILK) == 10


async def test_a_transaction_that_nobody_ends_is_ended_by_postgresql(database_dsn: str) -> None:
    async def held(database: Database, has_it: asyncio.Event, go: asyncio.Event) -> None:
        async with database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(7)")
            has_it.set()
            await go.wait()
            await connection.execute("SELECT 1")

    async with one_connection(database_dsn) as other:

        async def is_free() -> bool:
            async with other.connection() as connection:
                return bool(await connection.fetchval("SELECT pg_try_advisory_lock(7)"))

        with patch.dict(SESSION, idle_in_transaction_session_timeout="100ms"):
            async with one_connection(database_dsn) as database:
                has_it, go = asyncio.Event(), asyncio.Event()
                holder = asyncio.ensure_future(held(database, has_it, go))
                await has_it.wait()
                await eventually(is_free, True)  # its process does nothing more
                go.set()
                with pytest.raises(LedgerUnavailable):
                    await holder
                assert await ask(database) == 1
