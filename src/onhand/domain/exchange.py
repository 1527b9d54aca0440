"""What returned goods were paid with pays for others: which tenders it is carried over from."""

from __future__ import annotations

from collections.abc import Iterable

from onhand.domain.payment import GIVE_BACK_ORDER, Tendered
from onhand.domain.return_errors import ExchangeNotCaptured


def carryable(tender: Tendered) -> int:
    """What a tender brought in and nobody asked back: money that is there, in minor units."""
    payment = tender.payment
    asked_back = tender.given_back_minor - payment.voided_minor - payment.refunded_minor - tender.voiding_minor
    return max(0, min(tender.room_minor, payment.refundable_minor - asked_back))


def plan_carry(
    order_id: str, currency: str, tenders: Iterable[Tendered], amount_minor: int
) -> list[tuple[Tendered, int]]:
    """Where the money comes from that pays for other goods: in the reverse of the order in which tenders get money back.

    So what is given back besides goes where it would go without an exchange. Raises `ExchangeNotCaptured`.
    """
    plan, left, there = [], amount_minor, 0
    for tender in sorted(tenders, key=lambda t: (GIVE_BACK_ORDER.index(t.kind), t.tender_number), reverse=True):
        there += carryable(tender)
        part = min(left, carryable(tender))
        left -= part
        if part:
            plan.append((tender, part))
    if left:
        raise ExchangeNotCaptured(order_id, amount_minor, there, currency)
    return plan
