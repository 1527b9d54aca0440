"""Parcels: packed, sent, delivered, or brought back by their carrier. Each that leaves is a fulfillment order of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.crash import step
from onhand.domain import order as rules
from onhand.domain.errors import invalid
from onhand.domain.order import Step
from onhand.domain.stock import Bucket
from onhand.domain.work_errors import ParcelIncomplete, ParcelNotFound, ParcelNotNamed
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import returns, store
from onhand.orders.fulfil import part
from onhand.orders.queries import read_fulfillment_order
from onhand.orders.work import Work, advance, advance_part, lock_work, settle
from onhand.v1 import order_pb2 as pb
from onhand.wire import channel_value

PACK = """
WITH parcels AS (
    INSERT INTO shipments (shipment_id, fulfillment_order_id, carrier, tracking_reference)
    SELECT n.shipment_id, $1, '', '' FROM unnest($2::uuid[]) AS n (shipment_id))
INSERT INTO shipment_lines (shipment_id, line_number, quantity)
SELECT n.shipment_id, n.line_number, n.quantity
  FROM unnest($3::uuid[], $4::int[], $5::int8[]) AS n (shipment_id, line_number, quantity)"""
PARCELS = """
SELECT s.shipment_id, l.line_number, l.quantity FROM shipments s JOIN shipment_lines l USING (shipment_id)
 WHERE s.fulfillment_order_id = $1 AND s.shipped_time IS NULL ORDER BY s.shipment_id, l.line_number"""
# What stays behind takes its parcels along.
LEAVE_BEHIND = """
UPDATE shipments SET fulfillment_order_id = $3 WHERE fulfillment_order_id = $1 AND shipment_id <> $2 AND shipped_time IS NULL"""
SEND = """
UPDATE shipments SET carrier = $2, tracking_reference = $3, shipped_time = now() WHERE shipment_id = $1"""
DELIVERED = "UPDATE shipments SET delivered_time = now() WHERE fulfillment_order_id = $1 AND delivered_time IS NULL"
BROUGHT_BACK = "UPDATE shipments SET returned_time = now() WHERE fulfillment_order_id = $1"


async def pack_fulfillment_order(
    ledger: Ledger, request: pb.PackFulfillmentOrderRequest, caller: Caller
) -> pb.PackFulfillmentOrderResponse:
    """OrderService.PackFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)
    parcels: list[dict[int, int]] = []
    for index, parcel in enumerate(request.parcels):
        parcels.append({line.line_number: line.quantity for line in parcel.lines})
        if len(parcels[-1]) < len(parcel.lines):
            raise invalid(f"parcels[{index}].lines", "must name each line_number once")

    async def pack(tx: Transaction, work: Work) -> Mapping[str, Any]:
        packed = Counter[int]()
        for parcel in parcels:
            packed.update(parcel)
        rules.check_parts(str(fulfillment_order_id), Step.PACK, work.held, packed.items())
        await store.unpack(tx.connection, [work.fulfillment])
        await write_parcels(tx, fulfillment_order_id, [(new_id(), parcel) for parcel in parcels])
        return {"parcels": len(parcels)}

    async def work(tx: Transaction) -> pb.PackFulfillmentOrderResponse:
        done = await advance(tx, fulfillment_order_id, Step.PACK, caller, pack)
        return pb.PackFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.PackFulfillmentOrderResponse, work)


@step("ledger.pack")
async def write_parcels(
    tx: Transaction, fulfillment_order_id: UUID, parcels: Sequence[tuple[UUID, Mapping[int, int]]]
) -> None:
    """Writes which units are in which parcel."""
    lines = [(id, number, quantity) for id, parcel in parcels for number, quantity in parcel.items()]
    columns = [[line[n] for line in lines] for n in range(3)]
    await tx.connection.execute(PACK, fulfillment_order_id, [id for id, _ in parcels], *columns)


