"""What a location does not bring: where the units go, who sees it, and who brings them instead. Each test ends with verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broken import CHOOSE, COUNT, ends, open_at, pickup, shorts, tasks, verified
from onhand.domain.stock import Level
from onhand.v1 import inventory_pb2
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import ADDRESS, BREAD, CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, cents, refused, told

NOT_FOUND, DAMAGED, CLOSED = pb.REJECT_REASON_NOT_FOUND, pb.REJECT_REASON_DAMAGED, pb.REJECT_REASON_CLOSED
REJECTED = pb.FULFILLMENT_STATE_REJECTED


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop


async def accepted(shop: Shop, lines: dict[str, int], location_id: str = NORTH) -> tuple[pb.Order, str]:
    """An order, and the id of its work, which somebody began."""
    order = (await shop.place({location_id: lines}, customer_id="ada")).order
    (work,) = order.fulfillment_orders
    await shop.accept(work.fulfillment_order_id)
    return order, work.fulfillment_order_id


async def resource(
    shop: Shop, shortfall_id: str, location_id: str, id: str = "", **fields: Any
) -> pb.DecideShortfallResponse:
    """Another location brings what is short."""
    request = pb.DecideShortfallRequest(
        request_id=id or request_id(),
        shortfall_id=shortfall_id,
        decision=pb.SHORTFALL_DECISION_RESOURCE,
        location_id=location_id,
        **fields,
    )
    return await shop.orders.decide_shortfall(request, CALLER)


async def alternatives(shop: Shop, shortfall_id: str, **fields: Any) -> pb.ListShortfallAlternativesResponse:
    """What can be offered instead."""
    request = pb.ListShortfallAlternativesRequest(shortfall_id=shortfall_id, **fields)
    return await shop.orders.list_shortfall_alternatives(request, CALLER)


# ------------------------------------------------------------------------------------------------------------- rejecting
@pytest.mark.parametrize(
    ("reason", "level"),
    [
        (NOT_FOUND, Level(available=6, allocated=1)),
        (DAMAGED, Level(available=6, allocated=1, damaged=3)),
        (CLOSED, Level(available=9, allocated=1)),
    ],
)
async def test_rejected_units_go_where_the_reason_says_and_are_a_need_of_the_order(
    shop: Shop, reason: pb.RejectReason.ValueType, level: Level
) -> None:
    order, work = await accepted(shop, {MILK: 4, BREAD: 2})
    id = request_id()
    answer = await shop.reject(work, (2, 3, reason), request=id)
    (rejected,) = answer.rejected
    assert await shop.reject(work, (2, 3, reason), request=id) == answer

    assert answer.fulfillment_order.state == pb.FULFILLMENT_STATE_ACCEPTED
    assert [(n.line_number, n.quantity) for n in answer.fulfillment_order.lines] == [(1, 2), (2, 1)]
    assert (rejected.state, rejected.reject_reason, rejected.location_id) == (REJECTED, reason, NORTH)
    assert rejected.from_fulfillment_order_id == work
    assert [(n.line_number, n.quantity, n.short_quantity) for n in rejected.lines] == [(2, 3, 3)]
    (short,) = rejected.shortfalls
    assert (short.quantity, short.next_step, short.line_number) == (3, CHOOSE, 2)
    assert pb.ShortfallCause.Name(short.cause).removeprefix("SHORTFALL_CAUSE_") == pb.RejectReason.Name(
        reason
    ).removeprefix("REJECT_REASON_")
    assert await shop.level(NORTH, MILK) == level
    assert [s.shortfall_id for s in await open_at(shop, NORTH)] == [short.shortfall_id]
    found = await shop.orders.list_orders(pb.ListOrdersRequest(is_short=True), CALLER)
    assert [(o.order_id, o.lines[1].short_quantity) for o in found.orders] == [(order.order_id, 3)]
    assert await tasks(shop) == ([(NORTH, MILK)] if reason == NOT_FOUND else [])
    types = [name for name, place in await shop.events("onhand.fulfillment_order") if place == NORTH]
    assert types[-2:] == ["onhand.fulfillment_order.split.v1", "onhand.fulfillment_order.rejected.v1"]
    # What comes in there is not for it.
    await shop.receive(NORTH, {MILK: 5})
    assert [s.open_quantity for s in await shorts(shop, order)] == [3]


async def test_work_of_which_all_is_rejected_is_rejected_itself_with_a_part_for_each_reason(shop: Shop) -> None:
    order, work = await accepted(shop, {MILK: 4, BREAD: 2})
    answer = await shop.reject(work, (2, 1, DAMAGED), (2, 3, NOT_FOUND), (1, 0, NOT_FOUND))
    assert answer.fulfillment_order.state == REJECTED
    assert {(f.reject_reason, tuple((n.line_number, n.quantity) for n in f.lines)) for f in answer.rejected} == {
        (DAMAGED, ((2, 1),)),
        (NOT_FOUND, ((1, 2), (2, 3))),
    }
    assert (await shop.order(order.order_id)).state == pb.ORDER_STATE_OPEN
    assert await shop.level(NORTH, MILK) == Level(available=6, damaged=1)
    assert (await refused(shop.reject(work, (1, 1, CLOSED)))).reason == "ILLEGAL_TRANSITION"
    assert (await refused(shop.pick(work))).reason == "ILLEGAL_TRANSITION"


async def test_more_than_it_has_can_not_be_rejected_nor_a_line_twice_for_one_reason(shop: Shop) -> None:
    _, work = await accepted(shop, {MILK: 4})
    assert await told(shop.reject(work, (1, 3, DAMAGED), (1, 2, CLOSED))) == (
        "FULFILLMENT_LINE_EXCEEDED",
        {"fulfillment_order_id": work, "step": "REJECT", "line_number": "1", "requested": "2", "there": "1"},
    )
    assert (await refused(shop.reject(work, (2, 0, CLOSED)))).reason == "FULFILLMENT_LINE_EXCEEDED"
    assert (await refused(shop.reject(work, (1, 1, CLOSED), (1, 1, CLOSED)))).reason == "INVALID_REQUEST"
    assert (await refused(shop.reject(work, (1, 1, 9)))).reason == "INVALID_REQUEST"  # type: ignore[arg-type]
    assert await shop.level(NORTH, MILK) == Level(available=6, allocated=4)


async def test_who_finds_nothing_where_only_promises_are_left_doubts_those_that_nobody_picked(shop: Shop) -> None:
    picked = await pickup(shop, 3)
    for step in (shop.accept, shop.pick):
        await step(picked.fulfillment_orders[0].fulfillment_order_id)
    order, work = await accepted(shop, {MILK: 4})
    other = await pickup(shop, 3)
    await shop.reject(work, (1, 3, NOT_FOUND))  # one is found: it is this order's
    assert await shorts(shop, picked) == []
    (doubted,) = await shorts(shop, other)
    assert (doubted.cause, doubted.open_quantity, doubted.next_step) == (pb.SHORTFALL_CAUSE_REJECTION, 3, COUNT)
    assert await shop.level(NORTH, MILK) == Level(allocated=4)
    # The count says what is there: two more, so one is still short.
    await shop.count(NORTH, {MILK: 6})
    assert [(s.open_quantity, s.next_step) for s in await shorts(shop, other)] == [(1, CHOOSE)]
    assert [(s.open_quantity, s.next_step) for s in await shorts(shop, order)] == [(3, CHOOSE)]


async def test_who_finds_nothing_where_the_ledger_has_more_doubts_no_promise_before_the_count(shop: Shop) -> None:
    other = await pickup(shop, 3)
    _, work = await accepted(shop, {MILK: 4})
    await shop.reject(work, (1, 0, NOT_FOUND))
    assert await shorts(shop, other) == []
    assert await tasks(shop) == [(NORTH, MILK)]


async def test_units_that_were_short_before_are_those_that_are_not_found(shop: Shop) -> None:
    order, work = await accepted(shop, {MILK: 10})
    await shop.sell(NORTH, {MILK: 4}, 796)
    await shop.reject(work, (1, 5, NOT_FOUND))
    old, new = await shorts(shop, order)
    if old.cause != pb.SHORTFALL_CAUSE_SALE:
        old, new = new, old
    assert (old.open_quantity, ends(old)) == (0, [(4, pb.SHORTFALL_END_REASON_REJECTED)])
    assert (new.open_quantity, new.cause) == (5, pb.SHORTFALL_CAUSE_NOT_FOUND)
    assert await shop.level(NORTH, MILK) == Level(allocated=5)


async def test_units_that_were_short_and_are_found_damaged_were_there(shop: Shop) -> None:
    order, work = await accepted(shop, {MILK: 10})
    await shop.sell(NORTH, {MILK: 4}, 796)
    await shop.reject(work, (1, 8, DAMAGED))
    assert sorted((s.open_quantity, s.cause) for s in await shorts(shop, order)) == [
        (2, pb.SHORTFALL_CAUSE_SALE),
        (8, pb.SHORTFALL_CAUSE_DAMAGED),
    ]
    assert await shop.level(NORTH, MILK) == Level(damaged=8)


async def test_what_a_closed_store_frees_goes_first_to_whoever_lacks_it(shop: Shop) -> None:
    first, _ = await accepted(shop, {MILK: 5})
    _, work = await accepted(shop, {MILK: 5})
    await shop.sell(NORTH, {MILK: 7}, 1393)  # two of the first, all of the second
    await shop.receive(NORTH, {MILK: 6})
    await shop.reject(work, (1, 5, CLOSED))
    assert [s.open_quantity for s in await shorts(shop, first)] == [0]
    assert await shop.level(NORTH, MILK) == Level(available=4, allocated=5)


# -------------------------------------------------------------------------------------------------------------- deciding
async def test_another_location_takes_over_what_was_rejected(shop: Shop) -> None:
    order, work = await accepted(shop, {MILK: 4})
    (rejected,) = (await shop.reject(work, (1, 4, DAMAGED))).rejected
    (short,) = rejected.shortfalls
    id = request_id()
    answer = await resource(shop, short.shortfall_id, SOUTH, id)
    assert await resource(shop, short.shortfall_id, SOUTH, id) == answer

    new = answer.fulfillment_order
    assert (new.location_id, new.kind, new.state) == (
        SOUTH,
        pb.FULFILLMENT_KIND_PICKUP,
        pb.FULFILLMENT_STATE_REQUESTED,
    )
    assert new.from_fulfillment_order_id == work
    assert (answer.shortfall.open_quantity, ends(answer.shortfall)) == (0, [(4, pb.SHORTFALL_END_REASON_RESOURCED)])
    assert await shop.level(SOUTH, MILK) == Level(available=6, allocated=4)
    assert await shop.atp(SOUTH, MILK) == 6
    now = await shop.order(order.order_id)
    assert {f.location_id: f.state for f in now.fulfillment_orders} == {
        NORTH: pb.FULFILLMENT_STATE_MOVED,
        SOUTH: pb.FULFILLMENT_STATE_REQUESTED,
    }
    for step in (shop.accept, shop.pick, shop.mark_ready):
        await step(new.fulfillment_order_id)
    await shop.hand_over(new.fulfillment_order_id, answer.pickup_code.pickup_code)
    now = await shop.order(order.order_id)
    assert (now.state, now.lines[0].fulfilled_quantity) == (pb.ORDER_STATE_COMPLETED, 4)
    back = await shop.take_back(
        order.order_id, NORTH, pb.ReturnedLine(line_number=1, quantity=4, disposition=pb.DISPOSITION_AVAILABLE)
    )
    assert cents(back.refund) == 4 * 199


async def test_a_pickup_that_was_rejected_can_be_shipped_instead(shop: Shop) -> None:
    _, work = await accepted(shop, {MILK: 2})
    (rejected,) = (await shop.reject(work, (1, 0, CLOSED))).rejected
    (short,) = rejected.shortfalls
    ship = pb.FULFILLMENT_KIND_SHIP
    assert (await refused(resource(shop, short.shortfall_id, DEPOT, kind=ship))).reason == "SHIP_TO_MISSING"
    answer = await resource(shop, short.shortfall_id, DEPOT, kind=ship, ship_to=ADDRESS)
    assert not answer.HasField("pickup_code")
    for step in (shop.accept, shop.pick, shop.ship, shop.deliver):
        await step(answer.fulfillment_order.fulfillment_order_id)
    done = await shop.order(answer.fulfillment_order.order_id)
    assert (done.state, done.ship_to) == (pb.ORDER_STATE_COMPLETED, ADDRESS)


async def test_a_location_that_rejected_it_is_never_asked_again(shop: Shop) -> None:
    order, work = await accepted(shop, {MILK: 4})
    (rejected,) = (await shop.reject(work, (1, 0, NOT_FOUND))).rejected
    south = (await resource(shop, rejected.shortfalls[0].shortfall_id, SOUTH)).fulfillment_order
    (again,) = (await shop.reject(south.fulfillment_order_id, (1, 0, CLOSED))).rejected
    (short,) = again.shortfalls
    for place in (NORTH, SOUTH):
        reason, values = await told(resource(shop, short.shortfall_id, place))
        assert (reason, values["location_id"]) == ("LOCATION_EXCLUDED", place)
    offered = await alternatives(shop, short.shortfall_id)
    assert [a.location_id for a in offered.alternatives] == [DEPOT]
    await resource(shop, short.shortfall_id, DEPOT)
    assert [s.open_quantity for s in await shorts(shop, order)] == [0, 0]


async def test_what_a_count_missed_can_be_taken_over_too(shop: Shop) -> None:
    order, work = await accepted(shop, {MILK: 10})
    await shop.count(NORTH, {MILK: 7})
    (short,) = await shorts(shop, order)
    await resource(shop, short.shortfall_id, SOUTH)
    assert await shop.level(NORTH, MILK) == Level(allocated=7)
    (line,) = (await shop.pick(work)).lines
    assert (line.quantity, line.moved_quantity, line.short_quantity) == (10, 3, 0)
    assert (await refused(resource(shop, short.shortfall_id, DEPOT))).reason == "SHORTFALL_NOT_TO_DECIDE"


async def test_a_take_over_needs_units_that_may_be_promised(shop: Shop) -> None:
    _, work = await accepted(shop, {MILK: 4})
    (rejected,) = (await shop.reject(work, (1, 0, DAMAGED))).rejected
    (short,) = rejected.shortfalls
    await shop.reserve({SOUTH: {MILK: 7}})
    assert (await refused(resource(shop, short.shortfall_id, SOUTH))).reason == "INSUFFICIENT_STOCK"
    assert (await refused(resource(shop, short.shortfall_id, "nowhere"))).reason == "LOCATION_NOT_FOUND"
    assert (await refused(resource(shop, work, SOUTH))).reason == "SHORTFALL_NOT_FOUND"
    update = inventory_pb2.UpdateLocationRequest(request_id=request_id())
    update.location.location_id, update.location.offers_pickup = DEPOT, False
    update.update_mask.paths.append("offers_pickup")
    await shop.locations.update_location(update, CALLER)
    assert (await refused(resource(shop, short.shortfall_id, DEPOT))).reason == "FULFILLMENT_NOT_OFFERED"
    assert await shop.atp(DEPOT, MILK) == 10
    wait = pb.DecideShortfallRequest(
        request_id=request_id(), shortfall_id=short.shortfall_id, decision=pb.SHORTFALL_DECISION_WAIT
    )
    assert (await refused(shop.orders.decide_shortfall(wait, CALLER))).reason == "SHORTFALL_NOT_TO_WAIT_FOR"


async def test_two_who_take_over_the_same_units_do_it_once(shop: Shop) -> None:
    order, work = await accepted(shop, {MILK: 4})
    (rejected,) = (await shop.reject(work, (1, 0, DAMAGED))).rejected
    (short,) = rejected.shortfalls
    results = await asyncio.gather(
        resource(shop, short.shortfall_id, SOUTH),
        resource(shop, short.shortfall_id, DEPOT),
        return_exceptions=True,
    )
    assert sum(isinstance(r, pb.DecideShortfallResponse) for r in results) == 1
    assert {getattr(r, "reason", "") for r in results} == {"", "SHORTFALL_NOT_TO_DECIDE"}
    levels = [await shop.level(place, MILK) for place in (SOUTH, DEPOT)]
    assert sum(level.allocated for level in levels) == 4
    assert [s.open_quantity for s in await shorts(shop, order)] == [0]


async def test_cancelling_takes_what_nobody_brings_first_and_frees_nothing(shop: Shop) -> None:
    order, work = await accepted(shop, {MILK: 4})
    await shop.reject(work, (1, 2, NOT_FOUND))
    answer = await shop.cancel(order.order_id, {1: 3})
    assert cents(answer.refund) == 3 * 199
    assert {f.state: f.lines[0].cancelled_quantity for f in answer.order.fulfillment_orders} == {
        pb.FULFILLMENT_STATE_ACCEPTED: 1,
        pb.FULFILLMENT_STATE_CANCELLED: 2,
    }
    assert await shop.level(NORTH, MILK) == Level(available=7, allocated=1)
    assert [s.open_quantity for s in await shorts(shop, order)] == [0]


async def test_alternatives_come_as_the_policy_would_choose_in_pages_with_what_cancelling_gives_back(
    shop: Shop,
) -> None:
    """By onhand's own: a store that has it ready sooner before one that is fuller; and what it would not choose last, with why."""
    await shop.add_location("slow", lead_minutes=90)
    await shop.add_location("spent", daily_units_max=2)
    for place, units in (("slow", 40), ("spent", 30), (DEPOT, 5)):
        await shop.receive(place, {MILK: units})
    _, work = await accepted(shop, {MILK: 4})
    (rejected,) = (await shop.reject(work, (1, 3, DAMAGED))).rejected
    (short,) = rejected.shortfalls
    whole = await alternatives(shop, short.shortfall_id)
    anywhere = "pickup anywhere"
    assert [(a.location_id, a.available_quantity, a.rule, a.detail) for a in whole.alternatives] == [
        (DEPOT, 15, anywhere, "soonest_ready 0, nearest unknown"),
        (SOUTH, 10, anywhere, "soonest_ready 0, nearest unknown"),
        ("slow", 40, anywhere, "soonest_ready 90, nearest unknown"),
        ("spent", 30, "", "2 units left today; 3 needed"),
    ]
    assert all(a.HasField("ready_time") and not a.HasField("distance_metres") for a in whole.alternatives)
    assert cents(whole.refund) == 3 * 199
    paged, token = [], ""
    for _ in range(4):
        page = await alternatives(shop, short.shortfall_id, page_size=1, page_token=token)
        paged, token = [*paged, *page.alternatives], page.next_page_token
    assert ([a.location_id for a in paged], token) == ([a.location_id for a in whole.alternatives], "")
    shipped = await alternatives(shop, short.shortfall_id, kind=pb.FULFILLMENT_KIND_SHIP)
    assert [a.rule for a in shipped.alternatives] == [*["ship from stores too"] * 3, ""]
    assert (await refused(alternatives(shop, short.shortfall_id, kind=pb.FULFILLMENT_KIND_CARRY_OUT))).reason == (
        "INVALID_REQUEST"
    )
    answer = await resource(shop, short.shortfall_id, "")
    assert answer.fulfillment_order.location_id == whole.alternatives[0].location_id
    assert (await refused(alternatives(shop, work))).reason == "SHORTFALL_NOT_FOUND"


async def test_a_location_stays_until_somebody_else_brings_what_it_rejected(shop: Shop) -> None:
    """Else nobody could cancel it, or have it brought from elsewhere: the paid order would be short for ever."""
    await shop.add_location("closing")
    await shop.receive("closing", {MILK: 4})
    order, work = await accepted(shop, {MILK: 4}, "closing")
    await shop.reject(work, (1, 4, NOT_FOUND))
    delete = inventory_pb2.DeleteLocationRequest(request_id=request_id(), location_id="closing")
    refusal = await refused(shop.locations.delete_location(delete, CALLER))
    assert (refusal.reason, refusal.metadata()["open_fulfillment_orders"]) == ("LOCATION_IN_USE", "1")
    assert cents((await shop.cancel(order.order_id, {1: 4})).refund) == 4 * 199
