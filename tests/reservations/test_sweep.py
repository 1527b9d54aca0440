"""What time and crashes leave behind, and how gate and ledger are kept the same."""

from __future__ import annotations

import asyncio
import json

import pytest

from onhand.reservations.sweep import repeat
from reservations.stand import BREAD, MILK, NORTH, SOUTH, Line, Pause, Stand, key, reason


# ------------------------------------------------------------------------------------------------------------ sweeper
async def test_sweepers_of_many_servers_expire_a_reservation_once(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 20})
    for _ in range(10):
        await stand.pass_deadline((await servers[0].reserve({NORTH: {MILK: 1}})).reservation_id)
    counts = await asyncio.gather(*(s.app.sweeper.expire() for s in servers for _ in range(2)))
    assert sum(counts) == 10
    await asyncio.gather(*(s.app.sweeper.patrol() for s in servers))
    assert await servers[0].atp(NORTH) == 20
    await stand.audit()


async def test_a_sweeper_that_dies_before_the_gate_heard_of_it_is_followed_by_another(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.pass_deadline((await server.reserve({NORTH: {MILK: 5}})).reservation_id)
    line = Line(server.app)
    line.cut()
    assert await server.app.sweeper.expire() == 1
    await stand.crash(server)
    assert await stand.states() == ["expired"]
    assert await stand.gate_atp() == 0
    await stand.sweep(other)
    assert await stand.gate_atp() == 5
    await stand.audit()


async def test_an_orphan_is_closed_once_by_however_many_sweepers(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 5})
    line = Line(servers[0].app)
    line.unanswered.add("take")
    assert await reason(servers[0].reserve({NORTH: {MILK: 5}})) == "GATE_UNAVAILABLE"
    line.mend()
    await stand.pass_all_hints()
    await asyncio.gather(*(s.app.sweeper.patrol() for s in servers for _ in range(2)))
    assert await stand.gate_atp() == 5
    assert await stand.states() == ["expired"]
    await stand.audit()


async def test_a_tombstone_of_a_sweeper_that_died_is_acted_on_by_the_next(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    line = Line(server.app)
    line.unanswered.add("take")
    assert await reason(server.reserve({NORTH: {MILK: 5}})) == "GATE_UNAVAILABLE"
    line.mend()
    await stand.pass_all_hints()
    pause = Pause(server.app.relay, "_drop_all")
    patrol = asyncio.create_task(server.app.sweeper.patrol())
    await pause.reached.wait()
    pause.crash()
    await asyncio.gather(patrol, return_exceptions=True)
    assert await stand.gate_atp() == 0
    await stand.sweep(other)
    assert await stand.gate_atp() == 5
    await stand.audit()


async def test_a_claim_that_was_journalled_while_the_sweeper_looked_is_left_alone(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 5}}))
    await pause.reached.wait()
    await stand.pass_all_hints()
    looked = Pause(other.app.gate, "patrol", after=True)
    patrol = asyncio.create_task(other.app.sweeper.patrol())
    await looked.reached.wait()
    pause.go.set()
    held = (await call).reservation_id
    looked.go.set()
    await patrol
    assert await stand.states() == ["active"]
    assert await server.confirm(held) == {NORTH: {MILK: 5}}
    await stand.audit()


async def test_more_claims_than_one_look_takes_are_all_ended(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onhand.reservations.gate.DUE_PAGE", 3)
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 20})
    line = Line(server.app)
    line.unanswered.add("take")
    reasons = [await reason(server.reserve({NORTH: {MILK: 1}})) for _ in range(10)]
    assert set(reasons) == {"GATE_UNAVAILABLE"}
    line.mend()
    await stand.pass_all_hints()
    for _ in range(4):
        await stand.sweep(other)
    assert await stand.gate_atp() == 20
    await stand.audit()


