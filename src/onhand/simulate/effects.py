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


def moved(rows: Sequence[MovementRow]) -> Effect:
    """What movements did."""
    effect: Effect = Counter()
    for m in rows:
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
    effect: Effect = Counter()
    for result in answer.results:
        level = result.level
        on_hand = level.available + level.allocated + level.damaged + level.quarantine
        change = on_hand - result.expected_quantity
        if change > 0:
            effect[level.location_id, level.sku, "adjustment", "available"] += change
        elif change < 0:
            effect[level.location_id, level.sku, "available", "adjustment"] -= change
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
        if (m.from_bucket, m.to_bucket) != ("allocated", "available"):
            return Counter({("", m.sku, m.from_bucket, m.to_bucket): -1})
        got[m.sku] += m.quantity
    return None if got == wanted else Counter({("", sku, "allocated", "available"): n for sku, n in wanted.items()})


def _left(request: Any, answer: Any, rows: Sequence[MovementRow]) -> Effect:
    effect: Effect = Counter()
    work = answer.fulfillment_order
    for line in work.lines:
        if n := line.quantity - line.cancelled_quantity:
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
    for line in request.lines or ():
        effect[answer.transfer.to_location_id, line.sku, "in_transit", "available"] += line.quantity
    if not request.lines:
        # All that was still on its way: of a transfer that is received once, all of it.
        for line in answer.transfer.lines:
            effect[answer.transfer.to_location_id, line.sku, "in_transit", "available"] += line.dispatched_quantity
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
}
