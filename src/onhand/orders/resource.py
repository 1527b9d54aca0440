"""Having another location bring what one lacks or rejected: DecideShortfall with RESOURCE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict

from onhand.caller import Caller
from onhand.crash import step
from onhand.domain.errors import (
    FulfillmentNotOffered,
    InsufficientStock,
    LocationNotFound,
    ShortfallNotFound,
    invalid,
)
from onhand.domain.order import INITIAL, FulfillmentKind, FulfillmentState, Step
from onhand.domain.shortage import ShortfallEnd, ShortfallStep, decide_to_resource
from onhand.domain.sourcing import Plan
from onhand.domain.sourcing_errors import LocationAtCapacity, ResourcingNotOffered
from onhand.domain.stock import Bucket, Movement
from onhand.domain.work_errors import LocationExcluded, ShipToMissing
from onhand.ids import new_id, parse_id
from onhand.ledger import shortfalls
from onhand.ledger.claims import ClaimRefused
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, names, store
from onhand.orders.queries import read_fulfillment_order
from onhand.orders.shortfalls import listed
from onhand.orders.store import LockedOrder
from onhand.orders.work import Work, emit, lock_work, settle
from onhand.postgres import Connection
from onhand.reservations.claims import Wants
from onhand.reservations.decrease import Decreases, Overdrawn
from onhand.sourcing import Sourcing
from onhand.sourcing.capacity import hold_days, take_on
from onhand.sourcing.decisions import keep_take_over
from onhand.v1 import order_pb2 as pb

SHORTFALL = """
SELECT s.fulfillment_order_id, s.location_id, s.sku, s.line_number, s.open_quantity, s.next_step, f.order_id, f.kind,
       o.currency, o.channel, l.latitude, l.longitude
  FROM shortfalls s JOIN fulfillment_orders f USING (fulfillment_order_id) JOIN orders o USING (order_id)
  JOIN locations l ON l.location_id = s.location_id
 WHERE s.shortfall_id = $1"""
# Locations that rejected units of a line of an order.
REJECTED_BY = """
SELECT DISTINCT f.location_id FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
 WHERE f.order_id = $1 AND p.line_number = $2 AND f.reject_reason IS NOT NULL"""

MOVE_PARTS = """
UPDATE fulfillment_lines p SET moved_quantity = p.moved_quantity + n.quantity
  FROM unnest($2::int[], $3::int8[]) AS n (line_number, quantity)
 WHERE p.fulfillment_order_id = $1 AND p.line_number = n.line_number"""
TAKE_OVER = """
WITH new_work AS (
    INSERT INTO fulfillment_orders (fulfillment_order_id, order_id, location_id, kind, state, pickup_code_salt,
                                    pickup_code_hash, from_fulfillment_order_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8))
