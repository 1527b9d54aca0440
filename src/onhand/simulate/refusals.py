"""Whether refusals were justified at some moment of the call. Those for stock are reads of ATP, and judged so (`positions`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onhand.simulate.amounts import minor_of
from onhand.simulate.facts import CLOCK_SLACK_SECONDS, OTHER, Findings, Ledger, MovementRow, as_told
from onhand.simulate.history import REFUSED, UNKNOWN, Record
from onhand.simulate.once import Call, Index
from onhand.v1 import order_pb2

EVIDENCE_CALLS_MAX = 8
BLIND_RETURNS_OF_A_DAY = 2
"""What a customer may bring without a proof in a day, by the policy that trials go by: onhand's own."""
REJECTED = (
    order_pb2.SHORTFALL_CAUSE_NOT_FOUND,
    order_pb2.SHORTFALL_CAUSE_DAMAGED,
    order_pb2.SHORTFALL_CAUSE_CLOSED,
)
"""Causes that no stock at that location ends."""


def check_refusals(records: Sequence[Record], found: Index, ledger: Ledger, findings: Findings) -> None:
    """Every refusal of the history."""
    about = _about(found)
    levels = _Levels(ledger)
    judges: Mapping[str, Callable[[Record], bool]] = {
        # Its value is judged with the reads; here: that it was too little.
        "INSUFFICIENT_STOCK": _is_short,
        "RESERVATION_NOT_ACTIVE": lambda record: _was_closed(record, found),
        "RESERVATION_SHORT": lambda record: _any_low(record, levels, _needed(record, found, ledger)),
        "BUCKET_SHORT": lambda record: _any_low(record, levels, _bucket_taken(record, found)),
        # An order's work goes one way: somebody else did it, cancelled it, or an earlier attempt of another call did.
        "ILLEGAL_TRANSITION": lambda record: _others_began(record, about),
        "CANCEL_EXCEEDED": lambda record: _others_began(record, about) or _asks_too_much(record, found),
        "RETURN_EXCEEDED": lambda record: _others_began(record, about) or _asks_too_much(record, found),
        "TRANSFER_EXCEEDED": lambda record: _others_began(record, about) or _is_not_coming(record, found),
        "ILLEGAL_STEP": lambda record: _others_began(record, about),
        "ILLEGAL_RETURN_STEP": lambda record: _others_began(record, about),
        "ADVANCE_NOTICE_EXCEEDED": lambda record: _others_began(record, about) or _is_not_coming(record, found),
        "RETURN_AUTHORIZATION_EXCEEDED": lambda record: _others_began(record, about),
        # Somebody split the work, or took units of it, since its associate looked at it.
        "FULFILLMENT_LINE_EXCEEDED": lambda record: _others_began(record, about),
        "LINE_NOT_TO_RAISE": lambda record: _others_began(record, about),
        "CHANGE_EMPTY": lambda record: _others_began(record, about) or _stays(record, found),
        "CHANGE_OUTDATED": lambda record: _others_began(record, about),
        "SHORTFALL_NOT_TO_DECIDE": lambda record: _others_began(record, about) or _came_in(record, found),
        "SHORTFALL_NOT_TO_WAIT_FOR": lambda record: (
            found.directory.shorts[record.request.shortfall_id].cause in REJECTED
        ),
        # What the servers' own policy chooses from is not judged: that it was they who were to choose is.
        "RESOURCING_NOT_OFFERED": lambda record: not record.request.location_id,
        "NOT_SOURCED": _is_left,
        "LOCATION_EXCLUDED": lambda record: _rejected_there(record, found),
        "BLIND_RETURN_LIMIT": lambda record: _came_too_often(record, found),
        "PARCEL_NOT_FOUND": lambda record: _others_began(record, about),
        "PARCEL_NOT_NAMED": lambda record: _others_began(record, about),
        "COUNT_OUTDATED": lambda record: _was_corrected(record, found, ledger),
        "EXCHANGE_NOT_CAPTURED": lambda record: _waits_for_gateway(record, ledger),
        "PAYMENT_DECLINED": lambda record: any(t.payment_method == "pm_declined" for t in record.request.tenders),
        # Another attempt of the same order is at it.
        "CHECKOUT_UNDER_WAY": lambda record: any(t.payment_method for t in record.request.tenders),
        "GIFT_CARD_SHORT": lambda record: _was_spent(record, found),
    }
    for record in records:
        if record.outcome != REFUSED:
            continue
        findings.checked("refusals")
        judge = judges.get(record.reason)
        if judge is None or not judge(record):
            others = [told for c in about.get(_subject(record.request), [])[:EVIDENCE_CALLS_MAX] for told in c.told()]
            rows = [as_told(c) for c in found.claims_of.get(getattr(record.request, "reservation_id", ""), ())]
            what = f"{record.kind} was refused with {record.reason} ({record.detail}), and nothing justifies it"
            findings.add(OTHER, what, record.told(), *others, *rows)


