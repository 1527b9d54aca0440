"""What may happen to the money of one tender, and where money goes back to.

The state of a payment follows from its sums and is never set by itself. A step that TRANSITIONS does not name is illegal. The
sums obey: captured + voided <= authorized <= amount, refunded <= captured. Money is kept as long as nothing gives it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

from onhand.domain.payment_errors import IllegalPaymentStep


class Provider(Enum):
    """Who moves the money of a tender."""

    TILL = "TILL"
    """Somebody else has, and said so: what is recorded has happened."""
    GIFT_CARD = "GIFT_CARD"
    """Onhand's own ledger of gift cards, in the same transaction."""
    STRIPE = "STRIPE"
    """A gateway, asked by a job."""

    @property
    def is_outside(self) -> bool:
        """Whether moving its money needs a call that no transaction can take back."""
        return self is Provider.STRIPE


class Operation(Enum):
    """What is asked of a provider."""

    AUTHORIZE = "AUTHORIZE"
    CAPTURE = "CAPTURE"
    VOID = "VOID"
    """Of what was authorized and is not captured, and never will be."""
    REFUND = "REFUND"
    RENEW = "RENEW"
    """To set aside anew, by another authorization, what is not captured yet: the first one ends before the goods leave."""
    RELEASE = "RELEASE"
    """To free an authorization that another one has taken the place of. Like RENEW it changes no sum."""


class Outcome(Enum):
    """What became of an operation, known for certain. One without an outcome is open: asked for, or unknown."""

    SUCCEEDED = "SUCCEEDED"
    DECLINED = "DECLINED"


class CaptureAt(Enum):
    """When what was authorized is captured."""

    ONCE = "ONCE"
    """With the order."""
    FULFILLMENT = "FULFILLMENT"
    """As goods are handed over or shipped, for what these cost."""


class PaymentState(Enum):
    """How far the money of a tender is."""

    PENDING = "PENDING"
    DECLINED = "DECLINED"
    AUTHORIZED = "AUTHORIZED"
    VOIDED = "VOIDED"
    PARTIALLY_CAPTURED = "PARTIALLY_CAPTURED"
    CAPTURED = "CAPTURED"
    PARTIALLY_REFUNDED = "PARTIALLY_REFUNDED"
    REFUNDED = "REFUNDED"


class PaymentStep(Enum):
    """What an operation with its outcome does to a payment; REST: of all that was left."""

    AUTHORIZE = "AUTHORIZE"
    DECLINE = "DECLINE"
    CAPTURE_PART = "CAPTURE_PART"
    CAPTURE_REST = "CAPTURE_REST"
    VOID_PART = "VOID_PART"
    VOID_REST = "VOID_REST"
    REFUND_PART = "REFUND_PART"
    REFUND_REST = "REFUND_REST"
    RENEW = "RENEW"


_S, _P = PaymentState, PaymentStep

