"""Who works with stock in a trial: associates that receive, count, correct and transfer."""

from __future__ import annotations

import time

from onhand.simulate.history import OK
from onhand.simulate.town import Town, look
from onhand.v1 import counting_pb2, inventory_pb2, receiving_pb2, types_pb2

OTHERWISE_SHARE = 0.4
"""How many transfers arrive otherwise than they were sent: more, less, other goods, broken ones."""


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
        await _receive_transfer(town, known)
        return
    if chance.random() < 0.4:
        await _on_request(town)
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


async def _receive_transfer(town: Town, known: str) -> None:
    chance = town.chance
    request = inventory_pb2.ReceiveTransferRequest(request_id=town.request_id(), transfer_id=known)
    if chance.random() < OTHERWISE_SHARE:
        request.lines.extend(town.lines(2))
        request.damaged_lines.extend(town.lines(1))
        request.accepts_more = chance.random() < 0.8
    received = await town.change("inventory", "ReceiveTransfer", request)
    if received.outcome != OK or received.answer.transfer.state != inventory_pb2.TRANSFER_STATE_IN_TRANSIT:
        return
    left = [n for n in received.answer.transfer.lines if n.in_transit_quantity]
    if left and chance.random() < 0.5:  # a second truck, with a part of the rest
        more = inventory_pb2.ReceiveTransferRequest(request_id=town.request_id(), transfer_id=known)
        more.lines.add(sku=left[0].sku, quantity=chance.randint(1, left[0].in_transit_quantity))
        received = await town.change("inventory", "ReceiveTransfer", more)
        if received.outcome != OK or received.answer.transfer.state != inventory_pb2.TRANSFER_STATE_IN_TRANSIT:
            return
    losses = inventory_pb2.TRANSFER_LOSS_LOST, inventory_pb2.TRANSFER_LOSS_BACK_AT_SENDER
    close = inventory_pb2.CloseTransferRequest(
        request_id=town.request_id(), transfer_id=known, loss=chance.choice(losses), reason_code="NOT_ON_TRUCK"
    )
    await town.change("inventory", "CloseTransfer", close)


async def _on_request(town: Town) -> None:
    """A store asks another one; that sends all of it, a part, or declines. Two of it may answer at once."""
    chance = town.chance
    known = town.take(town.asked)
    if known is None:
        origin, receiver = chance.sample(town.shop.locations, 2)
        request = inventory_pb2.RequestTransferRequest(
            request_id=town.request_id(), from_location_id=origin, to_location_id=receiver, lines=town.lines(2)
        )
        asked = await town.change("inventory", "RequestTransfer", request)
        if asked.outcome == OK:
            town.keep(town.asked, asked.answer.transfer)
        return
    if chance.random() < 0.15:
        town.keep(town.asked, known)
    if chance.random() < 0.15:
        cancel = inventory_pb2.CancelTransferRequest(
            request_id=town.request_id(), transfer_id=known.transfer_id, reason_code="NOT_NEEDED"
        )
        await town.change("inventory", "CancelTransfer", cancel)
        return
    dispatch = inventory_pb2.DispatchRequestedTransferRequest(
        request_id=town.request_id(), transfer_id=known.transfer_id
    )
    if chance.random() < 0.4:
        line = chance.choice(known.lines)
        dispatch.lines.add(sku=line.sku, quantity=chance.randint(1, line.requested_quantity))
    sent = await town.change("inventory", "DispatchRequestedTransfer", dispatch)
    if sent.outcome == OK:
        town.keep(town.transfers, known.transfer_id)


