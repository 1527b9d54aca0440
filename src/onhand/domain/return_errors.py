"""Refusals that are about returns: see onhand.domain.errors. A manager may let pass what is `Overridable`."""

from __future__ import annotations

from dataclasses import dataclass

from onhand.domain.errors import Kind, Refusal


@dataclass(eq=False)
class ReturnWindowPassed(Refusal):
    """The units were handed over too long ago."""

    order_id: str
    line_number: int
    sku: str
    fulfilled_time: str
    window_days: int
    reason = "RETURN_WINDOW_PASSED"
    kind = Kind.PRECONDITION
    message = (
        "{sku} in line {line_number} of order {order_id} was handed over at {fulfilled_time}, more than {window_days} days ago; "
        "a manager may override it"
    )


@dataclass(eq=False)
class FinalSale(Refusal):
    """What was sold for good."""

    sku: str
    reason = "FINAL_SALE"
    kind = Kind.PRECONDITION
    message = "{sku} is sold for good and not taken back; a manager may override it"


@dataclass(eq=False)
class BlindReturnLimit(Refusal):
    """More is brought back without a proof than the policy lets anybody bring."""

    limit: str
    value: int
    allowed: int
    customer_id: str
    reason = "BLIND_RETURN_LIMIT"
    kind = Kind.PRECONDITION
    message = (
        "without a proof, {limit} would be {value} for customer {customer_id!r}, the policy allows {allowed}; "
        "find the order with ListReturnableLines, or have a manager override it"
    )


@dataclass(eq=False)
class BlindRefundNotAllowed(Refusal):
    """A kind of refund that the policy gives nobody who has no proof."""

    refund_kind: str
    allowed_kinds: str
    reason = "BLIND_REFUND_NOT_ALLOWED"
    kind = Kind.PRECONDITION
    message = "without a proof nothing is refunded by {refund_kind}, only by {allowed_kinds}; a manager may override it"


@dataclass(eq=False)
class ReturnAuthorizationExpired(Refusal):
    """A parcel came after its authorization ended."""

    return_authorization_id: str
    expires_time: str
    reason = "RETURN_AUTHORIZATION_EXPIRED"
    kind = Kind.PRECONDITION
    message = "return authorization {return_authorization_id} ended at {expires_time}; a manager may override it"


Overridable = ReturnWindowPassed | FinalSale | BlindReturnLimit | BlindRefundNotAllowed | ReturnAuthorizationExpired
"""What the policy of returns refuses, unless a manager allows it and says why."""


@dataclass(eq=False)
class ReturnAuthorizationNotFound(Refusal):
    """No such authorization."""

    return_authorization: str
    reason = "RETURN_AUTHORIZATION_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "there is no return authorization {return_authorization!r}"


@dataclass(eq=False)
class IllegalReturnStep(Refusal):
    """A step that the state of a return authorization does not allow."""

    return_authorization_id: str
    state: str
    step: str
    legal_steps: str
    reason = "ILLEGAL_RETURN_STEP"
    kind = Kind.PRECONDITION
    message = (
        "return authorization {return_authorization_id} is {state}: {step} is not possible now; possible: {legal_steps}"
    )


@dataclass(eq=False)
class ReturnAuthorizationExceeded(Refusal):
    """More units came in a parcel than were authorized and did not come yet."""

    return_authorization_id: str
    line_number: int
    inspected: int
    awaited: int
    reason = "RETURN_AUTHORIZATION_EXCEEDED"
    kind = Kind.PRECONDITION
    message = (
        "{inspected} units of line {line_number} came, return authorization {return_authorization_id} awaits {awaited}: "
        "refuse the others, or take them back by CreateReturn"
    )


@dataclass(eq=False)
class ExchangeNotCaptured(Refusal):
    """What was paid for returned goods has not been captured, so it cannot pay for others yet."""

    order_id: str
    wanted_minor: int
    captured_minor: int
    currency: str
    reason = "EXCHANGE_NOT_CAPTURED"
    kind = Kind.PRECONDITION
    message = (
        "{wanted_minor} minor units of {currency} of order {order_id} would pay for other goods, {captured_minor} are captured: "
        "return and sell by two calls"
    )
