"""Changing a reservation: both baskets are held until the ledger has swapped them."""

from __future__ import annotations

import asyncio

import pytest

from onhand.v1 import inventory_pb2 as v1
from reservations.stand import (
    BREAD,
    EAST,
    MILK,
    NORTH,
    SOUTH,
    Baskets,
    Line,
    Pause,
    Stand,
    outcomes,
    reason,
    request_id,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({NORTH: {MILK: 1}}, {NORTH: {MILK: 5}}),
        ({NORTH: {MILK: 5}}, {NORTH: {MILK: 1}}),
        ({NORTH: {MILK: 5}}, {NORTH: {MILK: 5}}),
        ({NORTH: {MILK: 5}}, {NORTH: {BREAD: 5}}),
        ({NORTH: {MILK: 5, BREAD: 1}}, {NORTH: {MILK: 4, BREAD: 5}}),
        ({NORTH: {MILK: 5}}, {SOUTH: {MILK: 5}}),
        ({NORTH: {MILK: 2}, SOUTH: {MILK: 3}}, {SOUTH: {MILK: 5}, EAST: {BREAD: 1}}),
    ],
)
async def test_a_reservation_is_swapped_whole_and_keeps_its_id_and_deadline(
    stand: Stand, before: Baskets, after: Baskets
) -> None:
    server, other = await stand.server(), await stand.server()
    for place in (NORTH, SOUTH, EAST):
        await stand.stocked(place, {MILK: 5, BREAD: 5})
    held = await server.reserve(before)
    same = request_id()
    changed = await server.change(held.reservation_id, after, same)
    assert changed.reservation_id == held.reservation_id
    assert changed.expire_time == held.expire_time
    assert {b.location_id: {n.sku: n.quantity for n in b.lines} for b in changed.baskets} == after
    assert await other.change(held.reservation_id, after, same) == changed
    assert await other.get(held.reservation_id) == changed
    await stand.audit()
    assert await other.confirm(held.reservation_id) == after
    assert await other.change(held.reservation_id, after, same) == changed
    await stand.audit()


async def test_a_change_that_cannot_be_had_leaves_the_reservation_as_it_was(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.stocked(SOUTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 4}})).reservation_id
    assert await reason(server.change(held, {NORTH: {MILK: 6}})) == "INSUFFICIENT_STOCK"
    assert await reason(server.change(held, {NORTH: {MILK: 5}, SOUTH: {MILK: 6}})) == "INSUFFICIENT_STOCK"
    await stand.audit()
    assert await server.confirm(held) == {NORTH: {MILK: 4}}
    await stand.audit()


async def test_others_never_see_more_than_there_is_while_more_is_taken(stand: Stand) -> None:
    """Mutant "change of quantity swaps in the gate, more"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 3})
    held = (await server.reserve({NORTH: {MILK: 1}})).reservation_id
    pause = server.pause_mutation()
    call = asyncio.create_task(server.change(held, {NORTH: {MILK: 2}}))
    await pause.reached.wait()
    assert await stand.gate_atp() == 0  # 1 and 2 are held
    assert await reason(other.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    await stand.assert_safe()
    # It dies here: the old basket is still held, nobody else got its units.
    pause.crash()
    await asyncio.gather(call, return_exceptions=True)
    await stand.pass_all_hints()
    await stand.sweep(other)
    await stand.audit()
    assert await other.confirm(held) == {NORTH: {MILK: 1}}
    await stand.audit()


async def test_what_a_change_gives_up_is_not_promised_before_the_ledger_gave_it_up(stand: Stand) -> None:
    """Mutant "change of quantity swaps in the gate, less"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 2})
    held = (await server.reserve({NORTH: {MILK: 2}})).reservation_id
    pause = server.pause_mutation()
    call = asyncio.create_task(server.change(held, {NORTH: {MILK: 1}}))
    await pause.reached.wait()
    assert await reason(other.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    assert await other.confirm(held) == {NORTH: {MILK: 2}}
    pause.go.set()
    assert await reason(call) == "RESERVATION_NOT_ACTIVE"
    await stand.audit()
    assert await other.atp(NORTH) == 0


async def test_the_old_claims_units_are_back_before_the_change_is_answered(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}})).reservation_id
    await server.change(held, {NORTH: {MILK: 1}})
    await other.reserve({NORTH: {MILK: 4}})
    await stand.audit()


