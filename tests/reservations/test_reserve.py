"""Reserving, at once, on many servers, with repeats and crashes: nothing is promised twice, and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from onhand.domain.errors import InsufficientStock, InvalidRequest
from onhand.domain.stock import MAX_QUANTITY
from onhand.inventory import Locations
from onhand.v1 import inventory_pb2 as v1
from reservations.stand import (
    BREAD,
    CALLER,
    EAST,
    MILK,
    NORTH,
    SOUTH,
    Crash,
    Line,
    Pause,
    Stand,
    key,
    outcomes,
    reason,
    refused,
    request_id,
)


# ------------------------------------------------------------------------------------------------------- at once
async def test_of_fifty_buyers_of_ten_units_on_three_servers_exactly_ten_get_one(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 10})
    answers, reasons = await outcomes([servers[n % 3].reserve({NORTH: {MILK: 1}}) for n in range(50)])
    assert len({a.reservation_id for a in answers}) == 10
    assert reasons == ["INSUFFICIENT_STOCK"] * 40
    assert await servers[0].atp(NORTH) == 0
    await stand.audit()


async def test_the_buyers_that_meet_a_gate_without_data_lose_nothing_by_it(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 10})
    await stand.redis.flushall()
    answers, reasons = await outcomes([servers[n % 3].reserve({NORTH: {MILK: 1}}) for n in range(50)])
    assert len(answers) == 10
    assert set(reasons) == {"INSUFFICIENT_STOCK"}
    await stand.audit()


async def test_a_request_at_once_on_three_servers_has_one_effect_and_one_answer(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 48})
    same = request_id()
    answers, reasons = await outcomes([servers[n % 3].reserve({NORTH: {MILK: 4}}, same) for n in range(12)])
    assert reasons == []
    assert len({a.SerializeToString() for a in answers}) == 1
    assert (await stand.states()).count("active") == 1
    await stand.audit()
    assert await servers[0].atp(NORTH) == 44


async def test_a_request_at_once_that_takes_all_there_is_is_refused_to_none_of_its_repeats(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 4})
    same = request_id()
    # A repeat whose first attempt still runs may be told that there is nothing left; asked again, it gets the answer.
    await outcomes([servers[n % 3].reserve({NORTH: {MILK: 4}}, same) for n in range(12)])
    answers, reasons = await outcomes([server.reserve({NORTH: {MILK: 4}}, same) for server in servers])
    assert reasons == []
    assert len({a.reservation_id for a in answers}) == 1
    await stand.audit()


async def test_another_body_under_a_request_id_is_refused_on_every_server_and_in_one_round(stand: Stand) -> None:
    first, second = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 10})
    same = request_id()
    await first.reserve({NORTH: {MILK: 1}}, same)
    assert await reason(second.reserve({NORTH: {MILK: 2}}, same)) == "REQUEST_ID_REUSED"
    assert await reason(second.reserve({NORTH: {MILK: 20}}, same)) == "REQUEST_ID_REUSED"
    assert await reason(second.receive(NORTH, {MILK: 1}, same)) == "REQUEST_ID_REUSED"
    together = request_id()
    answers, reasons = await outcomes([first.reserve({NORTH: {MILK: n}}, together) for n in (1, 2, 3)])
    assert len(answers) == 1
    assert reasons == ["REQUEST_ID_REUSED"] * 2
    await stand.audit()
    assert await first.atp(NORTH) == 9 - answers[0].baskets[0].lines[0].quantity


async def test_baskets_with_crossing_locations_and_skus_do_not_block_each_other(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    for place in (NORTH, SOUTH, EAST):
        await stand.stocked(place, {MILK: 200, BREAD: 200})
    forth = {NORTH: {MILK: 1, BREAD: 1}, SOUTH: {MILK: 1}, EAST: {BREAD: 2}}
    back = {place: dict(reversed(lines.items())) for place, lines in reversed(forth.items())}
    kept = [await servers[0].reserve(forth) for _ in range(10)]
    answers, reasons = await outcomes(
        [servers[n % 3].reserve(forth if n % 2 else back) for n in range(30)]
        + [servers[n % 3].confirm(r.reservation_id) for n, r in enumerate(kept)]
        + [servers[n % 3].sell(place, {MILK: 1, BREAD: 1}) for n in range(6) for place in forth]
        + [servers[n % 3].transfer(*p, {BREAD: 1, MILK: 1}) for n in range(6) for p in ((NORTH, SOUTH), (SOUTH, NORTH))]
    )
    assert reasons == []
    assert len(answers) == 30 + 10 + 18 + 12
    await stand.audit()


# -------------------------------------------------------------------------------------------------- whole or not at all
async def test_a_basket_of_many_locations_is_held_everywhere_or_nowhere(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.stocked(SOUTH, {MILK: 5})
    short = await refused(server.reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 6}}))
    assert isinstance(short, InsufficientStock)
    assert [(s.location_id, s.sku, s.requested, s.available) for s in short.shorts] == [(SOUTH, MILK, 6, 5)]
    await stand.audit()
    assert await server.atp(NORTH) == 5
    held = await server.reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 5}})
    assert [b.location_id for b in held.baskets] == [NORTH, SOUTH]
    await stand.audit()


async def test_a_refusal_names_every_short_line_of_every_location(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 1, BREAD: 1})
    await stand.stocked(SOUTH, {MILK: 1})
    short = await refused(server.reserve({NORTH: {MILK: 2, BREAD: 3}, SOUTH: {MILK: 1, BREAD: 1}}))
    assert isinstance(short, InsufficientStock)
    assert {(s.location_id, s.sku, s.requested, s.available) for s in short.shorts} == {
        (NORTH, MILK, 2, 1),
        (NORTH, BREAD, 3, 1),
        (SOUTH, BREAD, 1, 0),
    }


async def test_a_crash_between_the_takes_of_two_locations_leaves_nothing_after_the_sweep(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.stocked(SOUTH, {MILK: 5})
    held = await server.reserve({NORTH: {MILK: 1}})
    line = Line(server.app)
    # The takes of a change may go out in two rounds: the first is done, the second never leaves.
    server.app.claims._takes._round_items_max = 1
    pause = Pause(server.app.relay, "_drop_all")
    line.cut_after = "take"
    call = asyncio.create_task(server.change(held.reservation_id, {NORTH: {MILK: 2}, SOUTH: {MILK: 2}}))
    await pause.reached.wait()
    pause.crash()
    with pytest.raises(Crash):
        await call
    await stand.crash(server)
    assert await stand.gate_atp(NORTH) == 2
    await stand.pass_all_hints()
    await stand.sweep(other)
    await stand.audit()
    assert (await other.atp(NORTH), await other.atp(SOUTH)) == (4, 5)


async def test_a_group_is_refused_where_the_epoch_of_one_location_moved_on(stand: Stand) -> None:
    """Mutant "one epoch of a group that fits is enough"."""
    server, other = await stand.server(), await stand.server()
    for place in (NORTH, SOUTH):
        await stand.stocked(place, {MILK: 1})
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}, SOUTH: {MILK: 1}}))
    await pause.reached.wait()
    await other.app.rebuilder.rebuild(SOUTH, is_forced=True)
    await other.reserve({SOUTH: {MILK: 1}})
    pause.go.set()
    assert await reason(call) == "INSUFFICIENT_STOCK"
    assert await stand.states() == ["active"]
    await stand.audit()


async def test_a_group_of_which_one_claim_was_closed_as_an_orphan_claims_all_anew(stand: Stand) -> None:
    """Mutant "a claim of a group that was closed is left out"."""
    server, other = await stand.server(), await stand.server()
    for place in (NORTH, SOUTH):
        await stand.stocked(place, {MILK: 5})
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}, SOUTH: {MILK: 1}}))
    await pause.reached.wait()
    (orphan,) = await stand.held(NORTH)
    await stand.redis.zadd(key(NORTH, "due"), {orphan: 1})
    await stand.sweep(other)
    assert await stand.held(NORTH) == []
    pause.go.set()
    held = (await call).reservation_id
    assert [await stand.states(place) for place in (NORTH, SOUTH)] == [["active", "expired"], ["active"]]
    assert await other.confirm(held) == {NORTH: {MILK: 1}, SOUTH: {MILK: 1}}
    await stand.audit()


async def test_a_reservation_under_way_is_refused_where_its_location_was_deleted(stand: Stand) -> None:
    """Mutant "location deleted, its epoch goes on": a sale took the last unit, so that nothing kept the location."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}}))
    await pause.reached.wait()
    await other.sell(NORTH, {MILK: 1})
    message = v1.DeleteLocationRequest(request_id=request_id(), location_id=NORTH)
    await Locations(other.app.ledger).delete_location(message, CALLER)
    pause.go.set()
    assert await reason(call) == "LOCATION_NOT_FOUND"
    assert await stand.states() == ["consumed"]


