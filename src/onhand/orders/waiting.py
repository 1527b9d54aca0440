"""Goods that wait for their customer: how long, who is there, and what becomes of them where nobody comes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from onhand.caller import ITSELF, Caller
from onhand.crash import step
from onhand.domain.errors import IllegalTransition, invalid
from onhand.domain.order import Step
from onhand.domain.shortage import ShortfallEnd
from onhand.domain.stock import Bucket, Movement
from onhand.domain.work_errors import FulfillmentLineExceeded, HoldTooLong, PickupStillHeld
from onhand.ids import new_id, parse_id
from onhand.ledger import shortfalls
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import store
from onhand.orders.cancel import give_back
from onhand.orders.queries import read_fulfillment_order
from onhand.orders.work import Work, advance, lock_work, settle
from onhand.v1 import order_pb2 as pb
from onhand.wire import moment

log = logging.getLogger(__name__)

HOLD_SECONDS = 3 * 24 * 3600
"""How long a pickup waits where its location does not say."""
HOLD_SECONDS_MAX = 30 * 24 * 3600
"""How long after it became ready its customer may have it held at the most."""
REMIND_SECONDS = 24 * 3600
"""How long before its end its customer is reminded."""
DUE_MAX = 100
"""Pickups that one step of the loop looks at."""

BEGIN_HOLD = """
UPDATE fulfillment_orders f SET reminded_time = NULL, ready_time = now(),
       hold_end_time = now() + make_interval(secs => coalesce(l.pickup_hold_seconds, $2::int))
  FROM locations l WHERE f.fulfillment_order_id = $1 AND l.location_id = f.location_id"""
END_HOLD = """
UPDATE fulfillment_orders SET hold_end_time = NULL, ready_time = NULL, reminded_time = NULL WHERE fulfillment_order_id = $1"""
# What was ready before there were holds has neither time.
LATEST_END = """
SELECT coalesce(ready_time, updated_time) + make_interval(secs => $2::int)
  FROM fulfillment_orders WHERE fulfillment_order_id = $1"""
# Never to an earlier time. Who was reminded is reminded again, a day before the new end.
EXTEND_HOLD = """
UPDATE fulfillment_orders SET hold_end_time = greatest(hold_end_time, $2),
       reminded_time = CASE WHEN $2 <= now() + make_interval(secs => $3::int) THEN reminded_time END
 WHERE fulfillment_order_id = $1 RETURNING hold_end_time"""
HELD_UNTIL = """
SELECT hold_end_time FROM fulfillment_orders WHERE fulfillment_order_id = $1 AND hold_end_time >= clock_timestamp()"""
ARRIVE = """
UPDATE fulfillment_orders SET arrived_time = now(), arrival_spot = $2, arrival_note = $3 WHERE fulfillment_order_id = $1"""
SET_ASIDE = """
UPDATE fulfillment_lines p SET aside_quantity = n.quantity
  FROM unnest($2::int[], $3::int8[]) AS n (line_number, quantity)
 WHERE p.fulfillment_order_id = $1 AND p.line_number = n.line_number"""
ASIDE = """
SELECT line_number, sku, aside_quantity FROM fulfillment_lines
 WHERE fulfillment_order_id = $1 AND aside_quantity > 0 ORDER BY line_number"""
PUT_AWAY = "UPDATE fulfillment_lines SET aside_quantity = 0 WHERE fulfillment_order_id = $1 AND aside_quantity > 0"

# One statement: who finds none to remind was not the first.
REMIND = """
WITH due AS (
    SELECT fulfillment_order_id FROM fulfillment_orders
     WHERE state = 'READY_FOR_PICKUP' AND reminded_time IS NULL AND hold_end_time < now() + make_interval(secs => $1::int)
     ORDER BY hold_end_time LIMIT $2 FOR UPDATE SKIP LOCKED),
reminded AS (
    UPDATE fulfillment_orders f SET reminded_time = now() FROM due WHERE f.fulfillment_order_id = due.fulfillment_order_id
    RETURNING f.fulfillment_order_id, f.order_id, f.location_id, f.hold_end_time)
