"""Sourcing over gRPC: candidates as ledger and gate have them, capacity as it is spent, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.latlng_pb2 import LatLng

from api import (
    BREAD,
    DEPOT,
    MILK,
    MILK_CENTS,
    NORTH,
    POS,
    SOUTH,
    WEB,
    Api,
    Code,
    dollars,
    invalid,
    lines,
    refused,
    request_id,
)
from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import Objective, Policy, Rule, Split
from onhand.sourcing.candidates import PRODUCTS, STOCKED, Candidates, read_candidates
from onhand.sourcing.capacity import TAKEN_ON
from onhand.v1 import inventory_pb2 as stock
from onhand.v1 import order_pb2 as orders
from onhand.v1 import sourcing_pb2 as pb
from onhand.v1 import sourcing_pb2_grpc

PICKUP, SHIP = orders.FULFILLMENT_KIND_PICKUP, orders.FULFILLMENT_KIND_SHIP
ZURICH = LatLng(latitude=47.37, longitude=8.54)


async def preview(
    api: Api, wanted: Mapping[str, int], method: int = SHIP, channel: int = WEB, **more: Any
) -> pb.SourcingPlan:
    """The plan, as fresh as it must be."""
    request = pb.PreviewSourcingRequest(channel=channel, method=method, lines=lines(wanted), **more)
    answer = await sourcing_pb2_grpc.SourcingServiceStub(api.channel).PreviewSourcing(request)
    assert not answer.is_stale
    return answer.plan


def brought(plan: pb.SourcingPlan) -> dict[str, dict[str, int]]:
    return {parcel.location_id: {line.sku: line.quantity for line in parcel.lines} for parcel in plan.parcels}


def reasons(plan: pb.SourcingPlan, rule: str) -> dict[str, str]:
    return {
        each.location_id: pb.SourcingReason.Name(each.reason).removeprefix("SOURCING_REASON_")
        for each in plan.considered
        if each.rule == rule
    }


async def change(api: Api, location_id: str, **fields: Any) -> None:
    request = stock.UpdateLocationRequest(
        request_id=request_id(), location=stock.Location(location_id=location_id, **fields)
    )
    request.update_mask.paths.extend(fields)
    await api.inventory.UpdateLocation(request)


async def pick_up(api: Api, location_id: str, quantity: int) -> orders.Order:
    """An order of milk, to be fetched there."""
    held = await api.reserve({location_id: {MILK: quantity}})
    request = orders.PlaceOrderRequest(
        request_id=request_id(),
        reservation_id=held.reservation_id,
        currency_code="USD",
        fulfillments=[orders.FulfillmentChoice(location_id=location_id, kind=PICKUP)],
        tenders=[orders.Tender(kind=orders.TENDER_KIND_CARD, amount=dollars(quantity * MILK_CENTS))],
    )
    return (await api.orders.PlaceOrder(request)).order


def by(api: Api, **fields: Any) -> None:
    """Lets the server go by one rule."""
    api.app.sourcing.policy = Policy(name="test", rules=(Rule(**{"name": "rule", "is_partial": True} | fields),))


async def test_a_shipment_comes_from_the_warehouse_if_it_has_all_of_it(api: Api) -> None:
    plan = await preview(api, {MILK: 2, BREAD: 1}, position=ZURICH, with_considered=True)
    assert brought(plan) == {DEPOT: {MILK: 2, BREAD: 1}}
    assert (plan.policy, plan.is_proven_optimal, plan.gap) == ("standard", True, 0)
    assert plan.parcels[0].rule == "ship from a warehouse"
    assert not plan.parcels[0].HasField("distance_metres")  # it has no position
    assert reasons(plan, "ship from a warehouse") == {NORTH: "KIND", SOUTH: "KIND"}
    assert [rule.is_used for rule in plan.rules] == [False, False, True, False, False]


async def test_a_pickup_is_at_the_nearest_store_that_has_all_of_it(api: Api) -> None:
    plan = await preview(api, {MILK: 2}, PICKUP, position=LatLng(latitude=46.1, longitude=8.9), with_considered=True)
    assert brought(plan) == {SOUTH: {MILK: 2}}
    assert 11_000 < plan.parcels[0].distance_metres < 12_500
    assert reasons(plan, "pickup near by") == {NORTH: "DISTANCE", DEPOT: "METHOD"}
    assert plan.ready_time == plan.parcels[0].ready_time


async def test_what_is_reserved_kept_or_promised_is_not_there_for_sourcing(api: Api) -> None:
    by(api, split=Split.UNITS)
    await api.reserve({DEPOT: {MILK: 9}})
    await pick_up(api, NORTH, 4)
    await api.inventory.SetStockPolicy(
        stock.SetStockPolicyRequest(request_id=request_id(), location_id=SOUTH, sku=MILK, safety_stock=3)
    )
    plan = await preview(api, {MILK: 30})
    assert brought(plan) == {DEPOT: {MILK: 1}, NORTH: {MILK: 6}, SOUTH: {MILK: 7}}
    assert [(line.sku, line.quantity, line.held_quantity) for line in plan.unsourced] == [(MILK, 16, 0)]
    assert brought(await preview(api, {MILK: 30}, channel=POS))[SOUTH] == {MILK: 10}


async def test_only_the_named_are_asked_and_never_the_excluded(api: Api) -> None:
    assert brought(await preview(api, {MILK: 1}, location_ids=[SOUTH])) == {SOUTH: {MILK: 1}}
    plan = await preview(api, {MILK: 1}, excluded_location_ids=[DEPOT], position=ZURICH, with_considered=True)
    assert brought(plan) == {NORTH: {MILK: 1}}
    assert reasons(plan, "ship from a warehouse")[DEPOT] == "EXCLUDED"
    nobody = await preview(api, {MILK: 1}, location_ids=[SOUTH], excluded_location_ids=[SOUTH])
    assert (brought(nobody), nobody.unsourced[0].quantity, nobody.HasField("ready_time")) == ({}, 1, False)


async def test_a_stores_daily_orders_are_counted_from_its_own_midnight(api: Api) -> None:
    by(api, kinds=frozenset({"STORE"}), objectives=(Objective.NEAREST,))
    await change(api, NORTH, daily_orders_max=2)
    for left in (2, 1):
        assert brought(await preview(api, {MILK: 1}, PICKUP, position=ZURICH)) == {NORTH: {MILK: 1}}, left
        last = await pick_up(api, NORTH, 1)
    plan = await preview(api, {MILK: 1}, PICKUP, position=ZURICH, with_considered=True)
    assert brought(plan) == {SOUTH: {MILK: 1}}
    assert reasons(plan, "rule")[NORTH] == "CAPACITY"
    # What was given up is no work, nor is what came yesterday or was sold at the till.
    cancel = orders.CancelOrderLinesRequest(
        request_id=request_id(), order_id=last.order_id, lines=[orders.CancelLine(line_number=1, quantity=1)]
    )
    await api.orders.CancelOrderLines(cancel)
    assert brought(await preview(api, {MILK: 1}, PICKUP, position=ZURICH)) == {NORTH: {MILK: 1}}
    await pick_up(api, NORTH, 1)
    await api.execute("UPDATE fulfillment_orders SET created_time = created_time - interval '25 hours'")
    assert brought(await preview(api, {MILK: 1}, PICKUP, position=ZURICH)) == {NORTH: {MILK: 1}}


async def test_a_store_is_asked_for_no_more_units_than_it_takes_on_in_a_day(api: Api) -> None:
    by(api, split=Split.UNITS, objectives=(Objective.NEAREST,))
    await change(api, NORTH, daily_units_max=7)
    await pick_up(api, NORTH, 4)
    plan = await preview(api, {BREAD: 14}, location_ids=[NORTH, SOUTH], position=ZURICH)
    assert brought(plan) == {NORTH: {BREAD: 3}, SOUTH: {BREAD: 10}}
    assert [(line.sku, line.quantity, line.held_quantity) for line in plan.unsourced] == [(BREAD, 1, 7)]


async def test_an_order_is_ready_by_the_stores_own_hours(api: Api) -> None:
    hours = [stock.OpeningHours(iso_weekday=day, open_minute=540, close_minute=1080) for day in range(1, 8)]
    await change(api, NORTH, opening_hours=hours, lead_minutes=90, cut_off_minute=960)
    for hour, ready in ((10, (1, 11, 30)), (5, (1, 10, 30)), (16, (2, 10, 30))):
        assumed = Timestamp()
        assumed.FromDatetime(datetime(2026, 6, 1, hour - 2, tzinfo=UTC))  # Zurich is two hours ahead
        plan = await preview(api, {MILK: 1}, PICKUP, location_ids=[NORTH], assumed_time=assumed)
        day, hour, minute = ready
        assert plan.ready_time.ToDatetime(tzinfo=UTC) == datetime(2026, 6, day, hour - 2, minute, tzinfo=UTC)


async def test_a_location_keeps_what_sourcing_goes_by(api: Api) -> None:
    created = await api.add_location("new", lead_minutes=30, cut_off_minute=900, daily_orders_max=5, daily_units_max=60)
    assert (created.lead_minutes, created.cut_off_minute, created.daily_orders_max, created.daily_units_max) == (
        30,
        900,
        5,
        60,
    )
    await change(api, "new", daily_orders_max=0)
    found = (await api.inventory.GetLocation(stock.GetLocationRequest(location_id="new"))).location
    assert (found.lead_minutes, found.cut_off_minute, found.daily_orders_max, found.daily_units_max) == (30, 900, 0, 60)
    await invalid(change(api, "new", cut_off_minute=1440), "location.cut_off_minute")
    await invalid(change(api, "new", lead_minutes=-1), "location.lead_minutes")


async def test_groups_decide_who_is_asked(api: Api) -> None:
    by(api, groups=frozenset({"flagships"}))
    group = stock.SetLocationGroupRequest(
        request_id=request_id(), location_group_id="flagships", name="f", location_ids=[SOUTH]
    )
    await api.inventory.SetLocationGroup(group)
    plan = await preview(api, {MILK: 1}, with_considered=True)
    assert brought(plan) == {SOUTH: {MILK: 1}}
    assert reasons(plan, "rule") == {DEPOT: "GROUP", NORTH: "GROUP"}


async def test_what_cannot_be_asked_is_refused(api: Api) -> None:
    await refused(preview(api, {"nothing": 1, MILK: 1}), Code.NOT_FOUND, "SKU_NOT_FOUND", sku="nothing")
    call = preview(api, {MILK: 1}, location_ids=[NORTH, "nowhere"])
    await refused(call, Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="nowhere")
    await invalid(preview(api, {MILK: 1}, orders.FULFILLMENT_KIND_CARRY_OUT), "method")
    await invalid(preview(api, {MILK: 0}), "lines[0].quantity")
    await invalid(preview(api, {}), "lines")
    await invalid(preview(api, {MILK: 1}, position=LatLng(latitude=91)), "position.latitude")


async def test_a_location_that_is_deleted_meanwhile_is_not_missed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.add_location("closing")
    await api.receive("closing", {MILK: 1})
    atp = api.app.availability.atp

    async def late(location_ids: Any, skus: Any, channel: str) -> Any:
        if "closing" in location_ids:
            await api.adjust("closing", MILK, -1)
            await api.delete_location("closing")
        return await atp(location_ids, skus, channel)

    monkeypatch.setattr(api.app.availability, "atp", late)
    assert brought(await preview(api, {MILK: 1})) == {DEPOT: {MILK: 1}}


async def test_a_plan_can_be_made_by_other_use_cases(api: Api) -> None:
    sourced = await api.app.sourcing.plan(
        [(MILK, 1), (MILK, 1)], method=FulfillmentKind.SHIP, channel="WEB", excluded=[DEPOT], position=(46.0, 8.95)
    )
    assert [(parcel.location_id, dict(parcel.lines)) for parcel in sourced.plan.parcels] == [(SOUTH, {MILK: 2})]


async def test_many_places_are_read_by_three_queries(api: Api) -> None:
    for n in range(40):
        await api.add_location(f"many-{n:02}", position=LatLng(latitude=40 + n / 1000, longitude=8), daily_orders_max=5)
        await api.receive(f"many-{n:02}", {MILK: 1})
    queries: list[str] = []
    async with api.app.ledger.read() as connection:

        @asynccontextmanager
        async def read() -> AsyncIterator[Any]:
            yield connection

        async def plan_from() -> Candidates:
            return await read_candidates(
                *(api.app.ledger, api.app.availability, [(MILK, 1)]),
                channel="WEB",
                position=(40.0, 8.0),
                only=(),
                now=datetime.now(UTC),
            )

        with patch.object(api.app.ledger, "read", read):
            await plan_from()  # a connection that has not met a type yet asks what it is
            with connection.query_logger(lambda record: queries.append(record.query)):
                found = await plan_from()
    assert len(found.places) == 43
    assert [place.location_id for place in found.places][:2] == ["many-00", "many-01"]
    assert queries == [PRODUCTS, STOCKED, TAKEN_ON]
