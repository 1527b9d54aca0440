"""Exactly once: every acknowledged call has its one effect in the ledger, every unknown one at most one, a refused one none.

Effects are found by the transaction that wrote them, those of orders that share one by the order, and compared with what the
call's own request and answer demand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onhand.simulate.effects import COVERED, FOUND, OPENED, absent, expected, following, moved
from onhand.simulate.facts import (
    CLOCK_SLACK_SECONDS,
    DUPLICATE,
    LOST,
    OTHER,
    ClaimRow,
    Findings,
    Ledger,
    MovementRow,
    RequestRow,
    as_told,
)
from onhand.simulate.history import OK, REFUSED, UNKNOWN, Record, by_request, message_type

IN_ROUNDS = frozenset({"PlaceOrder", "Sell"})
"""Kinds of which many may share a transaction. Reservations do too, but move nothing."""


@dataclass(frozen=True)
class Call:
    """One mutation of the history: its attempts, its row if it had its effect, and its answer as the ledger keeps it."""

    request_id: str
    kind: str
    request: Any
    attempts: Sequence[Record]
    row: RequestRow | None
    answer: Any
    movements: Sequence[MovementRow]

    @property
    def begin(self) -> float:
        """When its first attempt began."""
        return min(r.begin for r in self.attempts)

    @property
    def acknowledged(self) -> float:
        """When it was first answered; inf if it never was."""
        return min((r.end for r in self.attempts if r.outcome == OK), default=float("inf"))


@dataclass
class Index:
    """The ledger by what made its rows."""

    calls: dict[str, Call] = field(default_factory=dict)
    by_transaction: dict[int, list[Call]] = field(default_factory=dict)
    """Orders and sales are committed many in one transaction."""
    claims_of: Mapping[str, Sequence[ClaimRow]] = field(default_factory=dict)
    """By reservation."""


def index(records: Sequence[Record], ledger: Ledger) -> Index:
    """Joins history and ledger."""
    rows = {row.request_id: row for row in ledger.requests}
    movements: dict[int, list[MovementRow]] = defaultdict(list)
    for m in ledger.movements:
        movements[m.transaction].append(m)
    claims: dict[str, list[ClaimRow]] = defaultdict(list)
    for c in ledger.claims:
        if c.reservation_id:
            claims[c.reservation_id].append(c)
    sharing = Counter(row.transaction for row in ledger.requests if row.method != "ReserveRequest")
    found = Index(claims_of=claims)
    for request_id, attempts in by_request(records).items():
        row, first = rows.get(request_id), attempts[0]
        answer: Any = None
        if row is not None:
            answer = message_type(first.kind, "Response").FromString(row.response)
        own = movements.get(row.transaction, []) if row is not None else []
        if row is not None and sharing[row.transaction] > 1:
            document = f"order/{answer.order.order_id}" if first.kind in IN_ROUNDS else ""
            own = [m for m in own if m.reference == document]
        call = Call(request_id, first.kind, first.request, attempts, row, answer, own)
        found.calls[request_id] = call
        if row is not None and first.kind != "Reserve":
            found.by_transaction.setdefault(row.transaction, []).append(call)
    return found


def check_once(found: Index, ledger: Ledger, findings: Findings) -> None:
    """All of it."""
    for call in found.calls.values():
        _check_answers(call, findings)
    _check_requests(found, ledger, findings)
    _check_movements(found, ledger, findings)
    _check_shortfalls(found, ledger, findings)
    _check_claims(found, ledger, findings)
    _check_documents(found, ledger, findings)


def _check_answers(call: Call, findings: Findings) -> None:
    told = [r.told() for r in call.attempts]
    answers = [r for r in call.attempts if r.outcome == OK]
    if answers:
        findings.checked("acknowledged")
        if call.row is None:
            findings.add(LOST, f"{call.kind} was acknowledged, and the ledger has no such request", *told)
        elif call.answer != answers[0].answer:
            findings.add(LOST, f"{call.kind}: the ledger keeps another answer", as_told(call.row), *told)
    for again in answers[1:]:
        findings.checked("repeats_compared")
        if again.answer != answers[0].answer:
            findings.add(DUPLICATE, f"the repeat of {call.kind} was answered otherwise", *told)
    if call.row is None:
        return
    if not any(r.outcome in (OK, UNKNOWN) for r in call.attempts):
        findings.add(OTHER, f"{call.kind} was refused each time, and had an effect", as_told(call.row), *told)
    for attempt in call.attempts:
        # An attempt that is still on its way may have its effect after a later one was refused: only what was committed
        # before counts.
        if attempt.outcome == REFUSED and call.row.commit + CLOCK_SLACK_SECONDS < attempt.begin:
            what = f"{call.kind} had had its effect, and its repeat was refused"
            findings.add(DUPLICATE, what, as_told(call.row), *told)
            break
    if call.row.method != f"{call.kind}Request":
        findings.add(OTHER, f"{call.kind} is recorded as {call.row.method}", as_told(call.row), *told)
    if call.row.commit + CLOCK_SLACK_SECONDS < call.begin:
        findings.add(OTHER, f"{call.kind} was committed before it was called", as_told(call.row), *told)


def _check_requests(found: Index, ledger: Ledger, findings: Findings) -> None:
    for row in ledger.requests:
        findings.checked("requests")
        if row.request_id not in found.calls:
            findings.add(DUPLICATE, "the ledger has a request that nobody made", as_told(row))


def _check_movements(found: Index, ledger: Ledger, findings: Findings) -> None:
    for call in found.calls.values():
        if call.row is None or call.kind == "Reserve":
            continue
        want, have = expected(call.kind, call.request, call.answer, call.movements), moved(call.movements)
        findings.checked("effects")
        if wrong := following(call.kind, call.movements):
            findings.add(OTHER, wrong, call.attempts[0].told(), *map(as_told, call.movements))
        if want is None or want == have:
            continue
        missing, more = want - have, have - want
        evidence = [call.attempts[0].told(), as_told(call.row), *map(as_told, call.movements)]
        if missing:
            findings.add(LOST, f"{call.kind} should have moved {_names(missing)}, and did not", *evidence)
        if more or not missing:
            findings.add(DUPLICATE, f"{call.kind} moved {_names(more)} too much", *evidence)
    caused = {(m.location_id, m.movement_id) for call in found.calls.values() for m in call.movements}
    for m in ledger.movements:
        findings.checked("movements")
        if (m.location_id, m.movement_id) not in caused:
            findings.add(DUPLICATE, "a movement that no call of the history made", as_told(m))


def _check_shortfalls(found: Index, ledger: Ledger, findings: Findings) -> None:
    """By sku: promises of orders that were found gone, less those that ended, are those that are short now."""
    short: Counter[str] = Counter()
    for m in ledger.movements:
        short[m.sku] += m.quantity * ((m.reason == OPENED) - (m.reason in (FOUND, COVERED)))
        findings.checked("shortfall_movements", m.reason in (OPENED, FOUND, COVERED))
    for call in found.calls.values():
        if call.row is not None and call.kind == "CancelOrderLines":
            short.subtract(absent(call.request, call.answer, call.movements))
    for level in ledger.levels:
        short[level.sku] -= level.short
    for sku, units in sorted(short.items()):
        if units:
            counter = LOST if units > 0 else DUPLICATE
            findings.add(counter, f"{units} units of {sku} stopped being short, or became so, without a reason")


def _names(effect: Counter[tuple[str, str, str, str]]) -> str:
    return ", ".join(f"{n} {sku} {a}->{b} at {place}" for (place, sku, a, b), n in sorted(effect.items()))


def _check_claims(found: Index, ledger: Ledger, findings: Findings) -> None:
    """Each reservation holds, claim by claim, what the answers of its calls say, and was closed by one of them."""
    made: dict[str, dict[str, list[Call]]] = defaultdict(lambda: defaultdict(list))
    for call in found.calls.values():
        if call.row is None:
            continue
        if call.kind in ("Reserve", "ChangeReservation"):
            made[call.answer.reservation.reservation_id][call.kind].append(call)
        elif call.kind in ("ReleaseReservation", "PlaceOrder"):
            made[call.request.reservation_id][call.kind].append(call)
    for reservation_id, by_kind in made.items():
        _check_reservation(reservation_id, by_kind, found.claims_of.get(reservation_id, []), findings)
    for reservation_id, claims in found.claims_of.items():
        if not made.get(reservation_id, {}).get("Reserve"):
            findings.add(DUPLICATE, "a reservation that no call of the history made", *map(as_told, claims))
    _check_consumed(found, ledger, findings)


def _check_consumed(found: Index, ledger: Ledger, findings: Findings) -> None:
    """What a claim took is what one call of its transaction moved out of `available` there, each call's once."""
    left: dict[tuple[int, str], list[dict[str, int]]] = defaultdict(list)
    for transaction, calls in found.by_transaction.items():
        for call in calls:
            took: dict[str, Counter[str]] = defaultdict(Counter)
            for m in call.movements:
                if m.from_bucket == "available":
                    took[m.location_id][m.sku] += m.quantity
            for location_id, units in took.items():
                left[transaction, location_id].append(dict(units))
    for claim in ledger.claims:
        if claim.state != "consumed":
            continue
        findings.checked("consumed_claims")
        taken = left.get((claim.transaction, claim.location_id), [])
        if dict(claim.lines) in taken:
            taken.remove(dict(claim.lines))
        else:
            findings.add(OTHER, "a claim was consumed for other units than left", as_told(claim))


