"""What a location takes on in a day: exactly so much, however orders race, and what is given up is given back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from broken import in_turn, verified
from gateway import Gateway
from onhand.domain.payment import Provider
from onhand.domain.sourcing.hours import day_of
from onhand.sourcing.capacity import Day, taken_on
from onhand.v1 import inventory_pb2
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import BREAD, CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, card, dollars, refused, told

LOCATION = "SELECT FROM locations WHERE location_id = $1"
GATEWAY = Gateway()


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url, {Provider.STRIPE: GATEWAY}) as shop:
        yield shop


async def limit(shop: Shop, location_id: str, **fields: Any) -> None:
    """How much a location takes on."""
    request = inventory_pb2.UpdateLocationRequest(request_id=request_id())
    request.location.CopyFrom(inventory_pb2.Location(location_id=location_id, **fields))
    request.update_mask.paths.extend(fields)
    await shop.locations.update_location(request, CALLER)


async def today(shop: Shop, location_id: str = NORTH) -> tuple[int, int]:
    """Orders and units of its day, as plans count them."""
    async with shop.database.connection() as connection:
        return (await taken_on(connection, [(location_id, day_of("UTC", datetime.now(UTC)))]))[location_id][:2]


async def wanted(shop: Shop, quantity: int, location_id: str = NORTH) -> pb.PlaceOrderRequest:
    """An order of milk that is yet to be placed."""
    reservation_id = await shop.reserve({location_id: {MILK: quantity}})
    return shop.place_request(reservation_id, {location_id: pb.FULFILLMENT_KIND_PICKUP}, quantity * 199)


async def rejected(shop: Shop, order: pb.Order) -> pb.Shortfall:
    """The location of an order's only work does not bring it."""
    work = order.fulfillment_orders[0].fulfillment_order_id
    return (await shop.reject(work, (1, 0, pb.REJECT_REASON_CLOSED))).rejected[0].shortfalls[0]


def resource(shortfall_id: str, location_id: str = "") -> pb.DecideShortfallRequest:
    return pb.DecideShortfallRequest(
        request_id=request_id(),
        shortfall_id=shortfall_id,
        decision=pb.SHORTFALL_DECISION_RESOURCE,
        location_id=location_id,
    )


@pytest.mark.parametrize(
    ("most", "capacity", "taken"), [({"daily_orders_max": 2}, "orders", 1), ({"daily_units_max": 7}, "units", 3)]
)
async def test_of_two_orders_that_race_for_the_last_place_one_gets_it(
    shop: Shop, database_dsn: str, most: dict[str, int], capacity: str, taken: int
) -> None:
    await limit(shop, NORTH, **most)
    await shop.place({NORTH: {MILK: 3}})
    requests = [await wanted(shop, 3) for _ in range(2)]
    results = await in_turn(
        database_dsn,
        shop,
        *(lambda request=request: shop.orders.place_order(request, CALLER) for request in requests),
        row=LOCATION,
        key=(NORTH,),
    )
    ((placed,), (refusal,)) = (
        [r for r in results if isinstance(r, Message)],
        [r for r in results if isinstance(r, Exception)],
    )
    more = {"orders": 1, "units": 3}[capacity]
    _, tomorrow = day_of("UTC", datetime.now(UTC))
    assert (refusal.reason, refusal.metadata()) == (
        "LOCATION_AT_CAPACITY",
        {
            "location_id": NORTH,
            "capacity": capacity,
            "daily_max": str(most[f"daily_{capacity}_max"]),
            "taken": str(taken + more),
            "requested": str(more),
            "next_day_time": tomorrow.isoformat(),
        },
    )
    assert await today(shop) == (2, 6)
    # What is given up makes room at once.
    await shop.cancel(placed.order.order_id, {1: 3})
    again = next(r for r in requests if r.reservation_id != placed.order.reservation_id)
    await shop.orders.place_order(again, CALLER)
    assert await today(shop) == (2, 6)


async def test_an_order_and_a_take_over_race_for_the_last_place_too(shop: Shop, database_dsn: str) -> None:
    await limit(shop, SOUTH, daily_orders_max=1)
    short = await rejected(shop, (await shop.place({NORTH: {MILK: 2}})).order)
    request = await wanted(shop, 1, SOUTH)
    results = await in_turn(
        database_dsn,
        shop,
        lambda: shop.orders.decide_shortfall(resource(short.shortfall_id, SOUTH), CALLER),
        lambda: shop.orders.place_order(request, CALLER),
        row=LOCATION,
        key=(SOUTH,),
    )
    assert sorted(getattr(r, "reason", "") for r in results) == ["", "LOCATION_AT_CAPACITY"]
    assert (await today(shop, SOUTH))[0] == 1


