"""Scenarios of transfers to their end, advance notices and counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from crash.matrix import CALLER
from crash.stage import Stage
from crash.stock import basket, dispatch, reserve, scenario
from onhand.inventory import Counts, Notices, Transfers
from onhand.v1 import counting_pb2, order_pb2, receiving_pb2
from onhand.v1 import inventory_pb2 as pb
from shelf import request_id
from shop import BREAD, MILK, NORTH, SOUTH, Shop

SOON = Timestamp()
SOON.FromDatetime(datetime.now(UTC) + timedelta(days=1))


# --------------------------------------------------------------------------------------------------------------- transfers
def transfers(shop: Shop) -> Transfers:
    """The handler."""
    (found,) = (h for h in shop.handlers if isinstance(h, Transfers))
    return found


def ask() -> pb.RequestTransferRequest:
    """The south wants two products of the north."""
    return pb.RequestTransferRequest(
        request_id=request_id(), from_location_id=NORTH, to_location_id=SOUTH, lines=basket({MILK: 3, BREAD: 1})
    )


@scenario("RequestTransfer", "of two products")
async def _(stage: Stage, shop: Shop) -> Message:
    return ask()


@scenario("DispatchRequestedTransfer", "a part of it")
async def _(stage: Stage, shop: Shop) -> Message:
    asked = await transfers(shop).request_transfer(ask(), CALLER)
    return pb.DispatchRequestedTransferRequest(
        request_id=request_id(),
        transfer_id=asked.transfer.transfer_id,
        lines=basket({MILK: 2, BREAD: 1}),
        expected_time=SOON,
    )


@scenario("DispatchRequestedTransfer", "a part of it, and the rest is to follow")
async def _(stage: Stage, shop: Shop) -> Message:
    asked = await transfers(shop).request_transfer(ask(), CALLER)
    return pb.DispatchRequestedTransferRequest(
        request_id=request_id(), transfer_id=asked.transfer.transfer_id, lines=basket({MILK: 2}), keeps_rest=True
    )


@scenario("DispatchRequestedTransfer", "into what is promised", refusal="INSUFFICIENT_STOCK")
async def _(stage: Stage, shop: Shop) -> Message:
    asked = await transfers(shop).request_transfer(ask(), CALLER)
    await shop.reserve({NORTH: {MILK: 8}})
    return pb.DispatchRequestedTransferRequest(request_id=request_id(), transfer_id=asked.transfer.transfer_id)


@scenario("CancelTransfer", "that was requested")
async def _(stage: Stage, shop: Shop) -> Message:
    asked = await transfers(shop).request_transfer(ask(), CALLER)
    return pb.CancelTransferRequest(
        request_id=request_id(), transfer_id=asked.transfer.transfer_id, reason_code="NOT_TO_SPARE"
    )


@scenario("ReceiveTransfer", "more than was sent, some damaged, and what an order lacks")
async def _(stage: Stage, shop: Shop) -> Message:
    sent = await transfers(shop).dispatch_transfer(dispatch(), CALLER)
    await shop.place({SOUTH: {MILK: 10}})
    await shop.count(SOUTH, {MILK: 8})
    return pb.ReceiveTransferRequest(
        request_id=request_id(),
        transfer_id=sent.transfer.transfer_id,
        lines=basket({MILK: 4, BREAD: 1}),
        damaged_lines=basket({BREAD: 2}),
        accepts_more=True,
    )


@scenario("CloseTransfer", "lost")
async def _(stage: Stage, shop: Shop) -> Message:
    sent = await transfers(shop).dispatch_transfer(dispatch(), CALLER)
    return pb.CloseTransferRequest(
        request_id=request_id(),
        transfer_id=sent.transfer.transfer_id,
        loss=pb.TRANSFER_LOSS_LOST,
        reason_code="TRUCK_STOLEN",
    )


@scenario("CloseTransfer", "back at the sender")
async def _(stage: Stage, shop: Shop) -> Message:
    sent = await transfers(shop).dispatch_transfer(dispatch(), CALLER)
    return pb.CloseTransferRequest(
        request_id=request_id(),
        transfer_id=sent.transfer.transfer_id,
        loss=pb.TRANSFER_LOSS_BACK_AT_SENDER,
        reason_code="NEVER_LOADED",
    )


# ---------------------------------------------------------------------------------------------------------- advance notices
def announce() -> receiving_pb2.CreateAdvanceNoticeRequest:
    """Two products for the north."""
    return receiving_pb2.CreateAdvanceNoticeRequest(
        request_id=request_id(),
        location_id=NORTH,
        supplier="dairy",
        supplier_reference="ASN-1",
        expected_time=SOON,
        lines=basket({MILK: 5, BREAD: 5}),
    )


async def announced(shop: Shop) -> str:
    """The id of a notice."""
    (notices,) = (h for h in shop.handlers if isinstance(h, Notices))
    return (await notices.create_advance_notice(announce(), CALLER)).advance_notice.advance_notice_id


@scenario("CreateAdvanceNotice", "of two products")
async def _(stage: Stage, shop: Shop) -> Message:
    return announce()


@scenario("UpdateAdvanceNotice", "other quantities, later")
async def _(stage: Stage, shop: Shop) -> Message:
    request = receiving_pb2.UpdateAdvanceNoticeRequest(
        request_id=request_id(), advance_notice_id=await announced(shop), lines=basket({MILK: 7}), expected_time=SOON
    )
    request.update_mask.paths.extend(("lines", "expected_time"))
    return request


@scenario("CancelAdvanceNotice", "of which nothing arrived")
async def _(stage: Stage, shop: Shop) -> Message:
    return receiving_pb2.CancelAdvanceNoticeRequest(
        request_id=request_id(), advance_notice_id=await announced(shop), reason_code="SUPPLIER_WITHDREW"
    )


@scenario("ReceiveAdvanceNotice", "a part, and what an order lacks")
async def _(stage: Stage, shop: Shop) -> Message:
    notice_id = await announced(shop)
    await shop.place({NORTH: {MILK: 10}})
    await shop.count(NORTH, {MILK: 8})
    return receiving_pb2.ReceiveAdvanceNoticeRequest(
        request_id=request_id(),
        advance_notice_id=notice_id,
        lines=basket({MILK: 4, BREAD: 6}),
        damaged_lines=basket({MILK: 1}),
        accepts_more=True,
    )


@scenario("ReceiveAdvanceNotice", "the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    return receiving_pb2.ReceiveAdvanceNoticeRequest(request_id=request_id(), advance_notice_id=await announced(shop))


@scenario("CloseAdvanceNotice", "short")
async def _(stage: Stage, shop: Shop) -> Message:
    return receiving_pb2.CloseAdvanceNoticeRequest(
        request_id=request_id(), advance_notice_id=await announced(shop), reason_code="NOT_DELIVERED"
    )


# ------------------------------------------------------------------------------------------------------------------ counts
def begin() -> counting_pb2.StartCountRequest:
    """All of the north."""
    return counting_pb2.StartCountRequest(
        request_id=request_id(), location_id=NORTH, scope=counting_pb2.COUNT_SCOPE_LOCATION, is_blind=True
    )


def counts(shop: Shop) -> Counts:
    """The handler."""
    (found,) = (h for h in shop.handlers if isinstance(h, Counts))
    return found


def submit(count_id: str, milk: int, bread: int) -> counting_pb2.SubmitCountRequest:
    """What somebody counted in the north."""
    entries = [counting_pb2.CountEntry(sku=sku, counted_quantity=n) for sku, n in ((MILK, milk), (BREAD, bread))]
    return counting_pb2.SubmitCountRequest(request_id=request_id(), count_id=count_id, lines=entries)


async def begun(shop: Shop) -> str:
    """The id of a count."""
    return (await counts(shop).start_count(begin(), CALLER)).count.count_id


async def counted(shop: Shop, milk: int, bread: int) -> str:
    """The id of one that is counted."""
    count_id = await begun(shop)
    await counts(shop).submit_count(submit(count_id, milk, bread), CALLER)
    return count_id


def approve(count_id: str) -> counting_pb2.ApproveCountRequest:
    """Books all of it."""
    return counting_pb2.ApproveCountRequest(request_id=request_id(), count_id=count_id, accepts_out_of_tolerance=True)


@scenario("StartCount", "of a location")
async def _(stage: Stage, shop: Shop) -> Message:
    return begin()


@scenario("SubmitCount", "of all lines, after a sale")
async def _(stage: Stage, shop: Shop) -> Message:
    count_id = await begun(shop)
    await shop.sell(NORTH, {MILK: 2}, 2 * 199)
    return submit(count_id, 9, 10)


@scenario("RequestRecount", "of what is out of tolerance")
async def _(stage: Stage, shop: Shop) -> Message:
    return counting_pb2.RequestRecountRequest(request_id=request_id(), count_id=await counted(shop, 9, 10))


@scenario("ApproveCount", "one up, one down, after a sale")
async def _(stage: Stage, shop: Shop) -> Message:
    count_id = await counted(shop, 9, 12)
    await shop.sell(NORTH, {MILK: 2}, 2 * 199)
    return approve(count_id)


@scenario("ApproveCount", "down, into what orders and reservations were promised", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.place({NORTH: {MILK: 4}})
    await shop.reserve({NORTH: {MILK: 4, BREAD: 8}})
    return approve(await counted(shop, 3, 5))


@scenario("ApproveCount", "down, the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    return approve(await counted(shop, 8, 10))


@scenario("ApproveCount", "of what was corrected since", refusal="COUNT_OUTDATED")
async def _(stage: Stage, shop: Shop) -> Message:
    count_id = await counted(shop, 8, 10)
    await shop.count(NORTH, {MILK: 7})
    return approve(count_id)


@scenario("CancelCount", "that is counted")
async def _(stage: Stage, shop: Shop) -> Message:
    return counting_pb2.CancelCountRequest(request_id=request_id(), count_id=await counted(shop, 8, 10))


# -------------------------------------------------------------------------------------------------------------- backorders
async def permit(shop: Shop, limit: int) -> None:
    """So many units of milk beyond what the north has."""
    request = pb.SetStockPolicyRequest(
        request_id=request_id(), location_id=NORTH, sku=MILK, safety_stock=0, backorder_limit=limit
    )
    await shop.promise.set_stock_policy(request, CALLER)


async def backordered(shop: Shop, quantity: int) -> order_pb2.Order:
    """An order of milk that waits for what is not there."""
    reservation_id = await shop.reserve({NORTH: {MILK: quantity}})
    kinds = {NORTH: order_pb2.FULFILLMENT_KIND_PICKUP}
    request = shop.place_request(reservation_id, kinds, 199 * quantity, accepts_backorder=True)
    return (await shop.orders.place_order(request, CALLER)).order


@scenario("SetStockPolicy", "less backorder than reservations hold")
async def _(stage: Stage, shop: Shop) -> Message:
    await permit(shop, 5)
    await shop.reserve({NORTH: {MILK: 14}})
    return pb.SetStockPolicyRequest(request_id=request_id(), location_id=NORTH, sku=MILK, backorder_limit=2)


@scenario("Reserve", "what is not there, and backorder permits", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await permit(shop, 5)
    return reserve({NORTH: {MILK: 13, BREAD: 1}})


@scenario("PlaceOrder", "of more than is there, with a backorder")
async def _(stage: Stage, shop: Shop) -> Message:
    await permit(shop, 5)
    reservation_id = await shop.reserve({NORTH: {MILK: 13, BREAD: 1}})
    kinds = {NORTH: order_pb2.FULFILLMENT_KIND_PICKUP}
    return shop.place_request(reservation_id, kinds, 199 * 13 + 250, accepts_backorder=True)


@scenario("PlaceOrder", "of more than is there, by who does not wait", refusal="RESERVATION_SHORT")
async def _(stage: Stage, shop: Shop) -> Message:
    await permit(shop, 5)
    reservation_id = await shop.reserve({NORTH: {MILK: 13}})
    return shop.place_request(reservation_id, {NORTH: order_pb2.FULFILLMENT_KIND_PICKUP}, 199 * 13)


@scenario("ReceiveStock", "of what is backordered")
async def _(stage: Stage, shop: Shop) -> Message:
    await permit(shop, 5)
    await backordered(shop, 13)
    return pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=basket({MILK: 5}))


@scenario("CancelOrderLines", "of what is backordered")
async def _(stage: Stage, shop: Shop) -> Message:
    await permit(shop, 5)
    placed = await backordered(shop, 13)
    return order_pb2.CancelOrderLinesRequest(
        request_id=request_id(),
        order_id=placed.order_id,
        lines=[order_pb2.CancelLine(line_number=1, quantity=5)],
    )


@scenario("filling backorders", "with what a reservation gave up", work=lambda app: app.backorders.fill())
async def _(stage: Stage, shop: Shop) -> None:
    await permit(shop, 5)
    held = await shop.reserve({NORTH: {MILK: 9}})
    await backordered(shop, 4)
    request = pb.ReleaseReservationRequest(request_id=request_id(), reservation_id=held)
    await shop.promise.release_reservation(request, CALLER)
