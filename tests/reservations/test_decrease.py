"""What takes units away: facts are never refused for stock, decisions must pass, and a broken promise is always seen."""

from __future__ import annotations

import asyncio

import pytest

from onhand.domain.stock import sale_movements
from onhand.ledger.transaction import Transaction
from onhand.v1 import order_pb2
from reservations.stand import (
    BREAD,
    MILK,
    NORTH,
    SOUTH,
    Crash,
    Line,
    Stand,
    outcomes,
    reason,
    refused,
    request_id,
)


# ------------------------------------------------------------------------------------------------------------- facts
async def test_a_sale_takes_in_the_gate_first_and_is_consumed_by_its_commit(stand: Stand) -> None:
    """Mutant "decrease as a negative delta": between gate and ledger the gate has less, never more."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pause = server.pause_mutation()
    call = asyncio.create_task(server.sell(NORTH, {MILK: 5}))
    await pause.reached.wait()
    assert await stand.gate_atp() == 0
    assert await reason(other.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    pause.go.set()
    assert await call == {}
    assert await stand.states() == ["consumed"]
    await stand.audit()
    assert await stand.held() == []


async def test_a_sale_of_promised_units_is_recorded_and_says_what_it_broke(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    held = (await other.reserve({NORTH: {MILK: 4}})).reservation_id
    assert await server.sell(NORTH, {MILK: 3}) == {(NORTH, MILK): 2}
    assert await stand.gate_atp() == -2
    assert await other.atp(NORTH) == 0
    await stand.audit(broken=2)
    await other.release(held)
    await stand.audit()
    assert await server.atp(NORTH) == 2


async def test_a_promise_that_a_sale_breaks_is_seen_though_its_reservation_is_not_yet_journalled(stand: Stand) -> None:
    """Mutant "broken promise looked for in the ledger only"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    pause = other.pause_journal()
    call = asyncio.create_task(other.reserve({NORTH: {MILK: 1}}))
    await pause.reached.wait()
    assert await server.sell(NORTH, {MILK: 1}) == {(NORTH, MILK): 1}
    pause.go.set()
    await call
    await stand.audit(broken=1)


async def test_what_is_found_at_a_sale_comes_to_the_gate_like_any_increase(stand: Stand) -> None:
    """Mutant "found without a delta"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {BREAD: 1})
    await server.sell(NORTH, {MILK: 3, BREAD: 2})
    assert await stand.gate_atp() == await stand.gate_atp(sku=BREAD) == 0
    await server.receive(NORTH, {MILK: 2})
    assert await other.atp(NORTH) == 2
    await other.reserve({NORTH: {MILK: 2}})
    await stand.audit()


async def test_a_sale_is_sold_once_however_often_and_wherever_it_is_asked(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 10})
    same = request_id()
    await asyncio.gather(*(servers[n % 3].sell(NORTH, {MILK: 2}, same) for n in range(9)))
    assert await servers[0].atp(NORTH) == 8
    await stand.audit()
    assert await reason(servers[0].receive(NORTH, {MILK: 2}, same)) == "REQUEST_ID_REUSED"


async def test_a_sale_under_an_epoch_that_moved_on_claims_anew(stand: Stand) -> None:
    """Mutant "decrease commits without the epoch"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pause = server.pause_mutation()
    call = asyncio.create_task(server.sell(NORTH, {MILK: 3}))
    await pause.reached.wait()
    await other.app.rebuilder.rebuild(NORTH, is_forced=True)
    assert await other.atp(NORTH) == 5  # the claim was lost with the old data
    pause.go.set()
    await call
    assert await other.atp(NORTH) == 2
    await stand.audit()


