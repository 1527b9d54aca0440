"""A substitute that the customer is asked about: what she accepts is what was offered, and no answer stops nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from broken import tasks, verified
from onhand.caller import Caller
from onhand.domain.stock import Level
from onhand.domain.substitute_offer import TRANSITIONS, OfferState, OfferStep
from onhand.v1 import order_pb2 as pb
from shelf import add_product, request_id, set_price
from shop import CALLER, MILK, NORTH, Shop, cents, dollars, refused, told

OAT = "oat-milk"
ADA = Caller("app/ada")


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each; the north has oat milk, which is cheaper."""
    async with verified(database_dsn, redis_url) as shop:
        await add_product(shop.catalog, OAT, dollars(149))
        await shop.receive(NORTH, {OAT: 10})
        yield shop


async def began(shop: Shop, units: int = 4) -> tuple[str, str, str]:
    """An order, its work that somebody began, and its code."""
    placed = await shop.place({NORTH: {MILK: units}}, customer_id="ada")
    (code,) = placed.pickup_codes
    await shop.accept(code.fulfillment_order_id)
    return placed.order.order_id, code.fulfillment_order_id, code.pickup_code


async def offer(shop: Shop, work: str, quantity: int = 3, **fields: Any) -> pb.SubstituteOffer:
    """Oat milk for milk."""
    request = pb.OfferSubstituteRequest(
        **{
            "request_id": request_id(),
            "fulfillment_order_id": work,
            "line_number": 1,
            "quantity": quantity,
            "sku": OAT,
            "substitute_quantity": quantity,
            **fields,
        }
    )
    return (await shop.orders.offer_substitute(request, CALLER)).substitute_offer


async def accept(shop: Shop, made: pb.SubstituteOffer, id: str = "") -> pb.AcceptSubstituteOfferResponse:
    """The customer takes it."""
    request = pb.AcceptSubstituteOfferRequest(
        request_id=id or request_id(), substitute_offer_id=made.substitute_offer_id
    )
    return await shop.orders.accept_substitute_offer(request, ADA)


async def decline(shop: Shop, made: pb.SubstituteOffer) -> Any:
    """She does not."""
    request = pb.DeclineSubstituteOfferRequest(request_id=request_id(), substitute_offer_id=made.substitute_offer_id)
    return await shop.orders.decline_substitute_offer(request, ADA)


async def withdraw(shop: Shop, made: pb.SubstituteOffer) -> Any:
    """The location takes it back."""
    request = pb.WithdrawSubstituteOfferRequest(request_id=request_id(), substitute_offer_id=made.substitute_offer_id)
    return await shop.orders.withdraw_substitute_offer(request, CALLER)


async def expire(shop: Shop, made: pb.SubstituteOffer) -> None:
    """Its time is over; no job has come to it."""
    await shop.execute(
        "UPDATE substitute_offers SET expires_time = now() WHERE substitute_offer_id = $1",
        UUID(made.substitute_offer_id),
    )


async def run_expiry(shop: Shop, made: pb.SubstituteOffer | None = None) -> None:
    """The jobs that tell of ends of offers are due, and done."""
    if made is not None:
        await expire(shop, made)
    await shop.execute(
        "UPDATE pgqueuer SET execute_after = now() - interval '1 second' WHERE entrypoint = 'substitute_offer.expire'"
    )
    await shop.app.jobs.run_due()


async def states(shop: Shop, order_id: str) -> list[str]:
    """Of the offers of an order, newest first."""
    answer = await shop.orders.list_substitute_offers(pb.ListSubstituteOffersRequest(order_id=order_id), CALLER)
    names = [pb.SubstituteOfferState.Name(each.state) for each in answer.substitute_offers]
    return [name.removeprefix("SUBSTITUTE_OFFER_STATE_") for name in names]


async def told_of(shop: Shop) -> list[tuple[str, str]]:
    """What events say of offers, and who did it."""
    rows = await shop.fetch(
        "SELECT type, data ->> 'actor' FROM events WHERE type LIKE '%.substitute%' AND subject LIKE 'fulfillment_order/%'"
        " ORDER BY sequence"
    )
    return [(type.removeprefix("onhand.fulfillment_order.").removesuffix(".v1"), actor) for type, actor in rows]


