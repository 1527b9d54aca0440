"""What a call about an order must have done to stock: from placing it to what comes back."""

from __future__ import annotations

from collections import Counter
from typing import Any

from onhand.simulate.effects import MAKERS, Did, Effect, sold
from onhand.v1 import order_pb2

ALLOCATED = "allocated"
REJECTED_TO = {
    order_pb2.REJECT_REASON_UNSPECIFIED: "available",
    order_pb2.REJECT_REASON_NOT_FOUND: "adjustment",
    order_pb2.REJECT_REASON_DAMAGED: "damaged",
    order_pb2.REJECT_REASON_CLOSED: "available",
}
"""Where units go that are rejected, or replaced by a substitute, for a reason or without one."""
_DISPOSITIONS = {
    order_pb2.DISPOSITION_AVAILABLE: "available",
    order_pb2.DISPOSITION_DAMAGED: "damaged",
    order_pb2.DISPOSITION_QUARANTINE: "quarantine",
    order_pb2.DISPOSITION_SUPPLIER: "quarantine",
}
WRONG = "", "", "asked", "answered"
"""Counted where an answer is not what its request asked for."""


def held(work: order_pb2.FulfillmentOrder) -> dict[int, int]:
    """Units by line that a fulfillment order has to bring, or brought."""
    units = {line.line_number: line.quantity - line.cancelled_quantity - line.moved_quantity for line in work.lines}
    return {number: n for number, n in units.items() if n}


def work_of(order: order_pb2.Order, fulfillment_order_id: str) -> order_pb2.FulfillmentOrder:
    """A fulfillment order of an order."""
    return next(w for w in order.fulfillment_orders if w.fulfillment_order_id == fulfillment_order_id)


def not_there(work: order_pb2.FulfillmentOrder, *causes: str) -> Counter[int]:
    """By line: units of new work that never were there to be allocated, for one of these causes."""
    units: Counter[int] = Counter()
    for short in work.shortfalls:
        if order_pb2.ShortfallCause.Name(short.cause).removeprefix("SHORTFALL_CAUSE_") in (causes or NEVER_THERE):
            units[short.line_number] += short.quantity
    return units


NEVER_THERE = ("BACKORDER", "LOST")
"""The customer agreed to wait; or it was paid for, and possession had taken it meanwhile."""


def _skus(work: order_pb2.FulfillmentOrder) -> dict[int, str]:
    return {line.line_number: line.sku for line in work.lines}


