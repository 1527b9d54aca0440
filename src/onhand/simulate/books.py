"""The books of a replay: what the clients were told of money, and whether the payments, orders and gift cards say the same.

Of every tender and order captured = refunded + kept; what is kept is what the goods cost that the customer has. Of every gift
card: what was put on it, less what it paid, and what came back to it, is its balance.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from onhand.simulate.amounts import minor_of, share
from onhand.simulate.audit import Findings
from onhand.simulate.calls import Client
from onhand.v1 import order_pb2, payment_pb2

READS_AT_ONCE = 16
PAGE = 500
CARRIED = "EXCHANGE"
"""The reason of a refund that paid for other goods: no gift card and nobody else was given it."""

Item = TypeVar("Item")
Check = tuple[bool, str]


@dataclass
class Seen:
    """What a client was told of the money of an order, in cents."""

    paid: list[tuple[int, int]]
    """(kind, amount) of each tender."""
    refunded: int = 0
    is_all_told: bool = True
    """False where units were given up by a call that does not say what they give back: a no-show, a rest nobody wants."""


@dataclass
class Books:
    """What one process saw, and the sums of what the server says of the same orders and cards."""

    orders: dict[str, Seen] = field(default_factory=dict)
    cards: dict[str, int] = field(default_factory=dict)
    """What was put on each gift card."""
    by_payments: Counter[str] = field(default_factory=Counter)
    """What payments changed on each gift card, as the server says."""
    sums: Counter[str] = field(default_factory=Counter)

    def paid(self, order_id: str, tenders: Iterable[order_pb2.Tender]) -> None:
        """An order was placed, or goods were sold."""
        seen = Seen([(tender.kind, minor_of(tender.amount)) for tender in tenders])
        seen.refunded = self.orders[order_id].refunded if order_id in self.orders else 0
        self.orders[order_id] = seen

    def charged(self, order_id: str, tenders: Iterable[order_pb2.Tender]) -> None:
        """More was paid for an order."""
        self.orders[order_id].paid += [(tender.kind, minor_of(tender.amount)) for tender in tenders]

    def refunded(self, order_id: str, minor: int) -> None:
        """The client was told that so much is given back."""
        self.orders.setdefault(order_id, Seen([])).refunded += minor

    def gave_up(self, order_id: str) -> None:
        """Units of the order were given up, and nobody said what they give back."""
        self.orders.setdefault(order_id, Seen([])).is_all_told = False


async def audit_books(client: Client, books: Books, findings: Findings, *, is_all_known: bool) -> None:
    """Reads every order, its payments, and every gift card, and says what does not agree.

    Where some answers are missing (`is_all_known` false) the server's own figures are held against each other only.
    """

    async def order(order_id: str) -> None:
        stubs = client.stubs()
        read = (await client.call(stubs.orders.GetOrder, order_pb2.GetOrderRequest(order_id=order_id))).order
        listed = await client.call(
            stubs.payments.ListPayments, payment_pb2.ListPaymentsRequest(order_id=order_id, page_size=PAGE)
        )
        for is_right, evidence in judge_order(read, listed.payments, books.orders[order_id] if is_all_known else None):
            findings.check_money(is_right, f"order {order_id}: {evidence}")
        books.sums["told_captured"] += sum(minor for _, minor in books.orders[order_id].paid)
        books.sums["told_refunded"] += books.orders[order_id].refunded
        for payment in listed.payments:
            _add(books, payment)

    async def card(card_id: str) -> None:
        payments = client.stubs().payments
        read = await client.call(payments.GetGiftCard, payment_pb2.GetGiftCardRequest(gift_card_id=card_id))
        listed = await client.call(
            payments.ListGiftCardMovements,
            payment_pb2.ListGiftCardMovementsRequest(gift_card_id=card_id, page_size=PAGE),
        )
        balance, moved = minor_of(read.gift_card.balance), sum(minor_of(each.amount) for each in listed.movements)
        findings.check_money(balance == moved, f"gift card {card_id}: {balance} cents on it, its movements say {moved}")
        came, put = books.by_payments[card_id], books.cards[card_id]
        findings.check_money(
            not is_all_known or balance == put + came,
            f"gift card {card_id}: {balance} cents on it, but {put} were put on it and payments changed that by {came}",
        )
        books.sums["gift_cards_issued"] += put
        books.sums["gift_cards_balance"] += balance

    await _each(order, list(books.orders))
    await _each(card, list(books.cards))


def _add(books: Books, payment: payment_pb2.Payment) -> None:
    """Sums up what the server says of a payment."""
    kind = order_pb2.TenderKind.Name(payment.kind).removeprefix("TENDER_KIND_").lower()
    captured, refunded = minor_of(payment.captured), minor_of(payment.refunded)
    books.sums["captured"] += captured
    books.sums["refunded"] += refunded
    books.sums[f"captured {kind}"] += captured
    books.sums[f"refunded {kind}"] += refunded
    carried = sum(minor_of(each.amount) for each in done(payment, payment_pb2.PAYMENT_OPERATION_KIND_REFUND, CARRIED))
    books.sums["carried"] += carried
    if payment.gift_card_id:
        books.by_payments[payment.gift_card_id] += refunded - carried - captured
        books.sums["back_on_gift_cards"] += refunded - carried


def done(payment: payment_pb2.Payment, kind: int, reason: str = "") -> Iterator[payment_pb2.PaymentOperation]:
    """The operations of a kind that have happened, of a reason if one is given."""
    for each in payment.operations:
        is_done = each.state == payment_pb2.PAYMENT_OPERATION_STATE_SUCCEEDED
        if is_done and each.kind == kind and reason in ("", each.reason_code):
            yield each


def judge_order(order: order_pb2.Order, payments: Sequence[payment_pb2.Payment], seen: Seen | None) -> Iterator[Check]:
    """What has to hold of the money of an order that nobody works on any more, each with what is wrong otherwise."""
    for line in order.lines:
        back, total = minor_of(line.refunded), minor_of(line.total)
        due = share(total, line.cancelled_quantity + line.returned_quantity, line.quantity)
        yield back == due, f"line {line.line_number} of {total} cents gave back {back}, its units are worth {due}"
    for payment in payments:
        yield from _judge_payment(payment)
    captured, refunded = (sum(minor_of(getattr(p, name)) for p in payments) for name in ("captured", "refunded"))
    tenders = [(tender.kind, minor_of(tender.amount)) for tender in order.tenders]
    paid = [(payment.kind, minor_of(payment.amount)) for payment in payments]
    yield tenders == paid, f"its tenders are {tenders}, its payments {paid}"
    substitutes = sum(minor_of(line.total) for line in order.lines if line.substitutes_line_number)
    total, back = (sum(minor_of(getattr(line, name)) for line in order.lines) for name in ("total", "refunded"))
    yield minor_of(order.total) == total, f"its total is {minor_of(order.total)} cents, its lines cost {total}"
    yield minor_of(order.refunded) == back, f"it gave back {minor_of(order.refunded)} cents, its lines {back}"
    # What a substitute costs stays with the tenders of what it replaces.
    due = total - substitutes
    yield captured == due, f"{captured} cents were captured, {due} were charged"
    yield refunded == back - substitutes, f"{refunded} cents were refunded, {back - substitutes} were given back"
    kept, worth = captured - refunded, total - back
    yield kept == worth, f"{kept} cents are kept, the goods that the customer has cost {worth}"
    if seen is None:
        return
    told = sum(minor for _, minor in seen.paid)
    yield captured == told, f"{captured} cents were captured, the answers say {told}"
    is_told = seen.refunded == refunded if seen.is_all_told else seen.refunded <= refunded
    yield is_told, f"{refunded} cents were refunded, the answers say {seen.refunded}"


def _judge_payment(payment: payment_pb2.Payment) -> Iterator[Check]:
    name = f"tender {payment.tender_number}"
    amount, captured, refunded = (minor_of(m) for m in (payment.amount, payment.captured, payment.refunded))
    yield captured == amount, f"{name} of {amount} cents has {captured} captured"
    yield 0 <= refunded <= captured, f"{name} has {captured} cents captured and {refunded} refunded"
    owed, voided = minor_of(payment.owed), minor_of(payment.voided)
    yield (owed, voided) == (0, 0), f"{name} owes {owed} cents and has {voided} voided"
    back = sum(minor_of(each.amount) for each in done(payment, payment_pb2.PAYMENT_OPERATION_KIND_REFUND))
    yield refunded == back, f"{name} has {refunded} cents refunded, its operations say {back}"
    state = payment_pb2.PAYMENT_STATE_CAPTURED
    if refunded:
        state = payment_pb2.PAYMENT_STATE_PARTIALLY_REFUNDED
        if refunded == captured:
            state = payment_pb2.PAYMENT_STATE_REFUNDED
    yield payment.state == state, f"{name} is {payment_pb2.PaymentState.Name(payment.state)}"


async def _each(work: Callable[[Item], Coroutine[Any, Any, None]], items: Sequence[Item]) -> None:
    room = asyncio.Semaphore(READS_AT_ONCE)

    async def one(item: Item) -> None:
        async with room:
            await work(item)

    await asyncio.gather(*(one(item) for item in items))