async def test_what_the_customer_accepts_is_what_was_offered_once(shop: Shop) -> None:
    order_id, work, code = await began(shop)
    id = request_id()
    made = await offer(shop, work, request_id=id, reason=pb.REJECT_REASON_NOT_FOUND)
    assert await offer(shop, work, request_id=id, reason=pb.REJECT_REASON_NOT_FOUND) == made
    assert (cents(made.total), cents(made.refund), made.customer_id, made.name) == (3 * 149, 3 * 50, "ada", OAT)
    assert made.expires_time.seconds - made.created_time.seconds == 1800
    assert await shop.level(NORTH, OAT) == Level(available=10)
    assert await shop.atp(NORTH, OAT) == 10, "nothing is held for an offer"
    await set_price(shop.catalog, OAT, dollars(198))  # she agreed to another

    id = request_id()
    answers = await asyncio.gather(*(accept(shop, made, id) for _ in range(3)))
    assert answers[0] == answers[1] == answers[2] == await accept(shop, made, id)
    (answer, *_) = answers
    assert (answer.substitute_offer.state, answer.substitute_offer.substitute_line_number) == (
        pb.SUBSTITUTE_OFFER_STATE_ACCEPTED,
        answer.substitute_line_number,
    )
    first, second = answer.order.lines
    assert (first.cancelled_quantity, cents(first.refunded)) == (3, 3 * 199)
    assert (second.sku, second.quantity, cents(second.total), second.substitutes_line_number) == (OAT, 3, 3 * 149, 1)
    assert cents(answer.refund) == 3 * 50
    assert await shop.level(NORTH, MILK) == Level(available=6, allocated=1)
    assert await shop.level(NORTH, OAT) == Level(available=7, allocated=3)
    assert (await shop.atp(NORTH, MILK), await shop.atp(NORTH, OAT)) == (6, 7)
    assert await tasks(shop) == [(NORTH, MILK)]
    assert await shop.fetch("SELECT consent, consent_reference, actor FROM substitutions") == [
        ("CUSTOMER", f"substitute_offer/{made.substitute_offer_id}", ADA.actor)
    ]
    assert await told_of(shop) == [
        ("substitute_offered", CALLER.actor),
        ("substituted", ADA.actor),
        ("substitute_accepted", ADA.actor),
    ]
    await run_expiry(shop)
    assert len(await told_of(shop)) == 3, "what was answered does not end"
    for step in (shop.pick, shop.mark_ready):
        await step(work)
    await shop.hand_over(work, code)
    assert [n.fulfilled_quantity for n in (await shop.order(order_id)).lines] == [1, 3]


@pytest.mark.parametrize("state", list(OfferState), ids=lambda each: each.value)
async def test_every_answer_in_every_state_does_what_the_table_says(shop: Shop, state: OfferState) -> None:
    steps: dict[OfferStep, Callable[[Shop, pb.SubstituteOffer], Awaitable[Any]]] = {
        OfferStep.ACCEPT: accept,
        OfferStep.DECLINE: decline,
        OfferStep.WITHDRAW: withdraw,
        OfferStep.EXPIRE: run_expiry,
    }
    ways = {to: steps[step] for (_, step), to in TRANSITIONS.items()}
    for step, call in steps.items():
        order_id, work, _ = await began(shop, 1)
        made = await offer(shop, work, 1)
        if state in ways:
            await ways[state](shop, made)
        before = await told_of(shop)
        after = TRANSITIONS.get((state, step))
        if after is not None:
            await call(shop, made)
            assert await states(shop, order_id) == [after.value]
            assert len(await told_of(shop)) == len(before) + (2 if step is OfferStep.ACCEPT else 1)
            continue
        if step is OfferStep.EXPIRE:
            await call(shop, made)  # nobody's call: it finds nothing to end
        else:
            reason, values = await told(call(shop, made))
            assert (reason, values["state"], values["step"]) == ("SUBSTITUTE_OFFER_CLOSED", state.value, step.value)
        assert await states(shop, order_id) == [state.value]
        assert await told_of(shop) == before