INSERT INTO events (event_id, type, subject, location_id, data)
SELECT gen_random_uuid(), 'onhand.fulfillment_order.pickup_reminder.v1', 'fulfillment_order/' || r.fulfillment_order_id,
       r.location_id, jsonb_build_object('fulfillment_order_id', r.fulfillment_order_id, 'order_id', o.order_id,
       'order_number', o.order_number, 'customer_id', o.customer_id, 'hold_end_time', r.hold_end_time)
  FROM reminded r JOIN orders o USING (order_id)"""
DUE = """
SELECT fulfillment_order_id, hold_end_time FROM fulfillment_orders
 WHERE state = 'READY_FOR_PICKUP' AND hold_end_time < now() ORDER BY hold_end_time LIMIT $1"""


async def begin_hold(tx: Transaction, work: Work) -> None:
    """The goods wait from now on."""
    await tx.connection.execute(BEGIN_HOLD, work.fulfillment.fulfillment_order_id, HOLD_SECONDS)


async def end_hold(tx: Transaction, work: Work) -> None:
    """They do not wait any more."""
    await tx.connection.execute(END_HOLD, work.fulfillment.fulfillment_order_id)


async def mark_arrived(ledger: Ledger, request: pb.MarkArrivedRequest, caller: Caller) -> pb.MarkArrivedResponse:
    """OrderService.MarkArrived."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def arrive(tx: Transaction, work: Work) -> Mapping[str, Any]:
        await tx.connection.execute(ARRIVE, fulfillment_order_id, request.spot, request.note)
        return {"spot": request.spot, "note": request.note, "customer_id": work.order.customer_id}

    async def work(tx: Transaction) -> pb.MarkArrivedResponse:
        done = await advance(tx, fulfillment_order_id, Step.ARRIVE, caller, arrive)
        return pb.MarkArrivedResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.MarkArrivedResponse, work)


async def extend_pickup_hold(
    ledger: Ledger, request: pb.ExtendPickupHoldRequest, caller: Caller
) -> pb.ExtendPickupHoldResponse:
    """OrderService.ExtendPickupHold."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)
    wanted = moment("hold_end_time", request.hold_end_time)

    async def extend(tx: Transaction, work: Work) -> Mapping[str, Any]:
        latest = await tx.connection.fetchval(LATEST_END, fulfillment_order_id, HOLD_SECONDS_MAX)
        if wanted > latest:
            raise HoldTooLong(str(fulfillment_order_id), wanted.isoformat(), latest.isoformat())
        until = await tx.connection.fetchval(EXTEND_HOLD, fulfillment_order_id, wanted, REMIND_SECONDS)
        return {"hold_end_time": until.isoformat(), "customer_id": work.order.customer_id}

    async def work(tx: Transaction) -> pb.ExtendPickupHoldResponse:
        done = await advance(tx, fulfillment_order_id, Step.EXTEND_HOLD, caller, extend)
        return pb.ExtendPickupHoldResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.ExtendPickupHoldResponse, work)


# ------------------------------------------------------------------------------------------------------------- no-shows
async def mark_no_show(ledger: Ledger, request: pb.MarkNoShowRequest, caller: Caller) -> pb.MarkNoShowResponse:
    """OrderService.MarkNoShow."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.MarkNoShowResponse:
        return await _no_show(tx, fulfillment_order_id, request.only_if_due, caller)

    return await ledger.mutate(request, pb.MarkNoShowResponse, work)


async def _no_show(
    tx: Transaction, fulfillment_order_id: UUID, only_if_due: bool, caller: Caller
) -> pb.MarkNoShowResponse:
    """The money is the customer's again; the goods stand in quarantine, for nobody knows yet what they are like."""
    work = await lock_work(tx, fulfillment_order_id)
    state = work.after(Step.NO_SHOW)
    if only_if_due and (until := await tx.connection.fetchval(HELD_UNTIL, fulfillment_order_id)):
        raise PickupStillHeld(str(fulfillment_order_id), until.isoformat())
    await give_back(tx, work.order, work.held, "NO_SHOW", caller)
    units = [(fulfillment_order_id, number, quantity) for number, quantity in work.held.items()]
    await store.cancel_parts(tx.connection, units)
    await settle(tx, work.order, work.fulfillments, {fulfillment_order_id: state}, caller)
    positions = work.positions(work.held)
    await tx.lock_levels(positions)
    absent: Mapping[tuple[UUID, int], int] = {}
    if any(tx.short(position) for position in positions):
        absent = await shortfalls.give_up(tx, units, ShortfallEnd.CANCELLED, work.order.document)
    aside = {n: there for id, n, quantity in units if (there := quantity - absent.get((id, n), 0))}
    await tx.connection.execute(SET_ASIDE, fulfillment_order_id, list(aside), list(aside.values()))
    await tx.post([work.movement(n, q, Bucket.QUARANTINE, "NO_SHOW", caller.actor) for n, q in aside.items()])
    return pb.MarkNoShowResponse(fulfillment_order=await read_fulfillment_order(tx.connection, fulfillment_order_id))


