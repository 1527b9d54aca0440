"""What adds units: numbered in commit order, applied once and in order, answered when every reader sees it."""

from __future__ import annotations

import asyncio

import pytest

from onhand.ledger.claims import Settlement
from onhand.ledger.transaction import Transaction
from onhand.reservations.gate import Delta
from reservations.stand import BREAD, MILK, NORTH, SOUTH, Crash, Line, Pause, Stand, key, reason, request_id


async def test_an_increase_is_seen_by_every_server_once_it_is_answered(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    for n in range(2, 7):
        await server.receive(NORTH, {MILK: 1})
        assert await stand.gate_atp() == n
        assert await other.atp(NORTH) == n
    await stand.audit()


async def test_increases_are_numbered_in_the_order_of_their_commits(stand: Stand) -> None:
    """Mutant "delta numbers from a sequence": the number's row is locked until the commit."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1, BREAD: 1})
    ((last,),) = await stand.fetch("SELECT last_number FROM location_delta_heads WHERE location_id = $1", NORTH)
    async with stand.pool.acquire() as connection:
        first = connection.transaction()
        await first.start()
        await connection.execute(
            "UPDATE location_delta_heads SET last_number = last_number + 1 WHERE location_id = $1", NORTH
        )
        later = asyncio.create_task(server.receive(NORTH, {MILK: 1}))
        await stand.waits_for_lock("location_delta_heads")
        assert await other.atp(NORTH) == 1  # nothing was numbered past one that may still roll back
        await first.rollback()
    await later
    numbers = await stand.fetch("SELECT number FROM gate_deltas WHERE location_id = $1 ORDER BY 1", NORTH)
    assert [n for (n,) in numbers] == list(range(1, last + 2))
    await stand.audit()


async def test_increases_at_once_are_all_applied_without_a_gap(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 1})
    await stand.stocked(SOUTH, {MILK: 1})
    await asyncio.gather(*(servers[n % 3].receive((NORTH, SOUTH)[n % 2], {MILK: 1, BREAD: n + 1}) for n in range(30)))
    assert await servers[0].atp(NORTH) == await servers[1].atp(SOUTH) == 16
    assert await stand.deadlocks() == 0  # BREAD is new: whoever makes its level has not locked that of MILK yet
    rows = await stand.fetch("SELECT location_id, count(*), max(number) FROM gate_deltas GROUP BY 1")
    assert all(count == last for _, count, last in rows)
    await stand.audit()


async def test_a_delta_is_applied_once_and_only_after_the_one_before(stand: Stand) -> None:
    """Mutant "applied ids are dropped once settled"."""
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    gate = server.app.gate
    ((header, _),) = await gate.patrol([NORTH], 0)
    n = header.delta
    deltas = [Delta(k, [(MILK, 1, None)]) for k in (n + 1, n + 2, n + 3)]
    assert (await gate.apply([(NORTH, [deltas[1], deltas[2]])]))[0].delta == n
    assert (await gate.apply([(NORTH, [deltas[1], deltas[0]])]))[0].delta == n + 1
    assert (await gate.apply([(NORTH, deltas)]))[0].delta == n + 3
    assert (await gate.apply([(NORTH, deltas)]))[0].delta == n + 3
    assert await stand.gate_atp() == 8
    assert (await gate.apply([(SOUTH, deltas)]))[0].epoch == 0
    assert await stand.redis.exists(key(SOUTH, "stock")) == 0


async def test_a_server_that_dies_before_its_relay_leaves_it_to_the_patrol_or_to_its_repeat(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    for is_repeated in (False, True):
        dying = await stand.server()
        same = request_id()
        pause = dying.pause_mutation(after=True)
        call = asyncio.create_task(dying.receive(NORTH, {MILK: 1}, same))
        await pause.reached.wait()
        pause.crash()
        with pytest.raises(Crash):
            await call
        await stand.crash(dying)
        await stand.assert_safe()
        before = await stand.gate_atp()
        await (other.receive(NORTH, {MILK: 1}, same) if is_repeated else stand.sweep(server))
        assert await stand.gate_atp() == before + 1
    await stand.audit()


async def test_the_next_increase_brings_those_along_that_were_not_relayed(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    pause = server.pause_mutation(after=True)
    call = asyncio.create_task(server.receive(NORTH, {MILK: 1}))
    await pause.reached.wait()
    await other.receive(NORTH, {BREAD: 1})
    assert await other.atp(NORTH) == 2
    pause.go.set()
    await call
    await stand.audit()


async def test_an_increase_that_cannot_reach_the_gate_is_answered_after_a_raise(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    epoch = await stand.epoch()
    line = Line(server.app)
    line.cut()
    await server.receive(NORTH, {MILK: 4})
    assert await stand.epoch() == epoch + 1
    assert await stand.gate_atp() == 1
    assert await other.atp(NORTH) == 5
    line.mend()
    await stand.audit()


async def test_an_increase_is_not_answered_by_an_outdated_gate_that_took_it(stand: Stand) -> None:
    """Mutant "increase answered after an outdated gate took it": the gate that is loaded next may not know the increase."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    load = other.pause_snapshot()
    rebuild = asyncio.create_task(other.app.rebuilder.rebuild(NORTH, is_forced=True))
    await load.reached.wait()  # raised, its snapshot is read: without what comes now
    await server.receive(NORTH, {MILK: 4})
    load.go.set()
    await rebuild
    assert await server.atp(NORTH) == 5
    assert await other.atp(NORTH) == 5
    await stand.audit()


async def test_an_increase_whose_relay_is_not_answered_is_there_once(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    line = Line(server.app)
    line.unanswered.add("apply")
    await server.receive(NORTH, {MILK: 4})
    line.mend()
    assert await other.atp(NORTH) == 5
    await stand.audit()


async def test_a_release_that_cannot_reach_the_gate_is_seen_all_the_same(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}})).reservation_id
    line = Line(server.app)
    line.lost.add("drop")
    await server.release(held)
    assert await other.atp(NORTH) == 5
    line.mend()
    await stand.audit()


