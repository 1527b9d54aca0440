"""What can be promised: availability of many, stores near a point, policies by channel."""

from __future__ import annotations

import asyncio
from typing import Any

from google.type.latlng_pb2 import LatLng

from api import (
    APP,
    BREAD,
    DEPOT,
    MILK,
    NORTH,
    POS,
    SOUTH,
    WEB,
    Api,
    Code,
    invalid,
    lines,
    refused,
    request_id,
)
from onhand.v1 import inventory_pb2 as pb
from onhand.v1 import types_pb2


async def availability(api: Api, **fields: Any) -> list[tuple[str, list[tuple[str, int]]]]:
    answer = await api.inventory.GetAvailability(
        pb.GetAvailabilityRequest(**{"channel": WEB, "skus": [MILK], "location_ids": [NORTH]} | fields)
    )
    assert not answer.is_stale
    return [(at.location_id, [(i.sku, i.available_to_promise) for i in at.items]) for at in answer.locations]


async def set_group(api: Api, members: list[str]) -> None:
    await api.inventory.SetLocationGroup(
        pb.SetLocationGroupRequest(request_id=request_id(), location_group_id="g", name="g", location_ids=members)
    )


async def set_policy(api: Api, location_id: str, sku: str, safety_stock: int) -> None:
    await api.inventory.SetStockPolicy(
        pb.SetStockPolicyRequest(request_id=request_id(), location_id=location_id, sku=sku, safety_stock=safety_stock)
    )


async def set_threshold(api: Api, channel: int, sku: str, quantity: int) -> None:
    await api.inventory.SetChannelThreshold(
        pb.SetChannelThresholdRequest(request_id=request_id(), channel=channel, sku=sku, quantity=quantity)
    )


# --------------------------------------------------------------------------------------------------------- availability
async def test_availability_answers_in_the_order_of_the_request_and_each_once(api: Api) -> None:
    await api.receive(SOUTH, {BREAD: 5})
    assert await availability(api, skus=[MILK, "unknown", BREAD, MILK], location_ids=[SOUTH, DEPOT, NORTH, SOUTH]) == [
        (SOUTH, [(MILK, 10), ("unknown", 0), (BREAD, 15)]),
        (DEPOT, [(MILK, 10), ("unknown", 0), (BREAD, 10)]),
        (NORTH, [(MILK, 10), ("unknown", 0), (BREAD, 10)]),
    ]


async def test_availability_at_a_group_comes_after_the_locations_named(api: Api) -> None:
    await set_group(api, [DEPOT, NORTH])
    found = await availability(api, location_ids=[], location_group_id="g")
    assert [location_id for location_id, _ in found] == [DEPOT, NORTH]
    found = await availability(api, location_ids=[SOUTH, NORTH], location_group_id="g")
    assert [location_id for location_id, _ in found] == [SOUTH, NORTH, DEPOT]
    await set_group(api, [])
    assert await availability(api, location_ids=[], location_group_id="g") == []


async def test_availability_of_many_skus_at_many_locations_is_one_call(api: Api) -> None:
    places = [f"place-{n:02}" for n in range(40)]
    skus = [f"sku-{n:03}" for n in range(500)]
    await api.add_products(skus)
    await asyncio.gather(*(api.add_location(place) for place in places))
    for n, place in enumerate(places):
        await api.receive(place, {skus[n]: n + 1, skus[499]: 7})

    found = await availability(api, skus=skus, location_ids=places)

    assert [place for place, _ in found] == places
    for n, (_, items) in enumerate(found):
        assert [sku for sku, _ in items] == skus
        assert {sku: quantity for sku, quantity in items if quantity} == {skus[n]: n + 1, skus[499]: 7}
    await invalid(availability(api, skus=skus, location_ids=[*places, NORTH]), "skus")  # 20,500 figures
    await invalid(availability(api, skus=[*skus, "one-more"]), "skus")
    await invalid(availability(api, location_ids=[f"p{n}" for n in range(2001)]), "location_ids")


