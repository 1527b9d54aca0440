"""Rebuilding in parts while calls go on: closed no longer than a load takes, and nothing lost or given back twice by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from onhand.reservations import rebuild
from reservations.stand import BREAD, MILK, NORTH, Pause, Server, Stand, reason


class Parts:
    """Has something happen before each part that a server loads; `count` of them were loaded."""

    def __init__(self, server: Server, meanwhile: Callable[[int], Awaitable[None]]) -> None:
        self.count = 0
        load = server.app.gate.load

        async def loading(*values: Any) -> bool:
            await meanwhile(self.count)
            self.count += 1
            return await load(*values)

        server.app.gate.load = loading  # type: ignore[method-assign]


async def _has_looked(server: Server, times: int) -> None:
    """Returns once a server has looked at the gate's header so often."""
    looks, is_enough = 0, asyncio.Event()
    patrol = server.app.gate.patrol

    async def patrolling(*values: Any) -> Any:
        nonlocal looks
        found = await patrol(*values)
        looks += 1
        if looks >= times:
            is_enough.set()
        return found

    server.app.gate.patrol = patrolling  # type: ignore[method-assign]
    try:
        await asyncio.wait_for(is_enough.wait(), 60)
    finally:
        del server.app.gate.patrol


async def _half_loaded(stand: Stand, rebuilder: Server) -> tuple[Pause, asyncio.Task[None]]:
    """A rebuild that is stopped after its first part: raised, closed, its snapshot read."""
    pause = rebuilder.pause_snapshot(after=True)
    task = asyncio.create_task(rebuilder.app.rebuilder.rebuild(NORTH, is_forced=True))
    await pause.reached.wait()
    return pause, task


async def test_what_raises_atp_waits_for_the_load_instead_of_closing_the_location_again(stand: Stand) -> None:
    """Under load there is always a release or a receipt: a raise by each of them would let no rebuild ever come to its end."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 9})
    held = await server.reserve({NORTH: {MILK: 2}})
    pause, rebuilding = await _half_loaded(stand, other)
    epoch = await stand.epoch()
    calls = [
        asyncio.create_task(server.release(held.reservation_id)),
        asyncio.create_task(server.receive(NORTH, {MILK: 3})),
    ]
    await _has_looked(server, 3)
    assert not any(call.done() for call in calls)
    pause.go.set()
    await asyncio.gather(rebuilding, *calls)
    assert await stand.epoch() == epoch
    assert await stand.gate_atp() == 12
    await stand.audit()


async def test_reservations_wait_for_a_load_of_another_process_while_reads_go_on(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 9})
    pause, rebuilding = await _half_loaded(stand, other)
    epoch = await stand.epoch()
    calls = [
        asyncio.create_task(server.reserve({NORTH: {MILK: 2}})),
        asyncio.create_task(server.sell(NORTH, {MILK: 1})),
    ]
    await _has_looked(server, 3)
    assert await server.atp(NORTH) == 9
    assert not any(call.done() for call in calls)
    pause.go.set()
    await asyncio.gather(rebuilding, *calls)
    assert await stand.epoch() == epoch
    assert await server.atp(NORTH) == 6
    await stand.audit()


async def test_a_call_waits_no_longer_for_a_rebuild_than_it_may(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 9})
    pause, rebuilding = await _half_loaded(stand, other)
    monkeypatch.setattr(rebuild, "WAIT_SECONDS_MAX", 0.01)
    assert await reason(server.reserve({NORTH: {MILK: 2}})) == "GATE_UNAVAILABLE"
    await server.sell(NORTH, {MILK: 1})  # past the gate
    monkeypatch.undo()
    pause.go.set()
    await rebuilding
    assert await server.atp(NORTH) == 8
    await server.quiet()
    await server.reserve({NORTH: {MILK: 8}})
    await stand.audit()


async def test_a_load_whose_process_died_is_taken_over(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "STALL_SECONDS", 0.0)
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 9})
    pause, rebuilding = await _half_loaded(stand, other)
    await server.reserve({NORTH: {MILK: 2}})
    epoch = await stand.epoch()
    pause.go.set()  # it was only slow: its parts are refused
    await rebuilding
    assert await stand.epoch() == epoch
    assert await other.atp(NORTH) == 7
    await stand.audit()


async def test_a_load_that_a_bypass_made_worthless_is_waited_for_by_nobody(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 9})
    pause, rebuilding = await _half_loaded(stand, other)
    await stand.raise_epoch()
    await server.reserve({NORTH: {MILK: 2}})
    pause.go.set()
    await rebuilding
    await stand.audit()


@pytest.mark.parametrize("is_begun_only", [True, False])
async def test_whatever_is_called_between_two_parts_has_its_effect_once(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, is_begun_only: bool
) -> None:
    """Reserve, change, release, confirm, expire, sell and receive at every boundary of the parts, at once or one by one."""
    monkeypatch.setattr(rebuild, "PART_ROWS_MAX", 1)
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 200, BREAD: 50})
    kept = [(await server.reserve({NORTH: {MILK: 1, BREAD: 1}})).reservation_id for _ in range(16)]
    released, confirmed, expired, changed = kept[:4], kept[4:8], kept[8:12], kept[12:]
    calls: list[asyncio.Task[Any]] = []

    async def sweep(reservation_id: str) -> None:
        await stand.pass_deadline(reservation_id)
        await server.app.sweeper.expire()

    async def meanwhile(loaded: int) -> None:
        part = loaded - 1  # before the first one nobody can know of the load
        if not 0 <= part < 4:
            return
        begun = [
            asyncio.create_task(server.release(released[part])),
            asyncio.create_task(server.confirm(confirmed[part])),
            asyncio.create_task(server.change(changed[part], {NORTH: {MILK: 2}})),
            asyncio.create_task(sweep(expired[part])),
            asyncio.create_task(server.reserve({NORTH: {MILK: 3}})),
            asyncio.create_task(server.sell(NORTH, {MILK: 1, BREAD: 1})),
            asyncio.create_task(server.receive(NORTH, {MILK: 5})),
        ]
        calls.extend(begun)
        if not is_begun_only:  # those that need no gate are over before the next part
            await asyncio.gather(begun[1], begun[3])

    parts = Parts(other, meanwhile)
    await other.app.rebuilder.rebuild(NORTH, is_forced=True)
    await asyncio.gather(*calls)
    assert parts.count >= 20  # two skus, sixteen claims, the first and the last part
    await server.quiet()
    await stand.pass_all_hints()
    await stand.sweep(server)
    # 200 + 4 * 5 received - 4 sold - 4 ordered; held: 4 changed to 2, 4 new of 3.
    assert await server.atp(NORTH, MILK) == 200 + 20 - 4 - 4 - 8 - 12
    assert await server.atp(NORTH, BREAD) == 50 - 4 - 4
    assert (await stand.states()).count("active") == 8
    await stand.audit()
