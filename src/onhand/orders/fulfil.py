"""The steps of a location's work for an order: one ledger transaction each, with the movements and events that it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from onhand.caller import Caller
from onhand.domain import order as rules
from onhand.domain.errors import FulfillmentOrderNotFound, PickupCodeLocked, PickupCodeWrong
from onhand.domain.order import PICKUP_CODE_FAILURES_MAX, FulfillmentState, OrderState, Step
from onhand.domain.stock import Bucket, Movement, sum_lines
from onhand.ids import new_id, parse_id
from onhand.ledger import shortfalls
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, store
from onhand.orders.queries import read_fulfillment_order
from onhand.orders.store import Fulfillment, LockedOrder, Part
from onhand.v1 import order_pb2 as pb

# Steps by which the goods leave the location, and the reason that their movement has.
_LEAVING = {Step.HAND_OVER: "PICKED_UP", Step.SHIP: "SHIPPED"}
# Steps by which the goods come off the shelf, or are seen to be off it: what was short of them was there.
_IN_HAND = frozenset({Step.PICK, Step.MARK_READY})

Effect = Callable[[Transaction, Fulfillment], Awaitable[None]]


async def accept_fulfillment_order(
    ledger: Ledger, request: pb.AcceptFulfillmentOrderRequest, caller: Caller
) -> pb.AcceptFulfillmentOrderResponse:
    """OrderService.AcceptFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.AcceptFulfillmentOrderResponse:
        done = await _advance(tx, fulfillment_order_id, Step.ACCEPT, caller)
        return pb.AcceptFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.AcceptFulfillmentOrderResponse, work)


async def pick_fulfillment_order(
    ledger: Ledger, request: pb.PickFulfillmentOrderRequest, caller: Caller
) -> pb.PickFulfillmentOrderResponse:
    """OrderService.PickFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.PickFulfillmentOrderResponse:
        done = await _advance(tx, fulfillment_order_id, Step.PICK, caller)
        return pb.PickFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.PickFulfillmentOrderResponse, work)


async def mark_ready_for_pickup(
    ledger: Ledger, request: pb.MarkReadyForPickupRequest, caller: Caller
) -> pb.MarkReadyForPickupResponse:
    """OrderService.MarkReadyForPickup."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.MarkReadyForPickupResponse:
        done = await _advance(tx, fulfillment_order_id, Step.MARK_READY, caller)
        return pb.MarkReadyForPickupResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.MarkReadyForPickupResponse, work)


async def hand_over_fulfillment_order(
    ledger: Ledger, request: pb.HandOverFulfillmentOrderRequest, caller: Caller
) -> pb.HandOverFulfillmentOrderResponse:
    """OrderService.HandOverFulfillmentOrder.

    A wrong code is counted in a transaction of its own before anything else: the refusal then undoes all but that.
    """
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)
    code = codes.plain(request.pickup_code)
    attempt = hashlib.sha256(f"{request.request_id}/{code}".encode()).digest()
    async with ledger.read() as connection:
        await store.count_wrong_code(connection, fulfillment_order_id, code, attempt, PICKUP_CODE_FAILURES_MAX)

    async def check_code(tx: Transaction, fulfillment: Fulfillment) -> None:
        failures = fulfillment.code_failures
        if failures >= PICKUP_CODE_FAILURES_MAX:
            raise PickupCodeLocked(str(fulfillment_order_id), failures)
        if not codes.is_right(code, fulfillment.code_salt, fulfillment.code_hash):
            raise PickupCodeWrong(str(fulfillment_order_id), PICKUP_CODE_FAILURES_MAX - failures)

    async def work(tx: Transaction) -> pb.HandOverFulfillmentOrderResponse:
        done = await _advance(tx, fulfillment_order_id, Step.HAND_OVER, caller, check_code)
        return pb.HandOverFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.HandOverFulfillmentOrderResponse, work)


async def reset_pickup_code(
    ledger: Ledger, request: pb.ResetPickupCodeRequest, caller: Caller
) -> pb.ResetPickupCodeResponse:
    """OrderService.ResetPickupCode."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.ResetPickupCodeResponse:
        code = codes.new_pickup_code()

        async def give_code(tx: Transaction, fulfillment: Fulfillment) -> None:
            await store.set_code(tx.connection, fulfillment_order_id, *codes.salted(code))

        done = await _advance(tx, fulfillment_order_id, Step.RESET_CODE, caller, give_code)
        return pb.ResetPickupCodeResponse(
            pickup_code=pb.PickupCode(
                fulfillment_order_id=done.fulfillment_order_id, location_id=done.location_id, pickup_code=code
            )
        )

    return await ledger.mutate(request, pb.ResetPickupCodeResponse, work)


async def ship_fulfillment_order(
    ledger: Ledger, request: pb.ShipFulfillmentOrderRequest, caller: Caller
) -> pb.ShipFulfillmentOrderResponse:
    """OrderService.ShipFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def add_shipment(tx: Transaction, fulfillment: Fulfillment) -> None:
        await store.insert_shipment(
            tx.connection,
            new_id(),
            fulfillment_order_id,
            carrier=request.carrier,
            tracking_reference=request.tracking_reference,
        )

    async def work(tx: Transaction) -> pb.ShipFulfillmentOrderResponse:
        done = await _advance(tx, fulfillment_order_id, Step.SHIP, caller, add_shipment)
        return pb.ShipFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.ShipFulfillmentOrderResponse, work)


