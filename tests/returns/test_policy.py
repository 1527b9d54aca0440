"""What the policy refuses, and what a manager lets pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bring import AVAILABLE, DAMAGED, MANAGER, QUARANTINE, SUPPLIER, age, bring, brought, units
from onhand.app import App
from onhand.domain.stock import Level
from onhand.returns.policy_file import ReturnPolicyError
from onhand.v1 import order_pb2 as pb
from shop import BREAD, CALLER, MILK, NORTH, SOUTH, Shop, cents, refused, told


@pytest.fixture
def policy() -> str:
    """Milk may be kept for thirty days, and bread is sold for good."""
    return """
        name = "grocer"
        window_days = 30
        [final_sale]
        skus = ["bread"]
    """


async def test_what_was_sold_within_the_window_comes_back(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    await age(shop, order.order_id, days=29, hours=23)
    returned = await bring(shop, order.order_id)
    assert (returned.kind, cents(returned.refund), returned.HasField("override")) == (
        pb.RETURN_KIND_COUNTER,
        199,
        False,
    )


async def test_what_was_sold_before_the_window_does_not(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    await age(shop, order.order_id, days=30, minutes=1)
    reason, values = await told(bring(shop, order.order_id))
    assert (reason, values["window_days"], values["sku"]) == ("RETURN_WINDOW_PASSED", "30", MILK)
    assert await shop.level(SOUTH, MILK) == Level(available=10)


async def test_the_window_of_what_was_shipped_begins_when_it_arrives(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 1}}, pb.FULFILLMENT_KIND_SHIP)).order
    work = order.fulfillment_orders[0].fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.ship):
        await step(work)
    await age(shop, order.order_id, days=31)
    await shop.deliver(work)
    await bring(shop, order.order_id)


async def test_the_window_of_a_pickup_begins_when_it_is_handed_over(shop: Shop) -> None:
    order = await shop.picked_up({NORTH: {MILK: 2}})
    await shop.execute("UPDATE orders SET placed_time = placed_time - interval '40 days'")
    await bring(shop, order.order_id)
    await age(shop, order.order_id, days=31)
    assert (await refused(bring(shop, order.order_id))).reason == "RETURN_WINDOW_PASSED"


async def test_what_is_sold_for_good_does_not_come_back(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1, BREAD: 1}, 449)
    assert await told(bring(shop, order.order_id, units(number=2))) == ("FINAL_SALE", {"sku": BREAD})
    both = brought(order.order_id, units(), units(number=2))
    assert (await refused(shop.orders.create_return(both, CALLER))).reason == "FINAL_SALE"
    await bring(shop, order.order_id)


async def test_a_manager_lets_it_pass_and_is_written_down(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1, BREAD: 1}, 449)
    await age(shop, order.order_id, days=31)
    returned = await bring(shop, order.order_id, units(), units(number=2), override=MANAGER)
    assert returned.override == pb.ReturnOverride(
        manager="grace", reason="a regular", overridden=["RETURN_WINDOW_PASSED", "FINAL_SALE"]
    )
    rows = await shop.fetch("SELECT manager, reason, overridden, actor FROM return_overrides")
    assert rows == [("grace", "a regular", ["RETURN_WINDOW_PASSED", "FINAL_SALE"], "tester")]
    ((event,),) = await shop.fetch("SELECT data -> 'override' FROM events WHERE type = 'onhand.return.created.v1'")
    assert event["manager"] == "grace"
    read = await shop.orders.get_return(pb.GetReturnRequest(return_id=returned.return_id), CALLER)
    assert read.returned == returned


async def test_a_manager_who_was_not_needed_is_not_written_down(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    assert not (await bring(shop, order.order_id, override=MANAGER)).HasField("override")
    assert await shop.fetch("SELECT FROM return_overrides") == []


async def test_no_manager_lets_more_come_back_than_was_sold(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    assert (await refused(bring(shop, order.order_id, units(2), override=MANAGER))).reason == "RETURN_EXCEEDED"


async def test_an_override_can_not_be_changed_afterwards(shop: Shop) -> None:
    order = await shop.sell(NORTH, {BREAD: 1}, 250)
    await bring(shop, order.order_id, override=MANAGER)
    with pytest.raises(asyncpg.RestrictViolationError):
        await shop.execute("UPDATE return_overrides SET manager = 'somebody else'")


async def test_every_unit_ends_in_a_bucket(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 8}, 1592)
    returned = await bring(shop, order.order_id, units(1), units(2, DAMAGED), units(3, QUARANTINE), units(2, SUPPLIER))
    assert [line.disposition for line in returned.lines] == [AVAILABLE, DAMAGED, QUARANTINE, SUPPLIER]
    assert await shop.level(SOUTH, MILK) == Level(available=11, damaged=2, quarantine=5)
    assert await shop.atp(SOUTH, MILK) == 11


@pytest.mark.parametrize("disposition", [AVAILABLE, DAMAGED, QUARANTINE, SUPPLIER])
async def test_a_location_that_never_held_it_has_it_then(shop: Shop, disposition: Any) -> None:
    await shop.add_location("new")
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    await bring(shop, order.order_id, units(1, disposition), location_id="new")
    assert (await shop.level("new", MILK)).on_hand == 1
    assert await shop.level(NORTH, MILK) == Level(available=9)


async def test_returns_are_found_by_customer(shop: Shop) -> None:
    order = await shop.picked_up({NORTH: {MILK: 1}})
    await shop.execute("UPDATE orders SET customer_id = 'ada'")
    returned = await bring(shop, order.order_id)
    found = await shop.orders.list_returns(pb.ListReturnsRequest(customer_id="ada"), CALLER)
    assert list(found.returns) == [returned]
    assert returned.customer_id == "ada"


async def test_a_server_whose_policy_can_not_be_read_does_not_start(
    database_dsn: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "returns.toml"
    path.write_text("window_days = 'long'")
    monkeypatch.setenv("ONHAND_RETURN_POLICY", str(path))
    with pytest.raises(ReturnPolicyError, match="window_days = 'long' is not allowed"):
        await App.open(database_dsn, redis_url)