def _check_reservation(
    reservation_id: str, by_kind: Mapping[str, list[Call]], claims: Sequence[ClaimRow], findings: Findings
) -> None:
    findings.checked("reservations")
    reserves, changes = by_kind.get("Reserve", []), by_kind.get("ChangeReservation", [])
    told = [call.attempts[0].told() for calls in by_kind.values() for call in calls]
    if len(reserves) > 1:
        findings.add(DUPLICATE, f"reservation {reservation_id} is the answer of two requests", *told)
    want: Counter[tuple[str, tuple[tuple[str, int], ...]]] = Counter()
    for call in (*reserves, *changes):
        for basket in call.answer.reservation.baskets:
            want[basket.location_id, tuple(sorted((n.sku, n.quantity) for n in basket.lines))] += 1
    have = Counter((c.location_id, tuple(sorted(c.lines))) for c in claims)
    rows = [as_told(c) for c in claims]
    if want - have:
        findings.add(LOST, f"reservation {reservation_id} lacks claims: {dict(want - have)}", *told, *rows)
    if have - want:
        findings.add(DUPLICATE, f"reservation {reservation_id} has claims too many: {dict(have - want)}", *told, *rows)
    states = Counter(c.state for c in claims)
    places, released = bool(by_kind.get("PlaceOrder")), bool(by_kind.get("ReleaseReservation"))
    if places and not states["confirmed"]:
        findings.add(LOST, f"reservation {reservation_id} was ordered, and is not confirmed", *told, *rows)
    if states["confirmed"] and not places:
        findings.add(DUPLICATE, f"reservation {reservation_id} is confirmed, and nobody ordered it", *told, *rows)
    if released and not states["released"]:
        findings.add(LOST, f"reservation {reservation_id} was released, and is not", *told, *rows)
    # A change closes the claims before it.
    if states["released"] and not released and not changes:
        findings.add(LOST, f"reservation {reservation_id} is released, and nobody did", *told, *rows)
    for claim in claims:
        if claim.state == "expired" and claim.commit + CLOCK_SLACK_SECONDS < claim.deadline:
            findings.add(LOST, f"reservation {reservation_id} expired before its deadline", *told, *rows)


