"""Locations and groups, as a client has them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.latlng_pb2 import LatLng

from api import BREAD, DEPOT, MILK, NORTH, SOUTH, WEB, Api, Code, invalid, refused, request_id
from onhand.v1 import inventory_pb2 as pb
from onhand.v1 import order_pb2, types_pb2


async def update(api: Api, paths: list[str], **fields: Any) -> pb.Location:
    request = pb.UpdateLocationRequest(
        request_id=request_id(),
        location=pb.Location(**{"location_id": NORTH} | fields),
        update_mask=FieldMask(paths=paths),
    )
    return (await api.inventory.UpdateLocation(request)).location


async def get(api: Api, location_id: str = NORTH) -> pb.Location:
    return (await api.inventory.GetLocation(pb.GetLocationRequest(location_id=location_id))).location


def delete_request(location_id: str = NORTH) -> pb.DeleteLocationRequest:
    return pb.DeleteLocationRequest(request_id=request_id(), location_id=location_id)


# --------------------------------------------------------------------------------------------------- create, read, list
async def test_a_location_is_stored_as_it_was_given(api: Api) -> None:
    given = pb.Location(
        location_id="store-1.A_b",
        kind=pb.LOCATION_KIND_STORE,
        name="Zürich Hauptbahnhof",
        position=LatLng(latitude=47.378, longitude=8.54),
        time_zone="Europe/Zurich",
        opening_hours=[
            pb.OpeningHours(iso_weekday=1, open_minute=0, close_minute=720),
            pb.OpeningHours(iso_weekday=1, open_minute=780, close_minute=1440),
        ],
        offers_pickup=True,
    )
    created = await api.add_location(
        "store-1.A_b", **{f.name: v for f, v in given.ListFields() if f.number != 1} | {"offers_shipping": False}
    )
    assert created.etag
    assert created.created_time.seconds
    assert await get(api, "store-1.A_b") == created
    for output in ("etag", "created_time"):
        created.ClearField(output)  # type: ignore[arg-type]
    assert created == given


async def test_a_location_without_position_or_zone_is_in_utc(api: Api) -> None:
    created = await api.add_location("plain", kind=pb.LOCATION_KIND_VIRTUAL)
    assert not created.HasField("position")
    assert created.time_zone == "UTC"
    assert list(created.opening_hours) == []


async def test_a_position_at_zero_is_a_position(api: Api) -> None:
    created = await api.add_location("null-island", position=LatLng())
    assert created.HasField("position")
    assert created.position == LatLng()


async def test_an_id_is_taken_once(api: Api) -> None:
    await refused(api.add_location(NORTH), Code.ALREADY_EXISTS, "LOCATION_EXISTS", location_id=NORTH)


async def test_a_location_that_makes_no_sense_is_refused(api: Api) -> None:
    for fields, wrong in (
        ({"kind": pb.LOCATION_KIND_UNSPECIFIED}, "location.kind"),
        ({"kind": 77}, "location.kind"),
        ({"name": ""}, "location.name"),
        ({"name": "a\0b"}, "location.name"),
        ({"time_zone": "Mars/Olympus"}, "location.time_zone"),
        ({"time_zone": "../../etc/passwd"}, "location.time_zone"),
        ({"time_zone": "Europe"}, "location.time_zone"),
        ({"position": LatLng(latitude=90.5)}, "location.position.latitude"),
        ({"position": LatLng(longitude=float("nan"))}, "location.position.longitude"),
        (
            {"opening_hours": [pb.OpeningHours(iso_weekday=8, open_minute=0, close_minute=60)]},
            "location.opening_hours[0].iso_weekday",
        ),
        (
            {"opening_hours": [pb.OpeningHours(iso_weekday=1, open_minute=60, close_minute=60)]},
            "location.opening_hours[0].close_minute",
        ),
    ):
        await invalid(api.add_location("odd", **fields), wrong)
    await refused(get(api, "odd"), Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="odd")


async def test_a_malformed_id_is_refused(api: Api) -> None:
    for location_id in ("", "-x", "a b", "a/b", "x" * 65, "ä"):
        await invalid(api.add_location(location_id, name="x"), "location.location_id")
        await invalid(get(api, location_id), "location_id")


async def test_locations_are_listed_by_id_page_by_page(api: Api) -> None:
    for n in range(5):
        await api.add_location(f"a-{n}", kind=pb.LOCATION_KIND_VIRTUAL)
    found: list[str] = []
    token = ""
    for _ in range(10):
        page = await api.inventory.ListLocations(pb.ListLocationsRequest(page_size=3, page_token=token))
        found += [location.location_id for location in page.locations]
        token = page.next_page_token
        if not token:
            break
    assert found == [*(f"a-{n}" for n in range(5)), DEPOT, NORTH, SOUTH]

    only = await api.inventory.ListLocations(pb.ListLocationsRequest(kind=pb.LOCATION_KIND_WAREHOUSE))
    assert [location.location_id for location in only.locations] == [DEPOT]
    assert only.locations[0] == await get(api, DEPOT)


async def test_a_token_of_another_list_is_refused(api: Api) -> None:
    page = await api.inventory.ListLocations(pb.ListLocationsRequest(page_size=1))
    token = page.next_page_token
    wrong = [
        pb.ListLocationsRequest(page_token=token, kind=pb.LOCATION_KIND_STORE),
        pb.ListLocationsRequest(page_token=token, location_group_id="g"),
        pb.ListLocationsRequest(page_token="nonsense"),
        pb.ListLocationsRequest(page_token=token[:-2]),
        pb.ListLocationsRequest(page_token="ä"),
    ]
    for request in wrong:
        await refused(
            api.inventory.ListLocations(request),
            Code.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
            page_token=request.page_token,
        )
    await refused(
        api.inventory.ListLocationGroups(pb.ListLocationGroupsRequest(page_token=token)),
        Code.INVALID_ARGUMENT,
        "PAGE_TOKEN_INVALID",
    )
    await invalid(api.inventory.ListLocations(pb.ListLocationsRequest(page_token="x" * 1025)), "page_token")
    await invalid(api.inventory.ListLocations(pb.ListLocationsRequest(page_size=-1)), "page_size")


# --------------------------------------------------------------------------------------------------------------- update
async def test_an_update_sets_the_fields_of_its_mask_and_no_others(api: Api) -> None:
    before = await get(api)

    after = await update(
        api,
        ["name", "offers_shipping", "opening_hours"],
        name="North",
        time_zone="Asia/Tokyo",
        offers_pickup=False,
        opening_hours=[pb.OpeningHours(iso_weekday=7, open_minute=600, close_minute=900)],
    )

    assert after == await get(api)
    assert (after.name, after.offers_shipping, after.offers_pickup) == ("North", False, True)
    assert (after.time_zone, after.position) == ("Europe/Zurich", before.position)
    assert len(after.opening_hours) == 1
    assert after.etag != before.etag


async def test_what_a_mask_names_and_the_location_leaves_out_is_cleared(api: Api) -> None:
    after = await update(api, ["position", "time_zone", "offers_pickup"])
    assert not after.HasField("position")
    assert after.time_zone == "UTC"
    assert not after.offers_pickup


async def test_an_update_of_an_older_state_is_refused(api: Api) -> None:
    first = await get(api)
    second = await update(api, ["name"], name="second", etag=first.etag)

    await refused(
        update(api, ["name"], name="third", etag=first.etag),
        Code.ABORTED,
        "ETAG_MISMATCH",
        etag=first.etag,
        current_etag=second.etag,
    )

    assert (await get(api)).name == "second"
    assert (await update(api, ["name"], name="fourth")).name == "fourth"  # without an etag: whatever is there


async def test_a_mask_that_cannot_be_is_refused(api: Api) -> None:
    before = await get(api)
    absurd = [f"{n}" + "\N{GRINNING FACE}" * 300 for n in range(300)]
    for paths in ([], ["kind"], ["name", "etag"], ["location_id"], ["nonsense"], ["name.x"], ["*"], ["\0"], absurd):
        await invalid(update(api, paths, name="other"), "update_mask")
    assert await get(api) == before


async def test_an_update_cannot_make_a_location_nonsense(api: Api) -> None:
    before = await get(api)
    await invalid(update(api, ["name"]), "location.name")
    await invalid(update(api, ["time_zone"], time_zone="Nowhere"), "location.time_zone")
    await refused(update(api, ["name"], location_id="nowhere", name="x"), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    assert await get(api) == before


async def test_two_updates_at_once_of_different_fields_both_hold(api: Api) -> None:
    await asyncio.gather(update(api, ["name"], name="both"), update(api, ["time_zone"], time_zone="Asia/Tokyo"))
    after = await get(api)
    assert (after.name, after.time_zone) == ("both", "Asia/Tokyo")


# --------------------------------------------------------------------------------------------------------------- delete
async def test_an_empty_location_is_deleted_and_its_id_never_used_again(api: Api) -> None:
    await api.add_location("empty")
    request = delete_request("empty")

    assert await api.inventory.DeleteLocation(request) == await api.inventory.DeleteLocation(request)

    await refused(get(api, "empty"), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    await refused(api.add_location("empty"), Code.ALREADY_EXISTS, "LOCATION_EXISTS", location_id="empty")
    await refused(api.delete_location("empty"), Code.NOT_FOUND, "LOCATION_NOT_FOUND")
    listed = await api.inventory.ListLocations(pb.ListLocationsRequest())
    assert "empty" not in [location.location_id for location in listed.locations]


async def test_a_location_that_was_emptied_keeps_its_history(api: Api) -> None:
    await api.add_location("closing")
    await api.receive("closing", {MILK: 3})
    await api.adjust("closing", MILK, -3)

    await api.delete_location("closing")

    assert len(await api.movements("closing")) == 2
    for call in (
        api.receive("closing", {MILK: 1}),
        api.adjust("closing", MILK, 1),
        api.adjust("closing", MILK, -1),
        api.adjust("closing", MILK, 1, pb.BUCKET_DAMAGED),
        api.count("closing", {MILK: 0}),
        api.dispatch(NORTH, "closing", {MILK: 1}),
        api.dispatch("closing", NORTH, {MILK: 1}),
        api.atp("closing", MILK),
        api.position("closing", MILK),
        update(api, ["name"], location_id="closing", name="x"),
    ):
        await refused(call, Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="closing")


async def test_a_location_that_holds_units_is_not_deleted(api: Api) -> None:
    await api.add_location("full")
    for bucket in (pb.BUCKET_AVAILABLE, pb.BUCKET_DAMAGED, pb.BUCKET_QUARANTINE):
        await api.adjust("full", MILK, 1, bucket)
        await refused(api.delete_location("full"), Code.FAILED_PRECONDITION, "LOCATION_IN_USE", units=1)
        await api.adjust("full", MILK, -1, bucket)
    await api.adjust("full", MILK, 2)
    await api.adjust("full", BREAD, 1, pb.BUCKET_DAMAGED)
    await refused(
        api.delete_location("full"),
        Code.FAILED_PRECONDITION,
        "LOCATION_IN_USE",
        location_id="full",
        units=3,
        reservations=0,
        open_fulfillment_orders=0,
        open_transfers=0,
    )
    assert (await get(api, "full")).location_id == "full"
    assert (await api.receive("full", {MILK: 1}))[0].location_id == "full"  # it goes on as before


async def test_a_location_with_reservations_or_open_work_is_not_deleted(api: Api) -> None:
    await api.add_location("busy")
    await api.receive("busy", {MILK: 2})
    held = await api.reserve({"busy": {MILK: 1}})
    ordered = await api.reserve({"busy": {MILK: 1}})
    await api.orders.PlaceOrder(
        order_pb2.PlaceOrderRequest(
            request_id=request_id(),
            reservation_id=ordered.reservation_id,
            currency_code="USD",
            fulfillments=[order_pb2.FulfillmentChoice(location_id="busy", kind=order_pb2.FULFILLMENT_KIND_PICKUP)],
            tenders=[
                order_pb2.Tender(
                    kind=order_pb2.TENDER_KIND_CASH, amount={"currency_code": "USD", "units": 1, "nanos": 990000000}
                )
            ],
        )
    )
    await refused(
        api.delete_location("busy"),
        Code.FAILED_PRECONDITION,
        "LOCATION_IN_USE",
        units=2,
        reservations=1,
        open_fulfillment_orders=1,
    )
    await api.release(held.reservation_id)
    await refused(api.delete_location("busy"), Code.FAILED_PRECONDITION, "LOCATION_IN_USE", reservations=0)


async def test_a_location_that_a_transfer_left_or_goes_to_is_not_deleted(api: Api) -> None:
    await api.add_location("from")
    await api.add_location("to")
    await api.receive("from", {MILK: 5})
    transfer = await api.dispatch("from", "to", {MILK: 5})
    for location_id in ("from", "to"):
        await refused(
            api.delete_location(location_id),
            Code.FAILED_PRECONDITION,
            "LOCATION_IN_USE",
            units=0,
            open_transfers=1,
        )
    await api.arrive(transfer.transfer_id, {})
    await api.delete_location("from")
    await refused(api.delete_location("to"), Code.FAILED_PRECONDITION, "LOCATION_IN_USE", units=5, open_transfers=0)


# A location is deleted while something else is under way there. Each time exactly one of the two happens.
STOCK = "SELECT FROM stock_levels WHERE location_id = $1"


async def test_a_receipt_that_waits_while_its_location_is_deleted(api: Api) -> None:
    await api.add_location("racy")
    await api.receive("racy", {MILK: 1})
    await api.adjust("racy", MILK, -1)
    # Past its look at the epoch and the levels: it waits only for the number of its increase.
    async with api.locked("SELECT FROM location_delta_heads WHERE location_id = $1", "racy"):
        receipt = asyncio.ensure_future(api.receive("racy", {MILK: 7}))
        await api.until_waiting(1)
        deletion = asyncio.ensure_future(api.delete_location("racy"))
        await api.until_waiting(2)

    assert [level.available for level in await receipt] == [7]
    await refused(deletion, Code.FAILED_PRECONDITION, "LOCATION_IN_USE", units=7)


@pytest.mark.parametrize("what", ["receipt", "damaged goods", "a count", "a transfer to it", "a reservation"])
async def test_whatever_comes_while_a_location_is_being_deleted_is_refused(api: Api, what: str) -> None:
    await api.add_location("racy")
    await api.receive("racy", {MILK: 1})
    await api.adjust("racy", MILK, -1)
    group = pb.SetLocationGroupRequest(request_id=request_id(), location_group_id="g", name="g", location_ids=["racy"])
    await api.inventory.SetLocationGroup(group)
    # The deletion has seen that nothing is there; it waits at its last step.
    async with api.locked("SELECT FROM location_group_members WHERE location_id = $1", "racy"):
        deletion = asyncio.ensure_future(api.delete_location("racy"))
        await api.until_waiting(1)
        late = asyncio.ensure_future(
            {
                "receipt": lambda: api.receive("racy", {MILK: 7}),
                "damaged goods": lambda: api.adjust("racy", MILK, 7, pb.BUCKET_DAMAGED),
                "a count": lambda: api.count("racy", {MILK: 7}),
                "a transfer to it": lambda: api.dispatch(NORTH, "racy", {MILK: 7}),
                "a reservation": lambda: api.reserve({"racy": {MILK: 1}}),
            }[what]()
        )
        if what == "a reservation":  # refused by the gate already, or waits
            await asyncio.wait([late], timeout=0.2)
        else:
            await api.until_waiting(2)

    await deletion
    if what == "a reservation":
        await refused(late, Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK")
    else:
        await refused(late, Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="racy")
    assert await api.fetch(f"{STOCK} AND available + damaged > 0", "racy") == []
    assert await api.level(NORTH, MILK) == (10, 0, 0, 0)
    assert await api.fetch("SELECT FROM transfers") == []


async def test_a_location_that_just_joined_a_group_leaves_it_when_deleted(api: Api) -> None:
    await set_group(api, "g", [NORTH])
    await api.add_location("racy")
    async with api.locked("SELECT FROM location_groups WHERE location_group_id = $1", "g"):
        setting = asyncio.ensure_future(set_group(api, "g", [NORTH, "racy"]))
        await api.until_waiting(1)
        deletion = asyncio.ensure_future(api.delete_location("racy"))
        await api.until_waiting(2)

    await setting
    await deletion
    assert await members_with_availability(api) == [NORTH]


async def test_a_group_does_not_take_in_a_location_that_is_being_deleted(api: Api) -> None:
    await api.add_location("racy")
    await set_group(api, "g", ["racy"])
    async with api.locked("SELECT FROM location_group_members WHERE location_id = $1", "racy"):
        deletion = asyncio.ensure_future(api.delete_location("racy"))
        await api.until_waiting(1)
        setting = asyncio.ensure_future(set_group(api, "g", [NORTH, "racy"]))
        await api.until_waiting(2)

    await deletion
    await refused(setting, Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="racy")
    assert await members_with_availability(api) == []


async def members_with_availability(api: Api) -> list[str]:
    request = pb.GetAvailabilityRequest(channel=WEB, skus=[MILK], location_group_id="g")
    answer = await api.inventory.GetAvailability(request)
    return [location.location_id for location in answer.locations]


async def test_a_repeat_gets_its_first_answer_though_the_location_is_gone(api: Api) -> None:
    await api.add_location("closing")
    await api.receive("closing", {MILK: 8})
    line = types_pb2.BasketLine(sku=MILK, quantity=2)
    count = pb.CountStockRequest(
        request_id=request_id(), location_id="closing", lines=[pb.CountedLine(sku=MILK, counted_quantity=7)]
    )
    adjust = pb.AdjustStockRequest(
        request_id=request_id(), location_id="closing", sku=MILK, quantity=-5, reason_code="SHRINKAGE"
    )
    dispatch = pb.DispatchTransferRequest(
        request_id=request_id(), from_location_id="closing", to_location_id=NORTH, lines=[line]
    )
    reserve = pb.ReserveRequest(
        request_id=request_id(), channel=WEB, baskets=[pb.LocationBasket(location_id="closing", lines=[line])]
    )
    reserved = await api.inventory.Reserve(reserve)
    await api.release(reserved.reservation.reservation_id)
    moving = await api.reserve({NORTH: {MILK: 1}})
    change, change_back = (
        pb.ChangeReservationRequest(
            request_id=request_id(),
            reservation_id=moving.reservation_id,
            baskets=[pb.LocationBasket(location_id=where, lines=[line])],
        )
        for where in ("closing", SOUTH)
    )
    changed = await api.inventory.ChangeReservation(change)
    await api.inventory.ChangeReservation(change_back)
    first = [
        await api.inventory.CountStock(count),
        await api.inventory.AdjustStock(adjust),
        await api.inventory.DispatchTransfer(dispatch),
    ]
    await api.arrive(first[-1].transfer.transfer_id, {})
    await api.delete_location("closing")
    await api.app.connections.pipeline(lambda run_id: [("FLUSHALL",)])

    assert await api.inventory.Reserve(reserve) == reserved
    assert await api.inventory.ChangeReservation(change) == changed
    assert await api.inventory.CountStock(count) == first[0]
    assert await api.inventory.AdjustStock(adjust) == first[1]
    assert await api.inventory.DispatchTransfer(dispatch) == first[2]


# --------------------------------------------------------------------------------------------------------------- groups
async def set_group(api: Api, location_group_id: str, members: list[str], name: str = "a group") -> pb.LocationGroup:
    request = pb.SetLocationGroupRequest(
        request_id=request_id(), location_group_id=location_group_id, name=name, location_ids=members
    )
    return (await api.inventory.SetLocationGroup(request)).location_group


async def groups(api: Api, page_size: int = 0) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    token = ""
    while True:
        page = await api.inventory.ListLocationGroups(
            pb.ListLocationGroupsRequest(page_size=page_size, page_token=token)
        )
        found |= {group.location_group_id: list(group.location_ids) for group in page.location_groups}
        token = page.next_page_token
        if not token:
            return found


async def test_a_group_has_exactly_the_members_it_was_set_to(api: Api) -> None:
    assert list((await set_group(api, "all", [SOUTH, NORTH, SOUTH])).location_ids) == [NORTH, SOUTH]
    await set_group(api, "all", [DEPOT, NORTH], name="renamed")
    await set_group(api, "none", [])
    await set_group(api, "other", [NORTH])
    assert await groups(api) == await groups(api, page_size=1) == {"all": [DEPOT, NORTH], "none": [], "other": [NORTH]}
    listed = await api.inventory.ListLocations(pb.ListLocationsRequest(location_group_id="all"))
    assert [location.location_id for location in listed.locations] == [DEPOT, NORTH]


async def test_a_group_with_an_unknown_member_is_refused_whole(api: Api) -> None:
    await set_group(api, "all", [NORTH])
    call = set_group(api, "all", [SOUTH, "nowhere"], name="other")
    await refused(call, Code.NOT_FOUND, "LOCATION_NOT_FOUND", location_id="nowhere")
    assert await groups(api) == {"all": [NORTH]}
    await invalid(set_group(api, "bad id", [NORTH]), "location_group_id")
    await invalid(set_group(api, "all", ["bad id"], name=""), "name", "location_ids[0]")
    await invalid(set_group(api, "all", ["x"] * 10_001), "location_ids")


async def test_a_deleted_location_leaves_its_groups(api: Api) -> None:
    await api.add_location("leaving")
    await set_group(api, "all", [NORTH, "leaving"])
    await api.delete_location("leaving")
    assert await groups(api) == {"all": [NORTH]}


async def test_a_group_that_is_set_by_two_at_once_is_one_of_both(api: Api) -> None:
    await asyncio.gather(set_group(api, "all", [NORTH]), set_group(api, "all", [SOUTH]))
    assert (await groups(api))["all"] in ([NORTH], [SOUTH])


async def test_groups_too_large_for_one_message_come_in_more_pages(api: Api) -> None:
    await api.execute(
        """
        INSERT INTO locations (location_id, kind, name) SELECT rpad('many-' || n, 64, 'x'), 'STORE', 'n'
          FROM generate_series(1, 10000) AS n"""
    )
    await api.execute("INSERT INTO location_groups SELECT 'huge-' || n, 'huge' FROM generate_series(1, 8) AS n")
    await api.execute(
        """
        INSERT INTO location_group_members SELECT location_group_id, location_id FROM location_groups, locations
         WHERE location_id LIKE 'many-%'"""
    )
    assert {name: len(members) for name, members in (await groups(api)).items()} == {
        f"huge-{n}": 10_000 for n in range(1, 9)
    }
