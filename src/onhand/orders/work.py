"""One step of a location's work: the lock, the table's word, the part that goes another way, stock, states, events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain import order as rules
from onhand.domain.errors import FulfillmentOrderNotFound
from onhand.domain.order import FulfillmentState, OrderState, Step
from onhand.domain.stock import Bucket, Movement, sum_lines
from onhand.ids import new_id
from onhand.ledger import shortfalls
from onhand.ledger.transaction import Transaction
from onhand.orders import store
from onhand.orders.captures import capture_leaving
from onhand.orders.queries import read_fulfillment_order
from onhand.orders.store import Fulfillment, LockedOrder, Part
from onhand.v1 import order_pb2 as pb

# Units of lines go to a new fulfillment order of the same location. What was cancelled of them stays where it is.
SPLIT = """
WITH lines AS (SELECT * FROM unnest($3::int[], $4::int8[]) AS n (line_number, quantity)),
new_work AS (
    INSERT INTO fulfillment_orders (fulfillment_order_id, order_id, location_id, kind, state, pickup_code_salt,
                                    pickup_code_hash, pickup_code_failures, pickup_code_attempt, from_fulfillment_order_id,
                                    hold_end_time, ready_time, reminded_time, arrived_time, arrival_spot, arrival_note,
                                    taken_on_time)
    SELECT $2, order_id, location_id, kind, state, pickup_code_salt, pickup_code_hash, pickup_code_failures,
           pickup_code_attempt, fulfillment_order_id, hold_end_time, ready_time, reminded_time, arrived_time, arrival_spot,
           arrival_note, coalesce(taken_on_time, created_time)
      FROM fulfillment_orders WHERE fulfillment_order_id = $1),
new_parts AS (
    INSERT INTO fulfillment_lines (fulfillment_order_id, line_number, sku, quantity, is_taken_over)
    SELECT $2, p.line_number, p.sku, n.quantity, p.is_taken_over
      FROM fulfillment_lines p JOIN lines n USING (line_number) WHERE p.fulfillment_order_id = $1)