async def put_away_fulfillment_order(
    ledger: Ledger, request: pb.PutAwayFulfillmentOrderRequest, caller: Caller
) -> pb.PutAwayFulfillmentOrderResponse:
    """OrderService.PutAwayFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)
    given = {line.line_number: (line.available_quantity, line.damaged_quantity) for line in request.lines}
    if len(given) < len(request.lines):
        raise invalid("lines", "must name each line_number once")

    async def work(tx: Transaction) -> pb.PutAwayFulfillmentOrderResponse:
        await _put_away(tx, fulfillment_order_id, given, caller)
        done = await read_fulfillment_order(tx.connection, fulfillment_order_id)
        return pb.PutAwayFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.PutAwayFulfillmentOrderResponse, work)


async def _put_away(
    tx: Transaction, fulfillment_order_id: UUID, given: Mapping[int, tuple[int, int]], caller: Caller
) -> None:
    work = await lock_work(tx, fulfillment_order_id)
    state = work.after(Step.PUT_AWAY)
    rows = await tx.connection.fetch(ASIDE, fulfillment_order_id)
    aside = {row["line_number"]: (row["sku"], row["aside_quantity"]) for row in rows}
    put = given or {number: (quantity, 0) for number, (_, quantity) in aside.items()}
    for number, (available, damaged) in put.items():
        there = aside.get(number, ("", 0))[1]
        if available + damaged > there:
            raise FulfillmentLineExceeded(
                str(fulfillment_order_id), Step.PUT_AWAY.value, number, available + damaged, there
            )
    place, document = work.fulfillment.location_id, work.order.document
    await tx.lock_levels([(place, sku) for sku, _ in aside.values()])
    await tx.connection.execute(PUT_AWAY, fulfillment_order_id)
    await settle(tx, work.order, work.fulfillments, {fulfillment_order_id: state}, caller)
    await tx.post(
        [
            Movement(
                place, aside[number][0], quantity, Bucket.QUARANTINE, bucket, "PUT_AWAY", document, actor=caller.actor
            )
            for number, units in sorted(put.items())
            for quantity, bucket in zip(units, (Bucket.AVAILABLE, Bucket.DAMAGED), strict=True)
            if quantity
        ]
    )
    left = [sku for number, (sku, quantity) in aside.items() if sum(put.get(number, (0, 0))) < quantity]
    if left:
        tasks = [(new_id(), place, sku) for sku in sorted(set(left))]
        await store.open_count_tasks(tx.connection, tasks, "NOT_PUT_AWAY", document)


class Pickups:
    """What time alone does to pickups: a function of committed rows, which any number of processes may run at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def sweep(self) -> None:
        """Reminds, and marks no-shows, DUE_MAX of each at most."""
        await self._remind()
        for fulfillment_order_id, until in await self._due():
            # The same request from every process that finds it, so it happens once.
            name = f"no-show:{fulfillment_order_id}:{until.timestamp():.0f}"
            request = pb.MarkNoShowRequest(
                request_id=name, fulfillment_order_id=str(fulfillment_order_id), only_if_due=True
            )
            try:
                await mark_no_show(self._ledger, request, ITSELF)
            except (IllegalTransition, PickupStillHeld) as refusal:
                log.info("no no-show: %s", refusal)  # the customer came, or got more time

    @step("ledger.remind")
    async def _remind(self) -> None:
        async with self._ledger.database.connection() as connection:
            await connection.execute(REMIND, REMIND_SECONDS, DUE_MAX)

    @step("ledger.due_pickups")
    async def _due(self) -> list[tuple[UUID, datetime]]:
        async with self._ledger.database.connection() as connection:
            rows = await connection.fetch(DUE, DUE_MAX)
        return [(row["fulfillment_order_id"], row["hold_end_time"]) for row in rows]