def _is_short(record: Record) -> bool:
    shorts = record.detail.get("shorts", ())
    figures = [(int(words[0]), int(words[2])) for _, text in shorts if (words := text.split())]
    return bool(figures) and all(available < requested for requested, available in figures)


def _is_left(record: Record) -> bool:
    """Whether what nobody brings is of what was asked for. That the policy's locations had no more of it is not judged."""
    asked = defaultdict[str, int](int)
    for line in record.request.lines:
        asked[line.sku] += line.quantity
    left = {sku: int(text.split()[0]) for sku, text in record.detail.get("shorts", ())}
    return bool(left) and all(0 < units <= asked[sku] for sku, units in left.items())


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


def _bucket_taken(record: Record, found: Index) -> dict[tuple[str, str, str], int]:
    request = record.request
    if record.kind == "MoveStock":
        bucket = {1: "available", 3: "damaged", 4: "quarantine"}[request.from_bucket]
        return {(request.location_id, request.sku, bucket): request.quantity}
    if record.kind == "AdjustStock":
        bucket = {0: "available", 1: "available", 3: "damaged", 4: "quarantine"}[request.bucket]
        return {(request.location_id, request.sku, bucket): -request.quantity}
    if record.kind == "DispatchTransfer":
        return {(request.from_location_id, line.sku, "available"): line.quantity for line in request.lines}
    if record.kind == "ReturnToSupplier":
        return {(request.location_id, line.sku, "quarantine"): line.quantity for line in request.lines}
    wanted = found.directory.wanted(record.kind, request)
    return {(place, sku, "available"): units for (place, sku), units in wanted.items()}


def _subject(request: Any) -> str:
    """The order, work or transfer that a call is about."""
    for name in (
        "fulfillment_order_id",
        "transfer_id",
        "order_id",
        "return_authorization_id",
        "advance_notice_id",
        "count_id",
        "shortfall_id",
    ):
        value: str = getattr(request, name, "")
        if value:
            return value
    return ""


def _about(found: Index) -> dict[str, list[Call]]:
    """Calls that may have had their effect on an order, by what they name: also by each work of the order."""
    order_of = dict(found.directory.orders)
    work_of: dict[str, list[str]] = defaultdict(list)
    for thing, order_id in order_of.items():
        work_of[order_id].append(thing)
    about: dict[str, list[Call]] = defaultdict(list)
    for call in found.calls.values():
        if call.row is None and not any(r.outcome == UNKNOWN for r in call.attempts):
            continue
        subject = _subject(call.request)
        order_id = order_of.get(subject, subject)
        for name in {subject, order_id, *work_of.get(order_id, ())} - {""}:
            about[name].append(call)
    return about


def _others_began(record: Record, about: Mapping[str, Sequence[Call]]) -> bool:
    """Whether another call on the same thing had its effect by the end of this one."""
    return any(
        call.request_id != record.request_id
        and call.row is not None
        and call.row.commit - CLOCK_SLACK_SECONDS <= record.end
        for call in about.get(_subject(record.request), ())
    )