async def test_lines_of_one_sku_are_summed_before_they_are_judged(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})

    def request(*quantities: int) -> v1.ReserveRequest:
        message = v1.ReserveRequest(request_id=request_id(), channel=1, baskets=[v1.LocationBasket(location_id=NORTH)])
        for quantity in quantities:
            message.baskets[0].lines.add(sku=MILK, quantity=quantity)
        return message

    short = await refused(server.app.reservations.reserve(request(3, 3)))
    assert isinstance(short, InsufficientStock)
    assert short.shorts[0].requested == 6
    held = (await server.app.reservations.reserve(request(3, 2))).reservation
    assert [(line.sku, line.quantity) for line in held.baskets[0].lines] == [(MILK, 5)]
    await stand.audit()


async def test_a_location_named_twice_is_an_invalid_request(stand: Stand) -> None:
    server = await stand.server()
    message = v1.ReserveRequest(request_id=request_id(), channel=1)
    for _ in range(2):
        message.baskets.add(location_id=NORTH).lines.add(sku=MILK, quantity=1)
    with pytest.raises(InvalidRequest):
        server.app.reservations.reserve(message)


async def test_what_does_not_exist_is_named_and_nothing_is_held(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    assert await reason(server.reserve({NORTH: {MILK: 1, "no-such-sku": 1}})) == "SKU_NOT_FOUND"
    assert await reason(server.reserve({NORTH: {MILK: 1}, "nowhere": {MILK: 1}})) == "LOCATION_NOT_FOUND"
    assert await reason(server.reserve({EAST: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    await stand.audit()
    assert await server.atp(NORTH) == 5


# -------------------------------------------------------------------------------------------------------- quantities
async def test_the_largest_quantities_stay_exact(stand: Stand) -> None:
    server = await stand.server()
    for _ in range(20):
        await server.receive(NORTH, {MILK: MAX_QUANTITY})
    await stand.stocked(NORTH, {MILK: 7})
    for _ in range(3):
        await server.reserve({NORTH: {MILK: MAX_QUANTITY}})
    assert await server.atp(NORTH) == 17 * MAX_QUANTITY + 7
    assert await reason(server.reserve({NORTH: {MILK: MAX_QUANTITY + 1}})) == "INVALID_REQUEST"
    await stand.redis.flushall()
    assert await server.atp(NORTH) == 17 * MAX_QUANTITY + 7
    await server.quiet()
    short = await refused(server.transfer(NORTH, SOUTH, {MILK: 18 * MAX_QUANTITY}))
    assert isinstance(short, InsufficientStock)
    assert short.shorts[0].available == 17 * MAX_QUANTITY + 7
    await server.sell(NORTH, {MILK: 17 * MAX_QUANTITY + 6})
    await stand.audit()
    assert await server.atp(NORTH) == 1


async def test_a_level_beyond_what_lua_prints_by_itself_is_counted_to_the_unit(stand: Stand) -> None:
    huge = 2**52 + 1
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    await server.receive(NORTH, {MILK: huge})
    held = await server.reserve({NORTH: {MILK: 3}})
    assert await server.atp(NORTH) == huge - 2
    await server.release(held.reservation_id)
    assert await server.atp(NORTH) == huge + 1
    await server.app.rebuilder.rebuild(NORTH, is_forced=True)
    await stand.audit()


async def test_a_basket_of_as_many_skus_as_allowed_at_as_many_locations_as_allowed(stand: Stand) -> None:
    server = await stand.server()
    skus, places = [f"s{n}" for n in range(200)], [f"p{n}" for n in range(20)]
    await stand.execute("INSERT INTO products (sku, name) SELECT s, s FROM unnest($1::text[]) AS s", skus)
    await stand.execute(
        "INSERT INTO locations (location_id, kind, name) SELECT l, 'STORE', l FROM unnest($1::text[]) AS l", places
    )
    for table in ("location_epochs", "location_delta_heads"):
        await stand.execute(f"INSERT INTO {table} (location_id) SELECT unnest($1::text[])", places)
    await stand.execute(
        "INSERT INTO stock_levels (location_id, sku, available)"
        " SELECT p, s, 1 FROM unnest($1::text[]) AS p, unnest($2::text[]) AS s",
        places,
        skus,
    )
    held = await server.reserve({place: dict.fromkeys(skus, 1) for place in places})
    found, _ = await server.app.availability.atp(places, skus, "WEB")
    assert {n for row in found.values() for n in row} == {0}
    await server.release(held.reservation_id)
    found, _ = await server.app.availability.atp(places, skus, "WEB")
    assert {n for row in found.values() for n in row} == {1}


async def test_text_that_postgresql_does_not_take_harms_nobody_else_in_its_round(stand: Stand) -> None:
    """The edge refuses a NUL; should one come through, its own caller alone hears of it."""
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    message = v1.ReserveRequest(request_id=request_id(), channel=1, customer_id="a\0b")
    message.baskets.add(location_id=NORTH).lines.add(sku=MILK, quantity=1)
    results = await asyncio.gather(
        server.reserve({NORTH: {MILK: 1}}),
        server.app.reservations.reserve(message),
        server.reserve({NORTH: {MILK: 1}}),
        return_exceptions=True,
    )
    assert [isinstance(r, v1.Reservation) for r in results] == [True, False, True]
    await stand.pass_all_hints()
    await stand.sweep()
    await stand.audit()
    assert await server.atp(NORTH) == 3


# ------------------------------------------------------------------------------------- repeats, crashes, lost answers
async def test_every_attempt_claims_under_an_id_of_its_own(stand: Stand) -> None:
    """Mutants "repeat undoes the gate", "repeat leaves the gate": a repeat must not touch what its first attempt holds."""
    first, second = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    same = request_id()
    pause = first.pause_journal()
    call = asyncio.create_task(first.reserve({NORTH: {MILK: 2}}, same))
    await pause.reached.wait()
    answer = await second.reserve({NORTH: {MILK: 2}}, same)
    assert len(await stand.held()) == 2
    pause.go.set()
    assert await call == answer
    await stand.audit()
    assert len(await stand.held()) == 1
    assert await first.atp(NORTH) == 3


async def test_a_reservation_whose_server_died_after_the_journal_is_kept_and_its_repeat_gets_it(stand: Stand) -> None:
    first, second = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    same = request_id()
    pause = first.pause_journal(after=True)
    call = asyncio.create_task(first.reserve({NORTH: {MILK: 5}}, same))
    await pause.reached.wait()
    pause.crash()
    await asyncio.gather(call, return_exceptions=True)
    await stand.crash(first)
    answer = await second.reserve({NORTH: {MILK: 5}}, same)  # the gate refuses: the ledger is asked
    await stand.audit()
    assert await second.confirm(answer.reservation_id) == {NORTH: {MILK: 5}}
    await stand.audit()


async def test_a_reservation_whose_server_died_before_the_journal_is_an_orphan_that_the_sweeper_ends(
    stand: Stand,
) -> None:
    first, second = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    same = request_id()
    pause = first.pause_journal()
    call = asyncio.create_task(first.reserve({NORTH: {MILK: 5}}, same))
    await pause.reached.wait()
    pause.crash()
    await asyncio.gather(call, return_exceptions=True)
    await stand.crash(first)
    await stand.assert_safe()
    assert await reason(second.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    await stand.pass_all_hints()
    answer = await second.reserve({NORTH: {MILK: 5}}, same)  # closes what is due by itself, before it would refuse
    assert await stand.states() == ["active", "expired"]
    await stand.audit()
    await second.release(answer.reservation_id)
    assert await second.atp(NORTH) == 5


async def test_a_late_insert_of_a_claim_that_was_closed_as_an_orphan_is_refused_and_claims_anew(stand: Stand) -> None:
    """Mutant "orphan given back without a tombstone"."""
    first, second = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pause = first.pause_journal()
    call = asyncio.create_task(first.reserve({NORTH: {MILK: 2}}))
    await pause.reached.wait()
    (orphan,) = await stand.held()
    await stand.pass_all_hints()
    await stand.sweep(second)
    assert await stand.held() == []
    assert await stand.fetch("SELECT claim_id::text, state, reservation_id FROM claims") == [(orphan, "expired", None)]
    pause.go.set()
    await call
    assert orphan not in await stand.held()
    assert await stand.states() == ["active", "expired"]
    await stand.audit()


async def test_an_insert_that_meets_the_tombstone_while_it_runs_is_refused_and_its_round_goes_on(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 2}}))
    await pause.reached.wait()
    (orphan,) = await stand.held()
    neighbour = asyncio.create_task(server.reserve({NORTH: {MILK: 1}}))
    async with stand.pool.acquire() as connection:
        closing = connection.transaction()
        await closing.start()
        await connection.execute(
            "INSERT INTO claims (location_id, claim_id, state, lines, deadline, closed_time)"
            " VALUES ($1, $2::text::uuid, 'expired', '[]', now(), now())",
            NORTH,
            orphan,
        )
        pause.go.set()
        await stand.waits_for_lock("WITH entry AS")
        await closing.commit()
    await asyncio.gather(call, neighbour)
    await stand.sweep(server)
    await stand.pass_all_hints()
    await stand.sweep(server)
    await stand.audit()
    assert await server.atp(NORTH) == 2


async def test_a_refusal_asks_the_ledger_first_whether_the_request_had_its_effect(stand: Stand) -> None:
    """Mutant "refusal does not ask the ledger"."""
    first, second = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    same = request_id()
    answer = await first.reserve({NORTH: {MILK: 1}}, same)
    assert await second.reserve({NORTH: {MILK: 1}}, same) == answer
    # Still so when the reservation has long ended.
    await first.confirm(answer.reservation_id)
    assert await second.reserve({NORTH: {MILK: 1}}, same) == answer
    await stand.audit()


async def test_a_take_whose_answer_was_lost_holds_until_the_sweeper_looks_and_never_longer(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    line = Line(server.app)
    line.unanswered.add("take")
    same = request_id()
    assert await reason(server.reserve({NORTH: {MILK: 5}}, same)) == "GATE_UNAVAILABLE"
    line.mend()
    assert len(await stand.held()) == 1
    await stand.assert_safe()
    await stand.pass_all_hints()
    await server.reserve({NORTH: {MILK: 5}}, same)
    await stand.audit()
    assert await other.atp(NORTH) == 0


async def test_a_claim_of_unknown_outcome_is_left_alone_by_its_caller(stand: Stand) -> None:
    """Mutant "undo on an unknown outcome": the insert may have been done."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    same = request_id()
    pause = server.pause_journal(after=True)
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}}, same))
    await pause.reached.wait()
    pause.crash()
    await asyncio.gather(call, return_exceptions=True)
    await server.quiet()
    assert len(await stand.held()) == 1
    assert await reason(other.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    await stand.pass_all_hints()
    await stand.sweep(other)
    assert len(await stand.held()) == 1
    await stand.audit()


async def test_a_caller_that_goes_away_leaves_a_reservation_or_nothing(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 40})
    calls = [asyncio.create_task(server.reserve({NORTH: {MILK: 1}})) for _ in range(20)]
    for n, call in enumerate(calls):
        for _ in range(n % 7):
            await asyncio.sleep(0)
        if n % 2:
            call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(*server.app.claims._takes._running, *server.app.reservations._rounds._running)
    await stand.assert_safe()
    await stand.pass_all_hints()
    await stand.sweep()
    await stand.audit()


# ------------------------------------------------------------------------------------------------------ how it ends
async def test_a_reservation_past_its_deadline_can_not_be_confirmed_changed_extended_or_released(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}})).reservation_id
    await stand.pass_deadline(held)
    for call in (
        server.confirm(held),
        server.change(held, {NORTH: {MILK: 1}}),
        server.extend(held, 600),
        server.release(held),
    ):
        refusal = await refused(call)
        assert (refusal.reason, refusal.metadata()["state"]) == ("RESERVATION_NOT_ACTIVE", "EXPIRED")
    assert (await server.get(held)).state == v1.RESERVATION_STATE_EXPIRED
    await stand.sweep()
    assert await stand.states() == ["expired"]
    assert await server.atp(NORTH) == 5
    await stand.audit()


async def test_released_and_expired_units_are_sellable_at_once(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = await server.reserve({NORTH: {MILK: 5}})
    await server.release(held.reservation_id)
    held = await other.reserve({NORTH: {MILK: 5}})
    await stand.pass_deadline(held.reservation_id)
    held = await server.reserve({NORTH: {MILK: 5}})  # the sweeper has not been there: the refusal looks by itself
    await stand.pass_deadline(held.reservation_id)
    await other.transfer(NORTH, SOUTH, {MILK: 5})
    await stand.audit()


async def test_all_of_a_reservation_expires_together_however_little_one_sweep_takes(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await stand.server()
    for place in (NORTH, SOUTH, EAST):
        await stand.stocked(place, {MILK: 5})
    monkeypatch.setattr("onhand.reservations.sweep.EXPIRED_MAX", 1)
    held = (await server.reserve({NORTH: {MILK: 5}, SOUTH: {MILK: 1}, EAST: {MILK: 1}})).reservation_id
    await stand.pass_deadline(held)
    await server.app.sweeper.expire()
    assert await reason(server.confirm(held)) == "RESERVATION_NOT_ACTIVE"
    assert await reason(server.extend(held, 600)) == "RESERVATION_NOT_ACTIVE"
    assert (await server.get(held)).state == v1.RESERVATION_STATE_EXPIRED
    for _ in range(3):
        await stand.sweep()
    assert await stand.states() == ["expired"] * 3
    await stand.audit()


@pytest.mark.parametrize("what", ["confirm", "extend", "release", "change"])
async def test_what_began_before_the_deadline_meets_a_whole_reservation_or_none(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A transaction that began in time may come to its update when the sweeper has expired a part of the reservation."""
    server, other = await stand.server(), await stand.server()
    for place in (NORTH, SOUTH):
        await stand.stocked(place, {MILK: 5})
    monkeypatch.setattr("onhand.reservations.sweep.EXPIRED_MAX", 1)
    held = (await server.reserve({NORTH: {MILK: 1}, SOUTH: {MILK: 2}})).reservation_id
    same = request_id()
    calls = {
        "confirm": lambda: server.confirm(held, same),
        "extend": lambda: server.extend(held, 600, same),
        "release": lambda: server.release(held, same),
        "change": lambda: server.change(held, {NORTH: {MILK: 2}, SOUTH: {MILK: 1}}, same),
    }
    async with stand.pool.acquire() as connection:
        blocking = connection.transaction()
        await blocking.start()
        # The request id is taken: the transaction begins, and waits before its update.
        await connection.execute("INSERT INTO requests (request_id, method, body_hash) VALUES ($1, '', '')", same)
        call = asyncio.create_task(calls[what]())
        await stand.waits_for_lock("INSERT INTO requests")
        await stand.execute("UPDATE claims SET deadline = clock_timestamp() WHERE state = 'active'")
        assert await other.app.sweeper.expire() == 1
        await blocking.rollback()
    result = (await asyncio.gather(call, return_exceptions=True))[0]
    states = await stand.states()
    if what == "release":
        assert "active" not in states or getattr(result, "reason", "") == "RESERVATION_NOT_ACTIVE"
    else:
        assert getattr(result, "reason", "") == "RESERVATION_NOT_ACTIVE", f"{result} {states}"
    for _ in range(3):
        await stand.sweep(other)
    await stand.pass_all_hints()
    await stand.sweep(other)
    await stand.audit()


async def test_a_reservation_ends_once_however_many_want_to_end_it(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 5})
    await stand.stocked(SOUTH, {MILK: 5})
    for _ in range(5):
        held = (await servers[0].reserve({NORTH: {MILK: 1}, SOUTH: {MILK: 1}})).reservation_id
        answers, reasons = await outcomes([s.confirm(held) for s in servers] + [s.release(held) for s in servers])
        assert len(answers) == 1
        assert reasons == ["RESERVATION_NOT_ACTIVE"] * 5
    await stand.audit()


async def test_unknown_reservations_are_named_so(stand: Stand) -> None:
    server = await stand.server()
    for call in (
        server.get(request_id()),
        server.confirm(request_id()),
        server.change(request_id(), {NORTH: {MILK: 1}}),
        server.extend(request_id(), 60),
        server.release(request_id()),
    ):
        assert await reason(call) == "RESERVATION_NOT_FOUND"


@pytest.mark.parametrize("what", ["confirm", "extend", "release", "change"])
async def test_what_meets_a_change_under_way_goes_on_with_the_changed_reservation(stand: Stand, what: str) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 1}})).reservation_id
    calls = {
        "confirm": lambda: server.confirm(held),
        "extend": lambda: server.extend(held, 600),
        "release": lambda: server.release(held),
        "change": lambda: server.change(held, {NORTH: {MILK: 3}}),
    }
    # Both wait for the claim, the change first: the other finds it released, and another one in its place.
    async with stand.pool.acquire() as connection:
        holding = connection.transaction()
        await holding.start()
        await connection.execute("SELECT FROM claims WHERE state = 'active' FOR UPDATE")
        changing = asyncio.create_task(server.change(held, {NORTH: {MILK: 2}}))
        await stand.waits_for_lock("UPDATE claims")
        call = asyncio.create_task(calls[what]())
        await stand.waits_for_lock("UPDATE claims", 2)
        await holding.rollback()
    await asyncio.gather(changing, call)
    units = {"confirm": 2, "extend": 2, "release": 0, "change": 3}[what]
    await stand.pass_all_hints()
    await stand.sweep()
    await stand.audit()
    assert await server.atp(NORTH) == 5 - units


