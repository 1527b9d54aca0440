"""RejectFulfillmentOrder: what a location does not bring leaves its work, and is a need of the order that everybody sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from uuid import UUID

from onhand.caller import Caller
from onhand.domain import order as rules
from onhand.domain.errors import invalid
from onhand.domain.order import FulfillmentState, RejectReason, Step
from onhand.domain.shortage import ShortfallCause, ShortfallEnd
from onhand.domain.stock import Bucket, Position
from onhand.ids import new_id, parse_id
from onhand.ledger import shortfalls
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import names, store
from onhand.orders.queries import read_fulfillment_order
from onhand.orders.work import Work, lock_work, settle, split
from onhand.v1 import order_pb2 as pb

GOES_TO = {
    RejectReason.NOT_FOUND: Bucket.ADJUSTMENT,
    RejectReason.DAMAGED: Bucket.DAMAGED,
    RejectReason.CLOSED: Bucket.AVAILABLE,
}
"""What becomes of rejected units that the ledger had there."""
SET_REASON = "UPDATE fulfillment_orders SET reject_reason = $2 WHERE fulfillment_order_id = $1"

Rejected = dict[RejectReason, dict[int, int]]


async def reject_fulfillment_order(
    ledger: Ledger, request: pb.RejectFulfillmentOrderRequest, caller: Caller
) -> pb.RejectFulfillmentOrderResponse:
    """OrderService.RejectFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)
    asked: Rejected = {}
    for index, line in enumerate(request.lines):
        of_reason = asked.setdefault(names.reject_reason(f"lines[{index}].reason", line.reason), {})
        if line.line_number in of_reason:
            raise invalid(f"lines[{index}]", f"line {line.line_number} is given twice with the same reason")
        of_reason[line.line_number] = line.quantity

    async def work(tx: Transaction) -> pb.RejectFulfillmentOrderResponse:
        return await _reject(tx, fulfillment_order_id, asked, caller)

    return await ledger.mutate(request, pb.RejectFulfillmentOrderResponse, work)


async def _reject(
    tx: Transaction, fulfillment_order_id: UUID, asked: Rejected, caller: Caller
) -> pb.RejectFulfillmentOrderResponse:
    work = await lock_work(tx, fulfillment_order_id)
    rejected_state = work.after(Step.REJECT)
    wanted = _wanted(work, asked)
    await store.unpack(tx.connection, [work.fulfillment])
    numbers = sorted({number for units in wanted.values() for number in units})
    await tx.lock_levels(work.positions(numbers))
    states: dict[UUID, FulfillmentState] = {}
    parts: list[tuple[Work, RejectReason, Mapping[int, int]]] = []
    for reason, units in wanted.items():
        await take_out(tx, work, reason, units, caller)
        if units == work.held:
            part, work = work, replace(work, units=[])
        else:
            rejected_units = [replace(u, quantity=units[u.line_number]) for u in work.units if u.line_number in units]
            work, new = await split(tx, work, units, caller, with_short=False)
            part = replace(work, fulfillment=new, units=rejected_units)
        states[part.fulfillment.fulfillment_order_id] = rejected_state
        parts.append((part, reason, units))
        await tx.connection.execute(SET_REASON, part.fulfillment.fulfillment_order_id, reason.value)
    await settle(tx, work.order, work.fulfillments, states, caller)
    for part, reason, of_part in parts:
        await _open(tx, part, reason, of_part)
    missing = [
        position
        for part, reason, of_part in parts
        if reason is RejectReason.NOT_FOUND
        for position in part.positions(of_part)
    ]
    await look_again(tx, work, missing, caller)
    read = [await read_fulfillment_order(tx.connection, id) for id in states]
    own = await read_fulfillment_order(tx.connection, fulfillment_order_id)
    return pb.RejectFulfillmentOrderResponse(fulfillment_order=own, rejected=read)


def _wanted(work: Work, asked: Rejected) -> Rejected:
    """How many units of each line, by reason; a line that is given for two reasons has each by number."""
    held, id = work.held, str(work.fulfillment.fulfillment_order_id)
    wanted: Rejected = {}
    for reason, lines in asked.items():
        wanted[reason] = rules.check_parts(id, Step.REJECT, held, lines.items())
        held = {number: quantity - wanted[reason].get(number, 0) for number, quantity in held.items()}
    return wanted


async def take_out(tx: Transaction, work: Work, reason: RejectReason, units: Mapping[int, int], caller: Caller) -> None:
    """Takes units that a location does not bring out of `allocated`, levels locked. What was short before is what nobody found."""
    own = work.fulfillment.fulfillment_order_id
    absent: Mapping[tuple[UUID, int], int] = {}
    if any(tx.short(position) for position in work.positions(units)):
        if reason is RejectReason.DAMAGED:
            short = await shortfalls.short_of_lines(tx.connection, [own])
            held = work.held
            found = [(own, n, q - (held[n] - short[own, n])) for n, q in units.items() if q > held[n] - short[own, n]]
            await shortfalls.found_in_part(tx, found, work.order.document, caller.actor)
        else:
            going = [(own, number, quantity) for number, quantity in units.items()]
            absent = await shortfalls.give_up(tx, going, ShortfallEnd.REJECTED, work.order.document)
    await tx.post(
        [
            work.movement(number, there, GOES_TO[reason], f"REJECTED_{reason.value}", caller.actor)
            for number, quantity in sorted(units.items())
            if (there := quantity - absent.get((own, number), 0))
        ]
    )


async def _open(tx: Transaction, part: Work, reason: RejectReason, units: Mapping[int, int]) -> None:
    lines = [(n, position, units[n]) for n, position in zip(sorted(units), part.positions(sorted(units)), strict=True)]
    await shortfalls.open_rejected(
        tx,
        part.fulfillment.fulfillment_order_id,
        lines,
        cause=ShortfallCause(reason.value),
        reference=part.order.document,
    )


async def look_again(tx: Transaction, work: Work, missing: Iterable[Position], caller: Caller) -> None:
    """Who does not find an item says something of every promise of it there: a count is asked for.

    Where the ledger has nothing left but promises, those whose goods nobody picked are doubted at once, as by a sale: had there
    been any on the shelf, they would have been taken for this order. What is `available` there is for the count to correct.
    """
    positions, document = sorted(set(missing)), work.order.document
    if not positions:
        return
    tasks = [(new_id(), *position) for position in positions]
    await store.open_count_tasks(tx.connection, tasks, "REJECTED_NOT_FOUND", document)
    for position in positions:
        level = tx.level(position)
        if level.available == 0 and level.allocated:
            await shortfalls.open_shortfalls(
                tx,
                position,
                level.allocated,
                cause=ShortfallCause.REJECTION,
                reference=document,
                actor=caller.actor,
                besides=work.fulfillment.fulfillment_order_id,
            )
