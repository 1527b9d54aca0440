"""PostgreSQL or the gate goes down in the middle: no promise is lost, none is made twice, and stores keep selling."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest

from onhand.dev.postgres import EmbeddedPostgres
from onhand.dev.valkey import EmbeddedValkey
from onhand.ledger.migrate import migrate
from onhand.v1 import inventory_pb2 as v1
from reservations.stand import CALLER, MILK, NORTH, SOUTH, Server, Stand, reason, request_id


@pytest.fixture
async def gate_stand(lost_errors: None, shared_dsn: str, private_redis: EmbeddedValkey) -> AsyncIterator[Stand]:
    """A stand whose gate may be killed."""
    stand = Stand(shared_dsn, private_redis.url)
    try:
        await stand.open()
        yield stand
    finally:
        await stand.close()


@pytest.fixture
async def ledger_stand(lost_errors: None, private_postgres: EmbeddedPostgres, redis_url: str) -> AsyncIterator[Stand]:
    """A stand whose PostgreSQL may be killed."""
    private_postgres.create_database("onhand")
    dsn = private_postgres.dsn("onhand")
    await asyncio.to_thread(migrate, dsn)
    stand = Stand(dsn, redis_url)
    try:
        await stand.open()
        yield stand
    finally:
        private_postgres.start()
        await stand.close()


async def _restarted(postgres: EmbeddedPostgres, stand: Stand) -> None:
    await asyncio.to_thread(postgres.start)
    async with asyncio.timeout(60):
        while True:
            try:
                await asyncio.gather(stand.fetch("SELECT 1"), stand.fetch("SELECT 1"))
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.02)


async def _seen(server: Server, location_id: str = NORTH) -> tuple[int, bool]:
    message = v1.GetAvailabilityRequest(channel=1, skus=[MILK], location_ids=[location_id])
    response = await server.promise.get_availability(message, CALLER)
    return response.locations[0].items[0].available_to_promise, response.is_stale


# --------------------------------------------------------------------------------------------------- the gate is down
async def test_without_a_gate_stores_sell_and_everybody_reads_but_nobody_reserves(
    gate_stand: Stand, private_redis: EmbeddedValkey
) -> None:
    stand = gate_stand
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = [(await server.reserve({NORTH: {MILK: 1}})).reservation_id for _ in range(3)]
    private_redis.kill()
    assert await reason(server.reserve({NORTH: {MILK: 1}})) == "GATE_UNAVAILABLE"
    assert await reason(server.transfer(NORTH, SOUTH, {MILK: 1})) == "GATE_UNAVAILABLE"
    assert await reason(server.change(held[0], {NORTH: {MILK: 2}})) == "GATE_UNAVAILABLE"
    await server.sell(NORTH, {MILK: 1})
    assert await _seen(other) == (1, False)
    await server.receive(NORTH, {MILK: 2})
    assert await _seen(other) == (3, False)
    assert await server.confirm(held[0]) == {NORTH: {MILK: 1}}
    await other.release(held[1])
    assert await _seen(server) == (4, False)
    assert await server.count(NORTH, {MILK: 5}) == {}  # of 6 on hand, one is allocated and one reserved
    assert await _seen(other) == (3, False)
    private_redis.start()
    assert await other.atp(NORTH) == 3
    await other.quiet()
    await server.quiet()
    assert await other.atp(NORTH) == 3
    await stand.audit()


async def test_a_gate_killed_between_take_and_journal_costs_nobody_anything(
    gate_stand: Stand, private_redis: EmbeddedValkey
) -> None:
    stand = gate_stand
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}}))
    await pause.reached.wait()
    private_redis.kill()
    private_redis.start()
    await asyncio.gather(other.app.gate.run_id(), return_exceptions=True)
    await other.app.rebuilder.rebuild(NORTH)
    await other.reserve({NORTH: {MILK: 1}})
    pause.go.set()
    assert await reason(call) in ("INSUFFICIENT_STOCK", "GATE_UNAVAILABLE")
    await server.quiet()
    assert await stand.states() == ["active"]
    await asyncio.gather(server.app.gate.run_id(), return_exceptions=True)
    await stand.audit()


async def test_a_gate_killed_between_take_and_journal_does_not_stop_the_journal(
    gate_stand: Stand, private_redis: EmbeddedValkey
) -> None:
    """Nobody has rebuilt it: the epoch is still that of the take, and the reservation is as good as any."""
    stand = gate_stand
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}}))
    await pause.reached.wait()
    private_redis.kill()
    pause.go.set()
    held = (await call).reservation_id
    private_redis.start()
    other = await stand.server()
    assert await reason(other.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    assert await other.confirm(held) == {NORTH: {MILK: 1}}
    await asyncio.gather(server.app.gate.run_id(), return_exceptions=True)
    await stand.audit()


async def test_a_gate_that_hangs_is_a_gate_that_is_down(gate_stand: Stand, private_redis: EmbeddedValkey) -> None:
    stand = gate_stand
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    assert private_redis.pid is not None
    os.kill(private_redis.pid, signal.SIGSTOP)
    try:
        results = await asyncio.gather(
            server.sell(NORTH, {MILK: 1}),
            _seen(server),
            reason(other.reserve({NORTH: {MILK: 1}})),
        )
    finally:
        os.kill(private_redis.pid, signal.SIGCONT)
    assert results[2] == "GATE_UNAVAILABLE"
    await server.quiet()
    # What hung did its work when it woke up, for callers who had long gone: the ledger knows of none of it.
    assert await other.atp(NORTH) == 4
    await server.quiet()
    await other.quiet()
    await stand.pass_all_hints()
    await stand.sweep()
    await stand.audit()


# ----------------------------------------------------------------------------------------------- PostgreSQL is down
async def test_without_a_ledger_reads_go_on_marked_stale_and_nothing_else_does(
    ledger_stand: Stand, private_postgres: EmbeddedPostgres
) -> None:
    stand = ledger_stand
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    assert await _seen(server) == (5, False)
    same = request_id()
    await asyncio.to_thread(private_postgres.kill)
    assert await _seen(server) == (5, True)
    assert await reason(_seen(server, SOUTH)) == "LEDGER_UNAVAILABLE"  # which the gate knows nothing of
    for _ in range(6):
        assert await reason(server.reserve({NORTH: {MILK: 1}}, same)) == "LEDGER_UNAVAILABLE"
    assert await reason(server.sell(NORTH, {MILK: 1})) == "LEDGER_UNAVAILABLE"
    assert await reason(server.receive(NORTH, {MILK: 1})) == "LEDGER_UNAVAILABLE"
    await server.quiet()
    # What never reached the ledger was given back: an outage of it does not sell out the gate.
    assert (await _seen(server))[0] >= 4
    await _restarted(private_postgres, stand)
    await server.reserve({NORTH: {MILK: 1}}, same)
    await stand.pass_all_hints()
    await stand.sweep(other)
    assert await _seen(other) == (4, False)
    await stand.audit()


async def test_postgresql_killed_between_take_and_answer_leaves_a_whole_reservation_or_none(
    ledger_stand: Stand, private_postgres: EmbeddedPostgres
) -> None:
    stand = ledger_stand
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    requests = [request_id() for _ in range(4)]
    before, after = server.pause_journal(), other.pause_journal(after=True)
    calls = [
        asyncio.create_task(s.reserve({NORTH: {MILK: 1}}, r)) for s, r in zip((server, other), requests, strict=False)
    ]
    await asyncio.gather(before.reached.wait(), after.reached.wait())
    await asyncio.to_thread(private_postgres.kill)
    before.go.set()
    after.crash()
    assert await reason(calls[0]) == "LEDGER_UNAVAILABLE"
    await asyncio.gather(calls[1], return_exceptions=True)
    await _restarted(private_postgres, stand)
    await stand.assert_safe()
    answers = [await s.reserve({NORTH: {MILK: 1}}, r) for s, r in zip((other, server), requests, strict=False)]
    assert (await stand.states()).count("active") == 2
    await stand.pass_all_hints()
    await stand.sweep()
    assert await server.atp(NORTH) == 3
    for answer in answers:
        assert await server.confirm(answer.reservation_id) == {NORTH: {MILK: 1}}
    await stand.audit()


async def test_postgresql_killed_under_load_loses_no_answered_reservation(
    ledger_stand: Stand, private_postgres: EmbeddedPostgres
) -> None:
    stand = ledger_stand
    servers = [await stand.server() for _ in range(2)]
    await stand.stocked(NORTH, {MILK: 1000})
    kept: list[str] = []
    unknown: list[str] = []
    is_busy = asyncio.Event()

    async def buyer(server: Server) -> None:
        while not unknown:
            same = request_id()
            result = (await asyncio.gather(server.reserve({NORTH: {MILK: 1}}, same), return_exceptions=True))[0]
            if isinstance(result, v1.Reservation):
                kept.append(result.reservation_id)
                if len(kept) == 50:
                    is_busy.set()
            else:
                unknown.append(same)

    buyers = [asyncio.create_task(buyer(servers[n % 2])) for n in range(16)]
    await is_busy.wait()
    await asyncio.to_thread(private_postgres.kill)
    await asyncio.gather(*buyers)
    await _restarted(private_postgres, stand)
    await stand.assert_safe()
    for n, same in enumerate(unknown):
        kept.append((await servers[n % 2].reserve({NORTH: {MILK: 1}}, same)).reservation_id)
    assert len(set(kept)) == len(kept)
    rows = await stand.fetch("SELECT reservation_id::text FROM claims WHERE state = 'active'")
    assert {r for (r,) in rows} == set(kept)
    await stand.pass_all_hints()
    await stand.sweep()
    assert await servers[0].atp(NORTH) == 1000 - len(kept)
    await stand.audit()
