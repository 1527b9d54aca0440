"""Moving work: a pickup to another store, or a pickup turned into a shipment, where the goods are or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from onhand.caller import Caller
from onhand.domain import order as rules
from onhand.domain.errors import FulfillmentNotOffered, LocationNotFound
from onhand.domain.order import FulfillmentKind, FulfillmentPart, FulfillmentState, Step
from onhand.domain.shortage import ShortfallEnd
from onhand.domain.stock import Bucket, Position
from onhand.domain.work_errors import ChangeEmpty, LocationExcluded, ShipToMissing
from onhand.ledger import shortfalls
from onhand.ledger.claims import ClaimRefused
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, resource, store
from onhand.orders.store import Fulfillment, LockedOrder
from onhand.orders.work import Work, emit, lock_work, settle, split
from onhand.postgres import Connection
from onhand.v1 import order_pb2 as pb

LOCATION_EXISTS = "SELECT EXISTS (SELECT FROM locations WHERE location_id = $1 AND deleted_time IS NULL)"
REJECTED_HERE = """
SELECT EXISTS (
    SELECT FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
     WHERE f.order_id = $1 AND f.location_id = $2 AND f.reject_reason IS NOT NULL AND p.line_number = ANY ($3))"""
# What was split off as it was goes the other way from now on: without a code where it is sent, with a new one where it is fetched.
TURN = """
UPDATE fulfillment_orders SET kind = $2, state = $3, pickup_code_salt = $4, pickup_code_hash = $5, pickup_code_failures = 0,
       pickup_code_attempt = NULL, hold_end_time = NULL, reminded_time = NULL
 WHERE fulfillment_order_id = $1"""
# How far goods are that go another way: what waits for a customer is off the shelf.
_TURNED = {FulfillmentState.READY_FOR_PICKUP: FulfillmentState.PICKED}


@dataclass(frozen=True)
class Move:
    """Work that goes to a location, or another way. `freed` and `promised` are empty where the goods stay where they are."""

    fulfillment: Fulfillment
    location_id: str
    kind: FulfillmentKind
    ship_to: pb.Address
    freed: Mapping[Position, int]
    promised: Mapping[Position, int]


async def plan(
    connection: Connection,
    order: LockedOrder,
    fulfillment: Fulfillment,
    parts: Sequence[FulfillmentPart],
    location_id: str,
    kind: FulfillmentKind,
    ship_to: pb.Address,
) -> Move:
    """What a move does. `parts` are what the work has to bring.

    Raises IllegalTransition, ChangeEmpty, LocationNotFound, LocationExcluded, FulfillmentNotOffered, ShipToMissing.
    """
    id, target = str(fulfillment.fulfillment_order_id), location_id or fulfillment.location_id
    rules.after(fulfillment.kind, fulfillment.state, Step.MOVE, id)
    if (target, kind) == (fulfillment.location_id, fulfillment.kind):
        raise ChangeEmpty(str(order.order_id))
    if not await connection.fetchval(LOCATION_EXISTS, target):
        raise LocationNotFound(target)
    numbers = [p.line_number for p in parts]
    if await connection.fetchval(REJECTED_HERE, order.order_id, target, numbers):
        raise LocationExcluded(id, target)
    if refused := await store.not_offered(connection, [(target, kind)]):
        raise FulfillmentNotOffered(*refused)
    if kind is FulfillmentKind.SHIP and not order.has_address and not ship_to.recipient:
        raise ShipToMissing(str(order.order_id))
    freed: dict[Position, int] = {}
    promised: dict[Position, int] = {}
    if target != fulfillment.location_id:
        for p in parts:
            promised[target, p.sku] = promised.get((target, p.sku), 0) + p.quantity
            if p.quantity > p.short:
                place = fulfillment.location_id, p.sku
                freed[place] = freed.get(place, 0) + p.quantity - p.short
    return Move(fulfillment, target, kind, ship_to, freed, promised)


async def carry_out(tx: Transaction, move: Move, caller: Caller) -> pb.PickupCode | None:
    """Moves work whose order is locked. Returns the code of the new work, if it is a pickup."""
    work = await lock_work(tx, move.fulfillment.fulfillment_order_id)
    if not move.promised:
        return await _turn(tx, work, move, caller)
    old, numbers = work.fulfillment, sorted(work.held)
    await tx.lock_levels({*work.positions(numbers), *move.promised})
    if not tx.covers(move.promised):
        raise ClaimRefused  # claimed for nothing, as the plan was another then: look and claim again
    going = [(old.fulfillment_order_id, number, work.held[number]) for number in numbers]
    absent: Mapping[tuple[UUID, int], int] = {}
    is_rejected = old.state is FulfillmentState.REJECTED
    if is_rejected or any(tx.short(position) for position in work.positions(numbers)):
        absent = await shortfalls.give_up(tx, going, ShortfallEnd.RESOURCED, work.order.document)
    lines = [(unit.line_number, unit.sku, unit.quantity) for unit in work.units]
    parts = [(move.location_id, lines)]
    (taken,) = await resource.take_over(tx, work, parts, move.kind, move.ship_to, caller, "ORDER_MOVED")
    await tx.post(
        [
            work.movement(number, there, Bucket.AVAILABLE, "ORDER_MOVED", caller.actor)
            for id, number, quantity in going
            if (there := quantity - absent.get((id, number), 0))
        ]
    )
    return resource.pickup_code(taken)


async def _turn(tx: Transaction, work: Work, move: Move, caller: Caller) -> pb.PickupCode | None:
    """The goods stay where they are, and promised; only how the customer gets them changes."""
    await store.unpack(tx.connection, [work.fulfillment])
    await resource.set_address(tx, work.order, move.kind, move.ship_to)
    old = work.fulfillment
    state = _TURNED.get(old.state, old.state)
    await tx.lock_levels(work.positions(work.held))
    left, new = await split(tx, work, work.held, caller, with_short=True)
    code = codes.new_pickup_code() if move.kind is FulfillmentKind.PICKUP else ""
    salt, code_hash = codes.salted(code) if code else (None, None)
    turned = replace(new, kind=move.kind, state=state, code_salt=salt, code_hash=code_hash, reject_reason=None)
    await tx.connection.execute(TURN, new.fulfillment_order_id, move.kind.value, state.value, salt, code_hash)
    others = [f for f in left.fulfillments if f is not new]
    changes = {old.fulfillment_order_id: FulfillmentState.MOVED}
    await settle(tx, work.order, [*others, turned], changes, caller)
    emit(tx, work.order, turned, "turned", state, caller)
    return resource.pickup_code(resource.TakenOver(new.fulfillment_order_id, move.location_id, code))