async def announce(town: Town) -> None:
    """A supplier announces goods, and brings them in one piece or in two, with broken ones, or more than announced."""
    chance = town.chance
    known = town.take(town.notices)
    if known is None:
        request = receiving_pb2.CreateAdvanceNoticeRequest(
            request_id=town.request_id(), location_id=town.place(), supplier="Supplier", lines=town.lines(2)
        )
        request.expected_time.FromSeconds(int(time.time()) + 3600)
        request.lines[0].quantity += chance.randint(0, 5)
        made = await town.change("receiving", "CreateAdvanceNotice", request)
        if made.outcome == OK:
            town.keep(town.notices, made.answer.advance_notice.advance_notice_id)
        return
    if chance.random() < 0.2:
        await _reconsider(town, known)
        return
    brought = receiving_pb2.ReceiveAdvanceNoticeRequest(request_id=town.request_id(), advance_notice_id=known)
    if chance.random() < OTHERWISE_SHARE:
        brought.lines.extend(town.lines(1))
        brought.damaged_lines.extend(town.lines(1, quantity_max=1))
        brought.accepts_more = chance.random() < 0.8
    done = await town.change("receiving", "ReceiveAdvanceNotice", brought)
    if done.outcome != OK:
        return
    notice = done.answer.advance_notice
    await look(town, done, [notice.location_id], [line.sku for line in notice.lines])
    if notice.state == receiving_pb2.ADVANCE_NOTICE_STATE_RECEIVING:
        close = receiving_pb2.CloseAdvanceNoticeRequest(
            request_id=town.request_id(), advance_notice_id=known, reason_code="REST_NOT_COMING"
        )
        await town.change("receiving", "CloseAdvanceNotice", close)


async def _reconsider(town: Town, known: str) -> None:
    """The supplier brings something else than announced, or nothing."""
    if town.chance.random() < 0.5:
        cancel = receiving_pb2.CancelAdvanceNoticeRequest(
            request_id=town.request_id(), advance_notice_id=known, reason_code="NOT_COMING"
        )
        await town.change("receiving", "CancelAdvanceNotice", cancel)
        return
    update = receiving_pb2.UpdateAdvanceNoticeRequest(
        request_id=town.request_id(), advance_notice_id=known, lines=town.lines(2)
    )
    update.update_mask.paths.append("lines")
    updated = await town.change("receiving", "UpdateAdvanceNotice", update)
    if updated.outcome == OK:
        town.keep(town.notices, known)


async def count_open_store(town: Town) -> None:
    """A count of some skus while everybody sells: it is submitted as of a moment, and booked later."""
    chance, place = town.chance, town.place()
    skus = [line.sku for line in town.lines(2)]
    start = counting_pb2.StartCountRequest(
        request_id=town.request_id(), location_id=place, scope=counting_pb2.COUNT_SCOPE_SKUS, skus=skus
    )
    started = await town.change("counts", "StartCount", start)
    if started.outcome != OK:
        return
    counted = started.answer.count
    submit = counting_pb2.SubmitCountRequest(request_id=town.request_id(), count_id=counted.count_id)
    for sku in skus:
        position = inventory_pb2.GetStockPositionRequest(location_id=place, sku=sku)
        answer = await town.caller.read("inventory", "GetStockPosition", position)
        if answer is None:
            return
        seen = max(0, answer.position.on_hand + chance.choice((-2, -1, 0, 0, 0, 1, 2)))
        submit.lines.add(sku=sku, counted_quantity=seen)
    submitted = await town.change("counts", "SubmitCount", submit)
    await town.pause(1.0)
    if submitted.outcome != OK:
        return
    if chance.random() < 0.1:  # somebody doubts it, and counts again
        again = counting_pb2.RequestRecountRequest(request_id=town.request_id(), count_id=counted.count_id, skus=skus)
        if (await town.change("counts", "RequestRecount", again)).outcome != OK:
            return
        second = counting_pb2.SubmitCountRequest(
            request_id=town.request_id(), count_id=counted.count_id, lines=submit.lines
        )
        if (await town.change("counts", "SubmitCount", second)).outcome != OK:
            return
    approve = counting_pb2.ApproveCountRequest(
        request_id=town.request_id(), count_id=counted.count_id, skus=skus, accepts_out_of_tolerance=True
    )
    approved = await town.change("counts", "ApproveCount", approve)
    await look(town, approved, [place], skus)
    if approved.reason == "COUNT_OUTDATED":
        cancel = counting_pb2.CancelCountRequest(request_id=town.request_id(), count_id=counted.count_id)
        await town.change("counts", "CancelCount", cancel)
