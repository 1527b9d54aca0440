"""The steps of a location's work for an order: one ledger transaction each, with the movements and events that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import invalid
from onhand.domain.order import Step
from onhand.ids import parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, store, waiting
from onhand.orders.queries import read_fulfillment_order
from onhand.orders.work import Work, advance, advance_part
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
        done = await advance(tx, fulfillment_order_id, Step.UNPICK, caller, put_back)
        return pb.UnpickFulfillmentOrderResponse(fulfillment_order=done)

    return await ledger.mutate(request, pb.UnpickFulfillmentOrderResponse, work)


async def mark_ready_for_pickup(
    ledger: Ledger, request: pb.MarkReadyForPickupRequest, caller: Caller
) -> pb.MarkReadyForPickupResponse:
    """OrderService.MarkReadyForPickup."""
    fulfillment_order_id, lines = parse_id("fulfillment_order_id", request.fulfillment_order_id), part(request.lines)

    async def work(tx: Transaction) -> pb.MarkReadyForPickupResponse:
        done, rest = await advance_part(tx, fulfillment_order_id, Step.MARK_READY, lines, caller, waiting.begin_hold)
        return pb.MarkReadyForPickupResponse(fulfillment_order=done, rest=await read_rest(tx, rest))

    return await ledger.mutate(request, pb.MarkReadyForPickupResponse, work)


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


async def put_back(tx: Transaction, work: Work) -> None:
    """Nothing of it waits, or is packed, any more."""
    await waiting.end_hold(tx, work)
    await store.unpack(tx.connection, [work.fulfillment])


def part(lines: Sequence[pb.WorkLine]) -> dict[int, int]:
    """Units by line; 0 stands for the whole line. Raises InvalidRequest."""
    units = {line.line_number: line.quantity for line in lines}
    if len(units) < len(lines):
        raise invalid("lines", "must name each line_number once")
    return units


async def read_rest(tx: Transaction, fulfillment_order_id: UUID | None) -> pb.FulfillmentOrder | None:
    """What a step on a part left behind, if it left anything."""
    return None if fulfillment_order_id is None else await read_fulfillment_order(tx.connection, fulfillment_order_id)