async def test_the_policy_goes_past_a_location_that_takes_on_no_more(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = await rejected(shop, (await shop.place({NORTH: {MILK: 2}})).order)
    assert await today(shop) == (0, 0)  # what it rejected is not its work
    plan, buyers = shop.app.sourcing.plan, [DEPOT]

    async def late(*lines: Any, **more: Any) -> Any:
        planned = await plan(*lines, **more)
        if buyers:
            await limit(shop, DEPOT, daily_orders_max=1)
            await shop.place({buyers.pop(): {BREAD: 1}})
        return planned

    monkeypatch.setattr(shop.app.sourcing, "plan", late)
    answer = await shop.orders.decide_shortfall(resource(short.shortfall_id), CALLER)
    assert answer.fulfillment_order.location_id == SOUTH
    assert (await today(shop, DEPOT), await today(shop, SOUTH)) == ((1, 1), (1, 2))


async def test_work_that_is_split_or_moved_is_counted_once_and_where_it_is(shop: Shop) -> None:
    await limit(shop, NORTH, daily_orders_max=1, daily_units_max=5)
    order = (await shop.place({NORTH: {MILK: 2, BREAD: 2}})).order
    work = order.fulfillment_orders[0].fulfillment_order_id
    # More of the same order is more units, and no further order.
    more = pb.OrderChange(quantities=pb.EditQuantities(lines=[pb.WantedQuantity(line_number=2, quantity=4)]))
    assert (await told(changed(shop, order.order_id, more)))[0] == "LOCATION_AT_CAPACITY"
    more.quantities.lines[0].quantity = 3
    await changed(shop, order.order_id, more)
    await shop.accept(work)
    await shop.pick(work)
    ready = pb.MarkReadyForPickupRequest(
        request_id=request_id(), fulfillment_order_id=work, lines=[pb.WorkLine(line_number=1, quantity=2)]
    )
    await shop.orders.mark_ready_for_pickup(ready, CALLER)
    assert await today(shop) == (1, 5)
    await limit(shop, SOUTH, daily_units_max=1)
    move = pb.OrderChange(move=pb.MoveFulfillment(fulfillment_order_id=work, location_id=SOUTH))
    assert (await told(changed(shop, order.order_id, move)))[0] == "LOCATION_AT_CAPACITY"
    await limit(shop, SOUTH, daily_units_max=2)
    await changed(shop, order.order_id, move)
    assert (await today(shop), await today(shop, SOUTH)) == ((1, 3), (1, 2))


async def changed(shop: Shop, order_id: str, change: pb.OrderChange) -> pb.ApplyOrderChangeResponse:
    """A change as its customer agreed to it."""
    preview = await shop.orders.preview_order_change(
        pb.PreviewOrderChangeRequest(order_id=order_id, change=change), CALLER
    )
    charge = preview.charge.units * 100 + preview.charge.nanos // 10_000_000
    request = pb.ApplyOrderChangeRequest(
        request_id=request_id(),
        order_id=order_id,
        change=change,
        etag=preview.etag,
        tenders=card(charge) if charge else [],
    )
    return await shop.orders.apply_order_change(request, CALLER)


async def test_yesterdays_work_stays_yesterdays_when_it_is_split(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 2, BREAD: 2}})).order
    await shop.execute("UPDATE fulfillment_orders SET created_time = created_time - interval '25 hours'")
    await shop.reject(order.fulfillment_orders[0].fulfillment_order_id, (1, 1, pb.REJECT_REASON_DAMAGED))
    assert await today(shop) == (0, 0)
    async with shop.database.connection() as connection:
        before = day_of("UTC", datetime.now(UTC) - timedelta(days=1))
        days = await taken_on(connection, [(NORTH, (before[0] - timedelta(days=1), before[1]))])
    assert days == {NORTH: Day(1, 3, False)}


async def test_a_checkout_holds_its_place_while_it_is_paid_for(shop: Shop) -> None:
    await limit(shop, NORTH, daily_orders_max=1)
    paid, other = await wanted(shop, 2), await wanted(shop, 1)
    paid.tenders[0].CopyFrom(pb.Tender(kind=pb.TENDER_KIND_CARD, amount=dollars(398), payment_method="pm_1"))
    GATEWAY.faults = ["acts"]
    assert (await refused(shop.orders.place_order(paid, CALLER))).reason == "PAYMENT_PENDING"
    assert await today(shop) == (1, 2)
    assert (await refused(shop.orders.place_order(other, CALLER))).reason == "LOCATION_AT_CAPACITY"
    await shop.orders.place_order(paid, CALLER)
    assert await today(shop) == (1, 2)
    assert (await refused(shop.orders.place_order(other, CALLER))).reason == "LOCATION_AT_CAPACITY"


async def test_nobody_is_asked_to_pay_for_what_a_location_does_not_take_on(shop: Shop) -> None:
    await limit(shop, NORTH, daily_units_max=1)
    request = await wanted(shop, 2)
    del request.tenders[:]
    request.tenders.add(kind=pb.TENDER_KIND_CARD, amount=dollars(398), payment_method="pm_1")
    assert (await refused(shop.orders.place_order(request, CALLER))).reason == "LOCATION_AT_CAPACITY"
    assert await shop.fetch("SELECT count(*) FROM checkouts") == [(0,)]
