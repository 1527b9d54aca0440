"""The adapter of Stripe, on a local server that answers as Stripe does."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from broken import verified
from onhand.app import configured_providers
from onhand.domain.payment import Operation, Outcome, Provider
from onhand.domain.payment_errors import WebhookSignatureWrong
from onhand.ids import new_id
from onhand.payments.providers import Asked, OutcomeUnknown, Said, ask
from onhand.payments.stripe import Stripe
from onhand.trials.stripe import API_KEY, StripeServer, stripe_server
from purse import back, by_gateway, do_jobs, jobs, payments, state, tender
from shop import CALLER, NORTH, SOUTH, Shop, cents, fulfillment_of, told
from web import second_edge

SECRET = "whsec_local"
ORDER = UUID("01a20200-0000-7000-8000-000000000001")


@pytest.fixture
async def server() -> AsyncIterator[StripeServer]:
    """A server whose requests all had the shape that Stripe wants."""
    async with stripe_server() as server:
        yield server


@pytest.fixture
async def stripe(server: StripeServer) -> AsyncIterator[Stripe]:
    """The adapter, pointed there."""
    stripe = Stripe(API_KEY, url=server.url, webhook_secret=SECRET)
    yield stripe
    await stripe.close()


def authorization(method: str = "pm_card", amount: int = 1000) -> Asked:
    """Of a new tender."""
    return Asked(new_id(), Operation.AUTHORIZE, amount, "USD", ORDER, 1, method)


def of(authorized: Said, kind: Operation, amount: int, *, is_last: bool = True) -> Asked:
    """A further operation of it."""
    return Asked(new_id(), kind, amount, "USD", ORDER, 1, "", authorized.reference, is_last)


async def test_money_is_set_aside_taken_and_given_back(stripe: Stripe, server: StripeServer) -> None:
    authorized = await stripe.authorize(authorization())
    assert authorized == Said(Outcome.SUCCEEDED, "pi_1")
    captured = await stripe.capture(of(authorized, Operation.CAPTURE, 700))
    assert captured == Said(Outcome.SUCCEEDED, "ch_pi_1")
    assert server.intents["pi_1"]["status"] == "succeeded"
    assert await stripe.refund(of(authorized, Operation.REFUND, 200)) == Said(Outcome.SUCCEEDED, "re_1")
    assert [r.path for r in server.received] == [
        "/v1/payment_intents",
        "/v1/payment_intents/pi_1/capture",
        "/v1/refunds",
    ]


async def test_a_part_is_captured_and_then_the_rest(stripe: Stripe, server: StripeServer) -> None:
    authorized = await stripe.authorize(authorization())
    await stripe.capture(of(authorized, Operation.CAPTURE, 400, is_last=False))
    assert server.intents["pi_1"]["amount_capturable"] == 600
    await stripe.capture(of(authorized, Operation.CAPTURE, 600))
    assert server.intents["pi_1"]["amount_received"] == 1000
    assert [r.fields.get("final_capture") for r in server.received[1:]] == ["false", None]


async def test_what_is_set_aside_is_freed(stripe: Stripe, server: StripeServer) -> None:
    authorized = await stripe.authorize(authorization())
    void = of(authorized, Operation.VOID, 1000)
    assert (await stripe.void(void)).outcome is Outcome.SUCCEEDED
    assert server.intents["pi_1"]["status"] == "canceled"
    # By another key, as when a person did it at Stripe: it is void all the same.
    assert (await stripe.void(of(authorized, Operation.VOID, 1000))).outcome is Outcome.SUCCEEDED


async def test_the_operations_id_is_the_key_and_asking_again_acts_once(stripe: Stripe, server: StripeServer) -> None:
    asked = authorization()
    first, again = await stripe.authorize(asked), await stripe.authorize(asked)
    assert first == again
    assert len(server.intents) == 1
    for kind, amount in ((Operation.CAPTURE, 1000), (Operation.REFUND, 300)):
        further = of(first, kind, amount)
        assert await ask(stripe, further) == await ask(stripe, further)
    assert (server.intents["pi_1"]["amount_received"], len(server.refunds)) == (1000, 1)
    assert {r.key for r in server.received[:2]} == {str(asked.operation_id)}


@pytest.mark.parametrize(("currency", "amount"), [("USD", "1000"), ("JPY", "1000"), ("ISK", "100000"), ("BHD", "1000")])
async def test_an_amount_is_in_the_units_that_stripe_counts(
    stripe: Stripe, server: StripeServer, currency: str, amount: str
) -> None:
    asked = replace(authorization(), currency=currency)
    captured = replace(of(await stripe.authorize(asked), Operation.CAPTURE, 1000), currency=currency)
    await stripe.capture(captured)
    await stripe.refund(replace(captured, operation_id=new_id(), kind=Operation.REFUND))
    assert [r.fields.get("amount") or r.fields["amount_to_capture"] for r in server.received] == [amount] * 3


async def test_a_card_that_is_declined_is_a_no_with_its_reason(stripe: Stripe) -> None:
    said = await stripe.authorize(authorization("pm_declined"))
    assert said.outcome is Outcome.DECLINED
    assert said.detail == "insufficient_funds: Your card has insufficient funds."
    assert (await stripe.authorize(authorization("pm_action"))).outcome is Outcome.DECLINED


async def test_more_than_there_is_is_a_no(stripe: Stripe) -> None:
    authorized = await stripe.authorize(authorization())
    assert (await stripe.capture(of(authorized, Operation.CAPTURE, 1001))).outcome is Outcome.DECLINED
    await stripe.capture(of(authorized, Operation.CAPTURE, 1000))
    assert (await stripe.refund(of(authorized, Operation.REFUND, 1001))).outcome is Outcome.DECLINED


@pytest.mark.parametrize("fault", ["hang up before", "hang up after", "500", "429", "409"])
@pytest.mark.parametrize("kind", list(Operation))
async def test_what_is_not_known_is_no_no_and_asking_again_acts_once(
    stripe: Stripe, server: StripeServer, kind: Operation, fault: str
) -> None:
    asked, authorizes = authorization(), (Operation.AUTHORIZE, Operation.RENEW)
    if kind is not Operation.AUTHORIZE:
        authorized = await stripe.authorize(replace(asked, is_kept=kind is Operation.RENEW))
        if kind is Operation.REFUND:
            await stripe.capture(of(authorized, Operation.CAPTURE, 1000))
        asked = of(authorized, kind, 1000)
    server.faults.append(fault)
    with pytest.raises(OutcomeUnknown):
        await ask(stripe, asked)
    known = await stripe.look_up(asked)
    if kind not in authorizes:
        assert (known is not None) == (fault == "hang up after")
    assert (known or await ask(stripe, asked)).outcome is Outcome.SUCCEEDED
    assert (len(server.intents), len(server.refunds)) == (1 + (kind is Operation.RENEW), kind is Operation.REFUND)
    assert server.intents["pi_1"]["amount_received"] in (0, 1000)


async def test_an_authorization_is_renewed_by_the_same_means_with_nobody_there(
    stripe: Stripe, server: StripeServer
) -> None:
    server.capture_before = 2_000_000_000
    first = await stripe.authorize(replace(authorization(), is_kept=True))
    assert first.expires_time == datetime.fromtimestamp(2_000_000_000, UTC)
    renewal = of(first, Operation.RENEW, 700)
    server.faults.append("hang up after")
    with pytest.raises(OutcomeUnknown):
        await stripe.renew(renewal)
    assert await stripe.look_up(renewal) is None
    renewed = await stripe.renew(renewal)
    assert (renewed.outcome, renewed.reference) == (Outcome.SUCCEEDED, "pi_2")
    assert (await stripe.void(of(first, Operation.RELEASE, 700))).outcome is Outcome.SUCCEEDED
    assert (await stripe.capture(of(renewed, Operation.CAPTURE, 700))).outcome is Outcome.SUCCEEDED
    assert [(i["status"], i["amount_received"]) for i in server.intents.values()] == [
        ("canceled", 0),
        ("succeeded", 700),
    ]


async def test_what_was_given_for_one_use_or_is_declined_is_not_renewed(stripe: Stripe) -> None:
    once = await stripe.authorize(authorization())
    assert (await stripe.renew(of(once, Operation.RENEW, 700))).detail.startswith("not_reusable")
    kept = await stripe.authorize(replace(authorization("pm_once"), is_kept=True))
    said = await stripe.renew(of(kept, Operation.RENEW, 700))
    assert (said.outcome, said.detail.split(":")[0]) == (Outcome.DECLINED, "insufficient_funds")


async def test_what_stripe_still_works_on_is_not_known(stripe: Stripe, server: StripeServer) -> None:
    with pytest.raises(OutcomeUnknown):
        await stripe.authorize(authorization("pm_processing"))
    authorized = await stripe.authorize(authorization())
    await stripe.capture(of(authorized, Operation.CAPTURE, 1000))
    server.intents["pi_2"]["metadata"]["bank"] = "yes"
    refund = of(authorized, Operation.REFUND, 1000)
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            await stripe.refund(refund)
    server.refunds["re_1"]["status"] = "failed"
    server.refunds["re_1"]["failure_reason"] = "account_closed"
    assert await stripe.look_up(refund) == Said(Outcome.DECLINED, "re_1", "account_closed")


async def test_a_key_that_stripe_does_not_know_says_nothing_of_the_customer(server: StripeServer) -> None:
    with pytest.raises(OutcomeUnknown):
        await Stripe("sk_wrong", url=server.url).authorize(authorization())


async def test_nobody_listening_is_not_known() -> None:
    with pytest.raises(OutcomeUnknown):
        await Stripe(API_KEY, url="http://127.0.0.1:9").authorize(authorization())


# -------------------------------------------------------------------------------------------------------------- webhooks
def signed(body: bytes, *, secret: str = SECRET, at: int | None = None) -> str:
    """The header that Stripe sends."""
    moment = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def event(**metadata: str) -> bytes:
    """What Stripe posts of a payment intent."""
    thing = {"id": "pi_1", "object": "payment_intent", "metadata": metadata}
    return json.dumps(
        {"id": "evt_1", "object": "event", "type": "payment_intent.succeeded", "data": {"object": thing}}
    ).encode()


def test_a_webhook_names_the_payment_that_it_is_about() -> None:
    stripe = Stripe(API_KEY, webhook_secret=SECRET)
    body = event(order_id=str(ORDER), tender_number="2")
    assert stripe.read_webhook(body, signed(body)) == (ORDER, 2)


@pytest.mark.parametrize("body", [event(), event(order_id="x", tender_number="1"), b"[]", b"{}", b"no json"])
def test_a_webhook_of_something_else_is_none_of_ours(body: bytes) -> None:
    assert Stripe(API_KEY, webhook_secret=SECRET).read_webhook(body, signed(body)) is None


@pytest.mark.parametrize("how", ["other secret", "old", "other body", "nonsense", "none"])
def test_a_webhook_that_stripe_did_not_sign_now_is_refused(how: str) -> None:
    body = event(order_id=str(ORDER), tender_number="2")
    signature = {
        "other secret": signed(body, secret="whsec_other"),
        "old": signed(body, at=int(time.time()) - 3600),
        "other body": signed(body + b" "),
        "nonsense": "t=1,v1=",
        "none": "",
    }[how]
    with pytest.raises(WebhookSignatureWrong):
        Stripe(API_KEY, webhook_secret=SECRET).read_webhook(body, signature)


# ---------------------------------------------------------------------------------------------------------- end to end
@pytest.fixture
async def shop(database_dsn: str, redis_url: str, server: StripeServer) -> AsyncIterator[Shop]:
    """A shop whose cards are charged by Stripe, as the environment says."""
    environment = {
        "ONHAND_STRIPE_KEY": API_KEY,
        "ONHAND_STRIPE_URL": server.url,
        "ONHAND_STRIPE_WEBHOOK_SECRET": SECRET,
    }
    providers: Any = configured_providers(environment)
    assert configured_providers({}) == {}
    assert providers.keys() == {Provider.STRIPE}
    async with verified(database_dsn, redis_url, providers) as shop:
        yield shop


async def test_an_order_goes_all_its_way_with_stripe(shop: Shop, server: StripeServer) -> None:
    server.faults.extend(["hang up after"])
    request = await by_gateway(shop, quantity=3, capture_at="FULFILLMENT")
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    order = (await shop.orders.place_order(request, CALLER)).order
    await shop.cancel(order.order_id, {1: 1})
    work = fulfillment_of(order, NORTH).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.mark_ready):
        await step(work)
    await shop.hand_over(work, await shop.reset_code(work))
    server.faults.extend(["500", "hang up after"])
    await do_jobs(shop)
    await shop.take_back(order.order_id, SOUTH, back(1))
    await do_jobs(shop)
    (payment,) = await payments(shop, order.order_id)
    assert (state(payment), cents(payment.captured), cents(payment.refunded)) == ("PARTIALLY_REFUNDED", 398, 199)
    (intent,) = server.intents.values()
    assert (intent["amount"], intent["amount_received"], intent["amount_capturable"]) == (597, 398, 0)
    assert [r["amount"] for r in server.refunds.values()] == [199]


async def test_a_declined_card_is_told_with_its_reason(shop: Shop, server: StripeServer) -> None:
    request = await by_gateway(shop, tender("CARD", 398, payment_method="pm_declined"))
    reason, values = await told(shop.orders.place_order(request, CALLER))
    assert (reason, values["detail"]) == ("PAYMENT_DECLINED", "insufficient_funds: Your card has insufficient funds.")


async def test_stripe_may_post_straight_to_a_server(shop: Shop, server: StripeServer) -> None:
    order = (await shop.orders.place_order(await by_gateway(shop), CALLER)).order
    api: Any = SimpleNamespace(app=shop.app)
    body = event(order_id=order.order_id, tender_number="1")
    async with second_edge(api) as web:
        for _ in range(2):  # as it was sent, and again
            reply = await web.post("/webhooks/stripe", body, stripe_signature=signed(body, at=int(time.time()) - 1))
            assert reply.status == 200
        assert (await web.post("/webhooks/stripe", body, stripe_signature=signed(body, secret="forged"))).status == 400
        assert (await web.send("GET", "/webhooks/stripe", {}, b"")).status == 404
    assert [name for name, _, _ in await jobs(shop)].count("payment.settle") == 2  # its own, and one that looks now
    await do_jobs(shop)
    assert [state(p) for p in await payments(shop, order.order_id)] == ["CAPTURED"]
