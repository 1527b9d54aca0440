"""Money, by the answers: every order was paid once, what it gave back follows from its lines, gift cards lose nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from onhand.simulate.accounts import Line
from onhand.simulate.amounts import minor_of
from onhand.simulate.facts import DUPLICATE, LOST, OTHER, Findings, GatewayRow, Ledger, TenderRow, as_told

if TYPE_CHECKING:
    from onhand.simulate.once import Call, Index

GATEWAY = "STRIPE"


def check_money(found: Index, ledger: Ledger, findings: Findings) -> None:
    """All of it."""
    for call, what in found.accounts.wrong:
        made = found.calls[call.request_id]
        findings.add(OTHER, f"{call.kind}: {what}", *made.told())
    _check_lines(found, ledger, findings)
    tenders: dict[str, list[TenderRow]] = defaultdict(list)
    for tender in ledger.tenders:
        tenders[tender.order_id].append(tender)
        _check_tender(tender, findings)
    for order_id in sorted(tenders.keys() | found.accounts.charged.keys()):
        _check_order(order_id, tenders.get(order_id, []), found, findings)
    _check_gift_cards(found, ledger, findings)
    _check_gateway(ledger, findings)


def _check_lines(found: Index, ledger: Ledger, findings: Findings) -> None:
    for row in ledger.money:
        line = found.accounts.lines.get(row.order_id, {}).get(row.line_number)
        findings.checked("lines_of_money")
        if line is None:
            continue  # said already: the line is nobody's
        for name, has, due in (
            ("costs", row.total, line.total),
            ("gave back", row.refunded, line.given_back()),
            ("replaces line", row.replaces, line.replaces),
        ):
            if has != due:
                what = f"line {row.line_number} of order {row.order_id} {name} {has}, by the calls {due}"
                findings.add(DUPLICATE if has > due else LOST, what, as_told(row))


def _check_tender(tender: TenderRow, findings: Findings) -> None:
    findings.checked("tenders")
    if tender.provider == GATEWAY:
        return
    # What a till took, or a gift card paid, is there at once, and so is what goes back.
    is_taken = tender.authorized == tender.captured == tender.amount
    if not is_taken or tender.voided or tender.refunded != tender.given_back or tender.refunded > tender.captured:
        findings.add(OTHER, "a tender whose captured is not what was refunded and kept", as_told(tender))


def _check_order(order_id: str, tenders: list[TenderRow], found: Index, findings: Findings) -> None:
    lines: dict[int, Line] = found.accounts.lines.get(order_id, {})
    findings.checked("orders_of_money")
    if order_id not in found.accounts.charged:
        if any(tender.provider != GATEWAY or tender.captured > tender.refunded for tender in tenders):
            findings.add(DUPLICATE, f"{order_id} was paid for, and is no order", *map(as_told, tenders))
        return
    substitutes = sum(line.total for line in lines.values() if line.replaces)
    for name, has, due in (
        ("is paid with", sum(t.amount for t in tenders), found.accounts.charged[order_id]),
        ("gave back", sum(t.given_back for t in tenders), sum(n.given_back() for n in lines.values()) - substitutes),
    ):
        if has != due:
            what = f"order {order_id} {name} {has}, by the calls {due}"
            findings.add(DUPLICATE if has > due else LOST, what, *map(as_told, tenders))


def _check_gift_cards(found: Index, ledger: Ledger, findings: Findings) -> None:
    """What a card was issued with, less what was paid with it, and what came back, is on it."""
    ids: dict[str, str] = {}
    due: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    done = [call for call in found.calls.values() if call.row is not None]
    for call in done:
        if call.kind == "IssueGiftCard":
            ids[call.request.code] = call.answer.gift_card.gift_card_id
            due[ids[call.request.code]] += minor_of(call.request.amount)
        elif call.kind == "TopUpGiftCard":
            due[call.request.gift_card_id] += minor_of(call.request.amount)
        elif call.kind == "CreateBlindReturn" and call.answer.gift_card_id:
            ids.setdefault(call.request.gift_card_code, call.answer.gift_card_id)
            due[call.answer.gift_card_id] += minor_of(call.answer.returned.refund)
    for call in done:
        for code, amount in _codes(call):
            paid[ids.get(code, "no card")] += amount
    for tender in ledger.tenders:
        if tender.gift_card_id:
            paid[tender.gift_card_id] -= tender.amount
            due[tender.gift_card_id] += tender.given_back - tender.carried - tender.amount
    for card_id, amount in sorted(paid.items()):
        if amount:
            what = f"{amount} more was paid with gift card {card_id} by the calls than by the tenders"
            findings.add(LOST if amount > 0 else DUPLICATE, what)
    for card_id in sorted(due.keys() | ledger.balances.keys()):
        findings.checked("gift_cards")
        has = ledger.balances.get(card_id, 0)
        if has != due[card_id] or has < 0:
            what = f"gift card {card_id} has {has}, by the calls {due[card_id]}"
            findings.add(DUPLICATE if has > due[card_id] else LOST, what)


def _check_gateway(ledger: Ledger, findings: Findings) -> None:
    """A gateway did what the ledger says, once: nobody is charged twice, whatever its answers came to."""
    books: dict[tuple[str, int], list[GatewayRow]] = defaultdict(list)
    for row in ledger.gateway:
        books[row.order_id, row.number].append(row)
    tenders = {(t.order_id, t.number): t for t in ledger.tenders if t.provider == GATEWAY}
    for key in sorted(tenders.keys() | books.keys()):
        tender, rows = tenders.get(key), books.get(key, [])
        findings.checked("payments_by_the_gateway")
        evidence = [as_told(row) for row in (tender, *rows) if row is not None]
        if tender is None or len(rows) > 1:
            findings.add(DUPLICATE, f"the gateway was asked for tender {key[1]} of {key[0]} more than once", *evidence)
            continue
        there = rows[0] if rows else GatewayRow(*key, 0, 0, 0, 0)
        for name, has, says in (
            ("authorized", there.authorized, tender.authorized),
            ("captured", there.captured, tender.captured),
            # What paid for other goods never left: the gateway hears nothing of it.
            ("refunded", there.refunded, tender.refunded - tender.carried),
        ):
            if has != says:
                what = f"of tender {key[1]} of {key[0]} the gateway {name} {has}, the ledger says {says}"
                findings.add(DUPLICATE if has > says else LOST, what, *evidence)
        is_open = tender.authorized > tender.captured + tender.voided
        if there.capturable and not is_open:
            findings.add(OTHER, f"the gateway still sets money aside for tender {key[1]} of {key[0]}", *evidence)
        if not is_open and tender.authorized and tender.captured - tender.refunded != tender.amount - tender.given_back:
            findings.add(OTHER, "a tender whose captured is not what was refunded and kept", *evidence)


def _codes(call: Call) -> list[tuple[str, int]]:
    """(code, amount) of the gift cards that a call paid with."""
    tenders = getattr(call.request, "tenders", ())
    return [(t.gift_card_code, minor_of(t.amount)) for t in tenders if t.gift_card_code]