async def deliver_fulfillment_order(
    ledger: Ledger, request: pb.DeliverFulfillmentOrderRequest, caller: Caller
) -> pb.DeliverFulfillmentOrderResponse:
    """OrderService.DeliverFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def close_shipments(tx: Transaction, fulfillment: Fulfillment) -> None:
        await store.mark_delivered(tx.connection, fulfillment_order_id)

    async def work(tx: Transaction) -> pb.DeliverFulfillmentOrderResponse:
        done = await _advance(tx, fulfillment_order_id, Step.DELIVER, caller, close_shipments)
        return pb.DeliverFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.DeliverFulfillmentOrderResponse, work)


async def _advance(
    tx: Transaction, fulfillment_order_id: UUID, step: Step, caller: Caller, effect: Effect | None = None
) -> pb.FulfillmentOrder:
    """Takes a fulfillment order one step on; `effect` is run, and may refuse, once the step is known to be legal."""
    order = await store.lock_order_of(tx.connection, fulfillment_order_id)
    if order is None:
        raise FulfillmentOrderNotFound(str(fulfillment_order_id))
    fulfillments = await store.fulfillments(tx.connection, order.order_id)
    (fulfillment,) = (f for f in fulfillments if f.fulfillment_order_id == fulfillment_order_id)
    state = rules.after(fulfillment.kind, fulfillment.state, step, str(fulfillment_order_id))
    if effect is not None:
        await effect(tx, fulfillment)
    if step in _LEAVING:
        await _leave(tx, order, fulfillment, _LEAVING[step], caller)
    elif step in _IN_HAND:
        await _hold(tx, order, fulfillment, await _units(tx, order, fulfillment), caller)
    await settle(tx, order, fulfillments, {fulfillment_order_id: state}, caller)
    if state is fulfillment.state:
        _emit(tx, order, fulfillment, step.value.lower(), state, caller)
    return await read_fulfillment_order(tx.connection, fulfillment_order_id)


async def settle(
    tx: Transaction,
    order: LockedOrder,
    fulfillments: Sequence[Fulfillment],
    changes: dict[UUID, FulfillmentState],
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
        _emit(tx, order, fulfillment, new.value.lower(), new, caller)
    state = rules.order_state(changes.get(f.fulfillment_order_id, f.state) for f in fulfillments)
    await store.set_order_state(tx.connection, order, state)
    if state is not order.state and state is not OrderState.OPEN:
        data = {"order_id": str(order.order_id), "order_number": order.order_number, "customer_id": order.customer_id}
        tx.emit(f"onhand.order.{state.value.lower()}.v1", order.document, {**data, "actor": caller.actor})


async def _leave(
    tx: Transaction, order: LockedOrder, fulfillment: Fulfillment, reason_code: str, caller: Caller
) -> None:
    """The units of a fulfillment order go to the customer."""
    units = await _units(tx, order, fulfillment)
    lines = sum_lines((unit.sku, unit.quantity) for unit in units)
    await store.add_fulfilled(tx.connection, order.order_id, units)
    await _hold(tx, order, fulfillment, units, caller)
    await tx.post(
        [
            Movement(
                fulfillment.location_id,
                sku,
                quantity,
                Bucket.ALLOCATED,
                Bucket.CUSTOMER,
                reason_code,
                order.document,
                order.channel,
                caller.actor,
            )
            for sku, quantity in lines
        ]
    )


async def _units(tx: Transaction, order: LockedOrder, fulfillment: Fulfillment) -> list[Part]:
    """What a fulfillment order is to bring."""
    return [
        part
        for part in await store.parts(tx.connection, order.order_id)
        if part.fulfillment_order_id == fulfillment.fulfillment_order_id and part.quantity
    ]


async def _hold(
    tx: Transaction, order: LockedOrder, fulfillment: Fulfillment, units: Sequence[Part], caller: Caller
) -> None:
    """Locks the levels of goods that somebody has in hand: nobody finds them gone any more, and what was short was there."""
    positions = {(fulfillment.location_id, unit.sku) for unit in units}
    await tx.lock_levels(positions)
    if any(tx.short(position) for position in positions):
        await shortfalls.found_in_hand(tx, fulfillment.fulfillment_order_id, order.document, caller.actor)


def _emit(
    tx: Transaction, order: LockedOrder, fulfillment: Fulfillment, what: str, state: FulfillmentState, caller: Caller
) -> None:
    tx.emit(
        f"onhand.fulfillment_order.{what}.v1",
        f"fulfillment_order/{fulfillment.fulfillment_order_id}",
        {
            "fulfillment_order_id": str(fulfillment.fulfillment_order_id),
            "order_id": str(order.order_id),
            "kind": fulfillment.kind.value,
            "state": state.value,
            "actor": caller.actor,
        },
        fulfillment.location_id,
    )
