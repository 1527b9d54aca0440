"""What a call must have done to stock, by its request and its answer alone: compared with what the ledger says it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from onhand.simulate.facts import MovementRow
from onhand.v1 import inventory_pb2, order_pb2

Effect = Counter[tuple[str, str, str, str]]
"""Units by (location_id, sku, from_bucket, to_bucket)."""

_BUCKETS = {
    inventory_pb2.BUCKET_UNSPECIFIED: "available",
    inventory_pb2.BUCKET_AVAILABLE: "available",
    inventory_pb2.BUCKET_DAMAGED: "damaged",
    inventory_pb2.BUCKET_QUARANTINE: "quarantine",
}
_DISPOSITIONS = {
    order_pb2.DISPOSITION_AVAILABLE: "available",
    order_pb2.DISPOSITION_DAMAGED: "damaged",
    order_pb2.DISPOSITION_QUARANTINE: "quarantine",
}


OPENED, FOUND, COVERED = "SHORTFALL_OPENED", "SHORTFALL_FOUND", "SHORTFALL_COVERED"
"""Reasons of movements that follow others: an order's units were found gone, found all the same, or taken from what came in."""
_FOLLOWING = {
    OPENED: (("allocated", "adjustment"), ("Sell", "CountStock")),
    FOUND: (
        ("adjustment", "allocated"),
        ("PickFulfillmentOrder", "MarkReadyForPickup", "HandOverFulfillmentOrder", "ShipFulfillmentOrder"),
    ),
    COVERED: (("available", "allocated"), ()),
}


def following(kind: str, rows: Sequence[MovementRow]) -> str:
    """What is wrong with the movements about shortfalls: empty where nothing is. Whose they are, `verify` knows."""
    came_in = moved(rows)
    for m in rows:
        if m.reason not in _FOLLOWING:
            continue
        way, kinds = _FOLLOWING[m.reason]
        if (m.from_bucket, m.to_bucket) != way or (kinds and kind not in kinds):
            return f"{m.reason} by {kind} went from {m.from_bucket} to {m.to_bucket}"
        place = m.location_id, m.sku
        gained = sum(n for (*at, _, to), n in came_in.items() if tuple(at) == place and to == "available")
        if m.reason == COVERED and gained < m.quantity:
            return f"{m.quantity} covered a shortfall, {gained} came in"
        if m.reason == OPENED and kind == "Sell" and gained < m.quantity:
            return f"a sale broke {m.quantity} promises of orders, and found {gained} units"
    return ""


def moved(rows: Sequence[MovementRow]) -> Effect:
    """What movements did by themselves: those that follow others are left out."""
    effect: Effect = Counter()
    for m in rows:
        if m.reason not in _FOLLOWING:
            effect[m.location_id, m.sku, m.from_bucket, m.to_bucket] += m.quantity
    return effect