def _check_documents(found: Index, ledger: Ledger, findings: Findings) -> None:
    """Orders, returns and transfers: each is the answer of one request, and as far as the calls have brought it."""
    made: dict[str, list[str]] = defaultdict(list)
    lines: dict[str, dict[int, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    shipments = 0
    for call in found.calls.values():
        if call.row is None:
            continue
        answer = call.answer
        if call.kind in ("PlaceOrder", "Sell"):
            made[answer.order.order_id].append(call.request_id)
            if call.kind == "Sell":
                for line in answer.order.lines:
                    lines[answer.order.order_id][line.line_number]["fulfilled"] += line.quantity
        elif call.kind == "CreateReturn":
            made[answer.returned.return_id].append(call.request_id)
            for line in answer.returned.lines:
                lines[answer.returned.order_id][line.line_number]["returned"] += line.quantity
        elif call.kind == "DispatchTransfer":
            made[answer.transfer.transfer_id].append(call.request_id)
        elif call.kind == "CancelOrderLines":
            for line in call.request.lines:
                lines[call.request.order_id][line.line_number]["cancelled"] += line.quantity
        elif call.kind in ("HandOverFulfillmentOrder", "ShipFulfillmentOrder"):
            shipments += call.kind == "ShipFulfillmentOrder"
            work = answer.fulfillment_order
            for line in work.lines:
                lines[work.order_id][line.line_number]["fulfilled"] += (
                    line.quantity - line.cancelled_quantity - line.moved_quantity
                )
    documents = {order.order_id for order in ledger.orders} | set(ledger.returns) | set(ledger.transfers)
    for document in documents - made.keys():
        findings.add(DUPLICATE, f"order, return or transfer {document} is not the answer of any call")
    for document, request_ids in made.items():
        if document not in documents:
            findings.add(LOST, f"order, return or transfer {document} was answered, and is not there", *request_ids)
        if len(request_ids) > 1:
            findings.add(DUPLICATE, f"{document} is the answer of several calls", *request_ids)
    for order in ledger.orders:
        findings.checked("orders")
        for number, sku, _, fulfilled, cancelled, returned in order.lines:
            want = lines[order.order_id][number]
            for name, have in (("fulfilled", fulfilled), ("cancelled", cancelled), ("returned", returned)):
                if have != want[name]:
                    counter = LOST if have < want[name] else DUPLICATE
                    what = f"line {number} ({sku}) of order {order.order_id}: {have} {name}, the calls say {want[name]}"
                    findings.add(counter, what, as_told(order))
    if shipments != ledger.shipments:
        findings.add(DUPLICATE, f"{ledger.shipments} shipments, the calls made {shipments}")
