"""A gateway in memory, for what happens around one: it does each operation once, and can decline, act in silence, or be silent.

What Stripe says and wants is tested on its own adapter (tests/payments/test_stripe.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from onhand.domain.payment import Operation, Outcome, Payment
from onhand.domain.payment_errors import WebhookSignatureWrong
from onhand.payments.providers import Asked, OutcomeUnknown, Said

DECLINED_CARD = "pm_declined"
SIGNED = "signed"
EMPTY = Payment(10**15)


@dataclass
class Books:
    """What outlives a server process."""

    said: dict[UUID, Said] = field(default_factory=dict)
    asked: dict[UUID, Asked] = field(default_factory=dict)
    payments: dict[str, Payment] = field(default_factory=dict)
    """By what it calls each authorization."""
    of_tender: dict[str, tuple[UUID, int]] = field(default_factory=dict)


class Gateway:
    """A PaymentProvider."""

    def __init__(self) -> None:
        self.books = Books()
        self.faults: list[str] = []
        """For the next questions: "silent" (it does nothing), "acts" (and does not say so), "no"; anything else is answered."""
        self.questions: list[tuple[str, Operation]] = []
        self._kept: dict[str, Books] = {}

    def keep(self, name: str) -> None:
        """Remembers everything as it is now."""
        self._kept[name] = copy.deepcopy(self.books)

    def set_back(self, name: str) -> None:
        """Makes everything as it was then."""
        self.books = copy.deepcopy(self._kept.get(name, Books()))

    async def authorize(self, asked: Asked) -> Said:
        return self._once(asked, "authorize")

    async def renew(self, asked: Asked) -> Said:
        assert asked.authorization in self.books.payments
        return self._once(asked, "renew")

    async def capture(self, asked: Asked) -> Said:
        return self._once(asked, "capture")

    async def void(self, asked: Asked) -> Said:
        return self._once(asked, "void")

    async def refund(self, asked: Asked) -> Said:
        return self._once(asked, "refund")

    async def look_up(self, asked: Asked) -> Said | None:
        self.questions.append(("look_up", asked.kind))
        return self.books.said.get(asked.operation_id)

    async def close(self) -> None: ...

    def read_webhook(self, body: bytes, signature: str) -> tuple[UUID, int] | None:
        if signature != SIGNED:
            raise WebhookSignatureWrong("STRIPE")
        order_id, _, number = body.decode().partition("/")
        return UUID(order_id), int(number)

    def _once(self, asked: Asked, what: str) -> Said:
        self.questions.append((what, asked.kind))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "silent":
            raise OutcomeUnknown("no answer")
        before = self.books.asked.setdefault(asked.operation_id, asked)
        assert replace(before, is_last=asked.is_last) == asked, "one key for two things"
        if fault == "no":
            self.books.said[asked.operation_id] = Said(Outcome.DECLINED, "", "account_closed")
        if asked.operation_id not in self.books.said:
            self.books.said[asked.operation_id] = self._do(asked)
        if fault == "acts":
            raise OutcomeUnknown("the answer was lost")
        return self.books.said[asked.operation_id]

    def _do(self, asked: Asked) -> Said:
        reference, key = f"ref/{asked.operation_id}", asked.authorization
        if asked.kind in (Operation.AUTHORIZE, Operation.RENEW):
            if asked.payment_method == DECLINED_CARD:
                return Said(Outcome.DECLINED, "", "insufficient_funds")
            assert reference not in self.books.payments, "authorized twice"
            self.books.payments[reference] = EMPTY.after(Operation.AUTHORIZE, asked.amount_minor)
            self.books.of_tender[reference] = asked.order_id, asked.tender_number
            return Said(Outcome.SUCCEEDED, reference)
        assert self.books.of_tender[key] == (asked.order_id, asked.tender_number)
        payment = self.books.payments[key]
        if asked.kind in (Operation.VOID, Operation.RELEASE):
            self.books.payments[key] = payment.after(Operation.VOID, payment.capturable_minor)
            return Said(Outcome.SUCCEEDED, reference)
        payment = payment.after(asked.kind, asked.amount_minor)
        if asked.kind is Operation.CAPTURE and asked.is_last and payment.capturable_minor:
            payment = payment.after(Operation.VOID, payment.capturable_minor)  # the last capture frees the rest
        self.books.payments[key] = payment
        return Said(Outcome.SUCCEEDED, reference)

    async def differences(self, fetch: Callable[[str], Any]) -> list[str]:
        """Where its books are not the ledger's."""
        rows = await fetch(
            "SELECT order_id, tender_number, authorized_minor, captured_minor, voided_minor, refunded_minor - coalesce("
            " (SELECT sum(p.amount_minor) FROM payment_operations p WHERE p.order_id = t.order_id"
            " AND p.tender_number = t.tender_number AND p.kind = 'REFUND' AND p.reason_code = 'PAID_OUT_BY_HAND'), 0)::int8"
            " FROM tenders t WHERE provider = 'STRIPE'"
        )
        found = []
        for order_id, number, authorized, captured, voided, refunded in rows:
            of_tender = (UUID(str(order_id)), number)
            renewed = [p for ref, p in self.books.payments.items() if self.books.of_tender[ref] == of_tender] or [EMPTY]
            here = (authorized, captured, refunded)
            there = (
                renewed[0].authorized_minor,
                sum(p.captured_minor for p in renewed),
                sum(p.refunded_minor for p in renewed),
            )
            held = [p.capturable_minor for p in renewed if p.capturable_minor]
            if here != there or len(held) > 1 or (not authorized - captured - voided and held):
                found.append(f"tender {number} of {order_id}: {here} here, {there} at the gateway, {voided} void")
        return found
