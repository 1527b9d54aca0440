"""CancelOrderLines: units that nobody handed over or shipped yet are free again, and what they cost is given back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from onhand.caller import Caller
from onhand.domain import order as rules
from onhand.domain import returns
from onhand.domain.errors import OrderNotFound, invalid
from onhand.domain.order import Cancellation, FulfillmentPart, FulfillmentState, Step
from onhand.domain.shortage import ShortfallEnd
from onhand.domain.stock import Bucket, Movement
from onhand.ids import parse_id
from onhand.ledger import shortfalls
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import store
from onhand.orders.captures import capture_leaving
from onhand.orders.queries import read_order
from onhand.orders.store import Fulfillment, LockedOrder
from onhand.orders.work import lock_work, settle
from onhand.payments import giving_back
from onhand.postgres import Connection
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_to_wire


async def cancel_order_lines(
    ledger: Ledger, request: pb.CancelOrderLinesRequest, caller: Caller
) -> pb.CancelOrderLinesResponse:
    """OrderService.CancelOrderLines."""
    order_id = parse_id("order_id", request.order_id)
    wanted = {line.line_number: line.quantity for line in request.lines}
    if len(wanted) < len(request.lines):
        raise invalid("lines", "must name each line_number once")

    async def work(tx: Transaction) -> pb.CancelOrderLinesResponse:
        return await _cancel(tx, order_id, wanted, caller)

    return await ledger.mutate(request, pb.CancelOrderLinesResponse, work)


async def _cancel(
    tx: Transaction, order_id: UUID, wanted: dict[int, int], caller: Caller
) -> pb.CancelOrderLinesResponse:
    order = await store.lock_order(tx.connection, order_id)
    if order is None:
        raise OrderNotFound(str(order_id))
    fulfillments = await store.fulfillments(tx.connection, order_id)
    parts = await read_parts(tx.connection, order_id, fulfillments)
    plan = rules.plan_cancellation(str(order_id), parts, wanted.items())
    refund_minor = await cancel_parts(tx, order, fulfillments, parts, plan, wanted, caller)
    cancelled = await read_order(tx.connection, order_id)
    if await free(tx, order, plan, fulfillments, caller):
        cancelled = await read_order(tx.connection, order_id)
    return pb.CancelOrderLinesResponse(order=cancelled, refund=money_to_wire(refund_minor, order.currency))


async def read_parts(
    connection: Connection, order_id: UUID, fulfillments: Sequence[Fulfillment]
) -> list[FulfillmentPart]:
    """The parts of an order, with what is short of each."""
    states = {f.fulfillment_order_id: f.state for f in fulfillments}
    short = await shortfalls.short_of_lines(connection, list(states))
    return [
        FulfillmentPart(
            str(p.fulfillment_order_id),
            states[p.fulfillment_order_id],
            p.line_number,
            p.sku,
            p.quantity,
            short.get((p.fulfillment_order_id, p.line_number), 0),
        )
        for p in await store.parts(connection, order_id)
    ]


async def cancel_parts(
    tx: Transaction,
    order: LockedOrder,
    fulfillments: Sequence[Fulfillment],
    parts: Sequence[FulfillmentPart],
    plan: Sequence[Cancellation],
    wanted: Mapping[int, int],
    caller: Caller,
    reason_code: str = "CANCELLED",
) -> int:
    """Writes what is cancelled, but for stock: see `free`. Returns what it gives back, in minor units."""
    by_id = {str(f.fulfillment_order_id): f for f in fulfillments}
    await store.unpack(tx.connection, [by_id[c.fulfillment_order_id] for c in plan])
    await store.cancel_parts(tx.connection, [(UUID(c.fulfillment_order_id), c.line_number, c.quantity) for c in plan])
    await settle(tx, order, fulfillments, _emptied(parts, plan, by_id), caller)
    return (await give_back(tx, order, wanted, reason_code, caller))[0]


async def cancel_work(tx: Transaction, fulfillment_order_id: UUID, caller: Caller) -> None:
    """Cancels all that a fulfillment order has to bring."""
    work = await lock_work(tx, fulfillment_order_id)
    state = work.after(Step.CANCEL)
    await give_back(tx, work.order, work.held, "CANCELLED", caller)
    plan = [Cancellation(str(fulfillment_order_id), unit.line_number, unit.sku, unit.quantity) for unit in work.units]
    await store.cancel_parts(tx.connection, [(fulfillment_order_id, c.line_number, c.quantity) for c in plan])
    await settle(tx, work.order, work.fulfillments, {fulfillment_order_id: state}, caller)
    await free(tx, work.order, plan, work.fulfillments, caller)


async def give_back(
    tx: Transaction,
    order: LockedOrder,
    units: Mapping[int, int],
    reason_code: str,
    caller: Caller,
    applied_minor: Callable[[int], int] = lambda refund_minor: 0,
) -> tuple[int, int]:
    """Counts units of lines of a locked order as cancelled; the event says what they give back.

    Returns it in minor units, and how much of it pays for what the customer gets instead (`applied_minor`): the rest is owed.
    """
    lines = await store.lines(tx.connection, order.order_id)
    refunds = {
        number: returns.refund(
            total_minor=lines[number].total_minor,
            quantity=lines[number].quantity,
            given_back=lines[number].cancelled_quantity + lines[number].returned_quantity,
            now=quantity,
        )
        for number, quantity in units.items()
    }
    await store.add_cancelled(tx.connection, order.order_id, [(n, q, refunds[n]) for n, q in sorted(units.items())])
    refund_minor = sum(refunds.values())
    applied = applied_minor(refund_minor)
    await giving_back.give_back(
        tx,
        order.order_id,
        refund_minor - applied,
        currency=order.currency,
        reason_code=f"ORDER_{reason_code}",
        reference_document=order.document,
        actor=caller.actor,
    )
    if not applied:
        await capture_leaving(tx, order, (), caller.actor)  # of what is left, if nothing is to leave any more
    tx.emit(
        "onhand.order.lines_cancelled.v1",
        order.document,
        {
            "order_id": str(order.order_id),
            "order_number": order.order_number,
            "customer_id": order.customer_id,
            "lines": [
                {"line_number": n, "sku": lines[n].sku, "quantity": q, "refund_minor": refunds[n]}
                for n, q in sorted(units.items())
            ],
            "refund_minor": refund_minor,
            "currency": order.currency,
            "applied_minor": applied,
            "reason_code": reason_code,
            "actor": caller.actor,
        },
    )
    return refund_minor, applied


def _emptied(
    parts: Sequence[FulfillmentPart], plan: Sequence[Cancellation], fulfillments: Mapping[str, Fulfillment]
) -> dict[UUID, FulfillmentState]:
    """The states of fulfillment orders that have nothing left to bring."""
    left: dict[str, int] = {}
    for part in parts:
        left[part.fulfillment_order_id] = left.get(part.fulfillment_order_id, 0) + part.quantity
    for cancellation in plan:
        left[cancellation.fulfillment_order_id] -= cancellation.quantity
    return {
        fulfillments[name].fulfillment_order_id: rules.after(
            fulfillments[name].kind, fulfillments[name].state, Step.CANCEL, name
        )
        for name in {cancellation.fulfillment_order_id for cancellation in plan}
        if left[name] == 0
    }


async def free(
    tx: Transaction,
    order: LockedOrder,
    plan: Sequence[Cancellation],
    of_order: Sequence[Fulfillment],
    caller: Caller,
) -> bool:
    """The cancelled units can be sold again, but for those that were not there; whether there were any of these."""
    fulfillments = {str(f.fulfillment_order_id): f for f in of_order}
    positions = {(fulfillments[c.fulfillment_order_id].location_id, c.sku) for c in plan}
    await tx.lock_levels(positions)
    absent: Mapping[tuple[UUID, int], int] = {}
    rejected = any(fulfillments[c.fulfillment_order_id].state is FulfillmentState.REJECTED for c in plan)
    if rejected or any(tx.short(position) for position in positions):
        units = [(UUID(c.fulfillment_order_id), c.line_number, c.quantity) for c in plan]
        absent = await shortfalls.give_up(tx, units, ShortfallEnd.CANCELLED, order.document)
    movements = [
        Movement(
            fulfillments[cancellation.fulfillment_order_id].location_id,
            cancellation.sku,
            there,
            Bucket.ALLOCATED,
            Bucket.AVAILABLE,
            "ORDER_CANCELLED",
            order.document,
            order.channel,
            caller.actor,
        )
        for cancellation in plan
        if (there := cancellation.quantity - absent.get(_part(cancellation), 0))
    ]
    await tx.post(movements)
    return bool(absent)


def _part(cancellation: Cancellation) -> tuple[UUID, int]:
    return UUID(cancellation.fulfillment_order_id), cancellation.line_number
