"""Who works in a trial: associates that fulfil, receive, count, correct and transfer."""

from __future__ import annotations

from typing import Any

from onhand.simulate.history import OK
from onhand.simulate.town import Sold, Town, Work, look
from onhand.v1 import inventory_pb2, order_pb2, types_pb2

OTHERWISE_SHARE = 0.4
"""How many transfers arrive otherwise than they were sent: more, less, other goods, broken ones."""


async def fulfil(town: Town) -> None:
    """Takes one piece of work some steps on."""
    work = town.take(town.work)
    while work is not None:
        kind, state = _next_step(work)
        request: Any = getattr(order_pb2, f"{kind}Request")(
            request_id=town.request_id(), fulfillment_order_id=work.work_id
        )
        if kind == "HandOverFulfillmentOrder":
            request.pickup_code = work.code
        if kind == "ShipFulfillmentOrder":
            request.carrier, request.tracking_reference = "Carrier", request.request_id
        done = await town.change("orders", kind, request)
        if done.outcome != OK:
            return  # cancelled meanwhile, or not known: somebody else's now
        if state in ("PICKED_UP", "SHIPPED"):
            answer: order_pb2.FulfillmentOrder = done.answer.fulfillment_order
            left = tuple(
                (n.line_number, n.quantity - n.cancelled_quantity - n.moved_quantity)
                for n in answer.lines
                if n.quantity > n.cancelled_quantity + n.moved_quantity
            )
            if left:
                town.keep(town.sold, Sold(work.order_id, left))
        if state in ("PICKED_UP", "DELIVERED"):
            return
        work = work._replace(state=state)
        if town.chance.random() < 0.3 or town.is_closing:
            town.keep(town.work, work)
            return


def _next_step(work: Work) -> tuple[str, str]:
    if work.state == "REQUESTED":
        return "AcceptFulfillmentOrder", "ACCEPTED"
    if work.state == "ACCEPTED":
        return "PickFulfillmentOrder", "PICKED"
    if work.is_pickup:
        ready = ("MarkReadyForPickup", "READY_FOR_PICKUP")
        return ready if work.state == "PICKED" else ("HandOverFulfillmentOrder", "PICKED_UP")
    return ("ShipFulfillmentOrder", "SHIPPED") if work.state == "PICKED" else ("DeliverFulfillmentOrder", "DELIVERED")


async def receive(town: Town) -> None:
    """A delivery of hot skus, which sell out, and of some others."""
    chance = town.chance
    lines = [types_pb2.BasketLine(sku=chance.choice(town.shop.hot), quantity=chance.randint(3, 8))]
    if chance.random() < 0.5:
        lines.append(types_pb2.BasketLine(sku=chance.choice(town.shop.cold), quantity=chance.randint(1, 10)))
    request_id, place = town.request_id(), town.place()
    received = await town.change(
        "inventory",
        "ReceiveStock",
        inventory_pb2.ReceiveStockRequest(
            request_id=request_id, location_id=place, lines=lines, reference_document=f"request/{request_id}"
        ),
    )
    await look(town, received, [place], [line.sku for line in lines])


async def count(town: Town) -> None:
    """Counts a sku: as many as the ledger has, or a few more or less."""
    line, place = town.lines(1)[0], town.place()
    answer = await town.caller.read(
        "inventory",
        "GetStockPosition",
        inventory_pb2.GetStockPositionRequest(location_id=place, sku=line.sku),
    )
    if answer is None:
        return
    counted = max(0, answer.position.on_hand + town.chance.choice((-3, -2, -1, 0, 0, 1, 2, 3)))
    request_id = town.request_id()
    done = await town.change(
        "inventory",
        "CountStock",
        inventory_pb2.CountStockRequest(
            request_id=request_id,
            location_id=place,
            lines=[inventory_pb2.CountedLine(sku=line.sku, counted_quantity=counted)],
            reference_document=f"request/{request_id}",
        ),
    )
    await look(town, done, [place], [line.sku])


async def adjust(town: Town) -> None:
    """Corrects `available` by a few units, up or down, or sets some aside as damaged."""
    chance, place = town.chance, town.place()
    line, request_id = town.lines(1)[0], town.request_id()
    reference = f"request/{request_id}"
    if chance.random() < 0.3:
        buckets = [inventory_pb2.BUCKET_AVAILABLE, inventory_pb2.BUCKET_DAMAGED]
        if chance.random() < 0.5:
            buckets.reverse()
        move = inventory_pb2.MoveStockRequest(
            request_id=request_id,
            location_id=place,
            sku=line.sku,
            quantity=1,
            from_bucket=buckets[0],
            to_bucket=buckets[1],
            reason_code="INSPECTED",
            reference_document=reference,
        )
        await town.change("inventory", "MoveStock", move)
        return
    quantity = line.quantity if chance.random() < 0.6 else -line.quantity
    adjusted = await town.change(
        "inventory",
        "AdjustStock",
        inventory_pb2.AdjustStockRequest(
            request_id=request_id,
            location_id=place,
            sku=line.sku,
            quantity=quantity,
            reason_code="CORRECTION",
            reference_document=reference,
        ),
    )
    await look(town, adjusted, [place], [line.sku])


async def transfer(town: Town) -> None:
    """Sends units to another place, or receives what was sent: as the paper says, or what was really on the truck."""
    chance = town.chance
    known = town.take(town.transfers)
    if known is not None:
        request = inventory_pb2.ReceiveTransferRequest(request_id=town.request_id(), transfer_id=known)
        if chance.random() < OTHERWISE_SHARE:
            request.lines.extend(town.lines(2))
            request.damaged_lines.extend(town.lines(1))
            request.accepts_more = True
        received = await town.change("inventory", "ReceiveTransfer", request)
        if received.outcome == OK and received.answer.transfer.state == inventory_pb2.TRANSFER_STATE_IN_TRANSIT:
            losses = inventory_pb2.TRANSFER_LOSS_LOST, inventory_pb2.TRANSFER_LOSS_BACK_AT_SENDER
            close = inventory_pb2.CloseTransferRequest(
                request_id=town.request_id(), transfer_id=known, loss=chance.choice(losses), reason_code="NOT_ON_TRUCK"
            )
            await town.change("inventory", "CloseTransfer", close)
        return
    origin, receiver = chance.sample(town.shop.locations, 2)
    sent = await town.change(
        "inventory",
        "DispatchTransfer",
        inventory_pb2.DispatchTransferRequest(
            request_id=town.request_id(), from_location_id=origin, to_location_id=receiver, lines=town.lines(2)
        ),
    )
    if sent.outcome == OK:
        town.keep(town.transfers, sent.answer.transfer.transfer_id)