TRANSITIONS: Mapping[tuple[PaymentState, PaymentStep], PaymentState] = MappingProxyType(
    {
        (_S.PENDING, _P.AUTHORIZE): _S.AUTHORIZED,
        (_S.PENDING, _P.DECLINE): _S.DECLINED,
        (_S.AUTHORIZED, _P.CAPTURE_PART): _S.PARTIALLY_CAPTURED,
        (_S.AUTHORIZED, _P.CAPTURE_REST): _S.CAPTURED,
        (_S.AUTHORIZED, _P.VOID_PART): _S.AUTHORIZED,
        (_S.AUTHORIZED, _P.VOID_REST): _S.VOIDED,
        (_S.PARTIALLY_CAPTURED, _P.CAPTURE_PART): _S.PARTIALLY_CAPTURED,
        (_S.PARTIALLY_CAPTURED, _P.CAPTURE_REST): _S.CAPTURED,
        (_S.PARTIALLY_CAPTURED, _P.VOID_PART): _S.PARTIALLY_CAPTURED,
        (_S.PARTIALLY_CAPTURED, _P.VOID_REST): _S.CAPTURED,
        (_S.PARTIALLY_CAPTURED, _P.REFUND_PART): _S.PARTIALLY_REFUNDED,
        (_S.PARTIALLY_CAPTURED, _P.REFUND_REST): _S.REFUNDED,
        (_S.CAPTURED, _P.REFUND_PART): _S.PARTIALLY_REFUNDED,
        (_S.CAPTURED, _P.REFUND_REST): _S.REFUNDED,
        (_S.PARTIALLY_REFUNDED, _P.CAPTURE_PART): _S.PARTIALLY_REFUNDED,
        (_S.PARTIALLY_REFUNDED, _P.CAPTURE_REST): _S.PARTIALLY_REFUNDED,
        (_S.PARTIALLY_REFUNDED, _P.VOID_PART): _S.PARTIALLY_REFUNDED,
        (_S.PARTIALLY_REFUNDED, _P.VOID_REST): _S.PARTIALLY_REFUNDED,
        (_S.PARTIALLY_REFUNDED, _P.REFUND_PART): _S.PARTIALLY_REFUNDED,
        (_S.PARTIALLY_REFUNDED, _P.REFUND_REST): _S.REFUNDED,
        # All that was captured so far is back, and a further part of the order may still be captured.
        (_S.REFUNDED, _P.CAPTURE_PART): _S.PARTIALLY_REFUNDED,
        (_S.REFUNDED, _P.CAPTURE_REST): _S.PARTIALLY_REFUNDED,
        (_S.REFUNDED, _P.VOID_PART): _S.REFUNDED,
        (_S.REFUNDED, _P.VOID_REST): _S.REFUNDED,
        # By another authorization of the same money.
        (_S.AUTHORIZED, _P.RENEW): _S.AUTHORIZED,
        (_S.PARTIALLY_CAPTURED, _P.RENEW): _S.PARTIALLY_CAPTURED,
        (_S.PARTIALLY_REFUNDED, _P.RENEW): _S.PARTIALLY_REFUNDED,
        (_S.REFUNDED, _P.RENEW): _S.REFUNDED,
    }
)


@dataclass(frozen=True)
class Payment:
    """The money of one tender, in minor units."""

    amount_minor: int
    authorized_minor: int = 0
    captured_minor: int = 0
    voided_minor: int = 0
    refunded_minor: int = 0
    is_declined: bool = False

    @property
    def capturable_minor(self) -> int:
        """What is authorized, and neither captured nor void."""
        return self.authorized_minor - self.captured_minor - self.voided_minor

    @property
    def refundable_minor(self) -> int:
        """What was captured and is kept."""
        return self.captured_minor - self.refunded_minor

    @property
    def state(self) -> PaymentState:
        """As it follows from the sums."""
        if not self.authorized_minor:
            return _S.DECLINED if self.is_declined else _S.PENDING
        if not self.captured_minor:
            return _S.AUTHORIZED if self.capturable_minor else _S.VOIDED
        if self.refunded_minor:
            return _S.PARTIALLY_REFUNDED if self.refundable_minor else _S.REFUNDED
        return _S.PARTIALLY_CAPTURED if self.capturable_minor else _S.CAPTURED

    def after(self, operation: Operation, amount_minor: int, outcome: Outcome = Outcome.SUCCEEDED) -> Payment:
        """The payment once an operation ended so. Raises `IllegalPaymentStep`.

        A declined capture, void, refund or renewal changes nothing: the money is where it was.
        """
        if operation is Operation.RELEASE:
            return self
        step = self._step(operation, amount_minor, outcome)
        if step is None:
            return self
        if (self.state, step) not in TRANSITIONS:
            legal = ", ".join(s.value for state, s in TRANSITIONS if state is self.state) or "nothing"
            raise IllegalPaymentStep(step.value, self.state.value, amount_minor, legal)
        if operation is Operation.AUTHORIZE:
            if outcome is Outcome.DECLINED:
                return replace(self, is_declined=True)
            return replace(self, authorized_minor=amount_minor)
        if operation is Operation.RENEW:
            return self
        if operation is Operation.CAPTURE:
            return replace(self, captured_minor=self.captured_minor + amount_minor)
        if operation is Operation.VOID:
            return replace(self, voided_minor=self.voided_minor + amount_minor)
        return replace(self, refunded_minor=self.refunded_minor + amount_minor)

    def _step(self, operation: Operation, amount_minor: int, outcome: Outcome) -> PaymentStep | None:
        if operation is Operation.AUTHORIZE:
            room, steps = self.amount_minor, (_P.AUTHORIZE, _P.AUTHORIZE)
        elif operation is Operation.CAPTURE:
            room, steps = self.capturable_minor, (_P.CAPTURE_PART, _P.CAPTURE_REST)
        elif operation is Operation.VOID:
            room, steps = self.capturable_minor, (_P.VOID_PART, _P.VOID_REST)
        elif operation is Operation.RENEW:
            room, steps = self.capturable_minor, (_P.RENEW, _P.RENEW)
        else:
            room, steps = self.refundable_minor, (_P.REFUND_PART, _P.REFUND_REST)
        if outcome is Outcome.DECLINED:
            return _P.DECLINE if operation is Operation.AUTHORIZE else None
        if not 0 < amount_minor <= room:
            raise IllegalPaymentStep(steps[0].value, self.state.value, amount_minor, f"{room} at most")
        return steps[amount_minor == room]