async def test_an_offer_that_nobody_answers_ends_and_another_can_be_made(shop: Shop) -> None:
    order_id, work, _ = await began(shop)
    made = await offer(shop, work, ttl_seconds=60)
    assert (await told(offer(shop, work))) == (
        "SUBSTITUTE_OFFER_OPEN",
        {"fulfillment_order_id": work, "line_number": "1", "substitute_offer_id": made.substitute_offer_id},
    )
    await run_expiry(shop)
    assert await states(shop, order_id) == ["OFFERED"], "a job that comes too early ends nothing"
    await expire(shop, made)
    assert await states(shop, order_id) == ["EXPIRED"], "whether a job told of it or not"
    assert (await refused(accept(shop, made))).reason == "SUBSTITUTE_OFFER_CLOSED"
    assert await shop.atp(NORTH, OAT) == 10
    again = await offer(shop, work)
    await run_expiry(shop)
    assert await states(shop, order_id) == ["OFFERED", "EXPIRED"]
    assert await told_of(shop) == [
        ("substitute_offered", CALLER.actor),
        ("substitute_expired", "onhand"),
        ("substitute_offered", CALLER.actor),
    ]
    await decline(shop, again)
    await shop.reject(work, (1, 3, pb.REJECT_REASON_NOT_FOUND))
    assert (await shop.order(order_id)).lines[0].short_quantity == 3, "the line goes on as any that is not found"


async def test_no_offer_stops_a_step_and_none_outlives_what_it_is_about(shop: Shop) -> None:
    _, work, code = await began(shop)
    made = await offer(shop, work)
    for step in (shop.pick, shop.mark_ready):
        await step(work)
    assert (await refused(accept(shop, made))).reason == "ILLEGAL_TRANSITION"
    await shop.hand_over(work, code)
    assert (await refused(accept(shop, made))).reason == "ILLEGAL_TRANSITION"

    order_id, work, _ = await began(shop)
    made = await offer(shop, work, 1)
    phone = pb.SubstituteLineRequest(
        request_id=request_id(),
        fulfillment_order_id=work,
        line_number=1,
        quantity=1,
        sku=OAT,
        substitute_quantity=1,
        consent=pb.CONSENT_PHONE,
    )
    await shop.orders.substitute_line(phone, CALLER)  # she rang, and does not know that the app still asks
    assert (await refused(accept(shop, made))).reason == "SUBSTITUTE_OFFER_OUTDATED"
    assert [n.sku for n in (await shop.order(order_id)).lines] == [MILK, OAT]

    _, work, _ = await began(shop, 1)
    made = await offer(shop, work, 1, substitute_quantity=4)
    await shop.sell(NORTH, {OAT: 6}, 6 * 149)
    assert (await refused(accept(shop, made))).reason == "INSUFFICIENT_STOCK"
    assert (await shop.level(NORTH, OAT)).available == 3
    assert await shop.atp(NORTH, OAT) == 3


async def test_what_cannot_be_a_substitute_is_not_offered(shop: Shop) -> None:
    order_id, work, _ = await began(shop)
    assert (await refused(offer(shop, work, substitute_quantity=11))).reason == "INSUFFICIENT_STOCK"
    assert (await refused(offer(shop, work, sku=MILK))).reason == "SUBSTITUTE_SAME"
    assert (await refused(offer(shop, work, 5))).reason == "FULFILLMENT_LINE_EXCEEDED"
    assert (await refused(offer(shop, work, line_number=7))).reason == "ORDER_LINE_NOT_FOUND"
    assert (await refused(offer(shop, work, sku="nothing"))).reason == "SKU_NOT_FOUND"
    await add_product(shop.catalog, "priceless")
    await shop.receive(NORTH, {"priceless": 5})
    assert (await refused(offer(shop, work, sku="priceless"))).reason == "PRICE_NOT_FOUND"
    nobody = pb.SubstituteOffer(substitute_offer_id=order_id)
    for answer in (accept, decline, withdraw):
        assert (await refused(answer(shop, nobody))).reason == "SUBSTITUTE_OFFER_NOT_FOUND"
    hers = pb.SubstituteLineRequest(
        request_id=request_id(),
        fulfillment_order_id=work,
        line_number=1,
        sku=OAT,
        substitute_quantity=1,
        consent=pb.CONSENT_CUSTOMER,
    )
    assert (await refused(shop.orders.substitute_line(hers, CALLER))).reason == "INVALID_REQUEST"
    unknown = pb.ListSubstituteOffersRequest(order_id=work)
    assert (await refused(shop.orders.list_substitute_offers(unknown, CALLER))).reason == "ORDER_NOT_FOUND"
    assert await states(shop, order_id) == []