# ------------------------------------------------------------------------------------------------------------ extend
async def test_an_extension_is_honoured_by_the_sweeper_though_the_gate_has_the_old_deadline(stand: Stand) -> None:
    """Mutant "gate's deadline decides an expiry"."""
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}}, ttl=60)).reservation_id
    extended = await server.extend(held, 3600)
    await stand.pass_all_hints()
    await stand.sweep()
    assert await stand.states() == ["active"]
    assert await server.app.gate.patrol([NORTH], 0) is not None
    (claim_id,) = await stand.held()
    due = await stand.redis.zscore("oh:{north}:due", claim_id)
    assert abs(due / 1000 - extended.expire_time.ToDatetime().timestamp()) < 86_400  # reminded of a later look
    assert due > 1
    assert await server.confirm(held) == {NORTH: {MILK: 5}}
    await stand.audit()


async def test_an_extension_never_shortens(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = await server.reserve({NORTH: {MILK: 5}}, ttl=3600)
    extended = await server.extend(held.reservation_id, 60)
    assert abs(extended.expire_time.ToDatetime() - held.expire_time.ToDatetime()).total_seconds() < 0.001


async def test_an_extension_that_is_under_way_keeps_its_reservation_from_the_sweeper(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await server.reserve({NORTH: {MILK: 5}})).reservation_id
    async with stand.pool.acquire() as connection:
        extending = connection.transaction()
        await extending.start()
        await connection.execute("UPDATE claims SET deadline = now() + interval '1 hour' WHERE state = 'active'")
        await stand.sweep()
        await extending.commit()
    await stand.pass_all_hints()
    await stand.sweep()
    assert await stand.states() == ["active"]
    await server.release(held)
    await stand.audit()
