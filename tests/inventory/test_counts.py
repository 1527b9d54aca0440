"""Counts while the store is open, over gRPC: sales meanwhile, blind counts, review, recount, and what is booked in the end."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from api import BREAD, MILK, MILK_CENTS, NORTH, SOUTH, Api, Code, card, eventually, invalid, place, refused, request_id
from inventory.rules import kept
from onhand.v1 import counting_pb2 as pb
from onhand.v1 import inventory_pb2, order_pb2

COUNTING, REVIEW, APPROVED, CANCELLED = (
    pb.COUNT_STATE_COUNTING,
    pb.COUNT_STATE_REVIEW,
    pb.COUNT_STATE_APPROVED,
    pb.COUNT_STATE_CANCELLED,
)


async def start(api: Api, *skus: str, **fields: Any) -> pb.Count:
    """A count of the north: of these skus, or of all."""
    scope = pb.COUNT_SCOPE_SKUS if skus else pb.COUNT_SCOPE_LOCATION
    request = pb.StartCountRequest(
        **{"request_id": request_id(), "location_id": NORTH, "scope": scope, "skus": skus} | fields
    )
    return (await api.counting.StartCount(request)).count


async def submit(api: Api, count: pb.Count, counted: dict[str, int], **as_of: Any) -> pb.SubmitCountResponse:
    """What somebody counted."""
    entries = [pb.CountEntry(sku=sku, counted_quantity=n, **as_of) for sku, n in counted.items()]
    request = pb.SubmitCountRequest(request_id=request_id(), count_id=count.count_id, lines=entries)
    return await api.counting.SubmitCount(request, metadata=(("x-onhand-actor", "ada"),))


async def approve(api: Api, count: pb.Count, *skus: str, **fields: Any) -> pb.ApproveCountResponse:
    """Books it."""
    request = pb.ApproveCountRequest(
        **{"request_id": request_id(), "accepts_out_of_tolerance": True} | fields, count_id=count.count_id, skus=skus
    )
    return await api.counting.ApproveCount(request, metadata=(("x-onhand-actor", "boss"),))


async def recount(api: Api, count: pb.Count, *skus: str) -> pb.RequestRecountResponse:
    """Once more."""
    request = pb.RequestRecountRequest(request_id=request_id(), count_id=count.count_id, skus=skus)
    return await api.counting.RequestRecount(request)


async def cancel(api: Api, count: pb.Count) -> pb.Count:
    """Gives it up."""
    request = pb.CancelCountRequest(request_id=request_id(), count_id=count.count_id)
    return (await api.counting.CancelCount(request)).count


async def read(api: Api, count: pb.Count) -> pb.GetCountResponse:
    """The count and its sums."""
    return await api.counting.GetCount(pb.GetCountRequest(count_id=count.count_id))


async def count_lines(api: Api, count: pb.Count, page_size: int = 500, **fields: Any) -> list[pb.CountLine]:
    """All of them, over as many pages as it takes."""
    found: list[pb.CountLine] = []
    token = ""
    while True:
        request = pb.ListCountLinesRequest(count_id=count.count_id, page_size=page_size, page_token=token, **fields)
        page = await api.counting.ListCountLines(request)
        found += page.lines
        token = page.next_page_token
        if not token:
            return found


async def sell(api: Api, sku: str, quantity: int, **fields: Any) -> None:
    """A sale at the till of the north."""
    request = order_pb2.SellRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[order_pb2.SaleLine(sku=sku, quantity=quantity)],
        currency_code="USD",
        tenders=card(quantity * MILK_CENTS),
        **fields,
    )
    await api.orders.Sell(request)


async def ledger_time(api: Api) -> datetime:
    """Now."""
    ((now,),) = await api.fetch("SELECT clock_timestamp()")
    return now  # type: ignore[no-any-return]


def stamp(moment: datetime) -> Timestamp:
    """On the wire."""
    wire = Timestamp()
    wire.FromDatetime(moment)
    return wire


# ------------------------------------------------------------------------------------------- sales while somebody counts
async def test_sales_and_receipts_after_the_count_do_not_falsify_it(api: Api) -> None:
    count = await start(api, MILK)
    counted_time = await ledger_time(api)  # eight are on the shelf, the ledger says ten
    await sell(api, MILK, 3)
    await api.receive(NORTH, {MILK: 4})
    submitted = await submit(api, count, {MILK: 8}, counted_time=stamp(counted_time))
    (line,) = submitted.lines
    assert (line.expected_quantity, line.counted_quantity, line.variance_quantity) == (10, 8, -2)
    await sell(api, MILK, 1)

    answer = await approve(api, count)

    (result,) = answer.results
    assert (result.expected_quantity, result.variance_quantity, result.level.available) == (10, -2, 8)
    assert answer.count.state == APPROVED
    assert await api.level(NORTH, MILK) == await api.sums(NORTH, MILK) == (8, 0, 0, 0)
    await eventually(lambda: api.atp(NORTH, MILK), 8)
    movement = (await api.movements(NORTH, MILK))[0]
    assert (movement.reason_code, movement.reference_document, movement.actor, movement.quantity) == (
        "COUNT",
        f"count/{count.count_id}",
        "boss",
        2,
    )
    await kept(api)


async def test_a_count_by_ledger_position_is_exact(api: Api) -> None:
    count = await start(api, MILK)
    await sell(api, MILK, 3)
    position = (await api.movements(NORTH))[0].movement_id  # seven are left when somebody counts seven
    await sell(api, MILK, 2)
    (line,) = (await submit(api, count, {MILK: 7}, ledger_position=position)).lines
    assert (line.expected_quantity, line.variance_quantity) == (7, 0)
    await approve(api, count)
    assert await api.level(NORTH, MILK) == (5, 0, 0, 0)
    await kept(api)


async def test_without_a_moment_a_count_holds_for_when_it_is_submitted(api: Api) -> None:
    count = await start(api, MILK)
    await sell(api, MILK, 3)
    (line,) = (await submit(api, count, {MILK: 9})).lines
    assert (line.expected_quantity, line.variance_quantity) == (7, 2)
    await sell(api, MILK, 4)
    await approve(api, count)
    assert await api.level(NORTH, MILK) == (5, 0, 0, 0)
    assert await api.atp(NORTH, MILK) == 5
    await kept(api)


async def test_a_sale_that_is_reported_late_but_was_made_before_is_not_added(api: Api) -> None:
    count = await start(api, MILK)
    sold_time = await ledger_time(api)
    counted_time = await ledger_time(api)
    assert sold_time < counted_time
    # The customer left with three before eight were counted, and the till was offline.
    await sell(api, MILK, 3, occurred_time=stamp(sold_time))
    (line,) = (await submit(api, count, {MILK: 8}, counted_time=stamp(counted_time))).lines
    assert (line.expected_quantity, line.variance_quantity) == (7, 1)
    await approve(api, count)
    assert await api.level(NORTH, MILK) == (8, 0, 0, 0)
    await kept(api)


async def test_units_found_at_the_till_meanwhile_are_not_counted_twice(api: Api) -> None:
    await api.adjust(NORTH, MILK, -8)  # the ledger has two, the shelf ten
    count = await start(api, MILK)
    counted_time = await ledger_time(api)
    await sell(api, MILK, 6)  # four of them are found
    assert await api.level(NORTH, MILK) == (0, 0, 0, 0)
    (line,) = (await submit(api, count, {MILK: 10}, counted_time=stamp(counted_time))).lines
    assert (line.expected_quantity, line.variance_quantity) == (2, 8)
    (result,) = (await approve(api, count)).results
    assert (result.variance_quantity, result.level.available) == (4, 4)
    assert await api.atp(NORTH, MILK) == 4
    await kept(api)


async def test_a_correction_after_the_count_makes_it_outdated(api: Api) -> None:
    for correct in (
        lambda: api.adjust(NORTH, MILK, -1),
        lambda: api.count(NORTH, {MILK: 6}),
        lambda: api.adjust(NORTH, MILK, 1, inventory_pb2.BUCKET_DAMAGED),
    ):
        count = await start(api, MILK)
        await submit(api, count, {MILK: 7})
        await correct()
        await refused(
            approve(api, count), Code.FAILED_PRECONDITION, "COUNT_OUTDATED", sku=MILK, count_id=count.count_id
        )
        assert (await recount(api, count, MILK)).count.state == COUNTING
        await submit(api, count, {MILK: 9})
        await approve(api, count)
        level = await api.level(NORTH, MILK)
        assert sum(level) == 9
    await kept(api)


async def test_goods_moved_between_buckets_are_still_there(api: Api) -> None:
    count = await start(api, MILK)
    await submit(api, count, {MILK: 9})
    await api.move(NORTH, MILK, 3, inventory_pb2.BUCKET_AVAILABLE, inventory_pb2.BUCKET_DAMAGED)
    await approve(api, count)
    assert await api.level(NORTH, MILK) == (6, 0, 3, 0)
    await kept(api)


# --------------------------------------------------------------------------------------------- what a count may cover
async def test_all_of_a_location_is_counted_and_what_turns_up(api: Api) -> None:
    await api.add_product("eggs", 100)
    count = await start(api)
    assert [n.sku for n in await count_lines(api, count)] == [BREAD, MILK]
    submitted = await submit(api, count, {BREAD: 10, "eggs": 3})
    assert submitted.count.state == COUNTING
    assert (await submit(api, count, {MILK: 10})).count.state == REVIEW
    await approve(api, count)
    assert await api.atp(NORTH, "eggs") == 3
    await refused(submit(api, await start(api), {"unknown": 1}), Code.NOT_FOUND, "SKU_NOT_FOUND")
    await kept(api)


async def test_what_somebody_asked_to_count_is_counted(api: Api) -> None:
    await refused(start(api, scope=pb.COUNT_SCOPE_COUNT_TASKS), Code.FAILED_PRECONDITION, "NOTHING_TO_COUNT")
    await sell(api, MILK, 12)  # two more than there were
    tasks = inventory_pb2.ListCountTasksRequest(location_id=NORTH)
    assert [t.sku for t in (await api.inventory.ListCountTasks(tasks)).count_tasks] == [MILK]
    count = await start(api, scope=pb.COUNT_SCOPE_COUNT_TASKS)
    assert [n.sku for n in await count_lines(api, count)] == [MILK]
    await submit(api, count, {MILK: 0})
    await approve(api, count)
    assert (await api.inventory.ListCountTasks(tasks)).count_tasks == []
    await kept(api)


async def test_lines_are_approved_in_any_order_while_others_are_counted(api: Api) -> None:
    count = await start(api)
    await submit(api, count, {BREAD: 8})
    answer = await approve(api, count, BREAD)
    assert (answer.count.state, [r.level.sku for r in answer.results]) == (COUNTING, [BREAD])
    assert await api.level(NORTH, BREAD) == (8, 0, 0, 0)
    await refused(approve(api, count, BREAD), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="APPROVED")
    await refused(approve(api, count), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="COUNTING")
    await submit(api, count, {MILK: 10})
    assert (await approve(api, count)).count.state == APPROVED
    for call in (approve, recount, cancel):
        await refused(
            call(api, count), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="APPROVED", legal_steps="nothing"
        )
    await kept(api)


# ---------------------------------------------------------------------------------------------------- blind, review
async def test_who_counts_blind_sees_nothing_that_is_expected_until_all_is_counted(api: Api) -> None:
    count = await start(api, is_blind=True)
    first = await submit(api, count, {BREAD: 7})
    (line,) = first.lines
    assert (line.counted_quantity, line.expected_quantity, line.variance_quantity, line.is_within_tolerance) == (
        7,
        0,
        0,
        False,
    )
    assert [(n.expected_quantity, n.variance_quantity) for n in await count_lines(api, count)] == [(0, 0)] * 2
    sums = (await read(api, count)).summary
    assert (sums.to_count_lines, sums.counted_lines, sums.different_lines, sums.missing_quantity) == (1, 1, 0, 0)
    await submit(api, count, {MILK: 12})
    sums = (await read(api, count)).summary
    assert (sums.different_lines, sums.out_of_tolerance_lines, sums.over_quantity, sums.missing_quantity) == (
        2,
        2,
        2,
        3,
    )
    assert [(n.sku, n.variance_quantity) for n in await count_lines(api, count)] == [(BREAD, -3), (MILK, 2)]
    await recount(api, count, BREAD)
    assert [n.variance_quantity for n in await count_lines(api, count)] == [0, 0]


async def test_what_is_out_of_tolerance_is_looked_at_or_counted_again(api: Api) -> None:
    count = await start(api, tolerance_quantity=1, tolerance_percent=20)
    await submit(api, count, {BREAD: 8, MILK: 7})
    assert [n.is_within_tolerance for n in await count_lines(api, count)] == [True, False]
    refusal = approve(api, count, accepts_out_of_tolerance=False)
    await refused(
        refusal, Code.FAILED_PRECONDITION, "COUNT_OUT_OF_TOLERANCE", sku=MILK, counted=7, expected=10, lines=1
    )
    await approve(api, count, BREAD, accepts_out_of_tolerance=False)

    again = await recount(api, count)
    assert (again.lines, again.count.state) == (1, COUNTING)
    await submit(api, count, {MILK: 6})
    (line,) = [n for n in await count_lines(api, count) if n.sku == MILK]
    assert (line.attempts, line.counted_quantity, line.counted_by) == (2, 6, "ada")
    await approve(api, count, MILK)

    attempts = await api.fetch("SELECT attempt, counted, expected FROM count_attempts WHERE sku = $1 ORDER BY 1", MILK)
    assert attempts == [(1, 7, 10), (2, 6, 10)]
    assert (await read(api, count)).summary.recounted_lines == 1
    request = pb.ListVariancesRequest(location_id=NORTH, page_size=1)
    first = await api.counting.ListVariances(request)
    request.page_token = first.next_page_token
    second = await api.counting.ListVariances(request)
    assert [
        (
            v.sku,
            v.counted_quantity,
            v.expected_quantity,
            v.variance_quantity,
            v.booked_quantity,
            v.counted_by,
            v.approved_by,
        )
        for v in (*first.variances, *second.variances)
    ] == [(MILK, 6, 10, -4, -4, "ada", "boss"), (BREAD, 8, 10, -2, -2, "ada", "boss")]
    assert second.next_page_token == ""
    await kept(api)


async def test_a_count_that_two_people_approve_is_booked_once(api: Api) -> None:
    count = await start(api)
    await submit(api, count, {BREAD: 8, MILK: 13})
    results = await asyncio.gather(*(approve(api, count) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, pb.ApproveCountResponse) for result in results) == 1
    assert (await api.level(NORTH, BREAD), await api.level(NORTH, MILK)) == ((8, 0, 0, 0), (13, 0, 0, 0))
    await eventually(lambda: api.atp(NORTH, BREAD), 8)
    assert await api.atp(NORTH, MILK) == 13
    await kept(api)


async def test_an_approval_that_is_repeated_books_nothing_more(api: Api) -> None:
    count = await start(api)
    await submit(api, count, {BREAD: 8, MILK: 13})
    again = request_id()
    first = await approve(api, count, request_id=again)
    await sell(api, MILK, 2)
    assert [await approve(api, count, request_id=again) for _ in range(3)] == [first] * 3
    assert await api.level(NORTH, MILK) == (11, 0, 0, 0)
    await kept(api)


# ------------------------------------------------------------------------------------------------------ broken promises
async def test_a_count_that_misses_promised_units_breaks_the_youngest_promise(api: Api) -> None:
    await place(api, {NORTH: {MILK: 6}})
    await place(api, {NORTH: {MILK: 4}})
    count = await start(api, MILK)
    await submit(api, count, {MILK: 7})
    (result,) = (await approve(api, count)).results
    assert (result.short_quantity, result.level.allocated) == (3, 7)
    assert await api.fetch("SELECT quantity, cause, next_step, reference_document FROM shortfalls") == [
        (3, "COUNT", "CHOOSE", f"count/{count.count_id}")
    ]
    await kept(api)


async def test_a_count_that_finds_more_ends_what_orders_lack_first(api: Api) -> None:
    await place(api, {NORTH: {MILK: 10}})
    await api.count(NORTH, {MILK: 7})
    count = await start(api, MILK)
    await submit(api, count, {MILK: 12})
    await approve(api, count)
    assert await api.level(NORTH, MILK) == (2, 10, 0, 0)
    assert await api.atp(NORTH, MILK) == 2
    await kept(api)


async def test_reserved_units_that_a_count_misses_are_told(api: Api) -> None:
    held = await api.reserve({NORTH: {MILK: 8}})
    count = await start(api, MILK)
    await submit(api, count, {MILK: 5})
    (result,) = (await approve(api, count)).results
    assert result.short_quantity == 3
    read = inventory_pb2.GetReservationRequest(reservation_id=held.reservation_id)
    shortfalls = (await api.inventory.GetReservation(read)).reservation.shortfalls
    assert [s.short_quantity for s in shortfalls] == [3]
    await kept(api)


# ------------------------------------------------------------------------------------------------------- lists, cancel
async def test_a_cancelled_count_books_nothing_but_what_was_approved(api: Api) -> None:
    count = await start(api)
    await submit(api, count, {BREAD: 8, MILK: 3})
    await approve(api, count, BREAD)
    assert (await cancel(api, count)).state == CANCELLED
    assert [n.state for n in await count_lines(api, count)] == [
        pb.COUNT_LINE_STATE_APPROVED,
        pb.COUNT_LINE_STATE_DROPPED,
    ]
    assert (await api.level(NORTH, BREAD), await api.level(NORTH, MILK)) == ((8, 0, 0, 0), (10, 0, 0, 0))
    for call in (approve(api, count), recount(api, count), cancel(api, count), submit(api, count, {MILK: 1})):
        await refused(call, Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="CANCELLED", legal_steps="nothing")
    await kept(api)


async def test_counts_and_lines_are_listed_in_pages(api: Api) -> None:
    await api.add_products([f"sku-{n}" for n in range(5)])
    await api.receive(NORTH, {f"sku-{n}": 1 for n in range(5)})
    counts = [await start(api), await start(api, MILK), await start(api)]
    await cancel(api, counts[1])
    for page_size in (1, 3, 500):
        lines = await count_lines(api, counts[0], page_size)
        assert [n.sku for n in lines] == [BREAD, MILK, *(f"sku-{n}" for n in range(5))]
    await submit(api, counts[0], {"sku-3": 1})
    in_state = await count_lines(api, counts[0], 2, state=pb.COUNT_LINE_STATE_TO_COUNT)
    assert [n.sku for n in in_state] == [n.sku for n in lines if n.sku != "sku-3"]
    request = pb.ListCountsRequest(location_id=NORTH, page_size=2)
    page = await api.counting.ListCounts(request)
    assert [n.count_id for n in page.counts] == [counts[2].count_id, counts[1].count_id]
    request.page_token = page.next_page_token
    assert [n.count_id for n in (await api.counting.ListCounts(request)).counts] == [counts[0].count_id]
    open_ones = await api.counting.ListCounts(pb.ListCountsRequest(location_id=NORTH, is_open=True))
    assert [n.count_id for n in open_ones.counts] == [counts[2].count_id, counts[0].count_id]
    for rpc, message in (
        (api.counting.ListCounts, pb.ListCountsRequest(location_id="nowhere")),
        (api.counting.ListVariances, pb.ListVariancesRequest(location_id="nowhere")),
    ):
        await refused(rpc(message), Code.NOT_FOUND, "LOCATION_NOT_FOUND")


# ------------------------------------------------------------------------------------------------------------- bad input
async def test_counts_that_make_no_sense_are_refused_without_effect(api: Api) -> None:
    count = await start(api, MILK)
    tables = ("counts", "count_lines", "count_attempts", "stock_movements", "requests", "events")
    before = [await api.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    await invalid(start(api, scope=pb.COUNT_SCOPE_SKUS), "skus")
    await invalid(start(api, MILK, scope=pb.COUNT_SCOPE_LOCATION), "skus")
    await invalid(start(api, MILK, scope=pb.COUNT_SCOPE_UNSPECIFIED), "scope")
    await invalid(start(api, "no such"), "skus[0]")
    await invalid(start(api, MILK, tolerance_percent=101), "tolerance_percent")
    await invalid(start(api, MILK, tolerance_quantity=-1), "tolerance_quantity")
    await refused(start(api, MILK, location_id="nowhere"), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    await refused(start(api, "unknown"), Code.NOT_FOUND, "SKU_NOT_FOUND")
    await invalid(submit(api, count, {MILK: -1}), "lines[0].counted_quantity")
    await invalid(submit(api, count, {}), "lines")
    twice = pb.SubmitCountRequest(
        request_id=request_id(),
        count_id=count.count_id,
        lines=[pb.CountEntry(sku=MILK, counted_quantity=n) for n in (1, 2)],
    )
    await invalid(api.counting.SubmitCount(twice), "lines")
    early = stamp(datetime.now(UTC) - timedelta(hours=1))
    await invalid(submit(api, count, {MILK: 1}, counted_time=early), "lines[0].counted_time")
    late = stamp(datetime.now(UTC) + timedelta(hours=1))
    await invalid(submit(api, count, {MILK: 1}, counted_time=late), "lines[0].counted_time")
    for position in (0, count.ledger_position - 1, count.ledger_position + 1000):
        await invalid(submit(api, count, {MILK: 1}, ledger_position=position), "lines[0].ledger_position")
    await refused(submit(api, count, {BREAD: 1}), Code.NOT_FOUND, "COUNT_LINE_NOT_FOUND", sku=BREAD)
    await refused(recount(api, count, BREAD), Code.NOT_FOUND, "COUNT_LINE_NOT_FOUND", sku=BREAD)
    await refused(approve(api, count, BREAD), Code.NOT_FOUND, "COUNT_LINE_NOT_FOUND", sku=BREAD)
    await refused(recount(api, count, MILK), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="TO_COUNT")
    await refused(approve(api, count, MILK), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="TO_COUNT")
    missing = pb.Count(count_id=request_id())
    for call in (
        submit(api, missing, {MILK: 1}), recount(api, missing), approve(api, missing), cancel(api, missing), read(api, missing),
        count_lines(api, missing),
    ):  # fmt: skip
        await refused(call, Code.NOT_FOUND, "COUNT_NOT_FOUND", count_id=missing.count_id)
    await invalid(cancel(api, pb.Count(count_id="x")), "count_id")
    assert [await api.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables] == before


async def test_a_clock_a_little_ahead_is_cut_off(api: Api) -> None:
    count = await start(api, MILK)
    ahead = stamp(await ledger_time(api) + timedelta(seconds=30))
    await submit(api, count, {MILK: 9}, counted_time=ahead)
    await sell(api, MILK, 4)
    await approve(api, count)
    assert await api.level(NORTH, MILK) == (5, 0, 0, 0)


async def test_a_location_that_is_being_counted_is_not_deleted(api: Api) -> None:
    await api.add_location("new")
    count = await start(api, MILK, location_id="new")
    await refused(api.delete_location("new"), Code.FAILED_PRECONDITION, "LOCATION_IN_USE", open_counts=1)
    await cancel(api, count)
    await api.delete_location("new")
    await kept(api)


# ------------------------------------------------------------------------------------------------------------ everything
@pytest.mark.parametrize("seed", range(3))
async def test_a_shelf_that_is_counted_while_it_trades_ends_as_it_is(api: Api, seed: int) -> None:
    """Somebody knows what is really there: after an approved count the ledger does, whatever was sold meanwhile."""
    draw = random.Random(seed)
    shelf = {MILK: draw.randint(4, 16), BREAD: draw.randint(4, 16)}
    # Without what is being unloaded: sold before the ledger has it, it would be found at the sale, and then received as well.
    for_sale = dict(shelf)

    async def trade() -> None:
        sku, n = draw.choice((MILK, BREAD)), draw.randint(1, 3)
        if draw.randrange(3) == 0:
            shelf[sku] += n
            await api.receive(NORTH, {sku: n})
            for_sale[sku] += n
        elif for_sale[sku] >= n:
            shelf[sku] -= n
            for_sale[sku] -= n
            fields = {"lines": [order_pb2.SaleLine(sku=sku, quantity=n)]}
            request = order_pb2.SellRequest(
                request_id=request_id(),
                location_id=NORTH,
                currency_code="USD",
                tenders=card(n * {MILK: 199, BREAD: 250}[sku]),
                **fields,
            )
            await api.orders.Sell(request)

    for _ in range(4):
        count = await start(api, MILK, BREAD)
        for sku in (MILK, BREAD):
            for _ in range(draw.randint(0, 3)):
                await trade()
            seen, when = shelf[sku], await ledger_time(api)
            position = (await api.movements(NORTH))[0].movement_id
            for _ in range(draw.randint(0, 3)):
                await trade()
            as_of = draw.choice(({"counted_time": stamp(when)}, {"ledger_position": position}))
            await submit(api, count, {sku: seen}, **as_of)
        tradings = [trade() for _ in range(4)]
        results = await asyncio.gather(approve(api, count), *tradings, return_exceptions=True)
        assert [r for r in results if isinstance(r, grpc.aio.AioRpcError)] == []
        for sku, there in shelf.items():
            assert await api.level(NORTH, sku) == (there, 0, 0, 0)
    assert await api.level(SOUTH, MILK) == (10, 0, 0, 0)
    await kept(api)
