"""Stripe, by its own library. Requests carry the operation's id as idempotency key, and in the metadata of what they make."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import stripe

from onhand.domain.payment import Operation, Outcome
from onhand.domain.payment_errors import WebhookSignatureWrong
from onhand.payments.providers import Asked, OutcomeUnknown, Said

ANSWER_SECONDS_MAX = 20.0
"""How long Stripe may take to answer; less than a job may take."""
WEBHOOK_AGE_SECONDS_MAX = 300
"""How old a webhook's signature may be: Stripe signs each delivery anew."""
URL = "https://api.stripe.com"
HUNDREDFOLD = frozenset({"ISK", "UGX"})
"""Currencies without minor units of which Stripe counts hundredths all the same (docs.stripe.com/currencies, special cases)."""

Answer = TypeVar("Answer")

_DECLINED_STATES = frozenset({"requires_payment_method", "requires_action", "requires_confirmation", "canceled"})


class Stripe:
    """A PaymentProvider. `url` is where Stripe is, in tests a server that answers like it."""

    def __init__(self, api_key: str, *, url: str = URL, webhook_secret: str = "") -> None:
        self._http: Any = stripe.HTTPXClient(timeout=ANSWER_SECONDS_MAX)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": url},
            # Jobs repeat, with pauses and a bound; one try is one request.
            max_network_retries=0,
            http_client=self._http,
        )
        self._webhook_secret = webhook_secret

    async def authorize(self, asked: Asked) -> Said:
        """A PaymentIntent, confirmed at once, to be captured by hand."""
        params: Any = {
            "amount": _amount(asked),
            "currency": asked.currency.lower(),
            "payment_method": asked.payment_method,
            "confirm": True,
            "capture_method": "manual",
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            "error_on_requires_action": True,
            # An order may leave in several parcels, each captured when it does.
            "payment_method_options": {"card": {"request_multicapture": "if_available"}},
            "metadata": _named(asked),
            "expand": ["latest_charge"],
        }
        if asked.is_kept:
            # A payment method can be used again only for a customer who agreed to that.
            known = await _said(
                self._client.v1.customers.create_async(
                    {"metadata": _named(asked)}, {"idempotency_key": f"{asked.operation_id}/customer"}
                )
            )
            if isinstance(known, Said):
                return known
            params |= {"customer": known.id, "setup_future_usage": "off_session"}
        intent = await _said(self._client.v1.payment_intents.create_async(params, _key(asked)))
        return intent if isinstance(intent, Said) else _authorized(intent)

    async def renew(self, asked: Asked) -> Said:
        """Another PaymentIntent for the same customer and payment method, with nobody there."""
        before = await _said(self._client.v1.payment_intents.retrieve_async(asked.authorization))
        if isinstance(before, Said):
            return before
        if not before.customer or not before.payment_method:
            return Said(Outcome.DECLINED, "", "not_reusable: the payment method was given for one use")
        params: Any = {
            "amount": _amount(asked),
            "currency": asked.currency.lower(),
            "customer": str(before.customer),
            "payment_method": str(before.payment_method),
            "confirm": True,
            "off_session": True,
            "capture_method": "manual",
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            "payment_method_options": {"card": {"request_multicapture": "if_available"}},
            "metadata": _named(asked),
            "expand": ["latest_charge"],
        }
        intent = await _said(self._client.v1.payment_intents.create_async(params, _key(asked)))
        return intent if isinstance(intent, Said) else _authorized(intent)

    async def capture(self, asked: Asked) -> Said:
        """Of its PaymentIntent; the last capture frees what is left."""
        params: Any = {
            "amount_to_capture": _amount(asked),
            "metadata": {_mark(asked): asked.kind.value},
        }
        if not asked.is_last:
            params["final_capture"] = False
        intent = await _said(self._client.v1.payment_intents.capture_async(asked.authorization, params, _key(asked)))
        return intent if isinstance(intent, Said) else Said(Outcome.SUCCEEDED, str(intent.latest_charge or intent.id))

    async def void(self, asked: Asked) -> Said:
        """Cancels its PaymentIntent."""
        intent = await _said(self._client.v1.payment_intents.cancel_async(asked.authorization, {}, _key(asked)))
        if not isinstance(intent, Said):
            return Said(Outcome.SUCCEEDED, intent.id)
        return await self.look_up(asked) or intent

    async def refund(self, asked: Asked) -> Said:
        """A refund of its PaymentIntent."""
        params: Any = {
            "payment_intent": asked.authorization,
            "amount": _amount(asked),
            "metadata": _named(asked),
        }
        refund = await _said(self._client.v1.refunds.create_async(params, _key(asked)))
        return refund if isinstance(refund, Said) else _refunded(refund)

    async def look_up(self, asked: Asked) -> Said | None:
        """By what the operation left there. An authorization is not looked up: asking again under its key says what it came to."""
        if asked.kind in (Operation.AUTHORIZE, Operation.RENEW):
            return None
        if asked.kind is Operation.REFUND:
            found = await _said(
                self._client.v1.refunds.list_async({"payment_intent": asked.authorization, "limit": 100})
            )
            if isinstance(found, Said):
                return None
            mine = [r for r in found.data if _metadata(r).get("operation_id") == str(asked.operation_id)]
            return _refunded(mine[0]) if mine else None
        intent = await _said(self._client.v1.payment_intents.retrieve_async(asked.authorization))
        if isinstance(intent, Said):
            return None
        if asked.kind in (Operation.VOID, Operation.RELEASE):
            return Said(Outcome.SUCCEEDED, intent.id) if intent.status == "canceled" else None
        if _mark(asked) in _metadata(intent):
            return Said(Outcome.SUCCEEDED, str(intent.latest_charge or intent.id))
        return None

    async def close(self) -> None:
        """Ends the connections."""
        await self._http.close_async()

    def read_webhook(self, body: bytes, signature: str) -> tuple[UUID, int] | None:
        """The payment (order_id, tender_number) that a webhook is about, if it is one of ours. Raises WebhookSignatureWrong.

        It is a hint to look, no more: what has happened is asked for, so a late or repeated one does no harm.
        """
        try:
            stripe.WebhookSignature.verify_header(
                body.decode(), signature, self._webhook_secret, WEBHOOK_AGE_SECONDS_MAX
            )
            named = json.loads(body)["data"]["object"].get("metadata") or {}
            return UUID(named["order_id"]), int(named["tender_number"])
        except (stripe.SignatureVerificationError, UnicodeDecodeError) as error:
            raise WebhookSignatureWrong("STRIPE") from error
        except (KeyError, ValueError, TypeError, AttributeError):
            return None