UPDATE fulfillment_lines p SET quantity = p.quantity - n.quantity
  FROM lines n WHERE p.fulfillment_order_id = $1 AND p.line_number = n.line_number"""

# Steps by which the goods leave the location, and the reason that their movement has.
_LEAVING = {Step.HAND_OVER: "PICKED_UP", Step.SHIP: "SHIPPED"}
# Steps by which the goods come off the shelf, or are seen to be off it: what was short of them was there.
_IN_HAND = frozenset({Step.PICK, Step.MARK_READY})


@dataclass(frozen=True)
class Work:
    """A fulfillment order whose order is locked, beside the others of it. `units`: what it has to bring."""

    order: LockedOrder
    fulfillments: list[Fulfillment]
    fulfillment: Fulfillment
    units: Sequence[Part]

    @property
    def held(self) -> dict[int, int]:
        """Units by line."""
        return {unit.line_number: unit.quantity for unit in self.units}

    @property
    def skus(self) -> dict[int, str]:
        """The item of each line."""
        return {unit.line_number: unit.sku for unit in self.units}

    def after(self, step: Step) -> FulfillmentState:
        """The state that a step leads to. Raises IllegalTransition."""
        f = self.fulfillment
        return rules.after(f.kind, f.state, step, str(f.fulfillment_order_id))

    def positions(self, lines: Iterable[int]) -> list[tuple[str, str]]:
        """Where the items of lines are."""
        skus = self.skus
        return [(self.fulfillment.location_id, skus[number]) for number in lines]

    def movement(self, line_number: int, quantity: int, to_bucket: Bucket, reason_code: str, actor: str) -> Movement:
        """Units of a line that leave `allocated`."""
        ((place, sku),) = self.positions([line_number])
        order = self.order
        return Movement(
            place, sku, quantity, Bucket.ALLOCATED, to_bucket, reason_code, order.document, order.channel, actor
        )


Effect = Callable[[Transaction, Work], Awaitable[Mapping[str, Any] | None]]
"""What a step does besides; it may say what the event of a step that changes no state tells."""
# What events call steps that change no state, where that is not the step's name.
_TOLD = {Step.ARRIVE: "arrived", Step.PACK: "packed", Step.SUBSTITUTE: "substituted", Step.EXTEND_HOLD: "hold_extended"}


async def lock_work(tx: Transaction, fulfillment_order_id: UUID) -> Work:
    """Locks the order of a fulfillment order. Raises FulfillmentOrderNotFound."""
    order = await store.lock_order_of(tx.connection, fulfillment_order_id)
    if order is None:
        raise FulfillmentOrderNotFound(str(fulfillment_order_id))
    fulfillments = await store.fulfillments(tx.connection, order.order_id)
    (fulfillment,) = (f for f in fulfillments if f.fulfillment_order_id == fulfillment_order_id)
    parts = await store.parts(tx.connection, order.order_id)
    units = [p for p in parts if p.fulfillment_order_id == fulfillment_order_id and p.quantity]
    return Work(order, fulfillments, fulfillment, units)


async def advance(
    tx: Transaction, fulfillment_order_id: UUID, step: Step, caller: Caller, effect: Effect | None = None
) -> pb.FulfillmentOrder:
    """Takes a fulfillment order one step on; `effect` is run, and may refuse, once the step is known to be legal."""
    return (await advance_part(tx, fulfillment_order_id, step, {}, caller, effect))[0]


async def advance_part(
    tx: Transaction,
    fulfillment_order_id: UUID,
    step: Step,
    lines: Mapping[int, int],
    caller: Caller,
    effect: Effect | None = None,
) -> tuple[pb.FulfillmentOrder, UUID | None]:
    """Takes some units of a fulfillment order one step on, or all if no `lines` are given.

    The rest becomes a fulfillment order of its own, in the state that this one had. Returns its id too, if there is one.
    """
    work, rest = await lock_work(tx, fulfillment_order_id), None
    state = work.after(step)
    if lines:
        work, rest = await keep(tx, work, step, lines, caller)
    data = None if effect is None else await effect(tx, work)
    if step in _LEAVING:
        await _leave(tx, work, _LEAVING[step], caller)
    elif step in _IN_HAND:
        await hold(tx, work, caller)
    await settle(tx, work.order, work.fulfillments, {fulfillment_order_id: state}, caller)
    if state is work.fulfillment.state:
        emit(tx, work.order, work.fulfillment, _TOLD.get(step, step.value.lower()), state, caller, data)
    return await read_fulfillment_order(tx.connection, fulfillment_order_id), rest


# --------------------------------------------------------------------------------------------------------------- parts
async def keep(
    tx: Transaction, work: Work, step: Step, lines: Mapping[int, int], caller: Caller
) -> tuple[Work, UUID | None]:
    """The work with these units only: the rest is split off, with what is short of it. Raises FulfillmentLineExceeded."""
    wanted = rules.check_parts(str(work.fulfillment.fulfillment_order_id), step, work.held, lines.items())
    rest = {n: q - wanted.get(n, 0) for n, q in work.held.items() if q > wanted.get(n, 0)}
    if not rest:
        return work, None
    positions = work.positions(work.held)
    await tx.lock_levels(positions)
    if any(tx.short(position) for position in positions):
        own = work.fulfillment.fulfillment_order_id
        short = await shortfalls.short_of_lines(tx.connection, [own])
        # Somebody has the wanted units in hand: more of them are there than was thought, where the rest cannot lack so many.
        there = [(own, n, short[own, n] - rest.get(n, 0)) for n in wanted if short[own, n] > rest.get(n, 0)]
        await shortfalls.found_in_part(tx, there, work.order.document, caller.actor)
    left, new = await split(tx, work, rest, caller, with_short=True)
    return left, new.fulfillment_order_id


async def split(
    tx: Transaction, work: Work, units: Mapping[int, int], caller: Caller, *, with_short: bool
) -> tuple[Work, Fulfillment]:
    """Gives units, not all, to a new fulfillment order in the same state. Returns what is left of the old one, and the new one."""
    old = work.fulfillment
    new = replace(old, fulfillment_order_id=new_id())
    numbers = sorted(units)
    await tx.connection.execute(
        SPLIT, old.fulfillment_order_id, new.fulfillment_order_id, numbers, [units[n] for n in numbers]
    )
    if with_short:
        await shortfalls.follow(tx, old.fulfillment_order_id, new.fulfillment_order_id, numbers)
    skus = work.skus
    lines = [{"line_number": n, "sku": skus[n], "quantity": units[n]} for n in numbers]
    data = {"from_fulfillment_order_id": str(old.fulfillment_order_id), "lines": lines}
    emit(tx, work.order, new, "split", new.state, caller, data)
    left = [replace(u, quantity=u.quantity - units.get(u.line_number, 0)) for u in work.units]
    return replace(work, fulfillments=[*work.fulfillments, new], units=[u for u in left if u.quantity]), new


# --------------------------------------------------------------------------------------------------------------- states
async def settle(
    tx: Transaction,
    order: LockedOrder,
    fulfillments: Sequence[Fulfillment],
    changes: Mapping[UUID, FulfillmentState],
    caller: Caller,
) -> None:
    """Writes the states that fulfillment orders have now, and what follows from them for the order."""
    moved = [
        (f, changes[f.fulfillment_order_id])
        for f in fulfillments
        if changes.get(f.fulfillment_order_id, f.state) is not f.state
    ]
    await store.set_states(tx.connection, moved)
    for fulfillment, new in moved:
        emit(tx, order, fulfillment, new.value.lower(), new, caller)
    state = rules.order_state(changes.get(f.fulfillment_order_id, f.state) for f in fulfillments)
    await store.set_order_state(tx.connection, order, state)
    if state is not order.state and state is not OrderState.OPEN:
        data = {"order_id": str(order.order_id), "order_number": order.order_number, "customer_id": order.customer_id}
        tx.emit(f"onhand.order.{state.value.lower()}.v1", order.document, {**data, "actor": caller.actor})


def emit(
    tx: Transaction,
    order: LockedOrder,
    fulfillment: Fulfillment,
    what: str,
    state: FulfillmentState,
    caller: Caller,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Tells of a fulfillment order."""
    tx.emit(
        f"onhand.fulfillment_order.{what}.v1",
        f"fulfillment_order/{fulfillment.fulfillment_order_id}",
        {
            "fulfillment_order_id": str(fulfillment.fulfillment_order_id),
            "order_id": str(order.order_id),
            "kind": fulfillment.kind.value,
            "state": state.value,
            "actor": caller.actor,
            **(data or {}),
        },
        fulfillment.location_id,
    )


# ---------------------------------------------------------------------------------------------------------------- stock
async def _leave(tx: Transaction, work: Work, reason_code: str, caller: Caller) -> None:
    """The units of a fulfillment order go to the customer."""
    order = work.order
    await store.add_fulfilled(tx.connection, order.order_id, work.units)
    await capture_leaving(tx, order, work.units, caller.actor)
    await hold(tx, work, caller)
    await tx.post(
        [
            Movement(
                work.fulfillment.location_id,
                sku,
                quantity,
                Bucket.ALLOCATED,
                Bucket.CUSTOMER,
                reason_code,
                order.document,
                order.channel,
                caller.actor,
            )
            for sku, quantity in sum_lines((unit.sku, unit.quantity) for unit in work.units)
        ]
    )


async def hold(tx: Transaction, work: Work, caller: Caller) -> None:
    """Locks the levels of goods that somebody has in hand: nobody finds them gone any more, and what was short was there."""
    positions = set(work.positions(work.held))
    await tx.lock_levels(positions)
    if any(tx.short(position) for position in positions):
        own = work.fulfillment.fulfillment_order_id
        await shortfalls.found_in_hand(tx, own, work.order.document, caller.actor)
