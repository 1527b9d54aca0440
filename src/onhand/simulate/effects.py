"""What a call must have done to stock, by its request and its answer alone: compared with what the ledger says it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from onhand.simulate.facts import EndRow, MovementRow
from onhand.v1 import inventory_pb2

Effect = Counter[tuple[str, str, str, str]]
"""Units by (location_id, sku, from_bucket, to_bucket)."""

_BUCKETS = {
    inventory_pb2.BUCKET_UNSPECIFIED: "available",
    inventory_pb2.BUCKET_AVAILABLE: "available",
    inventory_pb2.BUCKET_DAMAGED: "damaged",
    inventory_pb2.BUCKET_QUARANTINE: "quarantine",
}


OPENED, FOUND, COVERED = "SHORTFALL_OPENED", "SHORTFALL_FOUND", "SHORTFALL_COVERED"
"""Reasons of movements that follow others: an order's units were found gone, found all the same, or taken from what came in."""
FILLED = "BACKORDER_FILLED"
"""As COVERED, by a server itself: units that became free for those who wait."""
_REJECTING = ("RejectFulfillmentOrder", "SubstituteLine")
_FOLLOWING = {
    OPENED: (("allocated", "adjustment"), ("Sell", "CreateExchange", "CountStock", "ApproveCount", *_REJECTING)),
    FOUND: (
        ("adjustment", "allocated"),
        (
            "PickFulfillmentOrder",
            "MarkReadyForPickup",
            "HandOverFulfillmentOrder",
            "ShipFulfillmentOrder",
            *_REJECTING,  # damaged: it was there
        ),
    ),
    COVERED: (("available", "allocated"), ()),
    FILLED: (("available", "allocated"), ("FillBackorders",)),
}


class Did(NamedTuple):
    """What the ledger says that a call did: its movements, the shortfalls that it ended, and what it did to lines of its order.

    Only the calls before it say how many: `fewer` and `more` are units of the order's lines that a change cancelled and added,
    `came` what arrived of a transfer by sku, and how much of that was not known to be on its way.
    """

    rows: Sequence[MovementRow]
    ends: Sequence[EndRow] = ()
    fewer: Mapping[int, int] = MappingProxyType({})
    more: Mapping[int, int] = MappingProxyType({})
    came: Mapping[str, tuple[int, int]] = MappingProxyType({})

    def absent(self, fulfillment_order_id: str = "") -> Counter[int]:
        """By line: units that went and were not there to go, of one fulfillment order or of all."""
        missing: Counter[int] = Counter()
        for end in self.ends:
            if end.reason in GONE and fulfillment_order_id in ("", end.fulfillment_order_id):
                missing[end.line_number] += end.quantity
        return missing


GONE = ("CANCELLED", "REJECTED", "RESOURCED")
"""How units stop being short that nobody has: no movement follows."""


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
        if m.reason == OPENED and kind in ("Sell", "CreateExchange") and gained < m.quantity:
            return f"a sale broke {m.quantity} promises of orders, and found {gained} units"
    return ""


def moved(rows: Sequence[MovementRow]) -> Effect:
    """What movements did by themselves: those that follow others are left out."""
    effect: Effect = Counter()
    for m in rows:
        if m.reason not in _FOLLOWING:
            effect[m.location_id, m.sku, m.from_bucket, m.to_bucket] += m.quantity
    return effect


Maker = Callable[[Any, Any, Did], Effect]


def expected(kind: str, request: Any, answer: Any, did: Did) -> Effect:
    """What the call must have moved.

    What the ledger `found` at a sale follows from the levels before, which only the ledger knows: its rows say so, and whether
    that is right is checked by replaying the movements. What was short, and so not there to move, its ends of shortfalls say.
    """
    make = MAKERS.get(kind)
    return Counter() if make is None else make(request, answer, did)


