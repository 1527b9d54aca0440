"""Exactly once: every acknowledged call has its one effect in the ledger, every unknown one at most one, a refused one none.

Effects are found by the transaction that wrote them, those of orders that share one by the order, and compared with what the
call's own request and answer demand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onhand.simulate.accounts import Accounts, Line
from onhand.simulate.by_itself import kind_by_itself, request_by_itself
from onhand.simulate.directory import Directory
from onhand.simulate.effects import COVERED, FILLED, FOUND, GONE, OPENED, Did, expected, following, moved
from onhand.simulate.facts import (
    CLOCK_SLACK_SECONDS,
    DUPLICATE,
    LOST,
    OTHER,
    ClaimRow,
    EndRow,
    Findings,
    Ledger,
    MovementRow,
    RequestRow,
    as_told,
)
from onhand.simulate.history import OK, REFUSED, UNKNOWN, Record, by_request, message_type
from onhand.simulate.money import check_money
from onhand.simulate.order_effects import NEVER_THERE, not_there
from onhand.simulate.promises import check_promises

REJECTED = ("NOT_FOUND", "DAMAGED", "CLOSED")
"""Causes of shortfalls by which a location does not bring what it has, or does not have."""
RESERVES = frozenset({"Reserve", "SourceReservation"})
"""Kinds that make a reservation."""
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
    ends: Sequence[EndRow] = ()

    @property
    def begin(self) -> float:
        """When its first attempt began; of what a server did by itself, when it was committed."""
        return min((r.begin for r in self.attempts), default=self.row.commit if self.row else 0.0)

    def told(self) -> list[dict[str, Any]]:
        """As evidence."""
        rows = [] if self.row is None else [as_told(self.row)]
        return [r.told() for r in self.attempts[:1]] or rows

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
    accounts: Accounts = field(default_factory=Accounts)
    did: Mapping[str, Did] = field(default_factory=dict)
    """By request: what each call that had an effect did."""
    directory: Directory = field(default_factory=Directory)


def index(records: Sequence[Record], ledger: Ledger) -> Index:
    """Joins history and ledger."""
    rows = {row.request_id: row for row in ledger.requests}
    movements: dict[int, list[MovementRow]] = defaultdict(list)
    for m in ledger.movements:
        movements[m.transaction].append(m)
    ends: dict[int, list[EndRow]] = defaultdict(list)
    for end in ledger.ends:
        ends[end.transaction].append(end)
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
        ended = ends.get(row.transaction, []) if row is not None else []
        if row is not None and sharing[row.transaction] > 1:
            document = f"order/{answer.order.order_id}" if first.kind in IN_ROUNDS else ""
            own, ended = [m for m in own if m.reference == document], []
        call = Call(request_id, first.kind, first.request, attempts, row, answer, own, ended)
        found.calls[request_id] = call
    for row in ledger.requests:
        if row.request_id not in found.calls and (kind := kind_by_itself(row)):
            own, ended = movements.get(row.transaction, []), ends.get(row.transaction, [])
            request, answer = request_by_itself(row, kind, ended)
            found.calls[row.request_id] = Call(row.request_id, kind, request, (), row, answer, own, ended)
    for call in found.calls.values():
        if call.row is not None and call.kind != "Reserve":
            found.by_transaction.setdefault(call.row.transaction, []).append(call)
    told = [r.answer for r in records if r.answer is not None]
    found.directory = Directory.of([*told, *(c.answer for c in found.calls.values() if c.answer is not None)])
    done = [(call.row.commit, call) for call in found.calls.values() if call.row is not None]
    found.did = {
        call.request_id: found.accounts.add(call, Did(call.movements, call.ends))
        for _, call in sorted(done, key=lambda each: each[0])
    }
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
    check_money(found, ledger, findings)
    check_promises(found, ledger, findings)


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
    if not call.attempts:
        findings.checked("by_itself")
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
        want = expected(call.kind, call.request, call.answer, found.did[call.request_id])
        have = moved(call.movements)
        findings.checked("effects")
        findings.checked(f"effects_of_{call.kind}")
        if wrong := following(call.kind, call.movements):
            findings.add(OTHER, wrong, *call.told(), *map(as_told, call.movements))
        if want == have:
            continue
        missing, more = want - have, have - want
        evidence = [*call.told(), as_told(call.row), *map(as_told, call.movements), *map(as_told, call.ends)]
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
    """By position: promises of orders that were found gone, or were never there, less those that ended, are those short now."""
    short: Counter[tuple[str, str]] = Counter()
    for m in ledger.movements:
        short[m.location_id, m.sku] += m.quantity * ((m.reason == OPENED) - (m.reason in (FOUND, COVERED, FILLED)))
        findings.checked("shortfall_movements", m.reason in (OPENED, FOUND, COVERED, FILLED))
    for call in found.calls.values():
        works = call.answer.order.fulfillment_orders if call.kind == "PlaceOrder" and call.row is not None else ()
        for work in works:
            for line in work.lines:
                short[work.location_id, line.sku] += not_there(work)[line.line_number]
            for cause in NEVER_THERE:
                findings.checked(f"units_{cause.lower()}", not_there(work, cause).total())
        for end in call.ends if call.row is not None else ():
            # What a location rejected is no unit that its stock lacks: it was taken out of what is promised there.
            if end.reason in GONE and end.cause not in REJECTED:
                short[end.location_id, end.sku] -= end.quantity
    for level in ledger.levels:
        short[level.location_id, level.sku] -= level.short
    for (place, sku), units in sorted(short.items()):
        if units:
            counter = LOST if units > 0 else DUPLICATE
            what = f"{units} units of {sku} at {place} stopped being short, or became so, without a reason"
            findings.add(counter, what)
    caused = {call.row.transaction for call in found.calls.values() if call.row is not None}
    for end in ledger.ends:
        findings.checked("ends_of_shortfalls")
        if end.transaction not in caused:
            findings.add(DUPLICATE, "units stopped being short by no call of the history", as_told(end))


def _names(effect: Counter[tuple[str, str, str, str]]) -> str:
    return ", ".join(f"{n} {sku} {a}->{b} at {place}" for (place, sku, a, b), n in sorted(effect.items()))


def _check_claims(found: Index, ledger: Ledger, findings: Findings) -> None:
    """Each reservation holds, claim by claim, what the answers of its calls say, and was closed by one of them."""
    made: dict[str, dict[str, list[Call]]] = defaultdict(lambda: defaultdict(list))
    for call in found.calls.values():
        if call.row is None:
            continue
        if call.kind in RESERVES or call.kind == "ChangeReservation":
            how = "Reserve" if call.kind in RESERVES else call.kind
            made[call.answer.reservation.reservation_id][how].append(call)
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
                if m.from_bucket == "available" and m.reason != COVERED:  # that is of what the call itself brought
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
    made, shipments = found.accounts.made_by, found.accounts.shipments
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
        lines = found.accounts.lines.get(order.order_id, {})
        if len(order.lines) != len(lines):
            what = f"order {order.order_id} has {len(order.lines)} lines, the calls say {len(lines)}"
            findings.add(DUPLICATE if len(order.lines) > len(lines) else LOST, what, as_told(order))
        for number, sku, *units in order.lines:
            line = lines.get(number, Line(sku, 0, 0))
            wanted = (line.ordered, line.fulfilled, line.cancelled, line.returned)
            for name, have, want in zip(("ordered", "fulfilled", "cancelled", "returned"), units, wanted, strict=True):
                if have != want:
                    counter = LOST if have < want else DUPLICATE
                    what = f"line {number} ({sku}) of order {order.order_id}: {have} {name}, the calls say {want}"
                    findings.add(counter, what, as_told(order))
    if shipments != ledger.shipments:
        findings.add(DUPLICATE, f"{ledger.shipments} shipments, the calls made {shipments}")