async def test_callers_that_are_refused_at_once_share_one_look_for_what_is_due(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.pass_deadline((await server.reserve({NORTH: {MILK: 5}})).reservation_id)
    line = Line(server.app)
    await asyncio.gather(*(server.reserve({NORTH: {MILK: 1}}) for _ in range(5)))
    assert line.sent.count("drop") == 1
    await stand.audit()


async def test_a_loop_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    steps: list[int] = []
    is_done = asyncio.Event()

    async def step() -> None:
        steps.append(1)
        if len(steps) == 3:
            is_done.set()
        if len(steps) == 1:
            raise ValueError("once")

    loop = asyncio.create_task(repeat("stepping", step, 0.0, 0.0))
    await is_done.wait()
    loop.cancel()
    assert "stepping: ValueError: once" in caplog.text


async def test_the_loops_of_a_server_do_all_of_it_by_themselves(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.pass_deadline((await server.reserve({NORTH: {MILK: 2}})).reservation_id)
    line = Line(server.app)
    line.unanswered.add("take")
    assert await reason(server.reserve({NORTH: {MILK: 3}})) == "GATE_UNAVAILABLE"
    line.mend()
    await stand.pass_all_hints()
    other.app.start_loops()
    async with asyncio.timeout(60):
        while True:
            if await stand.gate_atp() == 5:
                break
            await asyncio.sleep(0.01)
    assert await stand.states() == ["expired", "expired"]


# -------------------------------------------------------------------------------------------------------- reconciling
async def _step(stand: Stand) -> None:
    await stand.servers[0].app.reconciler.step()
    await stand.servers[0].quiet()


@pytest.fixture
def in_flight_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """No increase is on its way any more."""
    monkeypatch.setattr("onhand.reservations.reconcile.IN_FLIGHT_SECONDS", -1.0)


@pytest.mark.usefixtures("in_flight_is_over")
@pytest.mark.parametrize("by", [3, -3])
async def test_an_injected_difference_is_reported_and_repaired(stand: Stand, by: int) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5, BREAD: 5})
    await stand.redis.hincrby(key(NORTH, "stock"), MILK, by)
    (difference,) = await server.app.reconciler.differences(NORTH) or ()
    assert (difference.what, difference.key, difference.offset) == ("atp", MILK, by)
    await _step(stand)
    assert await server.atp(NORTH) == 5
    ((data, location_id),) = await stand.fetch(
        "SELECT data, location_id FROM events WHERE type = 'onhand.gate.difference.v1'"
    )
    assert json.loads(data) == {"differences": [{"what": "atp", "key": MILK, "offset": by}]}
    assert location_id == NORTH
    await stand.audit()


@pytest.mark.usefixtures("in_flight_is_over")
@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("floor", ("HSET", "floors", MILK, "4")),
        ("claim", ("DEL", "claims")),
        ("claim", ("HSET", "claims", "00000000-0000-7000-8000-000000000000", '[["milk",1]]')),
        ("delta", ("HSET", "stock", "#delta", "99")),
        ("atp", ("HSET", "stock", "ghost", "7")),
        ("atp", ("HDEL", "stock", MILK)),
    ],
)
async def test_whatever_of_the_gates_data_is_damaged_is_seen_and_repaired(
    stand: Stand, what: str, damage: tuple[str, ...]
) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 2}})).reservation_id
    await stand.redis.execute_command(damage[0], key(NORTH, damage[1]), *damage[2:])
    found = await server.app.reconciler.differences(NORTH)
    assert what in {d.what for d in found or ()}
    await _step(stand)
    assert await server.app.reconciler.differences(NORTH) == []
    await server.release(held)
    assert await server.atp(NORTH) == 5
    await stand.audit()


async def test_what_is_in_flight_is_no_difference_to_repair(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    epoch = await stand.epoch()
    pause = other.pause_journal()
    call = asyncio.create_task(other.reserve({NORTH: {MILK: 2}}))
    await pause.reached.wait()
    assert await server.app.reconciler.differences(NORTH)
    for _ in range(3):
        await _step(stand)
    assert await stand.epoch() == epoch
    pause.go.set()
    await call
    await _step(stand)
    assert await server.app.reconciler.differences(NORTH) == []
    await stand.audit()


@pytest.mark.usefixtures("in_flight_is_over")
async def test_a_gate_that_nobody_trusts_has_no_differences_and_is_left_to_who_needs_it(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.redis.hincrby(key(NORTH, "stock"), MILK, 3)
    await stand.raise_epoch()
    assert await server.app.reconciler.differences(NORTH) is None
    await stand.redis.flushall()
    assert await server.app.reconciler.differences(NORTH) is None
    await _step(stand)
    assert await stand.fetch("SELECT FROM events WHERE type = 'onhand.gate.difference.v1'") == []
    assert await server.atp(NORTH) == 5
    await stand.audit()


@pytest.mark.usefixtures("in_flight_is_over")
async def test_every_location_gets_its_turn(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onhand.reservations.reconcile.LOCATIONS_PER_STEP", 1)
    server = await stand.server()
    for place in (NORTH, SOUTH):
        await stand.stocked(place, {MILK: 5})
        await stand.redis.hincrby(key(place, "stock"), MILK, 1)
    for _ in range(5):
        await _step(stand)
    assert [await stand.gate_atp(place) for place in (NORTH, SOUTH)] == [5, 5]
    assert await server.app.reconciler.differences(SOUTH) == []


@pytest.mark.usefixtures("in_flight_is_over")
async def test_a_repair_loses_no_reservation_that_is_under_way(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pause = other.pause_journal()
    call = asyncio.create_task(other.reserve({NORTH: {MILK: 2}}))
    await pause.reached.wait()
    await stand.redis.hincrby(key(NORTH, "stock"), MILK, 3)
    await _step(stand)
    assert await server.atp(NORTH) == 5
    pause.go.set()
    await call
    assert await server.atp(NORTH) == 3
    await stand.audit()
