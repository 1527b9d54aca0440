"""Safety stock and channel thresholds: changed on one server, they count at once on all."""

from __future__ import annotations

import asyncio

from reservations.stand import BREAD, MILK, NORTH, SOUTH, Pause, Stand, reason


async def test_a_threshold_counts_on_every_server_as_soon_as_it_is_set(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5, BREAD: 5})
    assert await other.atp(NORTH, channel="WEB") == 5
    await server.set_threshold("WEB", MILK, 3)
    assert await other.atp(NORTH, channel="WEB") == 2
    assert await other.atp(NORTH, channel="APP") == 5
    assert await other.atp(NORTH, BREAD, "WEB") == 5
    assert await other.atp(NORTH, channel="POS") == 5
    await server.set_threshold("WEB", MILK, 0)
    assert await other.atp(NORTH, channel="WEB") == 5


async def test_a_reservation_goes_by_a_threshold_that_its_server_has_not_heard_of(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await server.set_threshold("WEB", MILK, 3)
    assert await reason(other.reserve({NORTH: {MILK: 3}})) == "INSUFFICIENT_STOCK"
    await other.reserve({NORTH: {MILK: 2}})
    await stand.audit()


async def test_a_reservation_is_not_refused_by_a_threshold_that_was_lifted_elsewhere(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await server.set_threshold("WEB", MILK, 5)
    assert await other.atp(NORTH, channel="WEB") == 0
    await server.set_threshold("WEB", MILK, 0)
    await other.reserve({NORTH: {MILK: 5}})
    await stand.audit()


async def test_a_threshold_learnt_between_take_and_journal_does_not_pass_for_the_one_taken_by(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    assert await server.atp(NORTH, channel="WEB") == 5
    pause = Pause(server.app.connections, "pipeline", after=True)
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 5}}))
    await pause.reached.wait()  # taken by the old threshold, not yet journalled
    await other.set_threshold("WEB", MILK, 3)
    assert await server.atp(NORTH, channel="WEB") == 0  # its server learns of the new one, by a read
    pause.go.set()
    assert await reason(call) == "INSUFFICIENT_STOCK"
    await server.quiet()
    assert await server.atp(NORTH, channel="WEB") == 2
    await stand.audit()


async def test_safety_stock_is_kept_from_online_channels_at_its_location_alone(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.stocked(SOUTH, {MILK: 5})
    await server.set_safety_stock(NORTH, MILK, 4)
    assert [await other.atp(p, channel=c) for p in (NORTH, SOUTH) for c in ("WEB", "POS")] == [1, 5, 5, 5]
    assert await reason(other.reserve({NORTH: {MILK: 2}})) == "INSUFFICIENT_STOCK"
    await other.reserve({NORTH: {MILK: 2}}, channel="POS")
    await server.set_threshold("APP", MILK, 1)
    assert await other.atp(NORTH, channel="APP") == 0
    assert await other.atp(SOUTH, channel="APP") == 4
    await server.set_safety_stock(NORTH, MILK, 0)
    assert await other.atp(NORTH, channel="WEB") == 3
    await stand.audit()


async def test_safety_stock_survives_a_rebuild_and_is_read_from_the_ledger_without_a_gate(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await server.set_safety_stock(NORTH, MILK, 4)
    await stand.redis.flushall()
    assert await server.atp(NORTH, channel="WEB") == 1  # from the ledger
    await server.quiet()
    assert await server.atp(NORTH, channel="WEB") == 1  # from the gate
    assert await reason(server.reserve({NORTH: {MILK: 2}})) == "INSUFFICIENT_STOCK"
    await stand.audit()