def expected(kind: str, request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect | None:
    """What the call must have moved; None where the rows alone decide (see `_free`).

    `rows` are its movements: what the ledger `found` at a sale follows from the levels before, which only the ledger knows;
    whether it is right is checked by replaying the movements.
    """
    make = _MAKERS.get(kind)
    return Counter() if make is None else make(request, answer, rows)


def _received(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    for line in request.lines:
        effect[request.location_id, line.sku, "supplier", "available"] += line.quantity
    return effect


def _adjusted(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    bucket = _BUCKETS[request.bucket]
    way = ("adjustment", bucket) if request.quantity > 0 else (bucket, "adjustment")
    return Counter({(request.location_id, request.sku, *way): abs(request.quantity)})


def _moved_stock(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    way = _BUCKETS[request.from_bucket], _BUCKETS[request.to_bucket]
    return Counter({(request.location_id, request.sku, *way): request.quantity})


def _counted(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    # Where missing units are taken from is the server's choice; a count always ends with what was counted.
    effect: Effect = Counter()
    for result in answer.results:
        level, variance = result.level, result.variance_quantity
        mine = [m for m in rows if (m.location_id, m.sku) == (level.location_id, level.sku)]
        if variance > 0:
            effect[level.location_id, level.sku, "adjustment", "available"] += variance
        for m in mine:
            if variance < 0 and m.to_bucket == "adjustment" and m.reason == "COUNT":
                effect[level.location_id, level.sku, m.from_bucket, "adjustment"] += m.quantity
        taken = sum(m.quantity for m in mine if m.to_bucket == "adjustment")
        on_hand = level.available + level.allocated + level.damaged + level.quarantine
        if on_hand != result.expected_quantity + variance or taken != max(0, -variance):
            effect[level.location_id, level.sku, "counted", "otherwise"] += 1
    return effect


def _sold(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    for line in request.lines:
        effect[request.location_id, line.sku, "available", "customer"] += line.quantity
    for m in rows:
        if m.from_bucket == "adjustment" and m.to_bucket == "available" and m.reason == "FOUND_AT_SALE":
            effect[m.location_id, m.sku, "adjustment", "available"] += m.quantity
    return effect


def _placed(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    for work in answer.order.fulfillment_orders:
        for line in work.lines:
            effect[work.location_id, line.sku, "available", "allocated"] += line.quantity
    return effect


def _cancelled(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect | None:
    # Which location's part is cancelled first is the server's choice: the rows say where, the request how many.
    skus = {line.line_number: line.sku for line in answer.order.lines}
    wanted: Counter[str] = Counter()
    for line in request.lines:
        wanted[skus[line.line_number]] += line.quantity
    got: Counter[str] = Counter()
    for m in rows:
        if m.reason not in _FOLLOWING:
            got[m.sku] += m.quantity
            if (m.from_bucket, m.to_bucket) != ("allocated", "available"):
                return Counter({("", m.sku, m.from_bucket, m.to_bucket): -1})
    # Units that were found gone cannot be freed: `absent` says how many, and is summed up at the end.
    if all(got[sku] <= wanted[sku] for sku in got | wanted):
        return None
    return Counter({("", sku, "allocated", "available"): n for sku, n in wanted.items()})


def absent(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Counter[str]:
    """By sku: units of a cancellation that were not there to be freed."""
    skus = {line.line_number: line.sku for line in answer.order.lines}
    missing: Counter[str] = Counter()
    for line in request.lines:
        missing[skus[line.line_number]] += line.quantity
    for m in rows:
        if m.reason not in _FOLLOWING:
            missing[m.sku] -= m.quantity
    return +missing


def _left(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    work = answer.fulfillment_order
    for line in work.lines:
        if n := line.quantity - line.cancelled_quantity - line.moved_quantity:
            effect[work.location_id, line.sku, "allocated", "customer"] += n
    return effect


def _returned(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    for line in answer.returned.lines:
        bucket = _DISPOSITIONS[line.disposition]
        effect[answer.returned.location_id, line.sku, "customer", bucket] += line.quantity
    return effect


def _dispatched(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    for line in request.lines:
        effect[request.from_location_id, line.sku, "available", "in_transit"] += line.quantity
    return effect


def _arrived(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    place = answer.transfer.to_location_id
    for line in request.lines:
        effect[place, line.sku, "in_transit", "available"] += line.quantity
    for line in request.damaged_lines:
        effect[place, line.sku, "in_transit", "damaged"] += line.quantity
    # A transfer is received once: all that was on its way, and what was found there, is of this call.
    for line in answer.transfer.lines:
        if not request.lines:
            effect[place, line.sku, "in_transit", "available"] += line.dispatched_quantity
        if line.over_quantity:
            effect[place, line.sku, "adjustment", "in_transit"] += line.over_quantity
    return effect


def _closed(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    transfer = answer.transfer
    for line in transfer.lines:
        if line.lost_quantity:
            effect[transfer.to_location_id, line.sku, "in_transit", "adjustment"] += line.lost_quantity
        if line.returned_quantity:
            effect[transfer.from_location_id, line.sku, "in_transit", "available"] += line.returned_quantity
    return effect


_MAKERS = {
    "ReceiveStock": _received,
    "AdjustStock": _adjusted,
    "MoveStock": _moved_stock,
    "CountStock": _counted,
    "Sell": _sold,
    "PlaceOrder": _placed,
    "CancelOrderLines": _cancelled,
    "HandOverFulfillmentOrder": _left,
    "ShipFulfillmentOrder": _left,
    "CreateReturn": _returned,
    "DispatchTransfer": _dispatched,
    "ReceiveTransfer": _arrived,
    "CloseTransfer": _closed,
}