async def test_a_server_that_dies_after_the_swap_has_swapped(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}})).reservation_id
    same = request_id()
    pause = server.pause_mutation(after=True)
    call = asyncio.create_task(server.change(held, {NORTH: {MILK: 1}}, same))
    await pause.reached.wait()
    pause.crash()
    await asyncio.gather(call, return_exceptions=True)
    await stand.crash(server)
    await stand.assert_safe()
    changed = await other.change(held, {NORTH: {MILK: 1}}, same)  # which also gives the old claim back
    assert await other.atp(NORTH) == 4
    assert await other.get(held) == changed
    await stand.audit()


async def test_changes_at_once_are_done_one_after_the_other_and_a_repeat_only_once(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 20})
    held = (await servers[0].reserve({NORTH: {MILK: 3}})).reservation_id
    same = request_id()
    answers, reasons = await outcomes([s.change(held, {NORTH: {MILK: 4}}, same) for s in servers])
    assert reasons == []
    assert len({a.SerializeToString() for a in answers}) == 1
    answers, reasons = await outcomes([s.change(held, {NORTH: {MILK: n}}) for n, s in enumerate(servers, 5)])
    assert reasons == []
    await stand.audit()
    ((active,),) = await stand.fetch("SELECT lines FROM claims WHERE state = 'active'")
    assert active in {f'[["milk", {n}]]' for n in (5, 6, 7)}


async def test_a_change_takes_nothing_by_a_claim_that_the_gate_lost(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 3}})).reservation_id
    await stand.redis.flushall()
    assert await reason(server.change(held, {NORTH: {MILK: 6}})) == "INSUFFICIENT_STOCK"
    await server.change(held, {NORTH: {MILK: 5}})
    await stand.audit()


async def test_a_change_under_an_epoch_that_moved_on_is_refused_and_takes_anew(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 3}})).reservation_id
    pause = server.pause_mutation()
    call = asyncio.create_task(server.change(held, {NORTH: {MILK: 4}}))
    await pause.reached.wait()
    await other.app.rebuilder.rebuild(NORTH, is_forced=True)
    assert await other.atp(NORTH) == 2
    pause.go.set()
    await call
    assert await other.atp(NORTH) == 1
    await stand.audit()


async def test_a_change_goes_by_the_threshold_that_another_server_has_set(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 1}})).reservation_id
    await other.set_threshold("WEB", MILK, 3)
    assert await reason(server.change(held, {NORTH: {MILK: 3}})) == "INSUFFICIENT_STOCK"
    await server.change(held, {NORTH: {MILK: 2}})
    await other.set_threshold("WEB", MILK, 0)
    await server.change(held, {NORTH: {MILK: 5}})
    await stand.audit()


async def test_an_error_after_the_commit_is_no_refusal_and_leaves_the_new_claims_held(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What must follow the commit meets a full queue: the change is done all the same."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 1}})).reservation_id
    pause = Pause(server.app.ledger, "_attempt", after=True)
    call = asyncio.create_task(server.change(held, {NORTH: {MILK: 4}}))
    await pause.reached.wait()
    monkeypatch.setattr("onhand.reservations.combiner.WAITING_MAX", 0)
    pause.go.set()
    result = (await asyncio.gather(call, return_exceptions=True))[0]
    monkeypatch.undo()
    await server.quiet()
    await stand.assert_safe()
    assert isinstance(result, v1.Reservation) or result.reason == "LEDGER_UNAVAILABLE"
    assert await other.atp(NORTH) == 1
    await stand.audit()


async def test_a_take_for_a_change_whose_answer_is_lost_ends_with_the_reservations_time(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 2}})).reservation_id
    line = Line(server.app)
    line.unanswered.add("take")
    assert await reason(server.change(held, {NORTH: {MILK: 4}})) == "GATE_UNAVAILABLE"
    line.mend()
    await stand.assert_safe()
    await stand.pass_all_hints()
    await server.change(held, {NORTH: {MILK: 5}})
    await stand.pass_all_hints()
    await stand.sweep()
    await stand.audit()