async def test_a_repeat_of_a_release_whose_server_died_gives_the_units_back_before_it_answers(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}})).reservation_id
    same = request_id()
    pause = server.pause_mutation(after=True)
    call = asyncio.create_task(server.release(held, same))
    await pause.reached.wait()
    pause.crash()
    with pytest.raises(Crash):
        await call
    await stand.crash(server)
    assert await stand.gate_atp() == 0
    await other.release(held, same)
    assert await stand.gate_atp() == 5
    await stand.audit()


async def test_a_cancelled_order_is_sellable_again_at_once(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}})).reservation_id
    await server.confirm(held)
    assert await other.atp(NORTH) == 0
    await server.cancel(NORTH, {MILK: 3})
    await other.reserve({NORTH: {MILK: 3}})
    await stand.audit()


async def test_a_gate_that_lags_by_more_than_one_look_is_caught_up(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onhand.reservations.relay.DELTAS_MAX", 3)
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    pauses = []
    for _ in range(10):
        lagging = await stand.server()
        pause = Pause(lagging.app.ledger, "follow")
        pauses.append((pause, asyncio.create_task(lagging.receive(NORTH, {MILK: 1}))))
        await pause.reached.wait()
    assert await stand.gate_atp() == 1
    await stand.sweep(other)
    assert await stand.gate_atp() == 11
    for pause, call in pauses:
        pause.go.set()
        await call
    assert await server.atp(NORTH) == 11
    await stand.audit()


async def test_an_increase_that_is_rolled_back_leaves_neither_number_nor_delta(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    before = await stand.fetch("SELECT * FROM location_delta_heads ORDER BY 1")
    assert await reason(server.receive(NORTH, {MILK: 1, "no-such-sku": 1})) == "SKU_NOT_FOUND"
    assert await stand.fetch("SELECT * FROM location_delta_heads ORDER BY 1") == before
    await stand.audit()


async def test_a_buyer_is_not_refused_by_data_that_lacks_an_answered_increase(stand: Stand) -> None:
    server, cut_off = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    await server.reserve({NORTH: {MILK: 1}})
    line = Line(cut_off.app)
    line.lost.update({"apply", "load"})
    await cut_off.receive(NORTH, {MILK: 2})  # answered: it raised the epoch, for the gate was not to be had
    await server.reserve({NORTH: {MILK: 2}})
    line.lost.clear()
    await stand.audit()


async def test_a_buyer_is_not_refused_by_outdated_data_that_others_have_replaced_meanwhile(stand: Stand) -> None:
    """Mutant "refusal is doubted by the gate's epoch of another moment"."""
    server, cut_off, other = await stand.server(), await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    await server.reserve({NORTH: {MILK: 1}})
    line = Line(cut_off.app)
    line.lost.update({"apply", "load"})
    await cut_off.receive(NORTH, {MILK: 2})  # answered, and not in the gate's data
    await cut_off.quiet()
    pause = Pause(server.app.claims, "was_outdated")
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 2}}))
    await pause.reached.wait()  # refused by that data
    await other.app.rebuilder.rebuild(NORTH)
    pause.go.set()
    await call
    line.lost.clear()
    await stand.audit()