async def ship_fulfillment_order(
    ledger: Ledger, request: pb.ShipFulfillmentOrderRequest, caller: Caller
) -> pb.ShipFulfillmentOrderResponse:
    """OrderService.ShipFulfillmentOrder."""
    fulfillment_order_id, lines = parse_id("fulfillment_order_id", request.fulfillment_order_id), part(request.lines)
    named = parse_id("shipment_id", request.shipment_id) if request.shipment_id else None
    if named and lines:
        raise invalid("lines", "must be empty where shipment_id says what leaves")

    async def work(tx: Transaction) -> pb.ShipFulfillmentOrderResponse:
        wanted = await _leaving(tx, await lock_work(tx, fulfillment_order_id), named) if named else lines
        id = named or new_id()

        async def send(tx: Transaction, work: Work) -> None:
            if named is None:
                if packed := {row["shipment_id"] for row in await tx.connection.fetch(PARCELS, fulfillment_order_id)}:
                    raise ParcelNotNamed(str(fulfillment_order_id), len(packed))
                await write_parcels(tx, fulfillment_order_id, [(id, work.held)])
            await tx.connection.execute(SEND, id, request.carrier, request.tracking_reference)

        async def leave_behind(rest: UUID) -> None:
            await tx.connection.execute(LEAVE_BEHIND, fulfillment_order_id, id, rest)

        done, rest = await advance_part(tx, fulfillment_order_id, Step.SHIP, wanted, caller, send)
        left = None
        if rest is not None:
            await leave_behind(rest)
            left = await read_fulfillment_order(tx.connection, rest)
            done = await read_fulfillment_order(tx.connection, fulfillment_order_id)
        return pb.ShipFulfillmentOrderResponse(fulfillment_order=done, rest=left)

    return await ledger.mutate(request, pb.ShipFulfillmentOrderResponse, work)


async def _leaving(tx: Transaction, work: Work, shipment_id: UUID) -> dict[int, int]:
    """What is in a parcel. Raises IllegalTransition before ParcelNotFound: parcels are of what is picked."""
    work.after(Step.SHIP)
    id = work.fulfillment.fulfillment_order_id
    rows = await tx.connection.fetch(PARCELS, id)
    lines = {row["line_number"]: row["quantity"] for row in rows if row["shipment_id"] == shipment_id}
    if not lines:
        raise ParcelNotFound(str(shipment_id), str(id))
    return lines


async def deliver_fulfillment_order(
    ledger: Ledger, request: pb.DeliverFulfillmentOrderRequest, caller: Caller
) -> pb.DeliverFulfillmentOrderResponse:
    """OrderService.DeliverFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def close_shipments(tx: Transaction, work: Work) -> None:
        await tx.connection.execute(DELIVERED, fulfillment_order_id)

    async def work(tx: Transaction) -> pb.DeliverFulfillmentOrderResponse:
        done = await advance(tx, fulfillment_order_id, Step.DELIVER, caller, close_shipments)
        return pb.DeliverFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.DeliverFulfillmentOrderResponse, work)


async def return_undelivered(
    ledger: Ledger, request: pb.ReturnUndeliveredRequest, caller: Caller
) -> pb.ReturnUndeliveredResponse:
    """OrderService.ReturnUndelivered."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)
    given = returns.wanted_lines(request.lines)

    async def work(tx: Transaction) -> pb.ReturnUndeliveredResponse:
        return await _return(tx, fulfillment_order_id, request.location_id, given, caller)

    return await ledger.mutate(request, pb.ReturnUndeliveredResponse, work)


async def _return(
    tx: Transaction,
    fulfillment_order_id: UUID,
    location_id: str,
    given: Sequence[returns.Wanted],
    caller: Caller,
) -> pb.ReturnUndeliveredResponse:
    work = await lock_work(tx, fulfillment_order_id)
    state = work.after(Step.RETURN)
    lines = given or [
        returns.Wanted(number, Bucket.QUARANTINE.value, quantity, "UNDELIVERED")
        for number, quantity in work.held.items()
    ]
    came_back = Counter[int]()
    for line in lines:
        came_back[line.line_number] += line.quantity
    for number in sorted(came_back.keys() | work.held.keys()):
        if came_back[number] != work.held.get(number, 0):
            raise ParcelIncomplete(str(fulfillment_order_id), number, came_back[number], work.held.get(number, 0))
    await tx.connection.execute(BROUGHT_BACK, fulfillment_order_id)
    await settle(tx, work.order, work.fulfillments, {fulfillment_order_id: state}, caller)
    request = pb.CreateReturnRequest(
        order_id=str(work.order.order_id),
        location_id=location_id or work.fulfillment.location_id,
        channel=channel_value(work.order.channel),
    )
    made = await returns.create(tx, request, work.order.order_id, work.order.channel, lines, caller)
    done = await read_fulfillment_order(tx.connection, fulfillment_order_id)
    return pb.ReturnUndeliveredResponse(returned=made.returned, fulfillment_order=done)