def _came_too_often(record: Record, found: Index) -> bool:
    """Whether its customer had brought as much without a proof by then as a day allows, and no manager let more pass."""
    before = sum(
        call.kind == "CreateBlindReturn"
        and call.row is not None
        and call.request.customer_id == record.request.customer_id
        and call.row.commit - CLOCK_SLACK_SECONDS <= record.end
        for call in found.calls.values()
    )
    return not record.request.override.manager and before >= BLIND_RETURNS_OF_A_DAY


def _came_in(record: Record, found: Index) -> bool:
    """Whether units that are short stopped being so by then: what came in covers them, whoever brought it."""
    short = found.directory.shorts[record.request.shortfall_id]
    return any(
        end.sku == short.sku and call.row is not None and call.row.commit - CLOCK_SLACK_SECONDS <= record.end
        for call in found.calls.values()
        for end in call.ends
    )


def _is_not_coming(record: Record, found: Index) -> bool:
    """Whether more came of something than was ever sent or announced, and nobody said that it was seen."""
    request, units = record.request, defaultdict[str, int](int)
    for line in (*request.lines, *request.damaged_lines):
        units[line.sku] += line.quantity
    coming = found.directory.coming
    return not request.accepts_more and any(n > coming.get((_subject(request), sku), 0) for sku, n in units.items())


def _stays(record: Record, found: Index) -> bool:
    """Whether work is to go where it is."""
    move = record.request.change.move
    return move.location_id in ("", found.directory.places.get(move.fulfillment_order_id))


def _rejected_there(record: Record, found: Index) -> bool:
    """Whether the location that is asked had rejected units of the order by then, or is the one that lacks them."""
    request, directory = record.request, found.directory
    if record.kind == "DecideShortfall":
        place, order_id = request.location_id, directory.orders.get(request.shortfall_id, "")
        if directory.shorts[request.shortfall_id].location_id == place:
            return True
    else:
        place, order_id = request.change.move.location_id, request.order_id
    return any(
        call.kind == "RejectFulfillmentOrder"
        and call.row is not None
        and call.row.commit - CLOCK_SLACK_SECONDS <= record.end
        and directory.orders.get(call.request.fulfillment_order_id) == order_id
        and place in ("", directory.places.get(call.request.fulfillment_order_id))
        for call in found.calls.values()
    )


def _was_corrected(record: Record, found: Index, ledger: Ledger) -> bool:
    """Whether somebody corrected, or looked for, what was counted: nobody can tell what a person's correction was."""
    place = found.directory.counts.get(record.request.count_id, "")
    return any(
        m.location_id == place and m.commit - CLOCK_SLACK_SECONDS <= record.end and not _are_goods(m)
        for m in ledger.movements
    )


def _are_goods(m: MovementRow) -> bool:
    return "adjustment" not in (m.from_bucket, m.to_bucket)


def _waits_for_gateway(record: Record, ledger: Ledger) -> bool:
    """Whether a gateway pays for the order: it may not have, then."""
    return any(t.order_id == record.request.order_id and t.provider == "STRIPE" for t in ledger.tenders)


def _was_spent(record: Record, found: Index) -> bool:
    """Whether a gift card may have had too little: less what every call that names it may have taken by then."""
    for tender in record.request.tenders:
        code = tender.gift_card_code
        if not code:
            continue
        left = 0
        for call in found.calls.values():
            if call.kind == "IssueGiftCard" and call.request.code == code and call.row is not None:
                left += minor_of(call.request.amount)
            elif call.begin <= record.end and call.row is not None and call.request_id != record.request_id:
                tenders = getattr(call.request, "tenders", ())
                left -= sum(minor_of(t.amount) for t in tenders if t.gift_card_code == code)
        if left < minor_of(tender.amount):
            return True
    return False


def _asks_too_much(record: Record, found: Index) -> bool:
    """Whether a call asks for more than the order ever had of the line."""
    bought: dict[int, int] = {}
    for call in found.calls.values():
        if call.kind in ("PlaceOrder", "Sell") and call.answer is not None:
            order: Any = call.answer.order
            if order.order_id == record.request.order_id:
                bought = {line.line_number: line.quantity for line in order.lines}
    lines = record.request.returned if record.kind == "CreateExchange" else record.request.lines
    return any(line.quantity > bought.get(line.line_number, 0) for line in lines)