def _received(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    for line in request.lines:
        effect[request.location_id, line.sku, "supplier", "available"] += line.quantity
    return effect


def _adjusted(request: Any, answer: Any, did: Did) -> Effect:
    bucket = _BUCKETS[request.bucket]
    way = ("adjustment", bucket) if request.quantity > 0 else (bucket, "adjustment")
    return Counter({(request.location_id, request.sku, *way): abs(request.quantity)})


def _moved_stock(request: Any, answer: Any, did: Did) -> Effect:
    way = _BUCKETS[request.from_bucket], _BUCKETS[request.to_bucket]
    return Counter({(request.location_id, request.sku, *way): request.quantity})


def _counted(request: Any, answer: Any, did: Did) -> Effect:
    # Where missing units are taken from is the server's choice; a count always ends with what was counted.
    effect: Effect = Counter()
    for result in answer.results:
        level, variance = result.level, result.variance_quantity
        mine = [m for m in did.rows if (m.location_id, m.sku) == (level.location_id, level.sku)]
        if variance > 0:
            effect[level.location_id, level.sku, "adjustment", "available"] += variance
        left = -variance - sum(m.quantity for m in mine if m.reason == OPENED)
        for m in mine:
            if m.to_bucket == "adjustment" and m.reason == "COUNT" and left > 0:
                effect[level.location_id, level.sku, m.from_bucket, "adjustment"] += min(left, m.quantity)
                left -= m.quantity
        taken = sum(m.quantity for m in mine if m.to_bucket == "adjustment")
        on_hand = level.available + level.allocated + level.damaged + level.quarantine
        if on_hand != result.expected_quantity + variance or taken != max(0, -variance):
            effect[level.location_id, level.sku, "counted", "otherwise"] += 1
    return effect


def sold(request: Any, answer: Any, did: Did) -> Effect:
    """Goods that left in a hand."""
    effect: Effect = Counter()
    for line in request.lines:
        effect[request.location_id, line.sku, "available", "customer"] += line.quantity
    for m in did.rows:
        if m.from_bucket == "adjustment" and m.to_bucket == "available" and m.reason == "FOUND_AT_SALE":
            effect[m.location_id, m.sku, "adjustment", "available"] += m.quantity
    return effect


def _dispatched(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    for line in request.lines:
        effect[request.from_location_id, line.sku, "available", "in_transit"] += line.quantity
    return effect


def _arrived(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    place = answer.transfer.to_location_id
    for line in request.lines:
        effect[place, line.sku, "in_transit", "available"] += line.quantity
    for line in request.damaged_lines:
        effect[place, line.sku, "in_transit", "damaged"] += line.quantity
    for sku, (received, unknown) in did.came.items():
        if not request.lines and not request.damaged_lines:  # all that was on its way
            effect[place, sku, "in_transit", "available"] += received
        effect[place, sku, "adjustment", "in_transit"] += unknown
    return +effect


def _closed(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    transfer = answer.transfer
    for line in transfer.lines:
        if line.lost_quantity:
            effect[transfer.to_location_id, line.sku, "in_transit", "adjustment"] += line.lost_quantity
        if line.returned_quantity:
            effect[transfer.from_location_id, line.sku, "in_transit", "available"] += line.returned_quantity
    return effect


def _notice_received(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    place = answer.advance_notice.location_id
    for line in request.lines:
        effect[place, line.sku, "supplier", "available"] += line.quantity
    for line in request.damaged_lines:
        effect[place, line.sku, "supplier", "damaged"] += line.quantity
    if not request.lines and not request.damaged_lines:  # all of it, at once
        for line in answer.advance_notice.lines:
            effect[place, line.sku, "supplier", "available"] += line.received_quantity
    return effect


def _requested_sent(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    for line in answer.transfer.lines:
        if line.dispatched_quantity:
            effect[answer.transfer.from_location_id, line.sku, "available", "in_transit"] += line.dispatched_quantity
    return effect


def _to_supplier(request: Any, answer: Any, did: Did) -> Effect:
    effect: Effect = Counter()
    for line in request.lines:
        effect[request.location_id, line.sku, "quarantine", "supplier"] += line.quantity
    return effect


MAKERS: dict[str, Maker] = {
    "ReceiveStock": _received,
    "AdjustStock": _adjusted,
    "MoveStock": _moved_stock,
    "CountStock": _counted,
    "ApproveCount": _counted,
    "DispatchTransfer": _dispatched,
    "DispatchRequestedTransfer": _requested_sent,
    "ReceiveTransfer": _arrived,
    "CloseTransfer": _closed,
    "ReceiveAdvanceNotice": _notice_received,
    "ReturnToSupplier": _to_supplier,
    "Sell": sold,
}
"""By kind; those of orders are in onhand.simulate.order_effects."""