Authorization = TypeVar("Authorization")

# ------------------------------------------------------------------------------------------------------ giving back
GIVE_BACK_ORDER = ("GIFT_CARD", "STORE_CREDIT", "CARD", "OTHER", "CASH")
"""Kinds of tender in the order in which they get money back: the retailer's own credit first, so that it does not become cash."""


@dataclass(frozen=True)
class Tendered:
    """A tender as giving back needs it. `given_back_minor` is asked for, whether it arrived yet or not.

    `capturing_minor` and `voiding_minor` are of open operations.
    """

    tender_number: int
    kind: str
    provider: Provider
    payment: Payment
    given_back_minor: int = 0
    capturing_minor: int = 0
    voiding_minor: int = 0

    @property
    def room_minor(self) -> int:
        """What it can still give back."""
        return self.payment.amount_minor - self.given_back_minor

    @property
    def uncaptured_minor(self) -> int:
        """What it has authorized and nobody asked to capture or to void yet."""
        return self.payment.capturable_minor - self.capturing_minor - self.voiding_minor


@dataclass(frozen=True)
class GiveBack:
    """A part of what is given back: `operation` is VOID of what is not captured, else REFUND."""

    tender: Tendered
    operation: Operation
    amount_minor: int


def plan_give_back(tenders: Iterable[Tendered], amount_minor: int) -> list[GiveBack]:
    """Where money goes: to the tenders it came from, GIVE_BACK_ORDER first, then by number, each at most what it bore.

    Of a tender, what is not captured is voided before what is captured is refunded: that costs nobody anything. Raises
    ValueError if more is to be given back than the tenders bear; `onhand.domain.returns` never asks for that.
    """
    plan = []
    for tender in sorted(tenders, key=lambda t: (GIVE_BACK_ORDER.index(t.kind), t.tender_number)):
        part = min(amount_minor, tender.room_minor)
        amount_minor -= part
        void = min(part, tender.uncaptured_minor)
        for operation, minor in ((Operation.VOID, void), (Operation.REFUND, part - void)):
            if minor:
                plan.append(GiveBack(tender, operation, minor))
    if amount_minor:
        raise ValueError(f"{amount_minor} more than the tenders bear")
    return plan


def split_refund(captured: Iterable[tuple[Authorization, int]], amount_minor: int) -> list[tuple[Authorization, int]]:
    """Of which authorizations to refund, the oldest first, each at most what was captured of it and is kept.

    Raises ValueError if more is to be refunded than they have.
    """
    plan = []
    for authorization, room_minor in captured:
        if (part := min(amount_minor, room_minor)) > 0:
            plan.append((authorization, part))
            amount_minor -= part
    if amount_minor:
        raise ValueError(f"{amount_minor} more than was captured")
    return plan


def plan_capture(tenders: Sequence[Tendered], amount_minor: int, *, is_last: bool) -> list[tuple[Tendered, int]]:
    """What to capture of tenders that wait for goods to leave, by number. `is_last`: nothing is left to leave, so all of it."""
    plan = []
    for tender in sorted(tenders, key=lambda t: t.tender_number):
        part = tender.uncaptured_minor if is_last else min(amount_minor, tender.uncaptured_minor)
        amount_minor -= min(part, amount_minor)
        if part:
            plan.append((tender, part))
    return plan
