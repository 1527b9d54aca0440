"""Who takes over what one location lacks, where nobody says: the policy chooses, and its reasons are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from broken import decide, shorts, verified
from onhand.domain.errors import InsufficientStock
from onhand.domain.sourcing import Objective, Policy, Rule, Split
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


async def test_several_bring_a_part_each_where_none_has_all_of_it_and_the_policy_divides_lines(shop: Shop) -> None:
    """onhand's own divides what is sent, and leaves one unit of each sku on the shelf while it can."""
    order = (await shop.place({NORTH: {MILK: 9}}, pb.FULFILLMENT_KIND_SHIP)).order
    old = order.fulfillment_orders[0].fulfillment_order_id
    short = await rejected(shop, old)
    await shop.count(DEPOT, {MILK: 6})
    await shop.count(SOUTH, {MILK: 7})
    request = anybody(short.shortfall_id)
    answer = await shop.orders.decide_shortfall(request, CALLER)
    assert await shop.orders.decide_shortfall(request, CALLER) == answer
    parts = [answer.fulfillment_order, *answer.further_fulfillment_orders]
    brought = {part.location_id: sum(line.quantity for line in part.lines) for part in parts}
    assert (set(brought), sum(brought.values()), len(parts)) == ({DEPOT, SOUTH}, 9, 2)
    assert {part.from_fulfillment_order_id for part in parts} == {old}
    for place, had in ((DEPOT, 6), (SOUTH, 7)):
        assert await shop.level(place, MILK) == Level(had - brought[place], brought[place])
    after = await shop.order(order.order_id)
    first = next(part for part in after.fulfillment_orders if part.fulfillment_order_id == old)
    assert (first.state, first.lines[0].moved_quantity) == (pb.FULFILLMENT_STATE_MOVED, 9)
    assert [s.open_quantity for s in await shorts(shop, order)] == [0]
    kept = [row[:4] for row in await shop.fetch(KEPT)]
    assert sorted(row[1] for row in kept) == sorted(part.fulfillment_order_id for part in parts)
    assert (answer.pickup_code.pickup_code, list(answer.further_pickup_codes)) == ("", [])


async def test_a_pickup_is_one_door_unless_the_policy_divides_it(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 9}})).order
    short = await rejected(shop, order.fulfillment_orders[0].fulfillment_order_id)
    await shop.count(DEPOT, {MILK: 6})
    await shop.count(SOUTH, {MILK: 7})
    assert (await refused(shop.orders.decide_shortfall(anybody(short.shortfall_id), CALLER))).reason == (
        "RESOURCING_NOT_OFFERED"
    )
    rule = Rule(name="any", split=Split.UNITS, objectives=(Objective.FEWEST_PARCELS,))
    shop.app.sourcing.policy = Policy(name="doors", rules=(rule,))
    answer = await shop.orders.decide_shortfall(anybody(short.shortfall_id), CALLER)
    codes = [answer.pickup_code, *answer.further_pickup_codes]
    parts = [answer.fulfillment_order, *answer.further_fulfillment_orders]
    assert [code.fulfillment_order_id for code in codes] == [part.fulfillment_order_id for part in parts]
    assert len({code.pickup_code for code in codes} - {""}) == 2


async def test_two_parts_are_taken_over_together_or_not_at_all(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two locations one has its part no more: then the other one's units are free again."""
    order = (await shop.place({NORTH: {MILK: 9}}, pb.FULFILLMENT_KIND_SHIP)).order
    short = await rejected(shop, order.fulfillment_orders[0].fulfillment_order_id)
    await shop.count(DEPOT, {MILK: 6})
    await shop.count(SOUTH, {MILK: 7})
    plan = shop.app.sourcing.plan

    async def late(*lines: Any, **more: Any) -> Any:
        planned = await plan(*lines, **more)
        if not more["is_of_one"] and planned.plan.is_complete:
            await shop.reserve({SOUTH: {MILK: 5}})
        return planned

    monkeypatch.setattr(shop.app.sourcing, "plan", late)
    assert isinstance(
        await refused(shop.orders.decide_shortfall(anybody(short.shortfall_id), CALLER)), ResourcingNotOffered
    )
    await shop.reserve({DEPOT: {MILK: 6}})  # nobody holds anything there
    assert (await shop.fetch(KEPT), [s.open_quantity for s in await shorts(shop, order)]) == ([], [9])


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
