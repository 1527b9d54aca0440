"""Transfers to their end, over gRPC: asked for, sent, received in parts, too much, too little, lost, found again."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from api import BREAD, DEPOT, MILK, NORTH, SOUTH, Api, Code, eventually, invalid, lines, place, refused, request_id
from inventory.rules import kept
from onhand.v1 import inventory_pb2 as pb

LOST, BACK = pb.TRANSFER_LOSS_LOST, pb.TRANSFER_LOSS_BACK_AT_SENDER


async def ask(api: Api, origin: str, target: str, quantities: dict[str, int]) -> pb.Transfer:
    """A request of the target."""
    request = pb.RequestTransferRequest(
        request_id=request_id(), from_location_id=origin, to_location_id=target, lines=lines(quantities)
    )
    return (await api.inventory.RequestTransfer(request)).transfer


async def send(api: Api, transfer_id: str, quantities: dict[str, int] | None = None, **fields: Any) -> pb.Transfer:
    """Answers a request."""
    request = pb.DispatchRequestedTransferRequest(
        **{"request_id": request_id()} | fields, transfer_id=transfer_id, lines=lines(quantities or {})
    )
    return (await api.inventory.DispatchRequestedTransfer(request)).transfer


async def cancel(api: Api, transfer_id: str) -> pb.Transfer:
    """Withdraws a request."""
    request = pb.CancelTransferRequest(request_id=request_id(), transfer_id=transfer_id, reason_code="NOT_TO_SPARE")
    return (await api.inventory.CancelTransfer(request)).transfer


async def close(api: Api, transfer_id: str, loss: int = LOST, **fields: Any) -> pb.Transfer:
    """Gives up what does not arrive."""
    request = pb.CloseTransferRequest(
        **{"request_id": request_id(), "reason_code": "TRUCK_STOLEN"} | fields, transfer_id=transfer_id, loss=loss
    )
    return (await api.inventory.CloseTransfer(request)).transfer


async def listed(api: Api, location_id: str, page_size: int = 500, **fields: Any) -> list[str]:
    """Ids, over as many pages as it takes."""
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListTransfersRequest(location_id=location_id, page_size=page_size, page_token=token, **fields)
        page = await api.inventory.ListTransfers(request)
        assert len(page.transfers) <= page_size
        found += [t.transfer_id for t in page.transfers]
        token = page.next_page_token
        if not token:
            return found


def figures(transfer: pb.Transfer) -> dict[str, tuple[int, ...]]:
    """(requested, dispatched, received, over, lost, returned, on its way) by sku."""
    return {
        n.sku: (
            n.requested_quantity,
            n.dispatched_quantity,
            n.received_quantity,
            n.over_quantity,
            n.lost_quantity,
            n.returned_quantity,
            n.in_transit_quantity,
        )
        for n in transfer.lines
    }


async def tasks(api: Api, location_id: str) -> dict[str, str]:
    """Why something is to be counted, by sku."""
    request = pb.ListCountTasksRequest(location_id=location_id)
    return {t.sku: t.reason_code for t in (await api.inventory.ListCountTasks(request)).count_tasks}


# ------------------------------------------------------------------------------------------------------- ask and send
async def test_a_request_moves_nothing_until_the_sender_answers_it(api: Api) -> None:
    asked = await ask(api, NORTH, SOUTH, {MILK: 6, BREAD: 20})
    assert asked.state == pb.TRANSFER_STATE_REQUESTED
    assert figures(asked) == {BREAD: (20, 0, 0, 0, 0, 0, 0), MILK: (6, 0, 0, 0, 0, 0, 0)}
    assert (await api.atp(NORTH, MILK), (await api.position(SOUTH, MILK)).inbound) == (10, 0)

    await refused(send(api, asked.transfer_id), Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku=BREAD, available=10)
    sent = await send(api, asked.transfer_id, {MILK: 6, BREAD: 8})
    assert sent.state == pb.TRANSFER_STATE_IN_TRANSIT
    assert figures(sent) == {BREAD: (20, 8, 0, 0, 0, 0, 8), MILK: (6, 6, 0, 0, 0, 0, 6)}
    assert (await api.atp(NORTH, MILK), (await api.position(SOUTH, MILK)).inbound) == (4, 6)

    assert (await api.arrive(asked.transfer_id, {})).state == pb.TRANSFER_STATE_RECEIVED
    assert await api.level(SOUTH, BREAD) == await api.sums(SOUTH, BREAD) == (18, 0, 0, 0)
    await kept(api)


async def test_a_request_without_lines_to_send_sends_all_of_it_once(api: Api) -> None:
    asked = await ask(api, NORTH, SOUTH, {MILK: 3})
    again = request_id()
    sent = await asyncio.gather(*(send(api, asked.transfer_id, request_id=again) for _ in range(3)))
    assert [t == sent[0] for t in sent] == [True] * 3
    assert figures(sent[0]) == {MILK: (3, 3, 0, 0, 0, 0, 3)}
    await refused(send(api, asked.transfer_id), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="IN_TRANSIT")
    assert await api.level(NORTH, MILK) == (7, 0, 0, 0)
    await eventually(lambda: api.atp(NORTH, MILK), 7)


async def test_a_request_is_answered_in_parts_until_it_is_complete_or_declined(api: Api) -> None:
    asked = await ask(api, NORTH, SOUTH, {MILK: 6, BREAD: 4})
    request = pb.DispatchRequestedTransferRequest(
        request_id=request_id(), transfer_id=asked.transfer_id, lines=lines({MILK: 2}), keeps_rest=True
    )
    first = await api.inventory.DispatchRequestedTransfer(request)
    assert await api.inventory.DispatchRequestedTransfer(request) == first
    assert figures(first.transfer) == {BREAD: (4, 0, 0, 0, 0, 0, 0), MILK: (6, 2, 0, 0, 0, 0, 2)}
    assert (first.rest.state, first.rest.from_transfer_id) == (pb.TRANSFER_STATE_REQUESTED, asked.transfer_id)
    assert figures(first.rest) == {BREAD: (4, 0, 0, 0, 0, 0, 0), MILK: (4, 0, 0, 0, 0, 0, 0)}
    assert await listed(api, NORTH, is_open=True) == [first.rest.transfer_id, asked.transfer_id]

    request = pb.DispatchRequestedTransferRequest(
        request_id=request_id(), transfer_id=first.rest.transfer_id, lines=lines({MILK: 5, BREAD: 1}), keeps_rest=True
    )
    second = await api.inventory.DispatchRequestedTransfer(request)
    assert figures(second.rest) == {BREAD: (3, 0, 0, 0, 0, 0, 0)}
    for part in (second, first):
        await api.arrive(part.transfer.transfer_id, {})
    assert await api.level(SOUTH, MILK) == (17, 0, 0, 0)
    assert await listed(api, SOUTH, is_open=True) == [second.rest.transfer_id]
    assert (await cancel(api, second.rest.transfer_id)).state == pb.TRANSFER_STATE_CANCELLED

    # The last part leaves nothing to follow; nor does one that leaves out what is not wanted any more.
    asked = await ask(api, NORTH, SOUTH, {BREAD: 4})
    request = pb.DispatchRequestedTransferRequest(
        request_id=request_id(), transfer_id=asked.transfer_id, keeps_rest=True
    )
    assert not (await api.inventory.DispatchRequestedTransfer(request)).HasField("rest")
    asked = await ask(api, NORTH, SOUTH, {BREAD: 4})
    await send(api, asked.transfer_id, {BREAD: 1})
    assert await api.fetch("SELECT count(*) FROM transfers WHERE from_transfer_id IS NOT NULL") == [(2,)]
    await kept(api)


async def test_two_answers_to_one_request_are_one(api: Api) -> None:
    asked = await ask(api, NORTH, SOUTH, {MILK: 3})
    results = await asyncio.gather(*(send(api, asked.transfer_id) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, pb.Transfer) for result in results) == 1
    assert await api.level(NORTH, MILK) == (7, 0, 0, 0)
    await eventually(lambda: api.atp(NORTH, MILK), 7)
    await kept(api)


async def test_a_request_may_be_declined_or_withdrawn(api: Api) -> None:
    asked = await ask(api, NORTH, SOUTH, {MILK: 3})
    declined = await cancel(api, asked.transfer_id)
    assert (declined.state, declined.reason_code) == (pb.TRANSFER_STATE_CANCELLED, "NOT_TO_SPARE")
    for call in (cancel, send, close):
        await refused(
            call(api, asked.transfer_id),
            Code.FAILED_PRECONDITION,
            "ILLEGAL_STEP",
            document=f"transfer/{asked.transfer_id}",
            state="CANCELLED",
            legal_steps="nothing",
        )
    await refused(api.arrive(asked.transfer_id, {MILK: 1}), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", step="RECEIVE")
    await kept(api)


# -------------------------------------------------------------------------------------------------- too much, too little
async def test_more_than_was_sent_is_found_on_the_way_and_the_sender_counts(api: Api) -> None:
    sent = await api.dispatch(NORTH, SOUTH, {MILK: 6})
    await api.add_product("eggs", 100)
    await refused(api.arrive(sent.transfer_id, {MILK: 7}), Code.FAILED_PRECONDITION, "TRANSFER_EXCEEDED", in_transit=6)

    whole = await api.arrive(sent.transfer_id, {MILK: 7, BREAD: 2, "eggs": 1}, accepts_more=True)

    assert whole.state == pb.TRANSFER_STATE_RECEIVED
    assert figures(whole) == {
        BREAD: (0, 0, 2, 2, 0, 0, 0),
        "eggs": (0, 0, 1, 1, 0, 0, 0),
        MILK: (0, 6, 7, 1, 0, 0, 0),
    }
    assert [await api.atp(SOUTH, sku) for sku in (MILK, BREAD, "eggs")] == [17, 12, 1]
    found = [m for m in await api.movements(SOUTH, BREAD) if m.reference_document.startswith("transfer/")]
    assert [(m.from_bucket, m.to_bucket, m.quantity, m.reason_code) for m in reversed(found)] == [
        (pb.BUCKET_ADJUSTMENT, pb.BUCKET_IN_TRANSIT, 2, "TRANSFER_OVER"),
        (pb.BUCKET_IN_TRANSIT, pb.BUCKET_AVAILABLE, 2, "TRANSFER_IN"),
    ]
    # Nobody knows yet whose these units were: nothing was taken from the sender.
    assert await api.level(NORTH, BREAD) == (10, 0, 0, 0)
    assert await tasks(api, NORTH) == dict.fromkeys((MILK, BREAD, "eggs"), "TRANSFER_OVER")
    # One more box, when all was there.
    assert figures(await api.arrive(sent.transfer_id, {MILK: 1}, accepts_more=True))[MILK] == (0, 6, 8, 2, 0, 0, 0)
    await kept(api)


async def test_what_arrives_damaged_cannot_be_sold(api: Api) -> None:
    sent = await api.dispatch(NORTH, SOUTH, {MILK: 6})
    part = await api.arrive(sent.transfer_id, {MILK: 2}, damaged_lines=lines({MILK: 3}))
    assert figures(part) == {MILK: (0, 6, 5, 0, 0, 0, 1)}
    assert await api.level(SOUTH, MILK) == (12, 0, 3, 0)
    only = await api.arrive(sent.transfer_id, {}, damaged_lines=lines({MILK: 1}))
    assert only.state == pb.TRANSFER_STATE_RECEIVED
    assert await api.level(SOUTH, MILK) == await api.sums(SOUTH, MILK) == (12, 0, 4, 0)
    await kept(api)


async def test_lost_units_are_closed_with_a_reason_and_may_turn_up(api: Api) -> None:
    sent = await api.dispatch(NORTH, SOUTH, {MILK: 6, BREAD: 1})
    await api.arrive(sent.transfer_id, {MILK: 2, BREAD: 1})

    closed = await close(api, sent.transfer_id)

    assert (closed.state, closed.reason_code) == (pb.TRANSFER_STATE_CLOSED, "TRUCK_STOLEN")
    assert figures(closed) == {BREAD: (0, 1, 1, 0, 0, 0, 0), MILK: (0, 6, 2, 0, 4, 0, 0)}
    assert (await api.position(SOUTH, MILK)).inbound == 0
    assert await api.level(SOUTH, MILK) == (12, 0, 0, 0)
    lost = (await api.movements(SOUTH, MILK))[0]
    assert (lost.from_bucket, lost.to_bucket, lost.quantity) == (pb.BUCKET_IN_TRANSIT, pb.BUCKET_ADJUSTMENT, 4)
    assert await tasks(api, NORTH) == {MILK: "TRANSFER_LOST"}
    await kept(api)

    some = await api.arrive(sent.transfer_id, {MILK: 1})
    assert (some.state, figures(some)[MILK]) == (pb.TRANSFER_STATE_CLOSED, (0, 6, 3, 0, 3, 0, 0))
    assert some.reason_code == "TRUCK_STOLEN"
    all_of_it = await api.arrive(sent.transfer_id, {MILK: 3})
    assert (all_of_it.state, figures(all_of_it)[MILK]) == (pb.TRANSFER_STATE_RECEIVED, (0, 6, 6, 0, 0, 0, 0))
    assert await api.level(SOUTH, MILK) == await api.sums(SOUTH, MILK) == (16, 0, 0, 0)
    await refused(close(api, sent.transfer_id), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="RECEIVED")
    await kept(api)


async def test_units_that_never_left_are_at_the_sender_again(api: Api) -> None:
    sent = await api.dispatch(NORTH, SOUTH, {MILK: 6})
    back = await close(api, sent.transfer_id, BACK, reason_code="NEVER_LOADED")
    assert (back.state, figures(back)) == (pb.TRANSFER_STATE_CLOSED, {MILK: (0, 6, 0, 0, 0, 6, 0)})
    assert (await api.atp(NORTH, MILK), await api.level(SOUTH, MILK)) == (10, (10, 0, 0, 0))
    assert await api.sums(NORTH, MILK) == (10, 0, 0, 0)
    assert await tasks(api, NORTH) == {}
    # They are not lost: what arrives now was not known to be sent.
    await refused(api.arrive(sent.transfer_id, {MILK: 1}), Code.FAILED_PRECONDITION, "TRANSFER_EXCEEDED", in_transit=0)
    await kept(api)


async def test_what_arrives_goes_to_orders_that_lack_it_first(api: Api) -> None:
    placed = await place(api, {SOUTH: {MILK: 10}})
    await api.count(SOUTH, {MILK: 7})
    sent = await api.dispatch(NORTH, SOUTH, {MILK: 5})
    await api.arrive(sent.transfer_id, {MILK: 5})
    assert await api.level(SOUTH, MILK) == (2, 10, 0, 0)
    assert await api.atp(SOUTH, MILK) == 2
    ends = await api.fetch("SELECT reason, quantity, reference_document FROM shortfall_ends")
    assert ends == [("COVERED", 3, f"transfer/{sent.transfer_id}")]
    assert placed.order.order_id
    await kept(api)


# ----------------------------------------------------------------------------------------------------- lists and events
async def test_transfers_of_a_location_are_listed_newest_first(api: Api) -> None:
    out = [(await api.dispatch(NORTH, SOUTH, {MILK: 1})).transfer_id for _ in range(3)]
    into = [(await api.dispatch(DEPOT, NORTH, {MILK: 1})).transfer_id for _ in range(2)]
    asked = (await ask(api, DEPOT, NORTH, {MILK: 1})).transfer_id
    await api.dispatch(DEPOT, SOUTH, {MILK: 1})
    await api.arrive(out[0], {})
    newest = [asked, *reversed(into), *reversed(out)]

    for page_size in (1, 2, 500):
        assert await listed(api, NORTH, page_size) == newest
        assert await listed(api, NORTH, page_size, is_open=True) == newest[:-1]
    assert await listed(api, NORTH, direction=pb.TRANSFER_DIRECTION_INBOUND) == newest[:3]
    assert await listed(api, NORTH, direction=pb.TRANSFER_DIRECTION_OUTBOUND) == newest[3:]
    await refused(listed(api, "nowhere"), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    await invalid(api.inventory.ListTransfers(pb.ListTransfersRequest(location_id=NORTH, page_size=-1)), "page_size")
    bad = pb.ListTransfersRequest(location_id=NORTH, page_token="x")
    await refused(api.inventory.ListTransfers(bad), Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_every_step_of_a_transfer_is_told(api: Api) -> None:
    asked = await ask(api, NORTH, SOUTH, {MILK: 3})
    await send(api, asked.transfer_id)
    await api.arrive(asked.transfer_id, {MILK: 1})
    await close(api, asked.transfer_id)
    await cancel(api, (await ask(api, NORTH, SOUTH, {MILK: 3})).transfer_id)
    rows = await api.fetch(
        "SELECT type, data ->> 'state' FROM events WHERE type LIKE 'onhand.transfer.%' ORDER BY sequence"
    )
    assert rows == [
        ("onhand.transfer.requested.v1", "REQUESTED"),
        ("onhand.transfer.dispatched.v1", "IN_TRANSIT"),
        ("onhand.transfer.received.v1", "IN_TRANSIT"),
        ("onhand.transfer.closed.v1", "CLOSED"),
        ("onhand.transfer.requested.v1", "REQUESTED"),
        ("onhand.transfer.cancelled.v1", "CANCELLED"),
    ]


# ------------------------------------------------------------------------------------------------------------ bad input
async def test_transfers_that_make_no_sense_are_refused_without_effect(api: Api) -> None:
    sent = await api.dispatch(NORTH, SOUTH, {MILK: 6})
    tables = ("transfers", "transfer_lines", "stock_movements", "requests", "events", "count_tasks")
    before = [await api.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    missing = request_id()
    await invalid(ask(api, NORTH, NORTH, {MILK: 1}), "to_location_id")
    await invalid(ask(api, NORTH, SOUTH, {}), "lines")
    await invalid(ask(api, NORTH, SOUTH, {MILK: 0}), "lines[0].quantity")
    await invalid(ask(api, NORTH, SOUTH, {f"s{n}": 1 for n in range(501)}), "lines")
    await refused(ask(api, NORTH, "nowhere", {MILK: 1}), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    await refused(ask(api, "nowhere", NORTH, {MILK: 1}), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    await refused(ask(api, NORTH, SOUTH, {"unknown": 1}), Code.NOT_FOUND, "SKU_NOT_FOUND")
    for call in (send, cancel, close):
        await refused(call(api, missing), Code.NOT_FOUND, "TRANSFER_NOT_FOUND", transfer_id=missing)
        await invalid(call(api, "x"), "transfer_id")
    await invalid(close(api, sent.transfer_id, pb.TRANSFER_LOSS_UNSPECIFIED), "loss")
    await invalid(close(api, sent.transfer_id, reason_code=""), "reason_code")
    await invalid(close(api, sent.transfer_id, reason_code="because"), "reason_code")
    await invalid(api.arrive(sent.transfer_id, {}, damaged_lines=lines({MILK: -1})), "damaged_lines[0].quantity")
    unknown = api.arrive(sent.transfer_id, {"unknown": 1}, accepts_more=True)
    await refused(unknown, Code.NOT_FOUND, "SKU_NOT_FOUND", sku="unknown")
    await refused(cancel(api, sent.transfer_id), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", legal_steps="RECEIVE, CLOSE")
    late = Timestamp(seconds=-(10**12))
    await invalid(send(api, (sent.transfer_id), expected_time=late), "expected_time")
    assert [await api.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables] == before


async def test_a_location_with_a_request_or_notice_open_is_not_deleted(api: Api) -> None:
    await api.add_location("asks")
    asked = await ask(api, NORTH, "asks", {MILK: 1})
    await refused(api.delete_location("asks"), Code.FAILED_PRECONDITION, "LOCATION_IN_USE", open_transfers=1)
    await cancel(api, asked.transfer_id)
    await api.delete_location("asks")


async def test_a_late_box_from_a_store_that_is_gone_is_booked(api: Api) -> None:
    await api.add_location("gone")
    await api.receive("gone", {MILK: 2})
    sent = await api.dispatch("gone", SOUTH, {MILK: 2})
    await api.arrive(sent.transfer_id, {})
    await api.delete_location("gone")
    late = await api.arrive(sent.transfer_id, {MILK: 1}, accepts_more=True)
    assert figures(late) == {MILK: (0, 2, 3, 1, 0, 0, 0)}
    await kept(api)


# ------------------------------------------------------------------------------------------------------------ everything
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_to_transfers_no_unit_is_in_two_places_or_in_none(api: Api, seed: int) -> None:
    draw = random.Random(seed)
    known: list[str] = []
    expected = timedelta(days=1)

    async def step() -> None:
        origin, target = draw.sample((NORTH, SOUTH, DEPOT), 2)
        sku, n, what = draw.choice((MILK, BREAD)), draw.randint(1, 5), draw.randrange(8)
        if what == 0:
            known.append((await ask(api, origin, target, {sku: n})).transfer_id)
        elif what == 1:
            known.append((await api.dispatch(origin, target, {MILK: n, BREAD: 1})).transfer_id)
        elif not known:
            return
        elif what == 2:
            when = Timestamp()
            when.FromDatetime(datetime.now(UTC) + expected)
            await send(api, draw.choice(known), draw.choice(({}, {sku: n})), expected_time=when)
        elif what == 3:
            await cancel(api, draw.choice(known))
        elif what == 4:
            await close(api, draw.choice(known), draw.choice((LOST, BACK)))
        else:
            bad = lines({sku: n}) if draw.randrange(3) == 0 else []
            await api.arrive(draw.choice(known), {sku: n}, damaged_lines=bad, accepts_more=bool(draw.randrange(2)))

    done = 0
    for _ in range(8):
        results = await asyncio.gather(*(step() for _ in range(8)), return_exceptions=True)
        for result in results:
            if isinstance(result, grpc.aio.AioRpcError):
                assert result.code() is Code.FAILED_PRECONDITION, result
            else:
                assert result is None, result
                done += 1
    assert done >= 16
    await kept(api)
    # All units that there ever were are somewhere.
    for sku in (MILK, BREAD):
        rows = await api.fetch(
            """
            SELECT (SELECT sum(available + damaged) FROM stock_levels WHERE sku = $1)
                   + (SELECT coalesce(sum(dispatched + over - received - lost - returned), 0) FROM transfer_lines WHERE sku = $1)
                   + (SELECT coalesce(sum(lost - over), 0) FROM transfer_lines WHERE sku = $1)""",
            sku,
        )
        assert rows == [(30,)]
