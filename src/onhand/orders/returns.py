"""CreateReturn: what the customer got comes back, at any location, and is on hand there."""

from __future__ import annotations

from uuid import UUID

from onhand.caller import Caller
from onhand.domain import returns as rules
from onhand.domain.errors import OrderLineNotFound, OrderNotFound, invalid
from onhand.domain.stock import Bucket, Movement
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import names, store
from onhand.orders.queries import read_return
from onhand.orders.store import Line
from onhand.payments.giving_back import give_back
from onhand.v1 import order_pb2 as pb
from onhand.wire import channel_name


async def create_return(ledger: Ledger, request: pb.CreateReturnRequest, caller: Caller) -> pb.CreateReturnResponse:
    """OrderService.CreateReturn."""
    order_id = parse_id("order_id", request.order_id)
    channel = channel_name(request.channel)
    wanted: dict[tuple[int, Bucket], pb.ReturnedLine] = {}
    for index, line in enumerate(request.lines):
        key = line.line_number, names.disposition(f"lines[{index}].disposition", line.disposition)
        if key in wanted:
            raise invalid(f"lines[{index}]", f"line {line.line_number} is given twice with the same disposition")
        wanted[key] = line

    async def work(tx: Transaction) -> pb.CreateReturnResponse:
        return await create(tx, request, order_id, channel, wanted, caller)

    return await ledger.mutate(request, pb.CreateReturnResponse, work)


async def create(
    tx: Transaction,
    request: pb.CreateReturnRequest,
    order_id: UUID,
    channel: str,
    wanted: dict[tuple[int, Bucket], pb.ReturnedLine],
    caller: Caller,
) -> pb.CreateReturnResponse:
    """Takes units of an order back."""
    order = await store.lock_order(tx.connection, order_id)
    if order is None:
        raise OrderNotFound(str(order_id))
    lines = await store.lines(tx.connection, order_id)
    _check(order_id, lines, wanted)

    units: list[tuple[int, str, str, int, str, int]] = []
    totals: dict[int, tuple[int, int]] = {}
    for (number, bucket), given in wanted.items():
        line, (quantity, refunded) = lines[number], totals.get(number, (0, 0))
        refund_minor = rules.refund(
            total_minor=line.total_minor,
            quantity=line.quantity,
            given_back=line.cancelled_quantity + line.returned_quantity + quantity,
            now=given.quantity,
        )
        units.append((number, bucket.value, line.sku, given.quantity, given.reason, refund_minor))
        totals[number] = quantity + given.quantity, refunded + refund_minor
    refund_minor = sum(unit[-1] for unit in units)

    return_id = new_id()
    await give_back(
        tx,
        order_id,
        refund_minor,
        currency=order.currency,
        reason_code="RETURN",
        reference_document=f"return/{return_id}",
        actor=caller.actor,
    )
    # Before the return is written, so that a location that is not known is refused as such.
    await tx.lock_levels(((request.location_id, unit[2]) for unit in units), create=True)
    await store.insert_return(
        tx.connection,
        return_id,
        order_id,
        location_id=request.location_id,
        channel=channel,
        refund_minor=refund_minor,
        actor=caller.actor,
        units=units,
    )
    await store.add_returned(tx.connection, order_id, [(n, *total) for n, total in totals.items()])
    await store.set_order_state(tx.connection, order, order.state)
    await tx.post(
        [
            Movement(
                request.location_id,
                sku,
                quantity,
                Bucket.CUSTOMER,
                Bucket(bucket),
                "RETURN",
                f"return/{return_id}",
                channel,
                caller.actor,
            )
            for _, bucket, sku, quantity, _, _ in units
        ]
    )
    tx.emit(
        "onhand.return.created.v1",
        f"return/{return_id}",
        {
            "return_id": str(return_id),
            "order_id": str(order_id),
            "order_number": order.order_number,
            "customer_id": order.customer_id,
            "channel": channel,
            "lines": [
                {
                    "line_number": number,
                    "sku": sku,
                    "quantity": quantity,
                    "disposition": bucket,
                    "reason": reason,
                    "refund_minor": refund,
                }
                for number, bucket, sku, quantity, reason, refund in units
            ],
            "refund_minor": refund_minor,
            "currency": order.currency,
            "actor": caller.actor,
        },
        request.location_id,
    )
    return pb.CreateReturnResponse(returned=await read_return(tx.connection, return_id))


def _check(order_id: UUID, lines: dict[int, Line], wanted: dict[tuple[int, Bucket], pb.ReturnedLine]) -> None:
    asked: dict[int, int] = {}
    for (number, _), given in wanted.items():
        asked[number] = asked.get(number, 0) + given.quantity
    for number, quantity in asked.items():
        if number not in lines:
            raise OrderLineNotFound(str(order_id), number)
        line = lines[number]
        rules.check_returnable(
            order_id=str(order_id),
            line_number=number,
            sku=line.sku,
            bought=line.quantity,
            fulfilled=line.fulfilled_quantity,
            returned=line.returned_quantity,
            now=quantity,
        )
