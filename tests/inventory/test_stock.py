"""Stock work at one location, over gRPC: what it does to the buckets, and what it must refuse without any effect."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc

from api import (
    BREAD,
    DEPOT,
    MILK,
    NORTH,
    POS,
    SOUTH,
    WEB,
    Api,
    Code,
    eventually,
    invalid,
    lines,
    place,
    refused,
    request_id,
)
from onhand.domain.sourcing import Policy
from onhand.v1 import inventory_pb2 as pb
from onhand.v1 import order_pb2, types_pb2

AVAILABLE, ALLOCATED, DAMAGED, QUARANTINE = (
    pb.BUCKET_AVAILABLE,
    pb.BUCKET_ALLOCATED,
    pb.BUCKET_DAMAGED,
    pb.BUCKET_QUARANTINE,
)
QUANTITY_MAX = 1_000_000_000


async def unchanged(api: Api) -> list[Any]:
    """What a refused call must leave alone."""
    return [
        await api.fetch("SELECT * FROM stock_levels ORDER BY 1, 2"),
        await api.fetch("SELECT count(*) FROM stock_movements"),
        await api.fetch("SELECT count(*) FROM requests"),
        await api.fetch("SELECT count(*) FROM events"),
        await api.fetch("SELECT count(*) FROM transfers"),
        await api.fetch("SELECT count(*) FROM claims WHERE state <> 'expired'"),
        await api.fetch("SELECT count(*) FROM shortages"),
    ]


# -------------------------------------------------------------------------------------------------------------- receive
async def test_received_goods_can_be_promised_at_once(api: Api) -> None:
    (level,) = await api.receive(NORTH, {MILK: 5}, actor="goods-in", reference="purchase_order/4711")

    assert (level.location_id, level.sku, level.available) == (NORTH, MILK, 15)
    assert await api.atp(NORTH, MILK) == 15
    movement = (await api.movements(NORTH, MILK))[0]
    assert (movement.quantity, movement.from_bucket, movement.to_bucket) == (5, pb.BUCKET_SUPPLIER, AVAILABLE)
    assert (movement.reason_code, movement.reference_document) == ("RECEIPT", "purchase_order/4711")
    assert (movement.actor, movement.channel, movement.location_id) == ("goods-in", 0, NORTH)
    assert movement.occurred_time == movement.recorded_time


async def test_a_sku_that_is_received_twice_in_one_call_is_summed(api: Api) -> None:
    request = pb.ReceiveStockRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[*lines({MILK: 2}), *lines({BREAD: 1}), *lines({MILK: 3})],
    )
    answer = await api.inventory.ReceiveStock(request)
    assert [(level.sku, level.available) for level in answer.levels] == [(BREAD, 11), (MILK, 15)]
    assert len(await api.movements(NORTH, MILK)) == 2


async def test_a_receipt_that_makes_no_sense_is_refused_without_effect(api: Api) -> None:
    before = await unchanged(api)
    for quantity in (0, -1, QUANTITY_MAX + 1, 2**63 - 1, -(2**63)):
        await invalid(api.receive(NORTH, {MILK: quantity}), "lines[0].quantity")
    await invalid(api.receive(NORTH, {}), "lines")
    await invalid(api.receive("", {"no such": 1}), "location_id", "lines[0].sku")
    await invalid(api.receive(NORTH, {f"sku-{n}": 1 for n in range(1001)}), "lines")
    await invalid(api.receive(NORTH, {MILK: 1}, reference="a\0b"), "reference_document")
    await invalid(api.receive(NORTH, {MILK: 1}, reference="x" * 300), "reference_document")
    await refused(api.receive("nowhere", {MILK: 1}), Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="nowhere")
    await refused(api.receive(NORTH, {MILK: 1, "unknown": 1}), Code.NOT_FOUND, "SKU_NOT_FOUND", sku="unknown")
    assert await unchanged(api) == before


async def test_a_thousand_lines_of_a_billion_are_received_and_sent_on(api: Api) -> None:
    skus = [f"sku-{n:04}" for n in range(1000)]
    await api.add_products(skus)
    levels = await api.receive(NORTH, dict.fromkeys(skus, QUANTITY_MAX))
    assert [level.available for level in levels] == [QUANTITY_MAX] * 1000
    assert await api.atp(NORTH, skus[-1]) == QUANTITY_MAX
    transfer = await api.dispatch(NORTH, SOUTH, dict.fromkeys(skus[:500], QUANTITY_MAX))
    await api.arrive(transfer.transfer_id, {})
    assert await api.atp(SOUTH, skus[0]) == QUANTITY_MAX
    assert await api.atp(NORTH, skus[0]) == 0


async def test_a_repeat_has_one_effect_and_another_body_is_refused(api: Api) -> None:
    request = pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5}))
    first = await api.inventory.ReceiveStock(request)
    await api.adjust(NORTH, MILK, -1)

    repeats = await asyncio.gather(*(api.inventory.ReceiveStock(request) for _ in range(10)))

    assert [answer == first for answer in repeats] == [True] * 10
    assert await api.level(NORTH, MILK) == (14, 0, 0, 0)
    other = pb.ReceiveStockRequest(request_id=request.request_id, location_id=NORTH, lines=lines({MILK: 6}))
    await refused(
        api.inventory.ReceiveStock(other),
        Code.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
        request_id=request.request_id,
        method="ReceiveStockRequest",
    )
    another_method = api.adjust(NORTH, MILK, 1, request_id=request.request_id)
    await refused(another_method, Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert await api.level(NORTH, MILK) == (14, 0, 0, 0)


# ---------------------------------------------------------------------------------------------------------- adjust, move
async def test_a_correction_adds_to_a_bucket_or_takes_from_it(api: Api) -> None:
    assert (await api.adjust(NORTH, MILK, 4)).available == 14
    assert (await api.adjust(NORTH, MILK, -6, pb.BUCKET_UNSPECIFIED, reason_code="SHRINKAGE")).available == 8
    assert (await api.adjust(NORTH, MILK, 3, DAMAGED)).damaged == 3
    assert (await api.adjust(NORTH, MILK, -1, DAMAGED)).damaged == 2
    assert (await api.adjust(NORTH, MILK, 5, QUARANTINE)).quarantine == 5
    assert (await api.adjust(NORTH, MILK, -8)).available == 0
    assert await api.level(NORTH, MILK) == await api.sums(NORTH, MILK) == (0, 0, 2, 5)
    assert await api.atp(NORTH, MILK) == 0
    newest = (await api.movements(NORTH, MILK))[-3]
    assert (newest.reason_code, newest.from_bucket, newest.to_bucket) == ("SHRINKAGE", AVAILABLE, pb.BUCKET_ADJUSTMENT)


async def test_a_correction_that_would_break_a_promise_is_refused(api: Api) -> None:
    held = await api.reserve({NORTH: {MILK: 7}})
    before = await unchanged(api)
    for call in (api.adjust(NORTH, MILK, -4), api.move(NORTH, MILK, 4, AVAILABLE, DAMAGED)):
        refusal = await refused(
            call,
            Code.FAILED_PRECONDITION,
            "INSUFFICIENT_STOCK",
            location_id=NORTH,
            sku=MILK,
            requested=4,
            available=3,
            short_lines=1,
        )
        assert refusal.shorts == {f"{NORTH}/{MILK}": "4 requested, 3 available"}
    assert await unchanged(api) == before
    assert await api.atp(NORTH, MILK) == 3
    await api.adjust(NORTH, MILK, -3)
    await api.release(held.reservation_id)
    assert await api.atp(NORTH, MILK) == 7


async def test_units_kept_from_online_may_be_taken_by_a_decision_of_the_store(api: Api) -> None:
    policy = pb.SetStockPolicyRequest(request_id=request_id(), location_id=NORTH, sku=MILK, safety_stock=8)
    await api.inventory.SetStockPolicy(policy)
    assert await api.atp(NORTH, MILK) == 2
    assert (await api.adjust(NORTH, MILK, -9)).available == 1
    assert await api.atp(NORTH, MILK) == 0


async def test_units_move_between_the_buckets_of_a_location(api: Api) -> None:
    assert (await api.move(NORTH, MILK, 4, AVAILABLE, DAMAGED)).damaged == 4
    assert await api.atp(NORTH, MILK) == 6
    assert (await api.move(NORTH, MILK, 3, DAMAGED, QUARANTINE)).quarantine == 3
    level = await api.move(NORTH, MILK, 2, QUARANTINE, AVAILABLE)
    assert (level.available, level.allocated, level.damaged, level.quarantine) == (8, 0, 1, 1)
    assert await api.atp(NORTH, MILK) == 8
    assert await api.sums(NORTH, MILK) == (8, 0, 1, 1)


async def test_corrections_and_moves_that_cannot_be_are_refused_without_effect(api: Api) -> None:
    await api.adjust(NORTH, MILK, 2, DAMAGED)
    before = await unchanged(api)
    for call, wrong in (
        (api.adjust(NORTH, MILK, 0), "quantity"),
        (api.adjust(NORTH, MILK, QUANTITY_MAX + 1), "quantity"),
        (api.adjust(NORTH, MILK, -QUANTITY_MAX - 1), "quantity"),
        (api.adjust(NORTH, MILK, 1, ALLOCATED), "bucket"),
        (api.adjust(NORTH, MILK, 1, pb.BUCKET_CUSTOMER), "bucket"),
        (api.adjust(NORTH, MILK, 1, 99), "bucket"),
        (api.adjust(NORTH, MILK, 1, reason_code=""), "reason_code"),
        (api.adjust(NORTH, MILK, 1, reason_code="because"), "reason_code"),
        (api.adjust(NORTH, MILK, 1, reason_code="X\0"), "reason_code"),
        (api.move(NORTH, MILK, 0, AVAILABLE, DAMAGED), "quantity"),
        (api.move(NORTH, MILK, -1, AVAILABLE, DAMAGED), "quantity"),
        (api.move(NORTH, MILK, 1, ALLOCATED, AVAILABLE), "from_bucket"),
        (api.move(NORTH, MILK, 1, AVAILABLE, ALLOCATED), "to_bucket"),
        (api.move(NORTH, MILK, 1, AVAILABLE, pb.BUCKET_IN_TRANSIT), "to_bucket"),
        (api.move(NORTH, MILK, 1, DAMAGED, DAMAGED), "to_bucket"),
        (api.move(NORTH, MILK, 1, AVAILABLE, pb.BUCKET_UNSPECIFIED), "to_bucket"),
    ):
        await invalid(call, wrong)
    for call, bucket, requested, held in (
        (api.adjust(NORTH, MILK, -3, DAMAGED), "damaged", 3, 2),
        (api.adjust(NORTH, BREAD, -1, QUARANTINE), "quarantine", 1, 0),
        (api.move(NORTH, MILK, 3, DAMAGED, AVAILABLE), "damaged", 3, 2),
        (api.move(NORTH, MILK, 1, QUARANTINE, DAMAGED), "quarantine", 1, 0),
    ):
        await refused(call, Code.FAILED_PRECONDITION, "BUCKET_SHORT", bucket=bucket, requested=requested, held=held)
    for sku, calls in (
        ("unknown", (api.adjust, api.move)),
        (MILK, (api.adjust, api.move)),
    ):
        location_id = NORTH if sku == "unknown" else "nowhere"
        reason = "SKU_NOT_FOUND" if sku == "unknown" else "LOCATION_NOT_FOUND"
        for quantity, bucket in ((1, AVAILABLE), (-1, AVAILABLE), (1, DAMAGED), (-1, DAMAGED)):
            await refused(calls[0](location_id, sku, quantity, bucket), Code.NOT_FOUND, reason)
        for source, target in ((AVAILABLE, DAMAGED), (DAMAGED, AVAILABLE)):
            await refused(calls[1](location_id, sku, 1, source, target), Code.NOT_FOUND, reason)
    assert await unchanged(api) == before
    # What the refused calls had claimed is given back.
    await eventually(lambda: api.atp(NORTH, MILK), 10)


# ---------------------------------------------------------------------------------------------------------------- count
async def test_a_count_books_the_difference(api: Api) -> None:
    await api.adjust(NORTH, MILK, 2, DAMAGED)
    less, more = await api.count(NORTH, {BREAD: 7, MILK: 15})
    assert (less.expected_quantity, less.variance_quantity, less.short_quantity, less.level.available) == (10, -3, 0, 7)
    assert (more.expected_quantity, more.variance_quantity, more.short_quantity) == (12, 3, 0)
    assert (more.level.available, more.level.damaged) == (13, 2)
    assert (await api.atp(NORTH, BREAD), await api.atp(NORTH, MILK)) == (7, 13)
    movement = (await api.movements(NORTH, BREAD))[0]
    assert (movement.reason_code, movement.quantity, movement.reference_document) == ("COUNT", 3, "count_sheet/1")
    again = await api.count(NORTH, {BREAD: 7, MILK: 15})
    assert [result.variance_quantity for result in again] == [0, 0]
    assert (await api.movements(NORTH, BREAD))[0] == movement


async def test_a_count_of_what_was_never_there_makes_it_known(api: Api) -> None:
    await api.add_products(["found"])
    (result,) = await api.count(NORTH, {"found": 6})
    assert (result.expected_quantity, result.variance_quantity, result.level.available) == (0, 6, 6)
    (nothing,) = await api.count(SOUTH, {"found": 0})
    assert (nothing.expected_quantity, nothing.variance_quantity) == (0, 0)


async def test_a_count_below_what_is_promised_is_recorded_and_the_broken_promise_shown(api: Api) -> None:
    order = await place(api, {NORTH: {MILK: 4}})
    await api.reserve({NORTH: {MILK: 5}})  # one unit is free

    (result,) = await api.count(NORTH, {MILK: 7})  # three are missing: two of the reserved

    assert (result.expected_quantity, result.variance_quantity, result.short_quantity) == (10, -3, 2)
    assert (result.level.available, result.level.allocated) == (3, 4)
    assert await api.fetch("SELECT location_id, sku, quantity FROM shortages") == [(NORTH, MILK, 2)]
    position = await api.position(NORTH, MILK)
    assert (position.available, position.reserved) == (3, 5)
    assert await api.atp(NORTH, MILK) == 0

    (result,) = await api.count(NORTH, {MILK: 2})  # two of the ordered ones are missing too

    assert (result.expected_quantity, result.variance_quantity, result.short_quantity) == (7, -5, 5)
    assert (result.level.available, result.level.allocated) == (0, 2)
    listed = await api.orders.ListShortfalls(order_pb2.ListShortfallsRequest(location_id=NORTH))
    (short,) = listed.shortfalls
    assert (short.order_id, short.open_quantity, short.next_step) == (
        order.order.order_id,
        2,
        types_pb2.SHORTFALL_STEP_CHOOSE,
    )
    decision = order_pb2.DecideShortfallRequest(
        request_id=request_id(), shortfall_id=short.shortfall_id, decision=order_pb2.SHORTFALL_DECISION_RESOURCE
    )
    values = {"shortfall_id": short.shortfall_id, "sku": MILK, "quantity": "2", "policy": "nobody"}
    api.app.sourcing.policy = Policy(name="nobody", rules=())
    call = api.orders.DecideShortfall(decision)
    await refused(call, Code.FAILED_PRECONDITION, "RESOURCING_NOT_OFFERED", **values)
    decision.ClearField("decision")
    await invalid(api.orders.DecideShortfall(decision), "decision")
    reserved = await api.inventory.ListShortReservations(pb.ListShortReservationsRequest())
    assert [(s.quantity, s.short_quantity) for s in reserved.shortfalls] == [(5, 5)]
    (again,) = await api.count(NORTH, {MILK: 2})
    assert (again.variance_quantity, again.short_quantity) == (0, 0)
    shortages = await api.fetch("SELECT quantity FROM shortages ORDER BY shortage_id")
    assert shortages == [(2,), (5,)]
    assert (await api.fetch("SELECT count(*) FROM events WHERE type = 'onhand.stock.shortage.v1'")) == [(2,)]
    assert order.order.state == order_pb2.ORDER_STATE_OPEN


async def test_a_count_closes_the_tasks_that_asked_for_it(api: Api) -> None:
    sale = order_pb2.SellRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[order_pb2.SaleLine(sku=MILK, quantity=12), order_pb2.SaleLine(sku=BREAD, quantity=11)],
        currency_code="USD",
        tenders=[
            order_pb2.Tender(
                kind=order_pb2.TENDER_KIND_CASH,
                amount={"currency_code": "USD", "units": (12 * 199 + 11 * 250) // 100, "nanos": 38 * 10_000_000},
            )
        ],
    )
    sold = await api.orders.Sell(sale)

    tasks = []
    token = ""
    for _ in range(2):
        page = await api.inventory.ListCountTasks(
            pb.ListCountTasksRequest(location_id=NORTH, page_size=1, page_token=token)
        )
        tasks += page.count_tasks
        token = page.next_page_token
    assert token == ""
    assert {task.sku for task in tasks} == {MILK, BREAD}
    assert {task.reference_document for task in tasks} == {f"order/{sold.order.order_id}"}
    assert all(task.location_id == NORTH and task.reason_code and task.created_time.seconds for task in tasks)

    await api.count(NORTH, {MILK: 0})

    left = await api.inventory.ListCountTasks(pb.ListCountTasksRequest(location_id=NORTH))
    assert [task.sku for task in left.count_tasks] == [BREAD]
    elsewhere = await api.inventory.ListCountTasks(pb.ListCountTasksRequest(location_id=SOUTH))
    assert list(elsewhere.count_tasks) == []
    nowhere = pb.ListCountTasksRequest(location_id="nowhere")
    await refused(api.inventory.ListCountTasks(nowhere), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    foreign = pb.ListCountTasksRequest(
        location_id=SOUTH, page_token=page_token_of_movements(api, await first_page(api))
    )
    await refused(api.inventory.ListCountTasks(foreign), Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def first_page(api: Api) -> pb.ListMovementsResponse:
    return await api.inventory.ListMovements(pb.ListMovementsRequest(location_id=NORTH, page_size=1))


def page_token_of_movements(api: Api, page: pb.ListMovementsResponse) -> str:
    assert page.next_page_token
    return page.next_page_token


async def test_counts_that_cannot_be_are_refused_without_effect(api: Api) -> None:
    before = await unchanged(api)
    await invalid(api.count(NORTH, {}), "lines")
    await invalid(api.count(NORTH, {MILK: -1}), "lines[0].counted_quantity")
    await invalid(api.count(NORTH, {MILK: QUANTITY_MAX + 1}), "lines[0].counted_quantity")
    await invalid(api.count(NORTH, {f"sku-{n}": 1 for n in range(501)}), "lines")
    twice = pb.CountStockRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[pb.CountedLine(sku=MILK, counted_quantity=3), pb.CountedLine(sku=MILK, counted_quantity=4)],
    )
    await invalid(api.inventory.CountStock(twice), "lines")
    await refused(api.count("nowhere", {MILK: 1}), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    await refused(api.count(NORTH, {MILK: 3, "unknown": 1}), Code.NOT_FOUND, "SKU_NOT_FOUND", sku="unknown")
    assert await unchanged(api) == before
    await eventually(lambda: api.atp(NORTH, MILK), 10)


async def test_a_count_meets_a_receipt_that_came_between(api: Api) -> None:
    # The count has looked at the levels and claimed what misses; the receipt is first at the row.
    async with api.locked("SELECT FROM stock_levels WHERE location_id = $1 AND sku = $2", NORTH, MILK):
        receipt = asyncio.ensure_future(api.receive(NORTH, {MILK: 5}))
        await api.until_waiting(1)
        count = asyncio.ensure_future(api.count(NORTH, {MILK: 6}))
        await api.until_waiting(2)

    await receipt
    (result,) = await count
    assert (result.expected_quantity, result.variance_quantity, result.level.available) == (15, -9, 6)
    await eventually(lambda: api.atp(NORTH, MILK), 6)
    assert await api.sums(NORTH, MILK) == (6, 0, 0, 0)


# ------------------------------------------------------------------------------------------------------------ transfers
async def test_units_of_a_transfer_are_nowhere_else_while_they_travel(api: Api) -> None:
    sent = await api.dispatch(NORTH, SOUTH, {MILK: 6, BREAD: 2})
    assert sent.state == pb.TRANSFER_STATE_IN_TRANSIT
    assert (sent.from_location_id, sent.to_location_id) == (NORTH, SOUTH)
    assert [(n.sku, n.dispatched_quantity, n.received_quantity) for n in sent.lines] == [(BREAD, 2, 0), (MILK, 6, 0)]
    assert (await api.atp(NORTH, MILK), await api.atp(SOUTH, MILK)) == (4, 10)
    assert (await api.position(SOUTH, MILK)).inbound == 6
    assert (await api.position(NORTH, MILK)).inbound == 0

    part = await api.arrive(sent.transfer_id, {MILK: 4})
    assert part.state == pb.TRANSFER_STATE_IN_TRANSIT
    assert (await api.atp(SOUTH, MILK), (await api.position(SOUTH, MILK)).inbound) == (14, 2)

    whole = await api.arrive(sent.transfer_id, {})
    assert whole.state == pb.TRANSFER_STATE_RECEIVED
    assert [(n.dispatched_quantity, n.received_quantity) for n in whole.lines] == [(2, 2), (6, 6)]
    assert (await api.inventory.GetTransfer(pb.GetTransferRequest(transfer_id=sent.transfer_id))).transfer == whole
    assert (await api.atp(SOUTH, MILK), await api.atp(SOUTH, BREAD)) == (16, 12)
    documents = {m.reference_document for m in await api.movements(SOUTH) if m.reason_code == "TRANSFER_IN"}
    assert documents == {f"transfer/{sent.transfer_id}"}


async def test_more_than_was_sent_cannot_arrive(api: Api) -> None:
    sent = await api.dispatch(NORTH, SOUTH, {MILK: 6})
    await api.arrive(sent.transfer_id, {MILK: 4})
    before = await unchanged(api)
    for quantities, sku, in_transit, received in (
        ({MILK: 3}, MILK, 2, 3),
        ({MILK: 1, BREAD: 1}, BREAD, 0, 1),
        ({"unknown": 1}, "unknown", 0, 1),
    ):
        await refused(
            api.arrive(sent.transfer_id, quantities),
            Code.FAILED_PRECONDITION,
            "TRANSFER_EXCEEDED",
            transfer_id=sent.transfer_id,
            sku=sku,
            in_transit=in_transit,
            received=received,
        )
    twice = pb.ReceiveTransferRequest(
        request_id=request_id(), transfer_id=sent.transfer_id, lines=[*lines({MILK: 2}), *lines({MILK: 1})]
    )
    await refused(api.inventory.ReceiveTransfer(twice), Code.FAILED_PRECONDITION, "TRANSFER_EXCEEDED", received=3)
    assert await unchanged(api) == before

    arrivals = await asyncio.gather(
        *(api.arrive(sent.transfer_id, {MILK: 1}) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(arrival, grpc.aio.AioRpcError) for arrival in arrivals) == 3
    await refused(api.arrive(sent.transfer_id, {}), Code.FAILED_PRECONDITION, "TRANSFER_EXCEEDED", in_transit=0)
    assert await api.level(SOUTH, MILK) == (16, 0, 0, 0)


async def test_transfers_that_cannot_be_are_refused_without_effect(api: Api) -> None:
    await api.reserve({NORTH: {MILK: 8}})
    before = await unchanged(api)
    await invalid(api.dispatch(NORTH, NORTH, {MILK: 1}), "to_location_id")
    await invalid(api.dispatch(NORTH, SOUTH, {}), "lines")
    await invalid(api.dispatch(NORTH, SOUTH, {MILK: 0}), "lines[0].quantity")
    await invalid(api.dispatch(NORTH, SOUTH, {f"sku-{n}": 1 for n in range(501)}), "lines")
    for origin, target, sku, reason in (
        (NORTH, "nowhere", MILK, "LOCATION_NOT_FOUND"),
        ("nowhere", NORTH, MILK, "LOCATION_NOT_FOUND"),
        (NORTH, SOUTH, "unknown", "SKU_NOT_FOUND"),
    ):
        await refused(api.dispatch(origin, target, {sku: 1}), Code.NOT_FOUND, reason)
    await refused(
        api.dispatch(NORTH, SOUTH, {BREAD: 10, MILK: 3}),
        Code.FAILED_PRECONDITION,
        "INSUFFICIENT_STOCK",
        sku=MILK,
        requested=3,
        available=2,
    )
    await invalid(api.arrive("not-an-id", {}), "transfer_id")
    missing = request_id()
    await refused(api.arrive(missing, {}), Code.NOT_FOUND, "TRANSFER_NOT_FOUND", transfer_id=missing)
    await refused(
        api.inventory.GetTransfer(pb.GetTransferRequest(transfer_id=missing)), Code.NOT_FOUND, "TRANSFER_NOT_FOUND"
    )
    assert await unchanged(api) == before
    await eventually(lambda: api.atp(NORTH, MILK), 2)
    await eventually(lambda: api.atp(NORTH, BREAD), 10)


async def test_five_hundred_short_lines_are_told_within_bounds(api: Api) -> None:
    skus = [f"sku-{'x' * 50}-{n:04}" for n in range(500)]
    await api.add_products(skus)
    refusal = await refused(
        api.dispatch(NORTH, SOUTH, dict.fromkeys(skus, QUANTITY_MAX)),
        Code.FAILED_PRECONDITION,
        "INSUFFICIENT_STOCK",
        short_lines=500,
    )
    assert 10 <= len(refusal.shorts) < 500


async def test_two_transfers_across_each_other_both_arrive(api: Api) -> None:
    pairs = [(NORTH, SOUTH), (SOUTH, NORTH)] * 5
    sent = await asyncio.gather(*(api.dispatch(origin, target, {MILK: 1, BREAD: 1}) for origin, target in pairs))
    await asyncio.gather(*(api.arrive(transfer.transfer_id, {}) for transfer in sent))
    for location_id in (NORTH, SOUTH):
        assert await api.level(location_id, MILK) == await api.sums(location_id, MILK) == (10, 0, 0, 0)


# ------------------------------------------------------------------------------------------------------------ movements
async def test_movements_are_listed_newest_first_without_gap_or_repeat(api: Api) -> None:
    for n in range(1, 8):
        await api.receive(NORTH, {MILK: n})
    everything = await api.movements(NORTH)
    assert [m.quantity for m in everything[:7]] == [7, 6, 5, 4, 3, 2, 1]
    assert [m.movement_id for m in everything] == sorted((m.movement_id for m in everything), reverse=True)
    assert await api.movements(NORTH, page_size=2) == await api.movements(NORTH, page_size=3) == everything
    only = await api.movements(NORTH, MILK, page_size=3)
    assert only == [m for m in everything if m.sku == MILK]

    # What comes between two pages shifts neither.
    first = await api.inventory.ListMovements(pb.ListMovementsRequest(location_id=NORTH, page_size=3))
    await api.receive(NORTH, {MILK: 1})
    second = pb.ListMovementsRequest(location_id=NORTH, page_size=500, page_token=first.next_page_token)
    rest = await api.inventory.ListMovements(second)
    assert [*first.movements, *rest.movements] == everything


async def test_a_page_has_fifty_movements_unless_told_and_five_hundred_at_most(api: Api) -> None:
    skus = [f"sku-{n:03}" for n in range(520)]
    await api.add_products(skus)
    await api.receive(DEPOT, dict.fromkeys(skus, 1))
    for asked, given in ((0, 50), (1, 1), (500, 500), (501, 500), (2**63 - 1, 500)):
        page = await api.inventory.ListMovements(pb.ListMovementsRequest(location_id=DEPOT, page_size=asked))
        assert len(page.movements) == given
        assert page.next_page_token
    await invalid(api.inventory.ListMovements(pb.ListMovementsRequest(location_id=DEPOT, page_size=-1)), "page_size")


async def test_a_token_is_good_for_its_own_list_only(api: Api) -> None:
    page = await api.inventory.ListMovements(pb.ListMovementsRequest(location_id=NORTH, page_size=1))
    token = page.next_page_token
    for fields in ({"location_id": SOUTH}, {"location_id": NORTH, "sku": MILK}):
        request = pb.ListMovementsRequest(page_token=token, **fields)
        await refused(
            api.inventory.ListMovements(request), Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", page_token=token
        )
    for garbage in ("x", "?", token + "x", token[1:], "AAAA"):
        request = pb.ListMovementsRequest(location_id=NORTH, page_token=garbage)
        await refused(api.inventory.ListMovements(request), Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    nowhere = pb.ListMovementsRequest(location_id="nowhere")
    await refused(api.inventory.ListMovements(nowhere), Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="nowhere")
    assert await api.movements(NORTH, "unknown") == []


# --------------------------------------------------------------------------------------------------------- conservation
async def test_whatever_is_done_at_once_no_unit_appears_or_vanishes(api: Api) -> None:
    draw = random.Random(7)
    places = (NORTH, SOUTH, DEPOT)
    buckets = (AVAILABLE, DAMAGED, QUARANTINE)
    transfers: list[str] = []

    async def step() -> None:
        where, sku, n = draw.choice(places), draw.choice((MILK, BREAD)), draw.randint(1, 6)
        what = draw.randrange(7)
        if what == 0:
            await api.receive(where, {sku: n})
        elif what == 1:
            await api.adjust(where, sku, draw.choice((n, -n)), draw.choice(buckets))
        elif what == 2:
            await api.move(where, sku, n, *draw.sample(buckets, 2))
        elif what == 3:
            await api.count(where, {MILK: draw.randint(0, 20), BREAD: draw.randint(0, 20)})
        elif what == 4:
            other = draw.choice([p for p in places if p != where])
            transfers.append((await api.dispatch(where, other, {sku: n})).transfer_id)
        elif what == 5 and transfers:
            await api.arrive(draw.choice(transfers), {sku: n})
        else:
            await api.reserve({where: {sku: n}}, ttl_seconds=draw.choice((1, 600)))

    done = 0
    for _ in range(12):
        results = await asyncio.gather(*(step() for _ in range(12)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, grpc.aio.AioRpcError)
                assert result.code() is Code.FAILED_PRECONDITION, result
            else:
                done += 1
    assert done > 72

    for where in places:
        for sku in (MILK, BREAD):
            assert await api.level(where, sku) == await api.sums(where, sku)
    # What left on transfers, less what arrived, is on its way.
    on_way = await api.fetch("SELECT coalesce(sum(dispatched - received), 0)::int8 FROM transfer_lines")
    travelled = 0
    for where in places:
        for movement in await api.movements(where):
            travelled += movement.quantity * (movement.to_bucket == pb.BUCKET_IN_TRANSIT)
            travelled -= movement.quantity * (movement.from_bucket == pb.BUCKET_IN_TRANSIT)
    assert [(travelled,)] == on_way


async def test_every_channel_of_a_position_is_what_availability_answers(api: Api) -> None:
    await place(api, {NORTH: {MILK: 1}})
    await api.reserve({NORTH: {MILK: 2}})
    await api.adjust(NORTH, MILK, 4, DAMAGED)
    await api.adjust(NORTH, MILK, 5, QUARANTINE)
    await api.dispatch(SOUTH, NORTH, {MILK: 3})
    await api.inventory.SetStockPolicy(
        pb.SetStockPolicyRequest(request_id=request_id(), location_id=NORTH, sku=MILK, safety_stock=2)
    )
    await api.inventory.SetChannelThreshold(
        pb.SetChannelThresholdRequest(
            request_id=request_id(), channel=types_pb2.CHANNEL_MARKETPLACE, sku=MILK, quantity=4
        )
    )

    position = await api.position(NORTH, MILK)

    assert (position.available, position.allocated, position.damaged, position.quarantine) == (9, 1, 4, 5)
    assert position.on_hand == 19
    assert (position.reserved, position.safety_stock, position.inbound) == (2, 2, 3)
    figures = {c.channel: (c.channel_threshold, c.available_to_promise) for c in position.channels}
    assert figures == {channel: (0, 5) for channel in types_pb2.Channel.values() if channel} | {
        POS: (0, 7),
        types_pb2.CHANNEL_MARKETPLACE: (4, 1),
    }
    for channel, (_, promised) in figures.items():
        assert await api.atp(NORTH, MILK, channel) == promised
    assert (await api.position(SOUTH, MILK)).channels[0].channel == WEB

    await refused(api.position("nowhere", MILK), Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="nowhere")
    await refused(api.position(NORTH, "unknown"), Code.NOT_FOUND, "SKU_NOT_FOUND", sku="unknown")
    await api.add_products(["never-here"])
    nothing = await api.position(NORTH, "never-here")
    assert (nothing.on_hand, nothing.reserved, nothing.channels[0].available_to_promise) == (0, 0, 0)
