"""Whether refusals were justified at some moment of the call. Those for stock are reads of ATP, and judged so (`positions`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onhand.simulate.facts import CLOCK_SLACK_SECONDS, OTHER, Findings, Ledger, as_told
from onhand.simulate.history import REFUSED, UNKNOWN, Record
from onhand.simulate.once import Call, Index

EVIDENCE_CALLS_MAX = 8


def check_refusals(records: Sequence[Record], found: Index, ledger: Ledger, findings: Findings) -> None:
    """Every refusal of the history."""
    about = _about(found)
    levels = _Levels(ledger)
    judges: Mapping[str, Callable[[Record], bool]] = {
        # Its value is judged with the reads; here: that it was too little.
        "INSUFFICIENT_STOCK": _is_short,
        "RESERVATION_NOT_ACTIVE": lambda record: _was_closed(record, found),
        "RESERVATION_SHORT": lambda record: _any_low(record, levels, _needed(record, found, ledger)),
        "BUCKET_SHORT": lambda record: _any_low(record, levels, _bucket_taken(record)),
        # An order's work goes one way: somebody else did it, cancelled it, or an earlier attempt of another call did.
        "ILLEGAL_TRANSITION": lambda record: _others_began(record, about),
        "CANCEL_EXCEEDED": lambda record: _others_began(record, about) or _asks_too_much(record, found),
        "RETURN_EXCEEDED": lambda record: _others_began(record, about) or _asks_too_much(record, found),
        "TRANSFER_EXCEEDED": lambda record: _others_began(record, about),
    }
    for record in records:
        if record.outcome != REFUSED:
            continue
        findings.checked("refusals")
        judge = judges.get(record.reason)
        if judge is None or not judge(record):
            others = [c.attempts[0].told() for c in about.get(_subject(record), [])[:EVIDENCE_CALLS_MAX]]
            rows = [as_told(c) for c in found.claims_of.get(getattr(record.request, "reservation_id", ""), ())]
            what = f"{record.kind} was refused with {record.reason} ({record.detail}), and nothing justifies it"
            findings.add(OTHER, what, record.told(), *others, *rows)


def _is_short(record: Record) -> bool:
    shorts = record.detail.get("shorts", ())
    figures = [(int(words[0]), int(words[2])) for _, text in shorts if (words := text.split())]
    return bool(figures) and all(available < requested for requested, available in figures)


def _was_closed(record: Record, found: Index) -> bool:
    """Some claim of it was closed, or past its deadline, before the call ended."""
    return any(
        (claim.state != "active" and claim.commit - CLOCK_SLACK_SECONDS <= record.end)
        or claim.deadline - CLOCK_SLACK_SECONDS <= record.end
        for claim in found.claims_of.get(record.request.reservation_id, ())
    )


class _Levels:
    """What buckets held over time, by their movements."""

    def __init__(self, ledger: Ledger) -> None:
        self._steps: dict[tuple[str, str, str], list[tuple[float, int]]] = defaultdict(list)
        held: dict[tuple[str, str, str], int] = defaultdict(int)
        for m in sorted(ledger.movements, key=lambda m: (m.location_id, m.sku, m.movement_id)):
            for bucket, change in ((m.from_bucket, -m.quantity), (m.to_bucket, m.quantity)):
                key = m.location_id, m.sku, bucket
                held[key] += change
                self._steps[key].append((m.commit, held[key]))

    def least(self, key: tuple[str, str, str], begin: float, end: float) -> int:
        """The least that a bucket held between two moments."""
        before, least = 0, None
        for commit, held in self._steps.get(key, ()):
            if commit + CLOCK_SLACK_SECONDS < begin:
                before = held
            elif commit - CLOCK_SLACK_SECONDS <= end:
                least = held if least is None else min(least, held)
        return before if least is None else min(before, least)


def _any_low(record: Record, levels: _Levels, wanted: Mapping[tuple[str, str, str], int]) -> bool:
    return any(levels.least(key, record.begin, record.end) < units for key, units in wanted.items())


def _needed(record: Record, found: Index, ledger: Ledger) -> dict[tuple[str, str, str], int]:
    """What had to be available: its own units, and those of older reservations of the same, which come first."""
    needed: dict[tuple[str, str, str], int] = {}
    for claim in found.claims_of.get(record.request.reservation_id, ()):
        for sku, quantity in claim.lines:
            older = sum(
                dict(other.lines).get(sku, 0)
                for other in ledger.claims
                if other.location_id == claim.location_id
                and other.reservation_id not in ("", claim.reservation_id)
                and other.created <= claim.created
                and (other.state == "active" or other.commit + CLOCK_SLACK_SECONDS >= record.begin)
            )
            needed[claim.location_id, sku, "available"] = quantity + older
    return needed


def _bucket_taken(record: Record) -> dict[tuple[str, str, str], int]:
    request = record.request
    if record.kind == "MoveStock":
        bucket = {1: "available", 3: "damaged", 4: "quarantine"}[request.from_bucket]
        return {(request.location_id, request.sku, bucket): request.quantity}
    if record.kind == "AdjustStock":
        bucket = {0: "available", 1: "available", 3: "damaged", 4: "quarantine"}[request.bucket]
        return {(request.location_id, request.sku, bucket): -request.quantity}
    if record.kind == "DispatchTransfer":
        return {(request.from_location_id, line.sku, "available"): line.quantity for line in request.lines}
    return {}


def _subject(record: Record) -> str:
    """The order, work or transfer that a call is about."""
    request = record.request
    for name in ("fulfillment_order_id", "transfer_id", "order_id"):
        value: str = getattr(request, name, "")
        if value:
            return value
    return ""


def _about(found: Index) -> dict[str, list[Call]]:
    """Calls that may have had their effect on an order, by what they name: also by each work of the order."""
    work_of: dict[str, list[str]] = defaultdict(list)
    for call in found.calls.values():
        if call.kind == "PlaceOrder" and call.answer is not None:
            order = call.answer.order
            work_of[order.order_id] = [work.fulfillment_order_id for work in order.fulfillment_orders]
    order_of = {work: order for order, works in work_of.items() for work in works}
    about: dict[str, list[Call]] = defaultdict(list)
    for call in found.calls.values():
        if call.row is None and not any(r.outcome == UNKNOWN for r in call.attempts):
            continue
        subject = _subject(call.attempts[0])
        for name in {subject, order_of.get(subject, subject), *work_of.get(subject, ())} - {""}:
            about[name].append(call)
    return about


def _others_began(record: Record, about: Mapping[str, Sequence[Call]]) -> bool:
    """Whether another call on the same thing had its effect by the end of this one."""
    return any(
        call.request_id != record.request_id
        and call.row is not None
        and call.row.commit - CLOCK_SLACK_SECONDS <= record.end
        for call in about.get(_subject(record), ())
    )


def _asks_too_much(record: Record, found: Index) -> bool:
    """Whether a call asks for more than the order ever had of the line."""
    bought: dict[int, int] = {}
    for call in found.calls.values():
        if call.kind in ("PlaceOrder", "Sell") and call.answer is not None:
            order: Any = call.answer.order
            if order.order_id == record.request.order_id:
                bought = {line.line_number: line.quantity for line in order.lines}
    return any(line.quantity > bought.get(line.line_number, 0) for line in record.request.lines)
