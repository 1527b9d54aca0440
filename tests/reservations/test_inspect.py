"""Differences are proved while calls go on: none is hidden by them, and none of them is taken for one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from onhand.reservations import inspect, reconcile
from onhand.reservations.inspect import LATE_SECONDS, Difference, Look
from reservations.stand import BREAD, MILK, NORTH, Line, Server, Stand, key, reason

Churn = Callable[[], Awaitable[Any]]


async def _inspect(server: Server, relay_seconds: float = 60.0) -> Look:
    look = await server.app.reconciler._inspector.inspect(NORTH, relay_seconds=relay_seconds)
    assert look is not None
    return look


class Churning:
    """Has something happen before and after every dump of a server, so that no look is ever at rest."""

    def __init__(self, server: Server, churn: Churn) -> None:
        self._gate = server.app.gate
        self.looks = self.alone = 0
        self._tasks: list[asyncio.Task[Any]] = []
        inspector = server.app.reconciler._inspector
        dump, look_alone = server.app.gate.dump, inspector._look_alone
        is_alone = False

        async def dump_in_churn(*values: Any) -> Any:
            self.looks += 1
            if is_alone:  # what would be committed now has to wait, and so must not be waited for
                self._tasks += [asyncio.create_task(_of(churn)) for _ in range(2)]
                return await dump(*values)
            await churn()
            found = await dump(*values)
            await churn()
            return found

        async def alone(*values: Any) -> Any:
            nonlocal is_alone
            self.alone += 1
            is_alone = True
            try:
                return await look_alone(*values)
            finally:
                is_alone = False

        server.app.gate.dump = dump_in_churn  # type: ignore[method-assign]
        inspector._look_alone = alone  # type: ignore[method-assign]

    async def end(self) -> None:
        """Waits for what was begun, and lets dumps be dumps."""
        await asyncio.gather(*self._tasks)
        del self._gate.dump


async def _of(churn: Churn) -> None:
    await churn()


async def _selling(stand: Stand) -> Churn:
    """Whole sales of another process, forgotten in the gate at once: the units are gone on both sides between two looks."""
    other = await stand.server()

    async def churn() -> None:
        await other.sell(NORTH, {MILK: 1})
        await other.quiet()

    return churn


async def _trading(stand: Stand) -> Churn:
    """Whatever else moves units: reserved, released, ordered, received."""
    other = await stand.server()

    async def churn() -> None:
        held = await other.reserve({NORTH: {MILK: 2}})
        await other.release(held.reservation_id)
        held = await other.reserve({NORTH: {MILK: 1}})
        await other.receive(NORTH, {MILK: 3})
        await other.confirm(held.reservation_id)
        await other.reserve({NORTH: {MILK: 1}})
        await other.sell(NORTH, {MILK: 1})
        await other.quiet()

    return churn


@pytest.mark.parametrize("kind", [_selling, _trading])
async def test_churn_alone_is_never_a_difference(stand: Stand, kind: Callable[[Stand], Awaitable[Churn]]) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 500, BREAD: 5})
    epoch = await stand.epoch()
    churning = Churning(server, await kind(stand))
    for _ in range(5):
        look = await _inspect(server)
        assert (look.differences, look.unsure) == ([], [])
    await server.app.reconciler.step()
    await churning.end()
    assert churning.looks > 10  # it was really looked again and again
    assert await stand.epoch() == epoch


@pytest.mark.parametrize("kind", [_selling, _trading])
@pytest.mark.parametrize("by", [1, -1])
async def test_a_lasting_difference_is_found_however_much_is_sold_meanwhile(
    stand: Stand, by: int, kind: Callable[[Stand], Awaitable[Churn]]
) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 500})
    await stand.redis.hincrby(key(NORTH, "stock"), MILK, by)
    churning = Churning(server, await kind(stand))
    look = await _inspect(server)
    assert look.differences == [Difference(NORTH, "atp", MILK, by)]
    assert churning.alone == 1  # nothing else could tell it from what was sold
    await server.app.reconciler.step()
    await churning.end()
    await server.quiet()
    assert len(await stand.fetch("SELECT FROM events WHERE type = 'onhand.gate.difference.v1'")) == 1
    # An order that was placed while the rebuild read may leave its claim in the new data: that is the sweeper's to forget.
    await stand.pass_all_hints()
    await stand.sweep()
    await stand.audit()


async def test_calls_of_many_at_once_are_no_difference_and_hide_none(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 100_000})
    is_over = False

    async def caller(n: int) -> None:
        server = servers[n % 2]
        while not is_over:
            if n % 3 == 0:
                await server.sell(NORTH, {MILK: 1})
            elif n % 3 == 1:
                held = await server.reserve({NORTH: {MILK: 2}})
                await server.confirm(held.reservation_id)
            else:
                held = await server.reserve({NORTH: {MILK: 1}})
                await server.release(held.reservation_id)
                await server.receive(NORTH, {MILK: 1})

    callers = [asyncio.create_task(caller(n)) for n in range(9)]
    try:
        for _ in range(15):
            assert (await _inspect(servers[2])).differences == []
        await stand.redis.hincrby(key(NORTH, "stock"), MILK, -1)
        assert (await _inspect(servers[2])).differences == [Difference(NORTH, "atp", MILK, -1)]
    finally:
        is_over = True
        await asyncio.gather(*callers)


async def _orphan(stand: Stand, server: Server) -> str:
    line = Line(server.app)
    line.unanswered.add("take")
    assert await reason(server.reserve({NORTH: {MILK: 2}})) == "GATE_UNAVAILABLE"
    line.mend()
    (claim_id,) = await stand.held()
    return claim_id


async def test_an_orphan_is_left_to_its_sweeper(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await _orphan(stand, server)
    epoch = await stand.epoch()
    look = await _inspect(server)
    assert (look.differences, look.unsure, look.waiting) == ([], [], 1)
    await server.app.reconciler.step()
    assert await stand.epoch() == epoch
    await stand.pass_all_hints()
    await stand.sweep()
    await stand.audit()


@pytest.mark.parametrize("how", ["late", "without a hint"])
async def test_an_orphan_that_no_sweeper_will_meet_is_a_difference(stand: Stand, how: str) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    claim_id = await _orphan(stand, server)
    if how == "late":
        ((now_ms,),) = await stand.fetch("SELECT (extract(epoch FROM now()) * 1000)::int8")
        await stand.redis.zadd(key(NORTH, "due"), {claim_id: now_ms - LATE_SECONDS * 1000 - 1})
    else:
        await stand.redis.zrem(key(NORTH, "due"), claim_id)
    assert (await _inspect(server)).differences == [Difference(NORTH, "claim", claim_id, 1)]
    await server.app.reconciler.step()
    assert await stand.gate_atp() == 5
    await stand.audit()


async def test_a_promise_that_the_gate_forgot_is_a_difference_at_once(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await server.reserve({NORTH: {MILK: 2}})
    (claim_id,) = await stand.held()
    await stand.redis.hdel(key(NORTH, "claims"), claim_id)
    await stand.redis.hincrby(key(NORTH, "stock"), MILK, 2)  # sold a second time
    assert set((await _inspect(server)).differences) == {
        Difference(NORTH, "atp", MILK, 2),
        Difference(NORTH, "claim", claim_id, -1),
    }


async def test_an_increase_is_given_its_time_to_arrive(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    line = Line(other.app)
    line.lost.add("apply")
    relay = other.app.relay

    async def dead(settlements: Any) -> None:
        raise AssertionError("the process is gone")

    relay.settle = dead  # type: ignore[method-assign]
    await asyncio.gather(other.receive(NORTH, {MILK: 4}), return_exceptions=True)
    assert (await _inspect(server)).differences == []
    assert (await _inspect(server, relay_seconds=-1)).differences == [Difference(NORTH, "delta", "", -1)]
    await stand.sweep(server)
    assert (await _inspect(server, relay_seconds=-1)).differences == []
    await stand.audit()


async def test_a_large_location_is_compared_in_parts_to_its_end(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "SKUS_MAX", 3)
    server = await stand.server()
    skus = [f"s{n}" for n in range(8)]
    await stand.execute("INSERT INTO products (sku, name) SELECT s, s FROM unnest($1::text[]) AS s", skus)
    await stand.stocked(NORTH, dict.fromkeys(skus, 3))
    await server.reserve({NORTH: {"s7": 1}})
    dumped: list[list[str] | None] = []
    original = server.app.gate.dump

    async def dump(location_id: str, part: list[str] | None = None) -> Any:
        if location_id == NORTH:
            dumped.append(part)
        return await original(location_id, part)

    server.app.gate.dump = dump  # type: ignore[method-assign]
    for _ in range(6):
        await server.app.reconciler.step()
    assert [skus[:3], skus[3:6], skus[6:]] in [dumped[n : n + 3] for n in range(len(dumped))]
    for sku, by in (("s7", 1), ("ghost", 2)):
        await stand.redis.hincrby(key(NORTH, "stock"), sku, by)
        for _ in range(8):
            await server.app.reconciler.step()
        rows = await stand.fetch("SELECT data FROM events WHERE type = 'onhand.gate.difference.v1'")
        assert any(f'"{sku}"' in data for (data,) in rows), sku
    await stand.audit()


async def test_a_comparison_that_takes_long_is_not_its_turn_again_before_its_share_of_the_time(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await stand.server()
    clock, looks = 1_000.0, 0

    async def look() -> None:
        nonlocal clock, looks
        looks += 1
        clock += 2.0

    monkeypatch.setattr(reconcile, "time", SimpleNamespace(monotonic=lambda: clock))
    server.app.reconciler.step = look  # type: ignore[method-assign]
    await server.app.reconciler.step_in_turn()
    clock += 2.0 / reconcile.LOOKING_SHARE - 2.0 - 0.1
    await server.app.reconciler.step_in_turn()
    assert looks == 1
    clock += 0.2
    await server.app.reconciler.step_in_turn()
    assert looks == 2
