"""Goods that suppliers announce, over gRPC: changed, received in parts, too much, too little, and promised for a date."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from api import BREAD, MILK, NORTH, POS, SOUTH, WEB, Api, Code, invalid, lines, place, refused, request_id
from inventory.rules import kept
from onhand.v1 import inventory_pb2, types_pb2
from onhand.v1 import receiving_pb2 as pb


def at(hours: float) -> Timestamp:
    """A time from now."""
    when = Timestamp()
    when.FromDatetime(datetime.now(UTC) + timedelta(hours=hours))
    return when


async def announce(api: Api, quantities: dict[str, int], hours: float = 48, **fields: Any) -> pb.AdvanceNotice:
    """What a supplier announces to the north."""
    request = pb.CreateAdvanceNoticeRequest(
        **{
            "request_id": request_id(),
            "location_id": NORTH,
            "supplier": "dairy",
            "expected_time": at(hours),
            "lines": lines(quantities),
        }
        | fields
    )
    return (await api.receiving.CreateAdvanceNotice(request)).advance_notice


async def receive(
    api: Api, notice_id: str, quantities: dict[str, int] | None = None, **fields: Any
) -> pb.AdvanceNotice:
    """What arrived; nothing named: all that is still to come."""
    request = pb.ReceiveAdvanceNoticeRequest(
        **{"request_id": request_id()} | fields, advance_notice_id=notice_id, lines=lines(quantities or {})
    )
    return (await api.receiving.ReceiveAdvanceNotice(request)).advance_notice


async def update(api: Api, notice_id: str, *paths: str, **fields: Any) -> pb.AdvanceNotice:
    """Other goods, or another time."""
    request = pb.UpdateAdvanceNoticeRequest(request_id=request_id(), advance_notice_id=notice_id, **fields)
    request.update_mask.paths.extend(paths)
    return (await api.receiving.UpdateAdvanceNotice(request)).advance_notice


async def cancel(api: Api, notice_id: str) -> pb.AdvanceNotice:
    """Withdraws it."""
    request = pb.CancelAdvanceNoticeRequest(
        request_id=request_id(), advance_notice_id=notice_id, reason_code="SUPPLIER_WITHDREW"
    )
    return (await api.receiving.CancelAdvanceNotice(request)).advance_notice


async def close(api: Api, notice_id: str) -> pb.AdvanceNotice:
    """Closes it short."""
    request = pb.CloseAdvanceNoticeRequest(
        request_id=request_id(), advance_notice_id=notice_id, reason_code="NOT_DELIVERED"
    )
    return (await api.receiving.CloseAdvanceNotice(request)).advance_notice


async def listed(api: Api, page_size: int = 500, **fields: Any) -> list[str]:
    """Ids of the north, over as many pages as it takes."""
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListAdvanceNoticesRequest(location_id=NORTH, page_size=page_size, page_token=token, **fields)
        page = await api.receiving.ListAdvanceNotices(request)
        assert len(page.advance_notices) <= page_size
        found += [n.advance_notice_id for n in page.advance_notices]
        token = page.next_page_token
        if not token:
            return found


async def future(
    api: Api, hours: float, sku: str = MILK, location_id: str = NORTH, channel: int = WEB
) -> pb.FutureAvailability:
    """What can be promised for a date."""
    request = pb.GetFutureAvailabilityRequest(
        channel=channel, skus=[sku], location_ids=[location_id], by_time=at(hours)
    )
    (item,) = (await api.receiving.GetFutureAvailability(request)).items
    return item


def figures(notice: pb.AdvanceNotice) -> dict[str, tuple[int, ...]]:
    """(expected, received, damaged, open, over, short) by sku."""
    return {
        n.sku: (
            n.expected_quantity,
            n.received_quantity,
            n.damaged_quantity,
            n.open_quantity,
            n.over_quantity,
            n.short_quantity,
        )
        for n in notice.lines
    }


# -------------------------------------------------------------------------------------------------------------- receive
async def test_announced_goods_are_received_in_parts(api: Api) -> None:
    notice = await announce(api, {MILK: 6, BREAD: 2}, supplier_reference="ASN-1")
    assert (notice.state, notice.supplier_reference) == (pb.ADVANCE_NOTICE_STATE_EXPECTED, "ASN-1")
    assert figures(notice) == {BREAD: (2, 0, 0, 2, 0, 0), MILK: (6, 0, 0, 6, 0, 0)}
    assert await api.atp(NORTH, MILK) == 10

    part = await receive(api, notice.advance_notice_id, {MILK: 4}, damaged_lines=lines({MILK: 1}))
    assert part.state == pb.ADVANCE_NOTICE_STATE_RECEIVING
    assert figures(part)[MILK] == (6, 5, 1, 1, 0, 0)
    assert await api.level(NORTH, MILK) == (14, 0, 1, 0)

    whole = await receive(api, notice.advance_notice_id)
    assert whole.state == pb.ADVANCE_NOTICE_STATE_RECEIVED
    assert await api.level(NORTH, MILK) == await api.sums(NORTH, MILK) == (15, 0, 1, 0)
    assert await api.atp(NORTH, BREAD) == 12
    movement = (await api.movements(NORTH, BREAD))[0]
    assert (movement.from_bucket, movement.reason_code, movement.reference_document) == (
        inventory_pb2.BUCKET_SUPPLIER,
        "NOTICE_RECEIPT",
        f"advance_notice/{notice.advance_notice_id}",
    )
    read = pb.GetAdvanceNoticeRequest(advance_notice_id=notice.advance_notice_id)
    assert (await api.receiving.GetAdvanceNotice(read)).advance_notice == whole
    await kept(api)


async def test_more_than_was_announced_is_booked_only_where_somebody_accepts_it(api: Api) -> None:
    notice = await announce(api, {MILK: 6})
    for quantities, sku, expected in (({MILK: 7}, MILK, 6), ({BREAD: 1}, BREAD, 0), ({"unknown": 1}, "unknown", 0)):
        await refused(
            receive(api, notice.advance_notice_id, quantities),
            Code.FAILED_PRECONDITION,
            "ADVANCE_NOTICE_EXCEEDED",
            sku=sku,
            expected=expected,
        )
    over = await receive(api, notice.advance_notice_id, {MILK: 7, BREAD: 1}, accepts_more=True)
    assert over.state == pb.ADVANCE_NOTICE_STATE_RECEIVED
    assert figures(over) == {BREAD: (0, 1, 0, 0, 1, 0), MILK: (6, 7, 0, 0, 1, 0)}
    await refused(receive(api, notice.advance_notice_id), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", state="RECEIVED")
    unknown = receive(api, (await announce(api, {MILK: 1})).advance_notice_id, {"unknown": 1}, accepts_more=True)
    await refused(unknown, Code.NOT_FOUND, "SKU_NOT_FOUND")
    await kept(api)


async def test_a_notice_is_closed_short_and_nothing_more_is_expected(api: Api) -> None:
    notice = await announce(api, {MILK: 6})
    await receive(api, notice.advance_notice_id, {MILK: 2})
    assert (await future(api, 72)).available_to_promise == 16
    closed = await close(api, notice.advance_notice_id)
    assert (closed.state, closed.reason_code) == (pb.ADVANCE_NOTICE_STATE_CLOSED, "NOT_DELIVERED")
    assert figures(closed) == {MILK: (6, 2, 0, 0, 0, 4)}
    assert (await future(api, 72)).available_to_promise == 12
    await kept(api)


async def test_arriving_goods_go_to_orders_that_lack_them_the_oldest_first(api: Api) -> None:
    first = await place(api, {NORTH: {MILK: 5}})
    await place(api, {NORTH: {MILK: 5}})
    await api.count(NORTH, {MILK: 4})  # the younger order lacks all of it, the older one
    notice = await announce(api, {MILK: 8})
    seen = await future(api, 72)
    assert (seen.short_quantity, seen.available_quantity, seen.available_to_promise) == (6, 0, 2)

    await receive(api, notice.advance_notice_id, {MILK: 1})
    assert await api.fetch("SELECT fulfillment_order_id, open_quantity FROM shortfalls WHERE open_quantity = 0") == [
        (UUID(first.order.fulfillment_orders[0].fulfillment_order_id), 0)
    ]
    assert await api.atp(NORTH, MILK) == 0
    await receive(api, notice.advance_notice_id)
    assert await api.level(NORTH, MILK) == (2, 10, 0, 0)
    assert await api.atp(NORTH, MILK) == 2
    events = await api.fetch("SELECT count(*) FROM events WHERE type = 'onhand.shortfall.resolved.v1'")
    assert events == [(2,)]
    await kept(api)


# --------------------------------------------------------------------------------------------------------- change, cancel
async def test_a_supplier_may_announce_something_else(api: Api) -> None:
    await api.add_product("eggs", 100)
    notice = await announce(api, {MILK: 6, BREAD: 2})
    notice_id = notice.advance_notice_id
    await receive(api, notice_id, {MILK: 3})
    later = at(96)
    await refused(
        update(api, notice_id, "expected_time", expected_time=later, etag=notice.etag), Code.ABORTED, "ETAG_MISMATCH"
    )
    changed = await update(
        api, notice_id, "lines", "expected_time", lines=lines({"eggs": 4, MILK: 5}), expected_time=later
    )
    assert figures(changed) == {"eggs": (4, 0, 0, 4, 0, 0), MILK: (5, 3, 0, 2, 0, 0)}
    assert changed.expected_time.seconds == later.seconds
    less = await update(api, notice_id, "lines", lines=lines({MILK: 1}))
    assert (less.state, figures(less)) == (pb.ADVANCE_NOTICE_STATE_RECEIVED, {MILK: (1, 3, 0, 0, 2, 0)})
    again = update(api, notice_id, "lines", lines=lines({MILK: 9}))
    await refused(again, Code.FAILED_PRECONDITION, "ILLEGAL_STEP", step="UPDATE")
    await kept(api)


async def test_a_notice_is_withdrawn_only_before_anything_arrived(api: Api) -> None:
    notice = await announce(api, {MILK: 6})
    cancelled = await cancel(api, notice.advance_notice_id)
    assert (cancelled.state, cancelled.reason_code) == (pb.ADVANCE_NOTICE_STATE_CANCELLED, "SUPPLIER_WITHDREW")
    assert (await future(api, 72)).supplies == []
    await refused(
        receive(api, notice.advance_notice_id), Code.FAILED_PRECONDITION, "ILLEGAL_STEP", legal_steps="nothing"
    )
    begun = await announce(api, {MILK: 6})
    await receive(api, begun.advance_notice_id, {MILK: 1})
    await refused(
        cancel(api, begun.advance_notice_id),
        Code.FAILED_PRECONDITION,
        "ILLEGAL_STEP",
        legal_steps="UPDATE, RECEIVE, CLOSE",
    )
    await kept(api)


async def test_a_supplier_uses_a_number_once(api: Api) -> None:
    notice = await announce(api, {MILK: 6}, supplier_reference="ASN-1")
    again = announce(api, {MILK: 6}, supplier_reference="ASN-1", location_id=SOUTH)
    await refused(again, Code.ALREADY_EXISTS, "ADVANCE_NOTICE_EXISTS", advance_notice_id=notice.advance_notice_id)
    await announce(api, {MILK: 6}, supplier_reference="ASN-1", supplier="bakery")
    for _ in range(2):
        await announce(api, {MILK: 6})
    results = await asyncio.gather(
        *(announce(api, {MILK: 1}, supplier_reference="ASN-2") for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(result, pb.AdvanceNotice) for result in results) == 1
    await kept(api)


# ------------------------------------------------------------------------------------------------------- for a date
async def test_what_can_be_promised_for_a_date_is_what_comes_by_then(api: Api) -> None:
    notice = await announce(api, {MILK: 6}, hours=24)
    await announce(api, {MILK: 5}, hours=48)
    await announce(api, {MILK: 100}, hours=24, location_id=SOUTH)
    sent = await api.inventory.DispatchTransfer(
        inventory_pb2.DispatchTransferRequest(
            request_id=request_id(),
            from_location_id=SOUTH,
            to_location_id=NORTH,
            lines=lines({MILK: 3}),
            expected_time=at(12),
        )
    )
    await api.dispatch(SOUTH, NORTH, {MILK: 2})  # nobody says when it comes
    await api.reserve({NORTH: {MILK: 4}})
    policy = inventory_pb2.SetStockPolicyRequest(request_id=request_id(), location_id=NORTH, sku=MILK, safety_stock=2)
    await api.inventory.SetStockPolicy(policy)
    threshold = inventory_pb2.SetChannelThresholdRequest(
        request_id=request_id(), channel=types_pb2.CHANNEL_WEB, sku=MILK, quantity=1
    )
    await api.inventory.SetChannelThreshold(threshold)

    assert await api.atp(NORTH, MILK) == 3
    assert [(await future(api, hours)).available_to_promise for hours in (1, 13, 25, 49)] == [3, 6, 12, 17]
    assert [(await future(api, hours, channel=POS)).available_to_promise for hours in (1, 49)] == [6, 20]
    seen = await future(api, 25)
    assert (seen.available_quantity, seen.reserved_quantity, seen.short_quantity) == (10, 4, 0)
    assert [(s.document, s.quantity) for s in seen.supplies] == [
        (f"transfer/{sent.transfer.transfer_id}", 3),
        (f"advance_notice/{notice.advance_notice_id}", 6),
    ]
    assert await api.atp(NORTH, MILK) == 3  # a promise of today is what it was


async def test_supply_that_is_late_counts_for_a_day(api: Api) -> None:
    late = await announce(api, {MILK: 6}, hours=-23)
    await announce(api, {MILK: 5}, hours=-25)
    seen = await future(api, 1)
    assert [s.document for s in seen.supplies] == [f"advance_notice/{late.advance_notice_id}"]
    assert seen.available_to_promise == 16


async def test_what_a_date_brings_is_answered_for_every_sku_at_every_location(api: Api) -> None:
    await announce(api, {MILK: 6})
    request = pb.GetFutureAvailabilityRequest(
        channel=WEB, skus=[BREAD, MILK, "unknown", BREAD], location_ids=[SOUTH, NORTH], by_time=at(72)
    )
    items = (await api.receiving.GetFutureAvailability(request)).items
    assert [(n.location_id, n.sku, n.available_to_promise) for n in items] == [
        (SOUTH, BREAD, 10),
        (SOUTH, MILK, 10),
        (SOUTH, "unknown", 0),
        (NORTH, BREAD, 10),
        (NORTH, MILK, 16),
        (NORTH, "unknown", 0),
    ]
    request.location_ids.append("nowhere")
    await refused(api.receiving.GetFutureAvailability(request), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    wide = pb.GetFutureAvailabilityRequest(
        channel=WEB, skus=[f"s{n}" for n in range(200)], location_ids=[f"l{n}" for n in range(11)], by_time=at(1)
    )
    await invalid(api.receiving.GetFutureAvailability(wide), "skus")
    await invalid(
        api.receiving.GetFutureAvailability(pb.GetFutureAvailabilityRequest(channel=WEB)),
        "skus",
        "location_ids",
        "by_time",
    )


# --------------------------------------------------------------------------------------------------------------- lists
async def test_notices_are_listed_open_ones_by_time_and_all_newest_first(api: Api) -> None:
    made = [(await announce(api, {MILK: 1}, hours=hours)).advance_notice_id for hours in (48, 24, 72)]
    await announce(api, {MILK: 1}, location_id=SOUTH)
    await receive(api, made[2])
    for page_size in (1, 2, 500):
        assert await listed(api, page_size) == made[::-1]
        assert await listed(api, page_size, is_open=True) == [made[1], made[0]]
    request = pb.ListAdvanceNoticesRequest(location_id="nowhere")
    await refused(api.receiving.ListAdvanceNotices(request), Code.NOT_FOUND, "LOCATION_NOT_FOUND")


# ------------------------------------------------------------------------------------------------------------- bad input
async def test_notices_that_make_no_sense_are_refused_without_effect(api: Api) -> None:
    notice_id = (await announce(api, {MILK: 6})).advance_notice_id
    tables = ("advance_notices", "advance_notice_lines", "stock_movements", "requests", "events")
    before = [await api.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    missing = request_id()
    await invalid(announce(api, {}), "lines")
    await invalid(announce(api, {MILK: 0}), "lines[0].quantity")
    await invalid(announce(api, {MILK: 1}, supplier=""), "supplier")
    await invalid(announce(api, {MILK: 1}, supplier="x" * 129), "supplier")
    await invalid(announce(api, {MILK: 1}, supplier_reference="a\0"), "supplier_reference")
    await invalid(announce(api, {MILK: 1}, expected_time=None), "expected_time")
    await invalid(announce(api, {MILK: 1}, expected_time=Timestamp(seconds=10**12)), "expected_time")
    await refused(announce(api, {MILK: 1}, location_id="nowhere"), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    await refused(announce(api, {"unknown": 1}), Code.NOT_FOUND, "SKU_NOT_FOUND")
    for call in (receive, cancel, close):
        await refused(call(api, missing), Code.NOT_FOUND, "ADVANCE_NOTICE_NOT_FOUND", advance_notice_id=missing)
        await invalid(call(api, "x"), "advance_notice_id")
    await invalid(update(api, notice_id), "update_mask")
    await invalid(update(api, notice_id, "supplier"), "update_mask")
    await invalid(update(api, notice_id, "lines"), "lines")
    await invalid(update(api, notice_id, "expected_time"), "expected_time")
    await refused(update(api, notice_id, "lines", lines=lines({"unknown": 1})), Code.NOT_FOUND, "SKU_NOT_FOUND")
    await refused(update(api, missing, "lines", lines=lines({MILK: 1})), Code.NOT_FOUND, "ADVANCE_NOTICE_NOT_FOUND")
    assert [await api.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables] == before


async def test_a_location_that_expects_goods_is_not_deleted(api: Api) -> None:
    await api.add_location("new")
    notice = await announce(api, {MILK: 1}, location_id="new")
    await refused(api.delete_location("new"), Code.FAILED_PRECONDITION, "LOCATION_IN_USE", open_advance_notices=1)
    await cancel(api, notice.advance_notice_id)
    await api.delete_location("new")
    await kept(api)


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_arrives_is_booked_once(api: Api, seed: int) -> None:
    draw, known = random.Random(seed), [(await announce(api, {MILK: 5, BREAD: 5})).advance_notice_id]

    async def step() -> None:
        sku, n, what = draw.choice((MILK, BREAD)), draw.randint(1, 4), draw.randrange(7)
        if what == 0:
            known.append((await announce(api, {sku: n})).advance_notice_id)
        elif what == 1:
            await update(api, draw.choice(known), "lines", lines=lines({sku: n}))
        elif what == 2:
            await draw.choice((cancel, close))(api, draw.choice(known))
        else:
            more = bool(draw.randrange(2))
            await receive(api, draw.choice(known), {sku: n}, damaged_lines=lines({MILK: 1}), accepts_more=more)

    for _ in range(6):
        for result in await asyncio.gather(*(step() for _ in range(8)), return_exceptions=True):
            if isinstance(result, grpc.aio.AioRpcError):
                assert result.code() is Code.FAILED_PRECONDITION, result
            else:
                assert result is None, result
    await kept(api)