def _amount(asked: Asked) -> int:
    """In Stripe's units, which are ISO 4217's minor units but for two currencies."""
    return asked.amount_minor * 100 if asked.currency in HUNDREDFOLD else asked.amount_minor


def _key(asked: Asked) -> Any:
    return {"idempotency_key": str(asked.operation_id)}


def _named(asked: Asked) -> dict[str, str]:
    return {
        "order_id": str(asked.order_id),
        "tender_number": str(asked.tender_number),
        "operation_id": str(asked.operation_id),
    }


def _mark(asked: Asked) -> str:
    """A key of metadata, of at most 40 characters, that says that this operation was done."""
    return f"op_{asked.operation_id.hex}"


def _metadata(thing: Any) -> Mapping[str, str]:
    return thing.metadata.to_dict() if thing.metadata else {}


async def _said(call: Awaitable[Answer]) -> Answer | Said:
    """The answer; a Said where Stripe said no. Raises OutcomeUnknown."""
    try:
        return await call
    except stripe.CardError as error:
        decline = getattr(error.error, "decline_code", None)
        return Said(Outcome.DECLINED, "", f"{decline or error.code}: {error.user_message}")
    except stripe.InvalidRequestError as error:
        if error.http_status == 429 or error.code in ("lock_timeout", "idempotency_key_in_use"):
            raise OutcomeUnknown(str(error)) from error
        return Said(Outcome.DECLINED, "", f"{error.code}: {error.user_message}")
    except stripe.StripeError as error:
        # Time-outs, broken connections, 5xx, too many requests; a wrong API key too, which says nothing of the customer's money.
        raise OutcomeUnknown(f"{type(error).__name__}: {error}"[:300]) from error


def _authorized(intent: Any) -> Said:
    if intent.status in ("requires_capture", "succeeded"):
        return Said(Outcome.SUCCEEDED, intent.id, expires_time=_capture_before(intent))
    if intent.status in _DECLINED_STATES:
        return Said(Outcome.DECLINED, intent.id, intent.status)
    raise OutcomeUnknown(f"{intent.id} is {intent.status}")


def _capture_before(intent: Any) -> datetime | None:
    """When the authorization ends, where the card's network says so."""
    details = getattr(getattr(intent, "latest_charge", None), "payment_method_details", None)
    until = getattr(getattr(details, "card", None), "capture_before", None)
    return None if until is None else datetime.fromtimestamp(until, UTC)


def _refunded(refund: Any) -> Said:
    if refund.status == "succeeded":
        return Said(Outcome.SUCCEEDED, refund.id)
    if refund.status in ("failed", "canceled"):
        return Said(Outcome.DECLINED, refund.id, getattr(refund, "failure_reason", None) or refund.status)
    raise OutcomeUnknown(f"{refund.id} is {refund.status}")