async def test_availability_that_cannot_be_answered_is_refused(api: Api) -> None:
    await refused(
        availability(api, location_ids=[NORTH, "nowhere"]), Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="nowhere"
    )
    await refused(
        availability(api, location_group_id="none"),
        Code.NOT_FOUND,
        "LOCATION_GROUP_NOT_FOUND",
        location_group_id="none",
    )
    await invalid(availability(api, location_ids=[]), "location_ids")
    await invalid(availability(api, skus=[]), "skus")
    await invalid(availability(api, channel=0), "channel")
    await invalid(availability(api, channel=9), "channel")
    await invalid(availability(api, skus=[MILK, ""], location_ids=["a b"]), "skus[1]", "location_ids[0]")


async def test_a_read_shows_what_was_acknowledged_before_it(api: Api) -> None:
    expected = 10
    for n in range(1, 15):
        if n % 3:
            await api.receive(NORTH, {MILK: n})
            expected += n
        else:
            await api.reserve({NORTH: {MILK: n}})
            expected -= n
        assert await api.atp(NORTH, MILK) == expected


async def test_availability_goes_on_after_the_gate_lost_everything(api: Api) -> None:
    held = await api.reserve({NORTH: {MILK: 4}})
    for _ in range(3):
        await api.app.connections.pipeline(lambda run_id: [("FLUSHALL",)])
        assert await api.atp(NORTH, MILK) == 6
    await api.release(held.reservation_id)
    assert await api.atp(NORTH, MILK) == 10


# ------------------------------------------------------------------------------------------------------------- policies
async def test_safety_stock_is_kept_from_online_channels_at_its_location(api: Api) -> None:
    await set_policy(api, NORTH, MILK, 4)
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, APP, POS)] == [6, 6, 10]
    assert await api.atp(SOUTH, MILK) == 10
    await refused(
        api.reserve({NORTH: {MILK: 7}}),
        Code.FAILED_PRECONDITION,
        "INSUFFICIENT_STOCK",
        requested=7,
        available=6,
    )
    await api.reserve({NORTH: {MILK: 9}}, channel=POS)
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, POS)] == [0, 1]
    await set_policy(api, NORTH, MILK, 0)
    assert await api.atp(NORTH, MILK) == 1