INSERT INTO fulfillment_lines (fulfillment_order_id, line_number, sku, quantity, is_taken_over)
SELECT $1, n.line_number, n.sku, n.quantity, true
  FROM unnest($9::int[], $10::text[], $11::int8[]) AS n (line_number, sku, quantity)"""
SET_ADDRESS = "UPDATE orders SET ship_to = $2 WHERE order_id = $1"

CHOICES_MAX = 3
"""How often sourcing chooses anew, where whom it chose cannot bring it any more."""
CHANGED = (InsufficientStock, FulfillmentNotOffered, LocationAtCapacity, LocationNotFound)
"""What says that a location is not what it was when it was chosen."""

Lines = Sequence[tuple[int, str, int]]
"""(line_number, sku, quantity)."""


@dataclass(frozen=True)
class TakenOver:
    """New work, and the code for it where the customer fetches it."""

    fulfillment_order_id: UUID
    location_id: str
    pickup_code: str


@dataclass(frozen=True)
class Choice:
    """Who is to bring how many units instead. `plan`: how sourcing came to it; None where somebody named the location."""

    units: Mapping[str, int]
    plan: Plan | None = None


async def choose(
    sourcing: Sourcing, given: str, short: Any, kind: FulfillmentKind, excluded: Collection[str]
) -> Choice | None:
    """Where what is short comes from instead, never from what is excluded: `given`, or else whom the policy chooses.

    As near as can be to where it was to come from: one location if any brings all of it, else several, where the policy
    divides lines. None: `given` is excluded, or they may not or cannot bring all of it.
    """
    if given:
        return None if given in excluded else Choice({given: short["open_quantity"]})
    wanted = [(short["sku"], short["open_quantity"])]
    for is_of_one in (True, False):
        plan, _ = await sourcing.plan(
            wanted,
            method=kind,
            channel=short["channel"],
            position=position_of(short),
            excluded=excluded,
            is_of_one=is_of_one,
        )
        if plan.is_complete:
            return Choice({parcel.location_id: sum(parcel.lines.values()) for parcel in plan.parcels}, plan)
    return None


def position_of(short: Any) -> tuple[float, float] | None:
    """Where what is short was to come from, if that is known."""
    return None if short["latitude"] is None else (short["latitude"], short["longitude"])


async def resource_by_policy(
    ledger: Ledger, decreases: Decreases, sourcing: Sourcing, shortfall_id: UUID, *, request_id: str, caller: Caller
) -> pb.DecideShortfallResponse:
    """Has the policy choose who brings all that is open of a shortfall, one or several, for jobs; once by request_id.

    As DecideShortfall with RESOURCE and no location_id: raises ResourcingNotOffered where nobody brings it, ShortfallNotToDecide
    where it is not to be decided (it is over, or to be counted first), ShortfallNotFound, GateUnavailable, LedgerUnavailable; and
    the refusals of a location that sourcing chose, where it changed again and again.
    """
    decision = pb.SHORTFALL_DECISION_RESOURCE
    request = pb.DecideShortfallRequest(request_id=request_id, shortfall_id=str(shortfall_id), decision=decision)
    return await resource_shortfall(ledger, decreases, sourcing, request, caller)


async def resource_shortfall(
    ledger: Ledger, decreases: Decreases, sourcing: Sourcing, request: pb.DecideShortfallRequest, caller: Caller
) -> pb.DecideShortfallResponse:
    """OrderService.DecideShortfall, RESOURCE."""
    shortfall_id = parse_id("shortfall_id", request.shortfall_id)
    kind = names.fulfillment_kind("kind", request.kind) if request.kind else None
    if kind is FulfillmentKind.CARRY_OUT:
        raise invalid("kind", "must be PICKUP or SHIP")
    held: dict[str, Work] = {}
    choice: Choice | None = None

    async def takes() -> Wants:
        nonlocal choice
        async with ledger.read() as connection:
            short = await read_short(connection, shortfall_id)
            choice = None
            if not short["open_quantity"]:
                return []  # a repeat, or a refusal: the transaction finds out
            excluded = await read_excluded(connection, short)
        by = kind or FulfillmentKind(short["kind"])
        choice = await choose(sourcing, request.location_id, short, by, excluded)
        if choice is not None:
            return [(at, [(short["sku"], units)]) for at, units in sorted(choice.units.items())]
        if request.location_id:
            raise LocationExcluded(str(short["fulfillment_order_id"]), request.location_id)
        decide_to_resource(str(shortfall_id), ShortfallStep(short["next_step"]))
        raise ResourcingNotOffered(str(shortfall_id), short["sku"], short["open_quantity"], sourcing.policy.name)

    async def hold(tx: Transaction) -> None:
        short = await read_short(tx.connection, shortfall_id)
        held["work"] = await lock_work(tx, short["fulfillment_order_id"])
        if choice is not None:
            await hold_days(tx, list(choice.units))

    async def work(tx: Transaction, overdrawn: Overdrawn) -> pb.DecideShortfallResponse:
        return await _resource(tx, shortfall_id, held["work"], choice, request, kind, caller, sourcing.policy.name)

    for attempt in range(1, CHOICES_MAX + 1):
        first = await ledger.find_answer(request, pb.DecideShortfallResponse)
        if first is not None:
            return first
        try:
            return await decreases.decision(request, pb.DecideShortfallResponse, takes, work, hold)
        except ResourcingNotOffered:
            # Its first attempt may have what nobody else has.
            first = await ledger.find_answer(request, pb.DecideShortfallResponse)
            if first is None:
                raise
            return first
        except CHANGED:
            if request.location_id or attempt == CHOICES_MAX:
                raise
    raise AssertionError("not reached")


async def _resource(
    tx: Transaction,
    shortfall_id: UUID,
    work: Work,
    choice: Choice | None,
    request: pb.DecideShortfallRequest,
    kind: FulfillmentKind | None,
    caller: Caller,
    policy: str,
) -> pb.DecideShortfallResponse:
    short = await read_short(tx.connection, shortfall_id)
    if short["fulfillment_order_id"] != work.fulfillment.fulfillment_order_id:
        raise ClaimRefused  # it went to another part of the work meanwhile: look again
    line, sku, place = short["line_number"], short["sku"], short["location_id"]
    targets = {} if choice is None else choice.units
    await tx.lock_levels([(place, sku), *((at, sku) for at in targets)])
    short = await read_short(tx.connection, shortfall_id)
    decide_to_resource(str(shortfall_id), ShortfallStep(short["next_step"]))
    is_all = sum(targets.values()) == short["open_quantity"]
    if choice is None or not is_all or not tx.covers({(at, sku): units for at, units in targets.items()}):
        raise ClaimRefused  # it is another number by now: look and claim again
    parts = [(at, [(line, sku, units)]) for at, units in targets.items()]
    taken = await take_over(tx, work, parts, kind or work.fulfillment.kind, request.ship_to, caller)
    if choice.plan is not None:
        for part in taken:
            await keep_take_over(tx, work.order.order_id, part.fulfillment_order_id, choice.plan, policy)
    await shortfalls.end_one(tx, shortfall_id, ShortfallEnd.RESOURCED, work.order.document)
    brought = [await read_fulfillment_order(tx.connection, part.fulfillment_order_id) for part in taken]
    codes_of = [pickup_code(part) for part in taken]
    return pb.DecideShortfallResponse(
        shortfall=await listed(tx.connection, shortfall_id),
        fulfillment_order=brought[0],
        pickup_code=codes_of[0],
        further_fulfillment_orders=brought[1:],
        further_pickup_codes=[code for code in codes_of[1:] if code is not None],
    )


def pickup_code(taken: TakenOver) -> pb.PickupCode | None:
    """The code for new work, if there is one."""
    if not taken.pickup_code:
        return None
    return pb.PickupCode(
        fulfillment_order_id=str(taken.fulfillment_order_id),
        location_id=taken.location_id,
        pickup_code=taken.pickup_code,
    )


async def take_over(
    tx: Transaction,
    work: Work,
    parts: Sequence[tuple[str, Lines]],
    kind: FulfillmentKind,
    ship_to: pb.Address,
    caller: Caller,
    reason_code: str = "ORDER_RESOURCED",
) -> list[TakenOver]:
    """Gives units of work, whose order is locked, to locations whose units were claimed for it and whose levels are locked.

    `parts`: (location_id, lines), a location once. Their days are held too (hold_days). What becomes of the units at the old
    location is the caller's. Raises FulfillmentNotOffered, LocationAtCapacity, ShipToMissing, IllegalTransition.
    """
    order, old = work.order, work.fulfillment
    moved = Counter[int]()
    for _, lines in parts:
        moved.update({number: quantity for number, _, quantity in lines})
    state = work.after(Step.MOVE)
    if refused := await store.not_offered(tx.connection, [(at, kind) for at, _ in parts]):
        raise FulfillmentNotOffered(*refused)
    await take_on(tx, order.order_id, {at: sum(quantity for _, _, quantity in lines) for at, lines in parts})
    await set_address(tx, order, kind, ship_to)
    codes_of = [codes.new_pickup_code() if kind is FulfillmentKind.PICKUP else "" for _ in parts]
    new = []
    for (at, _), code in zip(parts, codes_of, strict=True):
        salt, code_hash = codes.salted(code) if code else (None, None)
        new.append(store.Fulfillment(new_id(), at, kind, INITIAL[kind], salt, code_hash, 0))
    await write_take_over(tx, work, [(part, lines) for part, (_, lines) in zip(new, parts, strict=True)], moved)
    changes: dict[UUID, FulfillmentState] = {}
    if all(unit.quantity == moved.get(unit.line_number, 0) for unit in work.units):
        changes[old.fulfillment_order_id] = state
    for part, (_, lines) in zip(new, parts, strict=True):
        emit_lines = [{"line_number": n, "sku": sku, "quantity": quantity} for n, sku, quantity in lines]
        data = {"from_fulfillment_order_id": str(old.fulfillment_order_id), "lines": emit_lines}
        emit(tx, order, part, "requested", part.state, caller, data)
    await settle(tx, order, [*work.fulfillments, *new], changes, caller)
    ways = Bucket.AVAILABLE, Bucket.ALLOCATED, reason_code, order.document, order.channel, caller.actor
    await tx.post([Movement(at, sku, quantity, *ways) for at, lines in parts for _, sku, quantity in lines])
    return [
        TakenOver(part.fulfillment_order_id, part.location_id, code) for part, code in zip(new, codes_of, strict=True)
    ]


async def set_address(tx: Transaction, order: LockedOrder, kind: FulfillmentKind, ship_to: pb.Address) -> None:
    """An order of which something is shipped has an address. Raises ShipToMissing."""
    if kind is FulfillmentKind.SHIP and not order.has_address:
        if not ship_to.recipient:
            raise ShipToMissing(str(order.order_id))
        address = MessageToDict(ship_to, preserving_proto_field_name=True)
        await tx.connection.execute(SET_ADDRESS, order.order_id, address)


@step("ledger.take_over")
async def write_take_over(
    tx: Transaction, work: Work, parts: Sequence[tuple[store.Fulfillment, Lines]], moved: Mapping[int, int]
) -> None:
    """Writes that other fulfillment orders bring units."""
    old = work.fulfillment.fulfillment_order_id
    await store.unpack(tx.connection, [work.fulfillment])
    await tx.connection.execute(MOVE_PARTS, old, list(moved), list(moved.values()))
    for new, lines in parts:
        await tx.connection.execute(
            TAKE_OVER,
            new.fulfillment_order_id,
            work.order.order_id,
            new.location_id,
            new.kind.value,
            new.state.value,
            new.code_salt,
            new.code_hash,
            old,
            [n for n, _, _ in lines],
            [sku for _, sku, _ in lines],
            [quantity for _, _, quantity in lines],
        )


async def read_short(connection: Connection, shortfall_id: UUID) -> Any:
    """What is short, and of which work. Raises ShortfallNotFound."""
    row = await connection.fetchrow(SHORTFALL, shortfall_id)
    if row is None:
        raise ShortfallNotFound(str(shortfall_id))
    return row


async def read_excluded(connection: Connection, short: Any) -> set[str]:
    """Locations that do not bring what is short: the one where it is short, and those that rejected it before."""
    rows = await connection.fetch(REJECTED_BY, short["order_id"], short["line_number"])
    return {short["location_id"], *(row["location_id"] for row in rows)}
