"""Who takes over what one location lacks, where nobody says: the policy chooses, and its reasons are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from broken import decide, shorts, verified
from onhand.domain.errors import InsufficientStock
from onhand.domain.sourcing_errors import ResourcingNotOffered
from onhand.domain.stock import Level
from onhand.orders.resource import resource_by_policy
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, refused, told

KEPT = """
SELECT d.document_id::text, d.fulfillment_order_id::text, d.plan ->> 'policy', d.plan #>> '{parcels,0,location_id}',
       d.plan #>> '{parcels,0,ready_time}' IS NOT NULL, jsonb_array_length(d.plan -> 'considered')
  FROM sourcing_decisions d JOIN fulfillment_orders f USING (fulfillment_order_id) ORDER BY d.created_time"""


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop


async def rejected(shop: Shop, work: str) -> pb.Shortfall:
    """A store does not bring its only line."""
    (part,) = (await shop.reject(work, (1, 0, pb.REJECT_REASON_CLOSED))).rejected
    return part.shortfalls[0]


def anybody(shortfall_id: str, id: str = "") -> pb.DecideShortfallRequest:
    """Whom sourcing chooses."""
    return pb.DecideShortfallRequest(
        request_id=id or request_id(), shortfall_id=shortfall_id, decision=pb.SHORTFALL_DECISION_RESOURCE
    )


async def test_the_policy_goes_on_from_one_location_to_the_next_and_then_says_what_to_do(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 4}})).order
    work, taken = order.fulfillment_orders[0].fulfillment_order_id, []
    for place in (DEPOT, SOUTH):
        short = await rejected(shop, work)
        answer = await shop.orders.decide_shortfall(anybody(short.shortfall_id), CALLER)
        assert (answer.fulfillment_order.location_id, bool(answer.pickup_code.pickup_code)) == (place, True)
        work = answer.fulfillment_order.fulfillment_order_id
        taken.append((order.order_id, work, "standard", place, True))
    assert [row[:-1] for row in await shop.fetch(KEPT)] == taken
    assert [row[-1] > 0 for row in await shop.fetch(KEPT)] == [True, True]
    short = await rejected(shop, work)
    assert await told(shop.orders.decide_shortfall(anybody(short.shortfall_id), CALLER)) == (
        "RESOURCING_NOT_OFFERED",
        {"shortfall_id": short.shortfall_id, "sku": MILK, "quantity": "4", "policy": "standard"},
    )


async def test_one_location_brings_all_of_it_or_nobody_does(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 7}}, pb.FULFILLMENT_KIND_SHIP)).order
    short = await rejected(shop, order.fulfillment_orders[0].fulfillment_order_id)
    await shop.count(DEPOT, {MILK: 6})
    answer = await shop.orders.decide_shortfall(anybody(short.shortfall_id), CALLER)
    assert answer.fulfillment_order.location_id == SOUTH
    assert (await shop.level(DEPOT, MILK), await shop.level(SOUTH, MILK)) == (Level(6), Level(3, 7))


async def test_where_the_chosen_one_has_it_no_more_another_is_chosen(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = (await shop.place({NORTH: {MILK: 4}})).order
    short = await rejected(shop, order.fulfillment_orders[0].fulfillment_order_id)
    plan = shop.app.sourcing.plan
    buyers = [{DEPOT: {MILK: 10}}, {SOUTH: {MILK: 10}}]

    async def late(*lines: Any, **more: Any) -> Any:
        planned = await plan(*lines, **more)
        if buyers:
            await shop.reserve(buyers.pop(0))
        return planned

    monkeypatch.setattr(shop.app.sourcing, "plan", late)
    assert isinstance(
        await refused(shop.orders.decide_shortfall(anybody(short.shortfall_id), CALLER)), ResourcingNotOffered
    )
    assert await shop.fetch(KEPT) == []
    assert [s.open_quantity for s in await shorts(shop, order)] == [4]
    named = anybody(short.shortfall_id)
    named.location_id = SOUTH
    assert isinstance(await refused(shop.orders.decide_shortfall(named, CALLER)), InsufficientStock)


async def test_a_job_has_it_done_once(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 10}})).order
    await shop.sell(NORTH, {MILK: 3}, 3 * 199)
    (short,) = await shorts(shop, order)

    async def job() -> pb.DecideShortfallResponse:
        app, id = shop.app, UUID(short.shortfall_id)
        of = f"resource/{id}"
        return await resource_by_policy(app.ledger, app.decreases, app.sourcing, id, request_id=of, caller=CALLER)

    assert (await refused(job())).reason == "SHORTFALL_NOT_TO_DECIDE"  # it is to be counted first
    await shop.count(NORTH, {MILK: 7})
    first = await job()
    assert first == await job()
    assert (await shop.level(NORTH, MILK), await shop.level(DEPOT, MILK)) == (Level(0, 7), Level(7, 3))
    assert (
        await refused(decide(shop, short.shortfall_id, pb.SHORTFALL_DECISION_RESOURCE))
    ).reason == "SHORTFALL_NOT_TO_DECIDE"


async def test_a_repeat_that_finds_what_its_first_attempt_took_gone_gets_its_answer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = (await shop.place({NORTH: {MILK: 10}})).order
    short = await rejected(shop, order.fulfillment_orders[0].fulfillment_order_id)
    await shop.reserve({DEPOT: {MILK: 10}})
    plan, request, first = shop.app.sourcing.plan, anybody(short.shortfall_id), []

    async def late(*lines: Any, **more: Any) -> Any:
        monkeypatch.setattr(shop.app.sourcing, "plan", plan)
        first.append(await shop.orders.decide_shortfall(request, CALLER))
        return await plan(*lines, **more)

    monkeypatch.setattr(shop.app.sourcing, "plan", late)
    assert [await shop.orders.decide_shortfall(request, CALLER)] == first