async def test_a_read_shows_no_release_without_the_sale_that_went_past_the_gate(stand: Stand) -> None:
    """Mutant "ledger's epoch is asked beside the read"."""
    reader, cut_off, other = await stand.server(), await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = await other.reserve({NORTH: {MILK: 1}})
    pause = Pause(reader.app.gate, "read")
    call = asyncio.create_task(reader.atp(NORTH))
    await pause.reached.wait()
    wires = [Line(cut_off.app), Line(other.app)]
    wires[0].cut()
    wires[1].lost.add("load")
    await cut_off.sell(NORTH, {MILK: 4})
    await other.release(held.reservation_id)  # given back to the data that lacks the sale
    assert await stand.gate_atp() == 5
    pause.go.set()
    assert await call == 1
    for wire in wires:
        wire.mend()
    await stand.audit()


async def test_a_number_that_was_drawn_is_waited_for_until_its_commit(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant "delta numbers from a sequence": a snapshot that has the later one would pass over the earlier."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1, BREAD: 1})
    finish = Transaction.finish
    drawn, go = asyncio.Event(), asyncio.Event()

    async def stopped(transaction: Transaction) -> list[Settlement]:
        settlements = await finish(transaction)
        if not drawn.is_set():
            drawn.set()
            await go.wait()
        return settlements

    monkeypatch.setattr(Transaction, "finish", stopped)
    first = asyncio.create_task(server.receive(NORTH, {MILK: 1}))
    await drawn.wait()
    second = asyncio.create_task(other.receive(NORTH, {BREAD: 1}))
    waiting = asyncio.create_task(stand.waits_for_lock("location_delta_heads"))
    await asyncio.wait([second, waiting], return_when=asyncio.FIRST_COMPLETED)
    assert not second.done()
    go.set()
    await asyncio.gather(first, second, waiting)
    assert [await other.atp(NORTH, sku) for sku in (MILK, BREAD)] == [2, 2]
    await stand.audit()


async def test_a_release_is_not_answered_by_an_outdated_gate_that_took_it(stand: Stand) -> None:
    """Mutant "release answered after an outdated gate took it": what is loaded next holds the claim still."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}})).reservation_id
    load = other.pause_snapshot()
    rebuild = asyncio.create_task(other.app.rebuilder.rebuild(NORTH, is_forced=True))
    await load.reached.wait()  # raised, its snapshot is read: with the reservation
    await server.release(held)
    load.go.set()
    await rebuild
    assert await server.atp(NORTH) == 5
    assert await other.atp(NORTH) == 5
    await stand.audit()