async def test_a_threshold_is_kept_from_its_channel_everywhere(api: Api) -> None:
    await set_policy(api, NORTH, MILK, 2)
    await set_threshold(api, APP, MILK, 3)
    assert [await api.atp(NORTH, MILK, channel) for channel in (WEB, APP, POS)] == [8, 5, 10]
    assert [await api.atp(SOUTH, MILK, channel) for channel in (WEB, APP)] == [10, 7]
    call = api.reserve({NORTH: {MILK: 6}}, channel=APP)
    await refused(call, Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", available=5)
    await set_threshold(api, APP, MILK, 1)
    assert await api.atp(NORTH, MILK, APP) == 7
    await set_threshold(api, APP, MILK, 0)
    assert await api.atp(NORTH, MILK, APP) == 8
    await set_threshold(api, APP, MILK, 0)  # nothing to remove is no error
    await set_threshold(api, WEB, MILK, 1_000_000_000)
    assert await api.atp(NORTH, MILK, WEB) == 0


async def test_a_policy_may_come_before_the_stock(api: Api) -> None:
    await api.add_products(["new"])
    await set_policy(api, NORTH, "new", 3)
    assert await api.atp(NORTH, "new") == 0
    await api.receive(NORTH, {"new": 5})
    assert [await api.atp(NORTH, "new", channel) for channel in (WEB, POS)] == [2, 5]


async def test_policies_that_cannot_be_are_refused(api: Api) -> None:
    await invalid(set_policy(api, NORTH, MILK, -1), "safety_stock")
    await invalid(set_policy(api, NORTH, MILK, 1_000_000_001), "safety_stock")
    await invalid(set_threshold(api, POS, MILK, 1), "channel")
    await invalid(set_threshold(api, 0, MILK, 1), "channel")
    await invalid(set_threshold(api, WEB, MILK, -1), "quantity")
    await refused(set_policy(api, "nowhere", MILK, 1), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    await refused(set_policy(api, NORTH, "unknown", 1), Code.NOT_FOUND, "SKU_NOT_FOUND", sku="unknown")
    await refused(set_threshold(api, WEB, "unknown", 1), Code.NOT_FOUND, "SKU_NOT_FOUND", sku="unknown")
    assert await api.atp(NORTH, MILK) == 10


# ------------------------------------------------------------------------------------------------------ stores near by
async def find(api: Api, latitude: float, longitude: float, **fields: Any) -> list[pb.StoreOffer]:
    request = pb.FindStoresRequest(
        **{"channel": WEB, "lines": lines({MILK: 1})} | fields,
        position=LatLng(latitude=latitude, longitude=longitude),
    )
    answer = await api.inventory.FindStores(request)
    assert not answer.is_stale
    return list(answer.stores)


async def test_stores_come_nearest_first_with_what_is_short(api: Api) -> None:
    # One degree of latitude is 111,195 m on a sphere of the earth's mean radius.
    for name, latitude, milk in (("c", 0.03, 5), ("a", 0.01, 1), ("b", 0.02, 0), ("far", 0.6, 9)):
        await api.add_location(name, position=LatLng(latitude=latitude), name=f"Store {name}")
        await api.receive(name, {BREAD: 3} | ({MILK: milk} if milk else {}))
    await api.add_location("no-pickup", position=LatLng(latitude=0.001), offers_pickup=False)
    await api.add_location("warehouse", position=LatLng(latitude=0.001), kind=pb.LOCATION_KIND_WAREHOUSE)
    await api.add_location("no-position")
    await api.add_location("closed", position=LatLng(latitude=0.001))
    await api.delete_location("closed")

    basket = [*lines({MILK: 2}), *lines({BREAD: 3}), *lines({MILK: 2})]  # four of milk
    found = await find(api, 0, 0, lines=basket)

    assert [(s.location_id, s.name, s.distance_metres, s.can_fulfil) for s in found] == [
        ("a", "Store a", 1112, False),
        ("b", "Store b", 2224, False),
        ("c", "Store c", 3336, True),
    ]
    assert [(n.sku, n.requested, n.available) for n in found[0].short_lines] == [(MILK, 4, 1)]
    assert [(n.sku, n.requested, n.available) for n in found[1].short_lines] == [(MILK, 4, 0)]
    assert list(found[2].short_lines) == []

    assert [s.location_id for s in await find(api, 0, 0, lines=basket, complete_only=True)] == ["c"]
    assert [s.location_id for s in await find(api, 0, 0, radius_metres=2224)] == ["a", "b"]
    assert [s.location_id for s in await find(api, 0, 0, max_stores=1)] == ["a"]
    # The limit counts what is answered, not what was looked at.
    few = await find(api, 0, 0, lines=basket, complete_only=True, max_stores=1, radius_metres=100_000)
    assert [s.location_id for s in few] == ["c"]
    both = await find(api, 0, 0, lines=basket, complete_only=True, radius_metres=100_000)
    assert [s.location_id for s in both] == ["c", "far"]
    assert await find(api, 50, 50) == []
    (unknown, *_) = await find(api, 0, 0, lines=lines({"unknown": 1}))
    assert [(n.sku, n.available) for n in unknown.short_lines] == [("unknown", 0)]


async def test_stores_keep_from_a_channel_what_is_kept_from_it(api: Api) -> None:
    await set_policy(api, NORTH, MILK, 8)
    here = {"lines": lines({MILK: 3}), "radius_metres": 1000}
    assert [s.can_fulfil for s in await find(api, 47.37, 8.54, **here)] == [False]
    assert [s.can_fulfil for s in await find(api, 47.37, 8.54, **here, channel=POS)] == [True]


async def test_stores_are_found_across_the_date_line_and_at_the_poles(api: Api) -> None:
    for name, latitude, longitude in (
        ("fiji-west", -17.0, 179.99),
        ("fiji-east", -17.0, -179.99),
        ("north-pole", 90.0, 0.0),
        ("near-pole", 89.9, 180.0),
        ("south-pole", -90.0, 77.0),
    ):
        await api.add_location(name, position=LatLng(latitude=latitude, longitude=longitude))
        await api.receive(name, {MILK: 1})

    assert [s.location_id for s in await find(api, -17.0, 180.0)] == ["fiji-east", "fiji-west"]
    assert [s.location_id for s in await find(api, -17.0, -180.0)] == ["fiji-east", "fiji-west"]
    west, east = await find(api, -17.0, 179.99)
    assert (west.location_id, west.distance_metres, east.location_id) == ("fiji-west", 0, "fiji-east")
    assert 2100 < east.distance_metres < 2150  # 0.02 degrees at that latitude
    assert [(s.location_id, s.distance_metres) for s in await find(api, 90, -123)] == [
        ("north-pole", 0),
        ("near-pole", 11120),
    ]
    assert [s.location_id for s in await find(api, -90, 0)] == ["south-pole"]
    assert [s.location_id for s in await find(api, 89.95, -90, radius_metres=500_000)] == ["north-pole", "near-pole"]


async def test_a_search_that_makes_no_sense_is_refused(api: Api) -> None:
    await invalid(find(api, 91, 0), "position.latitude")
    await invalid(find(api, 0, -180.5), "position.longitude")
    await invalid(find(api, float("inf"), float("nan")), "position.latitude", "position.longitude")
    await invalid(find(api, 0, 0, radius_metres=-1), "radius_metres")
    await invalid(find(api, 0, 0, radius_metres=500_001), "radius_metres")
    await invalid(find(api, 0, 0, max_stores=101), "max_stores")
    await invalid(find(api, 0, 0, lines=[]), "lines")
    await invalid(find(api, 0, 0, lines=lines({MILK: 0})), "lines[0].quantity")
    await invalid(find(api, 0, 0, lines=[types_pb2.BasketLine(sku=MILK, quantity=1)] * 201), "lines")
    await invalid(find(api, 0, 0, channel=0), "channel")
    request = pb.FindStoresRequest(channel=WEB, lines=lines({MILK: 1}))
    await invalid(api.inventory.FindStores(request), "position")


# --------------------------------------------------------------------------------------------------------- reservations
async def test_a_reservation_is_made_read_changed_extended_and_given_back(api: Api) -> None:
    made = await api.reserve({NORTH: {MILK: 4, BREAD: 1}, SOUTH: {MILK: 1}}, customer_id="ada", ttl_seconds=600)
    assert made.state == pb.RESERVATION_STATE_ACTIVE
    assert (made.channel, made.customer_id, made.order_id) == (WEB, "ada", "")
    get = pb.GetReservationRequest(reservation_id=made.reservation_id)
    assert (await api.inventory.GetReservation(get)).reservation == made

    change = pb.ChangeReservationRequest(
        request_id=request_id(),
        reservation_id=made.reservation_id,
        baskets=[pb.LocationBasket(location_id=NORTH, lines=lines({MILK: 6}))],
    )
    changed = (await api.inventory.ChangeReservation(change)).reservation
    assert (changed.reservation_id, changed.expire_time) == (made.reservation_id, made.expire_time)
    assert [(b.location_id, [(n.sku, n.quantity) for n in b.lines]) for b in changed.baskets] == [(NORTH, [(MILK, 6)])]
    assert [await api.atp(*position) for position in ((NORTH, MILK), (NORTH, BREAD), (SOUTH, MILK))] == [4, 10, 10]

    extend = pb.ExtendReservationRequest(request_id=request_id(), reservation_id=made.reservation_id, ttl_seconds=3600)
    extended = (await api.inventory.ExtendReservation(extend)).reservation
    assert extended.expire_time.seconds > made.expire_time.seconds + 2000

    released = await api.release(made.reservation_id)
    assert released.state == pb.RESERVATION_STATE_RELEASED
    assert await api.atp(NORTH, MILK) == 10
    for call in (
        api.release(made.reservation_id),
        api.inventory.ExtendReservation(
            pb.ExtendReservationRequest(request_id=request_id(), reservation_id=made.reservation_id)
        ),
        api.inventory.ChangeReservation(
            pb.ChangeReservationRequest(
                request_id=request_id(), reservation_id=made.reservation_id, baskets=change.baskets
            )
        ),
    ):
        await refused(
            call,
            Code.FAILED_PRECONDITION,
            "RESERVATION_NOT_ACTIVE",
            reservation_id=made.reservation_id,
            state="RELEASED",
        )


async def test_reservations_that_cannot_be_are_refused(api: Api) -> None:
    await invalid(api.reserve({}), "baskets")
    await invalid(api.reserve({NORTH: {}}), "baskets[0].lines")
    await invalid(api.reserve({NORTH: {MILK: 0}}), "baskets[0].lines[0].quantity")
    await invalid(api.reserve({NORTH: {MILK: -5}}), "baskets[0].lines[0].quantity")
    await invalid(api.reserve({NORTH: {MILK: 1}}, ttl_seconds=-1), "ttl_seconds")
    await invalid(api.reserve({NORTH: {MILK: 1}}, ttl_seconds=86_401), "ttl_seconds")
    await invalid(api.reserve({NORTH: {MILK: 1}}, channel=0), "channel")
    await invalid(api.reserve({NORTH: {MILK: 1}}, customer_id="x" * 129), "customer_id")
    await invalid(api.reserve({f"p{n}": {MILK: 1} for n in range(21)}), "baskets")
    await invalid(api.reserve({NORTH: {f"s{n}": 1 for n in range(201)}}), "baskets[0].lines")
    basket = pb.LocationBasket(location_id=NORTH, lines=lines({MILK: 1}))
    twice = pb.ReserveRequest(request_id=request_id(), channel=WEB, baskets=[basket, basket])
    await invalid(api.inventory.Reserve(twice), "baskets[1].location_id")
    await refused(api.reserve({"nowhere": {MILK: 1}}), Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="nowhere")
    await refused(api.reserve({NORTH: {"unknown": 1}}), Code.NOT_FOUND, "SKU_NOT_FOUND", sku="unknown")
    missing = request_id()
    not_found = pb.GetReservationRequest(reservation_id=missing)
    await refused(
        api.inventory.GetReservation(not_found), Code.NOT_FOUND, "RESERVATION_NOT_FOUND", reservation_id=missing
    )
    await refused(api.release(missing), Code.NOT_FOUND, "RESERVATION_NOT_FOUND", reservation_id=missing)
    await invalid(api.release("nonsense"), "reservation_id")
    refusal = await refused(
        api.reserve({NORTH: {MILK: 11, BREAD: 3}, SOUTH: {BREAD: 12}}),
        Code.FAILED_PRECONDITION,
        "INSUFFICIENT_STOCK",
        short_lines=2,
    )
    assert refusal.shorts == {
        f"{NORTH}/{MILK}": "11 requested, 10 available",
        f"{SOUTH}/{BREAD}": "12 requested, 10 available",
    }
    assert await api.fetch("SELECT count(*) FROM claims WHERE reservation_id IS NOT NULL") == [(0,)]