def _placed(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    for work in answer.order.fulfillment_orders:
        waiting = not_there(work)
        for line in work.lines:
            effect[work.location_id, line.sku, "available", ALLOCATED] += line.quantity - waiting[line.line_number]
    return +effect


def freed(skus: dict[int, str], units: dict[int, int], did: Did) -> Effect:
    """Cancelled units are free again where they were there. Which location's is the server's choice: the rows say it."""
    wanted: Counter[str] = Counter()
    for number, quantity in units.items():
        wanted[skus[number]] += quantity
    for number, quantity in did.absent().items():
        wanted[skus[number]] -= quantity
    effect: Effect = Counter()
    for m in did.rows:
        if (m.from_bucket, m.to_bucket) == (ALLOCATED, "available"):
            effect[m.location_id, m.sku, ALLOCATED, "available"] += m.quantity
            wanted[m.sku] -= m.quantity
    for sku, left in wanted.items():
        if left:
            effect["", sku, ALLOCATED, "available"] += left
    return effect


def _cancelled(request: Any, answer: Any, did: Did) -> Effect:
    skus = {line.line_number: line.sku for line in answer.order.lines}
    return freed(skus, {line.line_number: line.quantity for line in request.lines}, did)


def _changed(request: Any, answer: Any, did: Did) -> Effect:
    if request.change.WhichOneof("change") == "quantities":
        skus = {line.line_number: line.sku for line in answer.order.lines}
        made = freed(skus, dict(did.fewer), did)
        for work in answer.order.fulfillment_orders:
            for line in work.lines:
                if n := did.more.get(line.line_number, 0):
                    made[work.location_id, line.sku, "available", ALLOCATED] += n
        return made
    effect: Effect = Counter()
    move = request.change.move
    old = work_of(answer.order, move.fulfillment_order_id)
    way = move.location_id or old.location_id, move.kind or old.kind
    taken_over = [w for w in answer.order.fulfillment_orders if w.from_fulfillment_order_id == old.fulfillment_order_id]
    there = [w for w in taken_over if (w.location_id, w.kind) == way and w.state not in LEFT_BEHIND]
    new = max(there, key=lambda work: work.fulfillment_order_id)  # later ones are greater
    if new.location_id == old.location_id:
        return effect  # the goods stay where they are, and promised
    absent = did.absent(old.fulfillment_order_id)
    for number, quantity in held(new).items():
        sku = _skus(new)[number]
        effect[new.location_id, sku, "available", ALLOCATED] += quantity
        effect[old.location_id, sku, ALLOCATED, "available"] += quantity - absent[number]
    return +effect


LEFT_BEHIND = (order_pb2.FULFILLMENT_STATE_MOVED, order_pb2.FULFILLMENT_STATE_CANCELLED)


def _left(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    work = answer.fulfillment_order
    for number, quantity in held(work).items():
        effect[work.location_id, _skus(work)[number], ALLOCATED, "customer"] += quantity
    if any(held(work).get(line.line_number, 0) != line.quantity for line in request.lines if line.quantity):
        effect[WRONG] += 1
    if getattr(request, "cancel_rest", False):
        absent = did.absent(answer.rest.fulfillment_order_id)
        for line in answer.rest.lines:
            n = line.cancelled_quantity - absent[line.line_number]
            effect[work.location_id, line.sku, ALLOCATED, "available"] += n
    return +effect


def _rejected(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    absent = did.absent(request.fulfillment_order_id)
    asked = {(line.reason, line.line_number): line.quantity for line in request.lines}
    for part in answer.rejected:
        for number, quantity in held(part).items():
            if asked.pop((part.reject_reason, number), -1) not in (0, quantity):
                effect[WRONG] += 1
            if there := quantity - absent[number]:
                effect[part.location_id, _skus(part)[number], ALLOCATED, REJECTED_TO[part.reject_reason]] += there
    effect[WRONG] += len(asked)
    return +effect


def _decided(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    if request.decision != order_pb2.SHORTFALL_DECISION_RESOURCE:
        return effect
    brought = Counter[int]()
    for work in (answer.fulfillment_order, *answer.further_fulfillment_orders):
        for number, quantity in held(work).items():
            effect[work.location_id, _skus(work)[number], "available", ALLOCATED] += quantity
            brought[number] += quantity
        if request.location_id and work.location_id != request.location_id:
            effect[WRONG] += 1
    # As many as stopped being short.
    effect[WRONG] += sum(quantity != did.absent()[number] for number, quantity in brought.items())
    return +effect


def _substituted(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    work = work_of(answer.order, request.fulfillment_order_id)
    there = request.quantity - did.absent(request.fulfillment_order_id)[request.line_number]
    effect[work.location_id, _skus(work)[request.line_number], ALLOCATED, REJECTED_TO[request.reason]] += there
    effect[work.location_id, request.sku, "available", ALLOCATED] += request.substitute_quantity
    return +effect


def _not_fetched(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    work = answer.fulfillment_order
    if held(work):
        effect[WRONG] += 1
    for line in work.lines:
        effect[work.location_id, line.sku, ALLOCATED, "quarantine"] += line.aside_quantity
    return +effect


def _put_away(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    work = answer.fulfillment_order
    for line in request.lines:
        sku = _skus(work)[line.line_number]
        effect[work.location_id, sku, "quarantine", "available"] += line.available_quantity
        effect[work.location_id, sku, "quarantine", "damaged"] += line.damaged_quantity
    return +effect


def _returned(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    for line in answer.returned.lines:
        bucket = _DISPOSITIONS[line.disposition]
        effect[answer.returned.location_id, line.sku, "customer", bucket] += line.quantity
    return effect


def _exchanged(request: Any, answer: Any, did: Did) -> Effect:
    sale = order_pb2.SellRequest(location_id=request.location_id, lines=request.sold)
    return _returned(request, answer.exchange, did) + sold(sale, answer.exchange, did)


def _filled(request: Any, answer: Any, did: Did) -> Effect:
    # Its own movements follow others: those who waited. As many as stopped waiting, at the same place.
    effect: Effect = Counter()
    left: Counter[tuple[str, str]] = Counter()
    for m in did.rows:
        left[m.location_id, m.sku] += m.quantity
    for end in did.ends:
        left[end.location_id, end.sku] -= end.quantity if end.reason == "COVERED" else 0
    if not did.rows:
        effect[WRONG] += 1
    for (place, sku), n in left.items():
        if n:
            effect[place, sku, "waiting", "filled"] += 1
    return effect


MAKERS |= {
    "PlaceOrder": _placed,
    "CancelOrderLines": _cancelled,
    "ApplyOrderChange": _changed,
    "HandOverFulfillmentOrder": _left,
    "ShipFulfillmentOrder": _left,
    "RejectFulfillmentOrder": _rejected,
    "DecideShortfall": _decided,
    "SubstituteLine": _substituted,
    "MarkNoShow": _not_fetched,
    "PutAwayFulfillmentOrder": _put_away,
    "CreateReturn": _returned,
    "ReturnUndelivered": _returned,
    "ReceiveReturn": _returned,
    "CreateBlindReturn": _returned,
    "CreateExchange": _exchanged,
    "FillBackorders": _filled,
}
