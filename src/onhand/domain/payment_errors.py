"""Refusals that are about money: see onhand.domain.errors."""

from __future__ import annotations

from dataclasses import dataclass

from onhand.domain.errors import Kind, Refusal


@dataclass(eq=False)
class IllegalPaymentStep(Refusal):
    """What was asked of a payment is not what may happen to it."""

    step: str
    state: str
    amount_minor: int
    legal: str
    reason = "ILLEGAL_PAYMENT_STEP"
    kind = Kind.PRECONDITION
    message = "{step} of {amount_minor} minor units is not possible for a payment that is {state}; possible: {legal}"


@dataclass(eq=False)
class PaymentNotFound(Refusal):
    """No such tender."""

    order_id: str
    tender_number: int
    reason = "PAYMENT_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "order {order_id} has no tender {tender_number}"


@dataclass(eq=False)
class GiftCardNotFound(Refusal):
    """No gift card has this code, or this id."""

    gift_card: str
    reason = "GIFT_CARD_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "there is no gift card {gift_card}"


@dataclass(eq=False)
class GiftCardExists(Refusal):
    """A code can be given out once."""

    last_characters: str
    reason = "GIFT_CARD_EXISTS"
    kind = Kind.EXISTS
    message = "a gift card with this code, ending in {last_characters}, was issued already"


@dataclass(eq=False)
class GiftCardShort(Refusal):
    """A gift card has less on it than is wanted."""

    gift_card_id: str
    wanted_minor: int
    balance_minor: int
    currency: str
    reason = "GIFT_CARD_SHORT"
    kind = Kind.PRECONDITION
    message = "gift card {gift_card_id} has {balance_minor} minor units of {currency}, not {wanted_minor}"


@dataclass(eq=False)
class PaymentDeclined(Refusal):
    """The provider of a tender said no. Nothing was ordered or changed, and what other tenders set aside is freed."""

    order_id: str
    tender_number: int
    detail: str
    reason = "PAYMENT_DECLINED"
    kind = Kind.PRECONDITION
    message = "tender {tender_number} was declined ({detail}); nothing was ordered or changed; pay by other means"


@dataclass(eq=False)
class PaymentPending(Refusal):
    """The provider has not said what became of a payment. What it pays for is finished, or it is voided, behind this answer."""

    order_id: str
    detail: str
    reason = "PAYMENT_PENDING"
    kind = Kind.UNAVAILABLE
    message = (
        "the payment of order {order_id} is not known yet ({detail}); repeat with the same request_id to learn of it"
    )


@dataclass(eq=False)
class CheckoutUnderWay(Refusal):
    """Somebody pays for a reservation: until that has ended, nobody else changes, releases or orders it."""

    reservation_id: str
    order_id: str
    reason = "CHECKOUT_UNDER_WAY"
    kind = Kind.PRECONDITION
    message = "reservation {reservation_id} is being paid for, to become order {order_id}; wait for the outcome"


@dataclass(eq=False)
class ProviderNotConfigured(Refusal):
    """A tender names a provider that this server was not given."""

    provider: str
    reason = "PROVIDER_NOT_CONFIGURED"
    kind = Kind.PRECONDITION
    message = "{provider} is not configured here: set its key, or pay by other means"


@dataclass(eq=False)
class WebhookSignatureWrong(Refusal):
    """A webhook was not signed by its provider, or long ago."""

    provider: str
    reason = "WEBHOOK_SIGNATURE_WRONG"
    kind = Kind.INVALID
    message = "this is no webhook of {provider}: its signature is wrong or too old; compare the webhook secret"


@dataclass(eq=False)
class OperationNotFound(Refusal):
    """No such operation of a payment."""

    operation_id: str
    reason = "OPERATION_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "there is no operation {operation_id}"


@dataclass(eq=False)
class OperationNotDeclined(Refusal):
    """Only what a provider declined to give back can be given back otherwise, and once."""

    operation_id: str
    operation: str
    state: str
    reason = "OPERATION_NOT_DECLINED"
    kind = Kind.PRECONDITION
    message = "operation {operation_id}, a {operation}, is {state}: only a declined VOID or REFUND is given back otherwise, once"
