"""The steps of a location's work for an order: one ledger transaction each, with the movements and events that it makes."""

from __future__ import annotations

import hashlib

from onhand.caller import Caller
from onhand.domain.errors import PickupCodeLocked, PickupCodeWrong
from onhand.domain.order import PICKUP_CODE_FAILURES_MAX, Step
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, store, waiting
from onhand.orders.work import Work, advance
from onhand.v1 import order_pb2 as pb


async def accept_fulfillment_order(
    ledger: Ledger, request: pb.AcceptFulfillmentOrderRequest, caller: Caller
) -> pb.AcceptFulfillmentOrderResponse:
    """OrderService.AcceptFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.AcceptFulfillmentOrderResponse:
        done = await advance(tx, fulfillment_order_id, Step.ACCEPT, caller)
        return pb.AcceptFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.AcceptFulfillmentOrderResponse, work)


async def pick_fulfillment_order(
    ledger: Ledger, request: pb.PickFulfillmentOrderRequest, caller: Caller
) -> pb.PickFulfillmentOrderResponse:
    """OrderService.PickFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.PickFulfillmentOrderResponse:
        done = await advance(tx, fulfillment_order_id, Step.PICK, caller)
        return pb.PickFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.PickFulfillmentOrderResponse, work)


async def unpick_fulfillment_order(
    ledger: Ledger, request: pb.UnpickFulfillmentOrderRequest, caller: Caller
) -> pb.UnpickFulfillmentOrderResponse:
    """OrderService.UnpickFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.UnpickFulfillmentOrderResponse:
        done = await advance(tx, fulfillment_order_id, Step.UNPICK, caller, waiting.end_hold)
        return pb.UnpickFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.UnpickFulfillmentOrderResponse, work)


async def mark_ready_for_pickup(
    ledger: Ledger, request: pb.MarkReadyForPickupRequest, caller: Caller
) -> pb.MarkReadyForPickupResponse:
    """OrderService.MarkReadyForPickup."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.MarkReadyForPickupResponse:
        done = await advance(tx, fulfillment_order_id, Step.MARK_READY, caller, waiting.begin_hold)
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

    async def check_code(tx: Transaction, work: Work) -> None:
        failures = work.fulfillment.code_failures
        if failures >= PICKUP_CODE_FAILURES_MAX:
            raise PickupCodeLocked(str(fulfillment_order_id), failures)
        if not codes.is_right(code, work.fulfillment.code_salt, work.fulfillment.code_hash):
            raise PickupCodeWrong(str(fulfillment_order_id), PICKUP_CODE_FAILURES_MAX - failures)

    async def work(tx: Transaction) -> pb.HandOverFulfillmentOrderResponse:
        done = await advance(tx, fulfillment_order_id, Step.HAND_OVER, caller, check_code)
        return pb.HandOverFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.HandOverFulfillmentOrderResponse, work)


async def reset_pickup_code(
    ledger: Ledger, request: pb.ResetPickupCodeRequest, caller: Caller
) -> pb.ResetPickupCodeResponse:
    """OrderService.ResetPickupCode."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def work(tx: Transaction) -> pb.ResetPickupCodeResponse:
        code = codes.new_pickup_code()

        async def give_code(tx: Transaction, work: Work) -> None:
            await store.set_code(tx.connection, fulfillment_order_id, *codes.salted(code))

        done = await advance(tx, fulfillment_order_id, Step.RESET_CODE, caller, give_code)
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

    async def add_shipment(tx: Transaction, work: Work) -> None:
        await store.insert_shipment(
            tx.connection,
            new_id(),
            fulfillment_order_id,
            work.held,
            carrier=request.carrier,
            tracking_reference=request.tracking_reference,
        )

    async def work(tx: Transaction) -> pb.ShipFulfillmentOrderResponse:
        done = await advance(tx, fulfillment_order_id, Step.SHIP, caller, add_shipment)
        return pb.ShipFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.ShipFulfillmentOrderResponse, work)


async def deliver_fulfillment_order(
    ledger: Ledger, request: pb.DeliverFulfillmentOrderRequest, caller: Caller
) -> pb.DeliverFulfillmentOrderResponse:
    """OrderService.DeliverFulfillmentOrder."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)

    async def close_shipments(tx: Transaction, work: Work) -> None:
        await store.mark_delivered(tx.connection, fulfillment_order_id)

    async def work(tx: Transaction) -> pb.DeliverFulfillmentOrderResponse:
        done = await advance(tx, fulfillment_order_id, Step.DELIVER, caller, close_shipments)
        return pb.DeliverFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.DeliverFulfillmentOrderResponse, work)