async def test_a_sale_whose_claim_was_closed_as_an_orphan_is_sold_all_the_same(stand: Stand) -> None:
    """Mutant "sale whose id was closed as an orphan"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pause = server.pause_mutation()
    call = asyncio.create_task(server.sell(NORTH, {MILK: 3}))
    await pause.reached.wait()
    await stand.pass_all_hints()
    await stand.sweep(other)
    assert await other.atp(NORTH) == 5
    pause.go.set()
    await call
    assert await stand.states() == ["consumed", "expired"]
    assert await other.atp(NORTH) == 2
    await stand.audit()


async def test_a_sale_whose_server_died_before_its_commit_never_was(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    same = request_id()
    pause = server.pause_mutation()
    call = asyncio.create_task(server.sell(NORTH, {MILK: 3}, same))
    await pause.reached.wait()
    pause.crash()
    with pytest.raises(Crash):
        await call
    await stand.crash(server)
    await other.sell(NORTH, {MILK: 3}, same)
    assert await other.atp(NORTH) == 0  # 2 are there, but the orphan holds 3
    await stand.pass_all_hints()
    await stand.sweep(other)
    assert await other.atp(NORTH) == 2
    await stand.audit()


async def test_a_sale_whose_server_died_after_its_commit_is_sold_and_its_claim_forgotten(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    same = request_id()
    pause = server.pause_mutation(after=True)
    call = asyncio.create_task(server.sell(NORTH, {MILK: 3}, same))
    await pause.reached.wait()
    pause.crash()
    with pytest.raises(Crash):
        await call
    await stand.crash(server)
    await other.sell(NORTH, {MILK: 3}, same)
    await other.quiet()
    assert await other.atp(NORTH) == 2
    assert len(await stand.held()) == 1
    await stand.pass_all_hints()
    await stand.sweep(other)
    assert await stand.held() == []
    await stand.audit()


async def test_sales_and_reservations_at_once_break_no_more_promises_than_they_say(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 20})
    answers, reasons = await outcomes(
        [servers[n % 3].reserve({NORTH: {MILK: 1}}) for n in range(20)]
        + [servers[n % 3].sell(NORTH, {MILK: 2}) for n in range(12)]
    )
    assert set(reasons) <= {"INSUFFICIENT_STOCK"}
    told = sum(sum(a.values()) for a in answers if isinstance(a, dict))
    ((found,),) = await stand.fetch(
        "SELECT coalesce(sum(quantity), 0)::int8 FROM stock_movements WHERE reason_code = 'FOUND_AT_SALE'"
    )
    reserved = (await stand.states()).count("active")
    assert reserved == 20 - len(reasons)
    assert reserved + 24 - 20 - found <= told
    await stand.audit(broken=told)


# ----------------------------------------------------------------------------------------------------------- bypass
async def test_a_sale_goes_past_a_gate_that_is_down_and_nobody_trusts_the_gate_after(stand: Stand) -> None:
    """Mutants "bypass without a raise", "read does not compare epochs"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    epoch = await stand.epoch()
    Line(server.app).cut()
    await server.sell(NORTH, {MILK: 5})
    assert await stand.epoch() == epoch + 1
    assert await stand.gate_atp() == 5  # it knows nothing of the sale
    assert await other.atp(NORTH) == 0
    await other.quiet()
    assert await reason(other.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    await server.quiet()
    stand.servers.remove(server)
    await stand.audit()
    await server.app.close()


async def test_a_reservation_taken_before_a_bypass_is_refused_by_the_ledger_after_it(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pause = other.pause_journal()
    call = asyncio.create_task(other.reserve({NORTH: {MILK: 5}}))
    await pause.reached.wait()
    line = Line(server.app)
    line.cut()
    assert await server.sell(NORTH, {MILK: 1}) == {}
    pause.go.set()
    assert await reason(call) == "INSUFFICIENT_STOCK"
    line.mend()
    await stand.audit()


async def test_no_reservation_comes_between_what_a_bypass_counts_and_its_commit(stand: Stand) -> None:
    """A promise is broken unseen if it is journalled after the bypass looked at the promises, before it raises the epoch."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    line = Line(server.app)
    line.cut()
    counted, go = asyncio.Event(), asyncio.Event()
    broken: list[dict[tuple[str, str], int]] = []

    async def work(tx: Transaction, overdrawn: dict[tuple[str, str], int]) -> order_pb2.SellResponse:
        counted.set()
        await go.wait()
        broken.append(overdrawn)
        levels = await tx.lock_levels([(NORTH, MILK)])
        await tx.post(
            sale_movements(levels, [(NORTH, MILK, 1)], reference_document="sale", channel="POS", actor="till")
        )
        return order_pb2.SellResponse()

    message = order_pb2.SellRequest(request_id=request_id(), location_id=NORTH)
    sale = asyncio.create_task(server.app.decreases.fact(message, order_pb2.SellResponse, [(NORTH, [(MILK, 1)])], work))
    await counted.wait()
    promise = asyncio.create_task(other.reserve({NORTH: {MILK: 1}}))
    waiting = asyncio.create_task(stand.waits_for_lock("WITH entry AS"))
    await asyncio.wait([promise, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    go.set()
    await sale
    await asyncio.wait([promise])
    line.mend()
    kept = (await stand.states()).count("active")
    promise.exception()
    assert sum(broken[0].values()) >= kept, "a promise was broken, and nobody was told"
    await stand.audit(broken=kept)


async def test_a_bypass_beside_consumed_claims_does_not_deadlock(stand: Stand) -> None:
    """One server lost the gate, the others go on: all lock the epoch before the levels."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 100})
    line = Line(server.app)
    line.cut()
    async with stand.pool.acquire() as connection:
        holding = connection.transaction()
        await holding.start()
        await connection.execute("SELECT FROM stock_levels FOR UPDATE")
        first = asyncio.create_task(other.sell(NORTH, {MILK: 1}))  # shares the epoch, waits for the level
        await stand.waits_for_lock("stock_levels")
        second = asyncio.create_task(server.sell(NORTH, {MILK: 1}))
        await stand.waits_for_lock("", 2)
        await holding.rollback()
    await asyncio.gather(first, second)
    assert await stand.deadlocks() == 0
    line.mend()
    await stand.audit()


# -------------------------------------------------------------------------------------------------------- decisions
async def test_a_decision_never_takes_what_is_promised(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await other.reserve({NORTH: {MILK: 3}})
    assert await reason(server.transfer(NORTH, SOUTH, {MILK: 3})) == "INSUFFICIENT_STOCK"
    assert await reason(server.adjust(NORTH, MILK, -3)) == "INSUFFICIENT_STOCK"
    await server.transfer(NORTH, SOUTH, {MILK: 2})
    assert await other.atp(NORTH) == 0
    await stand.audit()


async def test_a_decision_that_is_repeated_gets_its_first_answer_also_when_nothing_is_left(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    same = request_id()
    transfer_id = await server.transfer(NORTH, SOUTH, {MILK: 5}, same)
    assert await other.transfer(NORTH, SOUTH, {MILK: 5}, same) == transfer_id
    assert await reason(other.transfer(NORTH, SOUTH, {MILK: 4}, same)) == "REQUEST_ID_REUSED"
    await stand.audit()


async def test_decisions_at_once_take_what_there_is_and_no_more(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 10})
    answers, reasons = await outcomes([servers[n % 3].transfer(NORTH, SOUTH, {MILK: 3}) for n in range(9)])
    assert len(answers) == 3
    assert reasons == ["INSUFFICIENT_STOCK"] * 6
    await stand.audit()


async def test_a_decision_does_not_go_past_the_gate(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    line = Line(server.app)
    line.cut()
    assert await reason(server.transfer(NORTH, SOUTH, {MILK: 1})) == "GATE_UNAVAILABLE"
    line.mend()
    await stand.audit()


async def test_a_gate_that_goes_away_while_what_is_due_is_looked_for_is_a_refusal_like_any(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    line = Line(server.app)
    line.cut_after = "take"
    assert await reason(server.reserve({NORTH: {MILK: 2}})) == "GATE_UNAVAILABLE"
    line.mend()
    assert await reason(server.transfer(NORTH, SOUTH, {MILK: 2})) == "GATE_UNAVAILABLE"
    line.cut_after = ""
    line.mend()
    await stand.audit()


# ------------------------------------------------------------------------------------------------------------ counts
async def test_a_count_books_what_is_there_and_says_which_promises_that_breaks(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 10, BREAD: 5})
    await other.reserve({NORTH: {MILK: 4}})
    assert await server.count(NORTH, {MILK: 7, BREAD: 8}) == {}
    assert [await other.atp(NORTH, s) for s in (MILK, BREAD)] == [3, 8]
    assert await server.count(NORTH, {MILK: 3}) == {MILK: 1}
    assert await other.atp(NORTH) == 0
    await stand.audit(broken=1)


async def test_a_count_beside_a_sale_counts_anew(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 10})
    pause = server.pause_mutation()
    call = asyncio.create_task(server.count(NORTH, {MILK: 8}))
    await pause.reached.wait()
    await other.sell(NORTH, {MILK: 1})
    pause.go.set()
    assert await call == {}
    assert await other.atp(NORTH) == 8
    await server.quiet()
    await stand.audit()


async def test_counts_at_once_leave_one_of_the_counted_figures(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 10})
    await asyncio.gather(*(servers[n % 3].count(NORTH, {MILK: n}) for n in range(1, 7)))
    assert await servers[0].atp(NORTH) in range(1, 7)
    for server in servers:
        await server.quiet()
    await stand.audit()


# --------------------------------------------------------------------------------------------------------- refusals
async def test_a_decrease_that_the_ledger_refuses_for_certain_gives_its_claim_back(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    assert await reason(server.transfer(NORTH, "nowhere", {MILK: 5})) == "LOCATION_NOT_FOUND"
    await server.quiet()
    assert await stand.held() == []
    assert await server.atp(NORTH) == 5
    assert (await refused(server.sell("nowhere", {MILK: 1}))).reason == "LOCATION_NOT_FOUND"
    assert (await refused(server.sell(NORTH, {"no-such-sku": 1}))).reason == "SKU_NOT_FOUND"
    await stand.audit()


async def test_a_decrease_that_waits_in_vain_for_a_connection_gives_its_claim_back(stand: Stand) -> None:
    """Nothing was sent to the ledger: the outcome is not unknown."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    pool = server.app.database.pool
    taken = [await pool.acquire() for _ in range(pool.get_max_size())]
    assert await reason(server.sell(NORTH, {MILK: 5})) == "LEDGER_UNAVAILABLE"
    assert await reason(server.reserve({NORTH: {MILK: 5}})) == "LEDGER_UNAVAILABLE"
    await server.quiet()
    assert await stand.held() == []
    assert await other.atp(NORTH) == 5
    for connection in taken:
        await pool.release(connection)
    await server.reserve({NORTH: {MILK: 5}})
    await stand.audit()


async def test_what_a_lost_answer_left_held_is_not_sold_twice(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    line = Line(server.app)
    line.unanswered.add("take")
    same = request_id()
    await server.sell(NORTH, {MILK: 2}, same)  # past a gate that took it
    line.mend()
    await server.sell(NORTH, {MILK: 2}, same)
    await server.quiet()
    assert await server.atp(NORTH) == 3
    await stand.audit()
