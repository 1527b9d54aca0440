"""Goods that wait for their customer: reminders, arrivals, no-shows, putting away. Each test ends with every rule of verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broken import tasks, verified
from onhand.domain.stock import Level
from onhand.orders.waiting import HOLD_SECONDS, HOLD_SECONDS_MAX
from onhand.v1 import inventory_pb2
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import BREAD, CALLER, MILK, NORTH, Shop, refused, told

REMINDED = "onhand.fulfillment_order.pickup_reminder.v1"


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop


async def no_show(shop: Shop, work: str, id: str = "", **fields: Any) -> pb.FulfillmentOrder:
    """The customer did not come."""
    request = pb.MarkNoShowRequest(request_id=id or request_id(), fulfillment_order_id=work, **fields)
    return (await shop.orders.mark_no_show(request, CALLER)).fulfillment_order


async def put_away(shop: Shop, work: str, *lines: tuple[int, int, int], id: str = "") -> pb.FulfillmentOrder:
    """Somebody puts (line_number, available, damaged) away."""
    request = pb.PutAwayFulfillmentOrderRequest(
        request_id=id or request_id(),
        fulfillment_order_id=work,
        lines=[pb.PutAwayLine(line_number=n, available_quantity=a, damaged_quantity=d) for n, a, d in lines],
    )
    return (await shop.orders.put_away_fulfillment_order(request, CALLER)).fulfillment_order


async def unpick(shop: Shop, work: str) -> pb.FulfillmentOrder:
    """The goods go back."""
    request = pb.UnpickFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work)
    return (await shop.orders.unpick_fulfillment_order(request, CALLER)).fulfillment_order


async def pass_hold(shop: Shop, work: str, seconds: int = 1) -> None:
    """So much time has passed that its hold is over since then."""
    await shop.execute(
        "UPDATE fulfillment_orders SET hold_end_time = now() - make_interval(secs => $2) WHERE fulfillment_order_id = $1",
        work,
        seconds,
    )


async def state_of(shop: Shop, work: str) -> str:
    """As stored."""
    ((state,),) = await shop.fetch("SELECT state FROM fulfillment_orders WHERE fulfillment_order_id = $1", work)
    return str(state)


# ---------------------------------------------------------------------------------------------------------------- waiting
async def test_a_pickup_is_held_as_long_as_its_location_says(shop: Shop) -> None:
    usual, _ = await shop.ready({NORTH: {MILK: 1}})
    update = inventory_pb2.UpdateLocationRequest(request_id=request_id())
    update.location.location_id, update.location.pickup_hold_seconds = NORTH, 7200
    update.update_mask.paths.append("pickup_hold_seconds")
    location = (await shop.locations.update_location(update, CALLER)).location
    assert location.pickup_hold_seconds == 7200
    short, _ = await shop.ready({NORTH: {MILK: 1}})
    request = pb.ListFulfillmentOrdersRequest(location_id=NORTH)
    listed = (await shop.orders.list_fulfillment_orders(request, CALLER)).fulfillment_orders
    held = {f.fulfillment_order_id: f.hold_end_time.ToDatetime() - f.updated_time.ToDatetime() for f in listed}
    assert held == {usual: timedelta(seconds=HOLD_SECONDS), short: timedelta(seconds=7200)}


async def test_who_waits_at_the_curb_is_shown_to_the_store(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 1}})
    request = pb.MarkArrivedRequest(
        request_id=request_id(), fulfillment_order_id=work, spot="4", note="red car, B-AB 1234"
    )
    arrived = (await shop.orders.mark_arrived(request, CALLER)).fulfillment_order
    assert (arrived.arrival.spot, arrived.arrival.note) == ("4", "red car, B-AB 1234")
    assert arrived.state == pb.FULFILLMENT_STATE_READY_FOR_PICKUP
    assert ("onhand.fulfillment_order.arrived.v1", NORTH) in await shop.events("onhand.fulfillment_order")
    done = await shop.hand_over(work, code)
    assert done.arrival == arrived.arrival


async def test_goods_that_go_back_stay_promised_and_are_picked_anew(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 2}})
    back = await unpick(shop, work)
    assert (back.state, back.HasField("hold_end_time")) == (pb.FULFILLMENT_STATE_ACCEPTED, False)
    assert await shop.level(NORTH, MILK) == Level(available=8, allocated=2)
    await pass_hold(shop, work)
    await shop.app.pickups.sweep()
    assert await state_of(shop, work) == "ACCEPTED"
    await shop.pick(work)
    await shop.mark_ready(work)
    await shop.hand_over(work, code)


# --------------------------------------------------------------------------------------------------------------- reminders
async def test_a_customer_is_reminded_once_a_day_before_the_end_however_many_processes_look(shop: Shop) -> None:
    work, _ = await shop.ready({NORTH: {MILK: 1}})
    await shop.app.pickups.sweep()
    assert (REMINDED, NORTH) not in await shop.events("onhand")
    await pass_hold(shop, work, -3600)
    await asyncio.gather(*(shop.app.pickups.sweep() for _ in range(4)))
    assert (await shop.events("onhand")).count((REMINDED, NORTH)) == 1
    # Ready again, it is held anew, and its customer is reminded anew.
    await unpick(shop, work)
    await shop.pick(work)
    await shop.mark_ready(work)
    await shop.app.pickups.sweep()
    assert (await shop.events("onhand")).count((REMINDED, NORTH)) == 1
    await pass_hold(shop, work, -3600)
    await shop.app.pickups.sweep()
    assert (await shop.events("onhand")).count((REMINDED, NORTH)) == 2


# ------------------------------------------------------------------------------------------------------------- extensions
async def extend(shop: Shop, work: str, days: float, id: str = "") -> pb.FulfillmentOrder:
    """Its customer comes so many days from now."""
    request = pb.ExtendPickupHoldRequest(
        request_id=id or request_id(),
        fulfillment_order_id=work,
        hold_end_time=datetime.now(UTC) + timedelta(days=days),
    )
    done = (await shop.orders.extend_pickup_hold(request, CALLER)).fulfillment_order
    assert (await shop.orders.extend_pickup_hold(request, CALLER)).fulfillment_order == done
    assert done.state == pb.FULFILLMENT_STATE_READY_FOR_PICKUP
    return done


async def test_a_customer_who_asks_for_more_days_gets_them_and_is_reminded_of_the_new_end(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 1}})
    await pass_hold(shop, work, -3600)
    await shop.app.pickups.sweep()
    await pass_hold(shop, work)  # too late, but for that nobody has looked yet
    first = await extend(shop, work, days=5)
    await shop.app.pickups.sweep()
    assert await state_of(shop, work) == "READY_FOR_PICKUP"
    assert (await shop.events("onhand")).count((REMINDED, NORTH)) == 1
    assert ("onhand.fulfillment_order.hold_extended.v1", NORTH) in await shop.events("onhand.fulfillment_order")
    await pass_hold(shop, work, -3600)
    await shop.app.pickups.sweep()
    assert (await shop.events("onhand")).count((REMINDED, NORTH)) == 2
    again = await extend(shop, work, days=0.5)  # nobody is told of the same day twice
    assert again.hold_end_time.seconds < first.hold_end_time.seconds
    await shop.app.pickups.sweep()
    assert (await shop.events("onhand")).count((REMINDED, NORTH)) == 2
    await shop.hand_over(work, code)


async def test_a_hold_is_never_made_shorter_and_never_longer_than_it_may_be(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 2}})
    latest = HOLD_SECONDS_MAX / 86_400
    ((end,),) = await shop.fetch("SELECT hold_end_time FROM fulfillment_orders")
    assert (await extend(shop, work, days=1)).hold_end_time.ToDatetime(tzinfo=UTC) == end
    reason, values = await told(extend(shop, work, days=latest + 0.01))
    assert (reason, values["fulfillment_order_id"]) == ("HOLD_TOO_LONG", work)
    await extend(shop, work, days=latest - 0.01)
    # Counted from when it was ready, for what is left of it too.
    await shop.execute("UPDATE fulfillment_orders SET ready_time = ready_time - interval '5 days'")
    request = pb.HandOverFulfillmentOrderRequest(
        request_id=request_id(),
        fulfillment_order_id=work,
        pickup_code=code,
        lines=[pb.WorkLine(line_number=1, quantity=1)],
    )
    rest = (await shop.orders.hand_over_fulfillment_order(request, CALLER)).rest.fulfillment_order_id
    assert (await refused(extend(shop, rest, days=latest - 4))).reason == "HOLD_TOO_LONG"
    # What went back and is ready anew waits anew.
    await unpick(shop, rest)
    await shop.pick(rest)
    await shop.mark_ready(rest)
    await extend(shop, rest, days=latest - 4)


async def test_goods_that_were_ready_before_there_were_holds_are_held_for_longer_too(shop: Shop) -> None:
    work, _ = await shop.ready({NORTH: {MILK: 1}})
    await shop.execute("UPDATE fulfillment_orders SET hold_end_time = NULL, ready_time = NULL")
    assert (await extend(shop, work, days=2)).HasField("hold_end_time")
    assert (await refused(extend(shop, work, days=31))).reason == "HOLD_TOO_LONG"


# --------------------------------------------------------------------------------------------------------------- no-shows
async def test_goods_nobody_comes_for_are_refunded_and_stand_aside_until_they_are_put_away(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 2, BREAD: 1}})
    await pass_hold(shop, work)
    await asyncio.gather(*(shop.app.pickups.sweep() for _ in range(4)))
    assert await state_of(shop, work) == "NO_SHOW"
    assert await shop.level(NORTH, MILK) == Level(available=8, quarantine=2)
    assert await shop.atp(NORTH, MILK) == 8
    assert (await refused(shop.hand_over(work, code))).reason == "ILLEGAL_TRANSITION"
    ((order_id, refund, reason),) = await shop.fetch(
        "SELECT data ->> 'order_id', data ->> 'refund_minor', data ->> 'reason_code' FROM events"
        " WHERE type = 'onhand.order.lines_cancelled.v1'"
    )
    assert (refund, reason) == (str(2 * 199 + 250), "NO_SHOW")
    order = await shop.order(order_id)
    assert order.state == pb.ORDER_STATE_CANCELLED
    assert [line.cancelled_quantity for line in order.lines] == [1, 2]
    assert [line.aside_quantity for line in order.fulfillment_orders[0].lines] == [1, 2]

    id = request_id()
    done = await put_away(shop, work, id=id)
    assert await put_away(shop, work, id=id) == done
    assert done.state == pb.FULFILLMENT_STATE_RESTOCKED
    assert [line.aside_quantity for line in done.lines] == [0, 0]
    assert await shop.level(NORTH, MILK) == Level(available=10)
    assert await shop.atp(NORTH, MILK) == 10
    assert (await refused(put_away(shop, work))).reason == "ILLEGAL_TRANSITION"


async def test_what_is_damaged_or_not_there_is_not_put_back_for_sale(shop: Shop) -> None:
    work, _ = await shop.ready({NORTH: {MILK: 5, BREAD: 1}})
    await no_show(shop, work)
    assert await told(put_away(shop, work, (2, 4, 2))) == (
        "FULFILLMENT_LINE_EXCEEDED",
        {"fulfillment_order_id": work, "step": "PUT_AWAY", "line_number": "2", "requested": "6", "there": "5"},
    )
    assert (await refused(put_away(shop, work, (9, 1, 0)))).reason == "FULFILLMENT_LINE_EXCEEDED"
    assert (await refused(put_away(shop, work, (1, 1, 0), (1, 0, 0)))).reason == "INVALID_REQUEST"
    await put_away(shop, work, (2, 3, 1), (1, 1, 0))
    assert await shop.level(NORTH, MILK) == Level(available=8, damaged=1, quarantine=1)
    assert await tasks(shop) == [(NORTH, MILK)]
    await shop.count(NORTH, {MILK: 9})
    assert (await shop.level(NORTH, MILK)).on_hand == 9


async def test_a_no_show_by_hand_needs_no_end_of_the_hold_unless_it_is_asked_for(shop: Shop) -> None:
    work, _ = await shop.ready({NORTH: {MILK: 1}})
    reason, values = await told(no_show(shop, work, only_if_due=True))
    assert (reason, values["fulfillment_order_id"]) == ("PICKUP_STILL_HELD", work)
    id = request_id()
    first = await no_show(shop, work, id)
    assert await no_show(shop, work, id) == first
    assert first.state == pb.FULFILLMENT_STATE_NO_SHOW


async def test_a_part_of_an_order_that_nobody_fetches_leaves_the_other_parts_alone(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 2}, "store-south": {MILK: 1}})
    for code in placed.pickup_codes:
        for step in (shop.accept, shop.pick, shop.mark_ready):
            await step(code.fulfillment_order_id)
    north, south = sorted(placed.pickup_codes, key=lambda c: c.location_id)
    await no_show(shop, north.fulfillment_order_id)
    assert (await shop.order(placed.order.order_id)).state == pb.ORDER_STATE_OPEN
    await shop.hand_over(south.fulfillment_order_id, south.pickup_code)
    assert (await shop.order(placed.order.order_id)).state == pb.ORDER_STATE_COMPLETED


async def test_units_that_a_count_missed_meanwhile_are_not_set_aside(shop: Shop) -> None:
    work, _ = await shop.ready({NORTH: {MILK: 4}})
    await shop.count(NORTH, {MILK: 3})
    await no_show(shop, work)
    assert await shop.level(NORTH, MILK) == Level(quarantine=3)
    await put_away(shop, work)
    assert await shop.level(NORTH, MILK) == Level(available=3)


async def test_a_customer_who_comes_as_the_hold_ends_gets_the_goods_or_the_money(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 1}})
    await pass_hold(shop, work)
    results = await asyncio.gather(shop.hand_over(work, code), shop.app.pickups.sweep(), return_exceptions=True)
    level = await shop.level(NORTH, MILK)
    if isinstance(results[0], pb.FulfillmentOrder):
        assert (await state_of(shop, work), level) == ("PICKED_UP", Level(available=9))
    else:
        assert getattr(results[0], "reason", "") == "ILLEGAL_TRANSITION"
        assert (await state_of(shop, work), level) == ("NO_SHOW", Level(available=9, quarantine=1))
