"""`onhand verify` on a real ledger and gate: quiet after honest work, and loud, by name and with evidence, after each damage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import redis

import keeper
from onhand.app import App
from onhand.clock import milliseconds
from onhand.dev.valkey import EmbeddedValkey
from onhand.domain.errors import LedgerUnavailable
from onhand.ids import new_id
from onhand.inventory import Counts, Notices, Transfers
from onhand.ledger import invariants
from onhand.ledger.invariants import Check
from onhand.postgres import Connection
from onhand.reservations.gate import Drop, Take
from onhand.reservations.inspect import LATE_SECONDS
from onhand.v1 import counting_pb2, inventory_pb2, receiving_pb2, types_pb2
from onhand.v1 import order_pb2 as pb
from onhand.verify import GATE_NAME, SCHEMA_NAME, Report, verify
from shelf import add_product, request_id
from shop import BREAD, CALLER, DEPOT, FUEL, MILK, NORTH, SOUTH, Shop, dollars, fulfillment_of
from snapshot import built

RULE_NAMES = {rule.name for rule in invariants.RULES}


@dataclass
class Day:
    """A shop after a day of every kind of work, and the ids of what it left behind, for use in damages and evidence."""

    shop: Shop
    dsn: str
    redis_url: str
    ids: dict[str, str]

    async def verify(self) -> Report:
        """As the command does."""
        return await verify(self.dsn, self.redis_url)

    async def damage(self, *statements: str) -> None:
        """Changes what no constraint, trigger or handler would let through."""
        async with self.shop.database.transaction() as connection:
            await self._damage(connection, statements)

    async def judged(self, statements: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """The violations that a damage of the ledger makes; it is undone then."""

        async def judge(connection: Any) -> dict[str, list[dict[str, Any]]]:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await self._damage(connection, statements)
                return failed(await invariants.check_rules(connection))
            finally:
                await transaction.rollback()

        return await keeper.on(self.dsn, judge)

    async def _damage(self, connection: Connection, statements: Sequence[str]) -> None:
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement.format(**self.ids))


@pytest.fixture
async def day(database_dsn: str, redis_url: str) -> AsyncIterator[Day]:
    """One order picked up and returned in part, one shipped, one open and cancelled in part, one from a cart, three sales (one
    of them of units that were promised, one of a product that nobody received), reservations, transfers, counts."""
    ids = await built("day", database_dsn, redis_url, _play)
    app = await App.open(database_dsn, redis_url)
    try:
        yield Day(Shop(app), database_dsn, redis_url, ids)
    finally:
        await app.close()


async def _play(dsn: str, redis_url: str) -> dict[str, str]:
    app = await App.open(dsn, redis_url)
    shop = Shop(app)
    try:
        await shop.open()
        ids = await _work(shop)
        await app.relay.close()  # claims are forgotten behind the answers
        for location_id in (NORTH, SOUTH, DEPOT):
            await app.rebuilder.rebuild(location_id)
        return ids
    finally:
        await app.close()


async def _work(shop: Shop) -> dict[str, str]:
    ids: dict[str, str] = {"north": NORTH, "south": SOUTH, "depot": DEPOT, "milk": MILK, "bread": BREAD, "fuel": FUEL}
    restock, damaged = pb.DISPOSITION_AVAILABLE, pb.DISPOSITION_DAMAGED
    picked_up = await shop.picked_up({NORTH: {BREAD: 1, MILK: 2}})
    ids["picked_up"] = picked_up.order_id
    returned = await shop.take_back(
        picked_up.order_id,
        SOUTH,
        pb.ReturnedLine(line_number=1, quantity=1, disposition=damaged),
        pb.ReturnedLine(line_number=2, quantity=1, disposition=restock),
    )
    ids["returned"] = returned.return_id

    shipped = (await shop.place({DEPOT: {MILK: 1}}, pb.FULFILLMENT_KIND_SHIP)).order
    ids["shipped"] = shipped.order_id
    ids["shipped_work"] = fulfillment_of(shipped, DEPOT).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.ship, shop.deliver):
        await step(ids["shipped_work"])

    opened = (await shop.place({NORTH: {MILK: 2}, SOUTH: {BREAD: 2}})).order
    ids["opened"] = opened.order_id
    ids["opened_work"] = fulfillment_of(opened, NORTH).fulfillment_order_id
    ids["opened_reservation"] = str(
        (await shop.fetch("SELECT reservation_id FROM orders WHERE order_id = $1", UUID(opened.order_id)))[0][0]
    )
    await shop.cancel(opened.order_id, {1: 1})

    ids["cart"] = await shop.cart({MILK: 1}, "ann")
    request = shop.place_request(
        await shop.reserve({DEPOT: {MILK: 1}}), {DEPOT: pb.FULFILLMENT_KIND_SHIP}, 199, cart_id=ids["cart"]
    )
    ids["from_cart"] = (await shop.orders.place_order(request, CALLER)).order.order_id

    ids["sold"] = (await shop.sell(SOUTH, {MILK: 1}, 199)).order_id
    ids["broken"] = await shop.reserve({NORTH: {BREAD: 9}})
    ids["broke"] = (await shop.sell(NORTH, {BREAD: 2}, 500)).order_id
    ids["unknown_stock"] = (await shop.sell(NORTH, {FUEL: 3785}, 263)).order_id

    ids["held"] = await shop.reserve({SOUTH: {MILK: 2}, DEPOT: {MILK: 1}})
    baskets = [
        inventory_pb2.LocationBasket(location_id=place, lines=[types_pb2.BasketLine(sku=MILK, quantity=1)])
        for place in (SOUTH, DEPOT)
    ]
    await shop.promise.change_reservation(
        inventory_pb2.ChangeReservationRequest(request_id=request_id(), reservation_id=ids["held"], baskets=baskets),
        CALLER,
    )
    released = await shop.reserve({SOUTH: {BREAD: 1}})
    await shop.promise.release_reservation(
        inventory_pb2.ReleaseReservationRequest(request_id=request_id(), reservation_id=released), CALLER
    )
    await _stock_work(shop, ids)
    # Four of six are gone: one is cancelled, one arrives, one order has what it lacks in hand, and one unit stays short.
    lacking = (await shop.place({DEPOT: {BREAD: 5}})).order
    ids["lacking"] = lacking.order_id
    ids["lacking_work"] = fulfillment_of(lacking, DEPOT).fulfillment_order_id
    in_hand = (await shop.place({DEPOT: {BREAD: 1}})).order
    ids["took"] = (await shop.sell(DEPOT, {BREAD: 4}, 1000)).order_id
    for step in (shop.accept, shop.pick):
        await step(fulfillment_of(in_hand, DEPOT).fulfillment_order_id)
    await shop.cancel(lacking.order_id, {1: 1})
    await shop.receive(DEPOT, {BREAD: 1})
    (((ids["short"]),),) = await shop.fetch(
        "SELECT shortfall_id::text FROM shortfalls WHERE open_quantity > 0 AND cause = 'SALE'"
    )
    return ids


async def _stock_work(shop: Shop, ids: dict[str, str]) -> None:
    (transfers,) = (handler for handler in shop.handlers if isinstance(handler, Transfers))
    sent = await transfers.dispatch_transfer(
        inventory_pb2.DispatchTransferRequest(
            request_id=request_id(),
            from_location_id=DEPOT,
            to_location_id=SOUTH,
            lines=[types_pb2.BasketLine(sku=BREAD, quantity=3)],
        ),
        CALLER,
    )
    ids["transfer"] = sent.transfer.transfer_id
    await transfers.receive_transfer(
        inventory_pb2.ReceiveTransferRequest(
            request_id=request_id(), transfer_id=ids["transfer"], lines=[types_pb2.BasketLine(sku=BREAD, quantity=2)]
        ),
        CALLER,
    )
    await shop.stock.count_stock(
        inventory_pb2.CountStockRequest(
            request_id=request_id(),
            location_id=DEPOT,
            lines=[inventory_pb2.CountedLine(sku=BREAD, counted_quantity=6)],
            reference_document="count/1",
        ),
        CALLER,
    )
    await shop.stock.move_stock(
        inventory_pb2.MoveStockRequest(
            request_id=request_id(),
            location_id=DEPOT,
            sku=MILK,
            quantity=1,
            from_bucket=inventory_pb2.BUCKET_AVAILABLE,
            to_bucket=inventory_pb2.BUCKET_DAMAGED,
            reason_code="LEAKS",
        ),
        CALLER,
    )
    await shop.promise.set_stock_policy(
        inventory_pb2.SetStockPolicyRequest(request_id=request_id(), location_id=DEPOT, sku=MILK, safety_stock=2),
        CALLER,
    )
    await _eggs(shop, transfers, ids)
    location = inventory_pb2.Location(location_id="closed", kind=inventory_pb2.LOCATION_KIND_STORE, name="Closed store")
    await shop.locations.create_location(
        inventory_pb2.CreateLocationRequest(request_id=request_id(), location=location), CALLER
    )
    await shop.locations.delete_location(
        inventory_pb2.DeleteLocationRequest(request_id=request_id(), location_id="closed"), CALLER
    )


async def _eggs(shop: Shop, transfers: Transfers, ids: dict[str, str]) -> None:
    """Eggs: announced and received, too much and broken; sent on and lost; counted; ordered beyond what is there."""
    ids["eggs"] = "eggs"
    await add_product(shop.catalog, "eggs", dollars(100))
    (notices,) = (handler for handler in shop.handlers if isinstance(handler, Notices))
    (counts,) = (handler for handler in shop.handlers if isinstance(handler, Counts))
    eggs = [types_pb2.BasketLine(sku="eggs", quantity=5)]
    announced = await notices.create_advance_notice(
        receiving_pb2.CreateAdvanceNoticeRequest(
            request_id=request_id(),
            location_id=NORTH,
            supplier="farm",
            expected_time={"seconds": 2_000_000_000},
            lines=eggs,
        ),
        CALLER,
    )
    ids["notice"] = announced.advance_notice.advance_notice_id
    await notices.receive_advance_notice(
        receiving_pb2.ReceiveAdvanceNoticeRequest(
            request_id=request_id(),
            advance_notice_id=ids["notice"],
            lines=eggs,
            damaged_lines=[types_pb2.BasketLine(sku="eggs", quantity=1)],
            accepts_more=True,
        ),
        CALLER,
    )
    asked = await transfers.request_transfer(
        inventory_pb2.RequestTransferRequest(
            request_id=request_id(), from_location_id=NORTH, to_location_id=SOUTH, lines=eggs
        ),
        CALLER,
    )
    ids["asked"] = asked.transfer.transfer_id
    await transfers.dispatch_requested_transfer(
        inventory_pb2.DispatchRequestedTransferRequest(
            request_id=request_id(),
            transfer_id=ids["asked"],
            lines=[types_pb2.BasketLine(sku="eggs", quantity=2)],
        ),
        CALLER,
    )
    await transfers.close_transfer(
        inventory_pb2.CloseTransferRequest(
            request_id=request_id(),
            transfer_id=ids["asked"],
            loss=inventory_pb2.TRANSFER_LOSS_LOST,
            reason_code="DROPPED",
        ),
        CALLER,
    )
    begun = await counts.start_count(
        counting_pb2.StartCountRequest(
            request_id=request_id(), location_id=NORTH, scope=counting_pb2.COUNT_SCOPE_SKUS, skus=["eggs"]
        ),
        CALLER,
    )
    ids["count"] = begun.count.count_id
    entry = counting_pb2.CountEntry(sku="eggs", counted_quantity=3)
    await counts.submit_count(
        counting_pb2.SubmitCountRequest(request_id=request_id(), count_id=ids["count"], lines=[entry]), CALLER
    )
    approval = counting_pb2.ApproveCountRequest(
        request_id=request_id(), count_id=ids["count"], accepts_out_of_tolerance=True
    )
    await counts.approve_count(approval, CALLER)
    await shop.promise.set_stock_policy(
        inventory_pb2.SetStockPolicyRequest(
            request_id=request_id(), location_id=NORTH, sku="eggs", safety_stock=0, backorder_limit=5
        ),
        CALLER,
    )
    request = shop.place_request(
        await shop.reserve({NORTH: {"eggs": 4}}),
        {NORTH: pb.FULFILLMENT_KIND_PICKUP},
        400,
        accepts_backorder=True,
    )
    ids["backordered"] = (await shop.orders.place_order(request, CALLER)).order.order_id


def failed(checks: Iterable[Check]) -> dict[str, list[dict[str, Any]]]:
    """The violations of the checks that failed."""
    return {check.name: list(check.violations) for check in checks if not check.is_ok}


# -------------------------------------------------------------------------------------------------------------- healthy
async def test_honest_work_breaks_no_rule(day: Day) -> None:
    said: list[str] = []
    report = await verify(day.dsn, day.redis_url, said.append)
    assert failed(report.checks) == {}
    assert report.is_ok
    written = json.loads(json.dumps(report.to_json()))
    assert written["ok"] is True
    assert [check["name"] for check in written["checks"]] == [
        SCHEMA_NAME,
        *(rule.name for rule in invariants.RULES),
        GATE_NAME,
    ]
    assert all(check["ok"] and check["violations"] == [] and check["count"] == 0 for check in written["checks"])
    assert {"locations": 3, "compared": 3, "empty": 0, "stale": 0, "unsettled": 0}.items() <= written["gate"].items()
    assert len(said) > len(RULE_NAMES)


async def test_an_empty_ledger_breaks_no_rule(database_dsn: str, redis_url: str) -> None:
    report = await verify(database_dsn, redis_url)
    assert failed(report.checks) == {}


async def test_the_driver_may_be_named_in_the_dsn(day: Day) -> None:
    report = await verify(day.dsn.replace("postgresql://", "postgresql+asyncpg://"), None)
    assert failed(report.checks) == {}
    assert GATE_NAME not in {check.name for check in report.checks}
    assert report.to_json()["gate"] is None


# -------------------------------------------------------------------------------------------------------------- damages
@dataclass(frozen=True)
class Damage:
    """Statements that break `rule`, what one of its violations then says, and the rules that are broken with it."""

    rule: str
    statements: Sequence[str]
    evidence: dict[str, Any]
    with_it: frozenset[str] = frozenset()
    title: str = ""


MOVE = """INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document)
          VALUES ('{{north}}', '{{milk}}', {quantity}, '{from_bucket}', '{to_bucket}', 'X', '{document}')"""


AUTHORIZATION = """INSERT INTO return_authorizations (return_authorization_id, rma_number, order_id, state, channel, expires_time)
    VALUES ('{{cart}}', 'R', '{{picked_up}}', '{state}', 'WEB', now() + interval '{days} days')"""


def move(quantity: int, from_bucket: str, to_bucket: str, document: str = "") -> str:
    """A movement that comes from nowhere."""
    return MOVE.format(quantity=quantity, from_bucket=from_bucket, to_bucket=to_bucket, document=document)


DAMAGES = [
    Damage(
        "conservation",
        ["UPDATE stock_levels SET available = available + 1 WHERE location_id = '{south}' AND sku = '{milk}'"],
        {"location_id": "{south}", "sku": "{milk}", "bucket": "available", "level": 11, "movements": 10},
        title="level",
    ),
    Damage(
        "conservation",
        [move(3, "supplier", "damaged")],
        {"location_id": "{north}", "sku": "{milk}", "bucket": "damaged", "level": 0, "movements": 3},
        title="movement",
    ),
    Damage(
        "conservation",
        [
            "DELETE FROM stock_movements WHERE movement_id = (SELECT min(movement_id) FROM stock_movements WHERE "
            "(location_id, sku, from_bucket) = ('{depot}', '{bread}', 'supplier'))"
        ],
        {"location_id": "{depot}", "sku": "{bread}", "bucket": "available", "level": 0, "movements": -10},
        frozenset({"increases_numbered"}),
        title="lost movement",
    ),
    Damage(
        "conservation",
        ["DELETE FROM stock_levels WHERE location_id = '{north}' AND sku = '{fuel}'"],
        {"location_id": "{north}", "sku": "{fuel}", "bucket": "available", "level": None, "movements": 0},
        title="movements without a level",
    ),
    Damage(
        "no_negative_bucket",
        [
            "ALTER TABLE stock_levels DROP CONSTRAINT stock_levels_quarantine_check",
            "UPDATE stock_levels SET quarantine = -1 WHERE location_id = '{north}' AND sku = '{milk}'",
            move(1, "quarantine", "adjustment"),
        ],
        {"location_id": "{north}", "sku": "{milk}", "quarantine": -1},
    ),
    Damage(
        "movements_append_only",
        ["ALTER TABLE stock_movements DISABLE TRIGGER stock_movements_append_only"],
        {"wall": "stock_movements_append_only", "problem": "disabled"},
        title="disabled",
    ),
    Damage(
        "movements_append_only",
        ["DROP TRIGGER stock_movements_append_only ON stock_movements"],
        {"wall": "stock_movements_append_only", "problem": "absent"},
        title="dropped",
    ),
    Damage(
        "no_oversell",
        ["UPDATE shortages SET quantity = 1"],
        {"location_id": "{north}", "sku": "{bread}", "available": 7, "reserved": 9, "recorded_shortages": 1},
        title="more than the shortage",
    ),
    Damage(
        "no_oversell",
        ["UPDATE shortages SET created_time = created_time - interval '2 hours'"],
        {"location_id": "{north}", "sku": "{bread}", "available": 7, "reserved": 9, "recorded_shortages": 0},
        title="shortage of another day",
    ),
    Damage(
        "no_oversell",
        [
            """UPDATE claims SET lines = jsonb_build_array(jsonb_build_array('nothing', 1))
                WHERE reservation_id = '{held}' AND state = 'active' AND location_id = '{south}'"""
        ],
        {"location_id": "{south}", "sku": "nothing", "available": 0, "reserved": 1, "recorded_shortages": 0},
        frozenset({"promises_visible"}),
        title="nothing there",
    ),
    Damage(
        "claims_well_formed",
        ["UPDATE claims SET lines = '[[\"{bread}\", 4], [\"{bread}\", 5]]' WHERE reservation_id = '{broken}'"],
        {"location_id": "{north}", "state": "active"},
        title="sku twice",
    ),
    Damage(
        "claims_well_formed",
        ["UPDATE claims SET closed_time = now() WHERE reservation_id = '{broken}'"],
        {"location_id": "{north}", "state": "active"},
        title="closed and active",
    ),
    Damage(
        "claims_well_formed",
        ["UPDATE claims SET lines = '[]' WHERE reservation_id = '{held}' AND state = 'released'"],
        {"state": "released", "lines": []},
        title="empty",
    ),
    Damage(
        "claims_not_overdue",
        ["UPDATE claims SET deadline = now() - interval '61 seconds' WHERE reservation_id = '{broken}'"],
        {"location_id": "{north}", "reservation_id": "{broken}"},
    ),
    Damage(
        "reservations_whole",
        [
            """UPDATE claims SET state = 'expired', closed_time = now()
                WHERE reservation_id = '{held}' AND state = 'active' AND location_id = '{south}'"""
        ],
        {"reservation_id": "{held}", "claims": 2, "states": ["active", "expired"], "location_ids": [DEPOT, SOUTH]},
        title="half expired",
    ),
    Damage(
        "reservations_whole",
        [
            """UPDATE claims SET state = 'active', closed_time = NULL
                WHERE reservation_id = '{held}' AND state = 'released'"""
        ],
        {"reservation_id": "{held}", "claims": 4, "states": ["active"]},
        title="held twice",
    ),
    Damage(
        "claims_used_once",
        [
            """INSERT INTO claims (location_id, claim_id, state, lines, deadline, closed_time)
               SELECT location_id, gen_random_uuid(), state, lines, deadline, closed_time FROM claims
                WHERE state = 'consumed' AND location_id = '{south}' AND lines = '[["milk", 1]]'"""
        ],
        {"location_id": "{south}", "sku": "{milk}", "claimed": 2, "moved": 1},
    ),
    Damage(
        "transfers",
        ["UPDATE transfer_lines SET received = 3 WHERE transfer_id = '{transfer}'"],
        {"transfer_id": "{transfer}", "sku": "{bread}", "received": 3, "units_in": 2, "dispatched": 3, "units_out": 3},
        title="received",
    ),
    Damage(
        "transfers",
        ["UPDATE transfers SET state = 'RECEIVED' WHERE transfer_id = '{transfer}'"],
        {"transfer_id": "{transfer}", "state": "RECEIVED", "received": 2, "dispatched": 3},
        title="state",
    ),
    Damage(
        "transfers",
        ["UPDATE transfers SET to_location_id = '{north}' WHERE transfer_id = '{transfer}'"],
        {"transfer_id": "{transfer}", "to_location_id": "{north}", "destination_first": "{south}"},
        title="elsewhere",
    ),
    Damage(
        "transfers",
        ["DELETE FROM transfer_lines WHERE transfer_id = '{transfer}'"],
        {"transfer_id": "{transfer}", "sku": "{bread}", "dispatched": None, "units_out": 3},
        title="lost line",
    ),
    Damage(
        "transfers",
        ["UPDATE transfer_lines SET lost = 1 WHERE transfer_id = '{asked}'"],
        {"transfer_id": "{asked}", "sku": "{eggs}", "lost": 1, "units_lost": 2, "on_way": 1, "units_on_way": 0},
        title="lost units",
    ),
    Damage(
        "transfers",
        [
            """INSERT INTO transfers (transfer_id, from_location_id, to_location_id, state, from_transfer_id)
               VALUES ('{cart}', '{north}', '{south}', 'REQUESTED', '{asked}')""",
            "INSERT INTO transfer_lines (transfer_id, sku, requested, dispatched) VALUES ('{cart}', '{eggs}', 99, 0)",
        ],
        {"transfer_id": "{cart}", "sku": "{eggs}", "state": "REQUESTED", "dispatched": 0},
        title="more to follow than was left out",
    ),
    Damage(
        "advance_notices",
        ["UPDATE advance_notice_lines SET received = 5 WHERE advance_notice_id = '{notice}'"],
        {"advance_notice_id": "{notice}", "sku": "{eggs}", "received": 5, "units_in": 6},
        title="received",
    ),
    Damage(
        "advance_notices",
        ["UPDATE advance_notices SET state = 'RECEIVING' WHERE advance_notice_id = '{notice}'"],
        {"advance_notice_id": "{notice}", "sku": "{eggs}", "state": "RECEIVING", "expected": 5},
        title="state",
    ),
    Damage(
        "counts",
        ["UPDATE count_lines SET booked = 0 WHERE count_id = '{count}'"],
        {"count_id": "{count}", "sku": "{eggs}", "booked": 0, "moved": -1},
        title="booked",
    ),
    Damage(
        "counts",
        ["UPDATE counts SET state = 'REVIEW' WHERE count_id = '{count}'"],
        {"count_id": "{count}", "sku": "{eggs}", "count_state": "REVIEW", "due_state": "APPROVED"},
        title="count state",
    ),
    Damage(
        "counts",
        ["DELETE FROM count_attempts WHERE count_id = '{count}'"],
        {"count_id": "{count}", "sku": "{eggs}", "attempts": 1, "attempts_kept": 0},
        title="lost attempt",
    ),
    Damage(
        "no_oversell",
        ["UPDATE stock_levels SET backordered = 0 WHERE location_id = '{north}' AND sku = '{eggs}'"],
        {"location_id": "{north}", "sku": "{eggs}", "backorder_room": -2},
        title="backorders",
    ),
    Damage(
        "deltas_contiguous",
        [
            "UPDATE gate_deltas SET number = number + 1 WHERE location_id = '{north}' AND number = (SELECT last_number "
            "FROM location_delta_heads WHERE location_id = '{north}')"
        ],
        {"location_id": "{north}"},
        title="gap",
    ),
    Damage(
        "deltas_contiguous",
        ["UPDATE location_delta_heads SET last_number = 9 WHERE location_id = '{north}'"],
        {"location_id": "{north}", "last_number": 9, "deltas": 5},
        title="head",
    ),
    Damage(
        "deltas_contiguous",
        ["UPDATE gate_deltas SET location_id = 'nowhere' WHERE location_id = '{north}' AND number = 1"],
        {"location_id": "nowhere", "last_number": None, "deltas": 1},
        frozenset({"increases_numbered"}),
        title="of no location",
    ),
    Damage(
        "increases_numbered",
        [
            'UPDATE gate_deltas SET lines = \'[["{milk}", 9, null], ["{bread}", 10, null]]\' '
            "WHERE location_id = '{north}' AND number = 1"
        ],
        {"location_id": "{north}", "sku": "{milk}", "moved": 10, "numbered": 9},
    ),
    Damage(
        "locations_have_epochs",
        ["DELETE FROM location_delta_heads WHERE location_id = 'closed'"],
        {"location_id": "closed", "last_number": None, "is_closed": True},
        title="no head",
    ),
    Damage(
        "locations_have_epochs",
        ["UPDATE location_epochs SET is_closed = false WHERE location_id = 'closed'"],
        {"location_id": "closed", "is_closed": False},
        title="deleted and open",
    ),
    Damage(
        "deleted_locations_empty",
        [
            "UPDATE locations SET deleted_time = now() WHERE location_id = '{south}'",
            "UPDATE location_epochs SET is_closed = true WHERE location_id = '{south}'",
        ],
        {"location_id": "{south}", "what": "transfers", "units": 1},
    ),
    Damage(
        "shortages",
        [
            "UPDATE shortages SET reference_document = 'order/00000000-0000-0000-0000-000000000000'",
            "UPDATE events SET data = jsonb_set(data, '{{reference_document}}', "
            "'\"order/00000000-0000-0000-0000-000000000000\"') WHERE type = 'onhand.stock.shortage.v1'",
        ],
        {"location_id": "{north}", "sku": "{bread}", "problem": "shortage of no order"},
        title="shortage of no order",
    ),
    Damage(
        "shortages",
        ["UPDATE count_tasks SET reference_document = 'order/1' WHERE sku = '{fuel}'"],
        {"location_id": "{north}", "sku": "{fuel}", "problem": "count task of no order"},
        title="count task of no order",
    ),
    Damage(
        "shortages",
        ["DELETE FROM events WHERE type = 'onhand.stock.shortage.v1'"],
        {"location_id": "{north}", "sku": "{bread}", "problem": "shortage without an event"},
        title="silent shortage",
    ),
    Damage(
        "shortages",
        [
            "INSERT INTO count_tasks SELECT gen_random_uuid(), location_id, sku, 'X', '', 'OPEN', now(), NULL "
            "FROM count_tasks WHERE sku = '{fuel}'"
        ],
        {"location_id": "{north}", "sku": "{fuel}", "problem": "2 open count tasks"},
        title="two count tasks",
    ),
    Damage(
        "shortages",
        ["UPDATE count_tasks SET state = 'DONE' WHERE sku = '{fuel}'"],
        {"sku": "{fuel}", "problem": "count task DONE, closed at no time"},
        title="count task without an end",
    ),
    Damage(
        "allocated_is_promised",
        ["UPDATE fulfillment_orders SET state = 'PICKED_UP' WHERE fulfillment_order_id = '{opened_work}'"],
        {"location_id": "{north}", "sku": "{milk}", "allocated": 2, "promised": 0},
        frozenset({"order_lines", "orders_moved_once"}),
        title="work",
    ),
    Damage(
        "allocated_is_promised",
        [
            "UPDATE stock_levels SET allocated = 3 WHERE location_id = '{north}' AND sku = '{milk}'",
            move(1, "adjustment", "allocated"),
        ],
        {"location_id": "{north}", "sku": "{milk}", "allocated": 3, "promised": 2},
        title="stock",
    ),
    Damage(
        "order_lines",
        ["UPDATE order_lines SET fulfilled_quantity = 1 WHERE order_id = '{opened}' AND line_number = 2"],
        {"order_id": "{opened}", "line_number": 2, "fulfilled_quantity": 1, "part_fulfilled": 0, "part_open": 2},
        title="fulfilled",
    ),
    Damage(
        "order_lines",
        ["UPDATE fulfillment_lines SET line_number = 7 WHERE fulfillment_order_id = '{opened_work}'"],
        {"order_id": "{opened}", "line_number": 7, "quantity": None, "part_quantity": 2},
        title="part of no line",
    ),
    Damage(
        "order_lines",
        ["UPDATE order_lines SET sku = '{bread}' WHERE order_id = '{opened}' AND line_number = 2"],
        {"order_id": "{opened}", "line_number": 2, "sku": "{bread}", "part_sku": "{milk}"},
        title="sku",
    ),
    Damage(
        "order_states",
        ["UPDATE orders SET state = 'COMPLETED' WHERE order_id = '{opened}'"],
        {"order_id": "{opened}", "state": "COMPLETED", "derived": "OPEN", "phases": "OPEN"},
    ),
    Damage(
        "fulfillment_states",
        ["UPDATE fulfillment_orders SET kind = 'SHIP', pickup_code_hash = NULL WHERE order_id = '{picked_up}'"],
        {"order_id": "{picked_up}", "kind": "SHIP", "state": "PICKED_UP", "left": 3},
        title="unreachable",
    ),
    Damage(
        "fulfillment_states",
        [
            "INSERT INTO fulfillment_orders (fulfillment_order_id, order_id, location_id, kind, state) "
            "VALUES (gen_random_uuid(), '{opened}', '{depot}', 'SHIP', 'REQUESTED')"
        ],
        {"order_id": "{opened}", "kind": "SHIP", "lines": 0, "left": 0},
        title="without lines",
    ),
    Damage(
        "fulfillment_states",
        ["UPDATE fulfillment_lines SET cancelled_quantity = quantity WHERE fulfillment_order_id = '{opened_work}'"],
        {"fulfillment_order_id": "{opened_work}", "state": "REQUESTED", "left": 0},
        frozenset({"order_lines", "orders_moved_once", "allocated_is_promised"}),
        title="nothing left",
    ),
    Damage(
        "shipments",
        ["DELETE FROM shipments"],
        {"fulfillment_order_id": "{shipped_work}", "state": "DELIVERED", "shipments": 0},
        title="no parcel",
    ),
    Damage(
        "shipments",
        ["UPDATE shipments SET delivered_time = NULL"],
        {"fulfillment_order_id": "{shipped_work}", "state": "DELIVERED", "shipments": 1, "delivered": 0},
        title="not arrived",
    ),
    Damage(
        "shipments",
        ["UPDATE shipments SET fulfillment_order_id = '{opened_work}'"],
        {"fulfillment_order_id": "{opened_work}", "kind": "PICKUP", "shipments": 1},
        title="of a pickup",
    ),
    Damage(
        "shipments",
        ["UPDATE shipment_lines SET quantity = 5"],
        {"problem": "more of line 1 is packed than it has", "packed": 5, "units": 1},
        title="too much in it",
    ),
    Damage(
        "no_shows",
        ["UPDATE fulfillment_lines SET aside_quantity = 1 WHERE cancelled_quantity > 0"],
        {"location_id": "{south}", "sku": "{bread}", "problem": "stands aside and the work is REQUESTED"},
        title="of nobody who did not come",
    ),
    Damage(
        "fulfillment_states",
        ["UPDATE fulfillment_orders SET from_fulfillment_order_id = '{shipped_work}' WHERE order_id = '{opened}'"],
        {"order_id": "{opened}", "state": "REQUESTED"},
        title="from another order",
    ),
    Damage(
        "substitute_offers",
        [
            "INSERT INTO substitutions (order_id, line_number, substitute_line, fulfillment_order_id, quantity, consent) "
            "VALUES ('{opened}', 1, 2, '{opened_work}', 1, 'CUSTOMER')"
        ],
        {"order_id": "{opened}", "substitute_line": 2, "substitute_offer_id": None, "replaced_quantity": 1},
        title="consent without an offer",
    ),
    Damage(
        "substitute_offers",
        [
            "INSERT INTO substitutions (order_id, line_number, substitute_line, fulfillment_order_id, quantity, consent) "
            "VALUES ('{opened}', 1, 2, '{opened_work}', 1, 'CUSTOMER')",
            "INSERT INTO substitute_offers (substitute_offer_id, order_id, fulfillment_order_id, line_number, quantity, "
            "held_quantity, sku, substitute_quantity, amount_minor, price_quantity, total_minor, refund_minor, state, "
            "expires_time, substitute_line) SELECT '{opened_work}', order_id, '{opened_work}', 1, 1, 1, sku, quantity, 1, 1, "
            "total_minor - 1, 0, 'ACCEPTED', now(), 2 FROM order_lines WHERE order_id = '{opened}' AND line_number = 2",
        ],
        {"order_id": "{opened}", "substitute_line": 2, "substitute_offer_id": "{opened_work}"},
        title="not as it was offered",
    ),
    Damage(
        "promises_visible",
        [
            "UPDATE fulfillment_orders SET state = 'REJECTED', reject_reason = 'DAMAGED' "
            "WHERE fulfillment_order_id = '{opened_work}'"
        ],
        {"fulfillment_order_id": "{opened_work}", "problem": "rejected, and its shortfalls do not say so", "units": 2},
        frozenset({"allocated_is_promised", "orders_moved_once"}),
        title="rejected in silence",
    ),
    Damage(
        "line_totals",
        ["UPDATE order_lines SET amount_minor = 200 WHERE order_id = '{sold}'"],
        {"order_id": "{sold}", "line_number": 1, "quantity": 1, "amount_minor": 200, "total_minor": 199},
    ),
    Damage(
        "order_totals",
        [
            "UPDATE orders SET total_minor = 200 WHERE order_id = '{sold}'",
            "UPDATE tenders SET amount_minor = 200, authorized_minor = 200, captured_minor = 200 WHERE order_id = '{sold}'",
        ],
        {"order_id": "{sold}", "total_minor": 200, "lines_minor": 199},
    ),
    Damage(
        "tenders_cover_total",
        [
            "UPDATE tenders SET amount_minor = 198, authorized_minor = 198, captured_minor = 198 WHERE order_id = '{sold}'"
        ],
        {"order_id": "{sold}", "total_minor": 199, "tendered_minor": 198},
    ),
    Damage(
        "refunds",
        [
            "UPDATE order_lines SET refunded_minor = 200 WHERE order_id = '{picked_up}' AND line_number = 2",
            "UPDATE return_lines SET refund_minor = 200 WHERE return_id = '{returned}' AND line_number = 2",
            "UPDATE returns SET refund_minor = 450",
        ],
        {"order_id": "{picked_up}", "line_number": 2, "refunded_minor": 200, "due_minor": 199},
        frozenset({"money_kept"}),
    ),
    Damage(
        "refunds",
        [
            "UPDATE return_lines SET refund_minor = 198 WHERE return_id = '{returned}' AND line_number = 2",
            "UPDATE returns SET refund_minor = 448",
        ],
        {"order_id": "{picked_up}", "line_number": 2, "refunded_minor": 199, "returns_minor": 198},
        title="return differs from line",
    ),
    Damage(
        "refunds_within_payment",
        ["DELETE FROM tenders WHERE order_id = '{picked_up}'"],
        {"order_id": "{picked_up}", "refunded_minor": 449, "tendered_minor": 0},
        frozenset({"tenders_cover_total", "tenders_belong", "money_kept"}),
    ),
    Damage(
        "payment_sums",
        ["UPDATE tenders SET refunded_minor = 448 WHERE order_id = '{picked_up}'"],
        {"order_id": "{picked_up}", "tender_number": 1, "refunded_minor": 448, "refunded_due": 449},
        frozenset({"captured_is_refunded_or_kept"}),
    ),
    Damage(
        "payment_sums",
        ["DELETE FROM payment_outcomes"],
        {
            "order_id": "{picked_up}",
            "tender_number": 1,
            "refunded_minor": 449,
            "refunded_due": 0,
            "given_back_due": 449,
        },
        title="outcomes",
    ),
    Damage(
        "money_kept",
        [
            "UPDATE payment_operations SET amount_minor = 448 WHERE order_id = '{picked_up}'",
            "UPDATE tenders SET refunded_minor = 448, given_back_minor = 448 WHERE order_id = '{picked_up}'",
        ],
        {"order_id": "{picked_up}", "refunded_minor": 449, "given_back_minor": 448},
    ),
    Damage(
        "captured_is_refunded_or_kept",
        [
            "UPDATE tenders SET provider = 'STRIPE', captured_minor = 100 WHERE order_id = '{sold}'",
            """WITH operation AS (
                   INSERT INTO payment_operations (operation_id, order_id, tender_number, kind, amount_minor, currency,
                                                   reason_code, reference_document)
                   VALUES (gen_random_uuid(), '{sold}', 1, 'AUTHORIZE', 199, 'USD', 'TEST', ''),
                          (gen_random_uuid(), '{sold}', 1, 'CAPTURE', 100, 'USD', 'TEST', '') RETURNING operation_id)
               INSERT INTO payment_outcomes (operation_id, outcome) SELECT operation_id, 'SUCCEEDED' FROM operation""",
        ],
        {"order_id": "{sold}", "tender_number": 1, "captured_minor": 100, "refunded_minor": 0, "kept_minor": 199},
    ),
    Damage(
        "tenders_belong",
        [
            """INSERT INTO tenders (order_id, tender_number, kind, amount_minor, authorized_minor, captured_minor)
               VALUES ('{cart}', 1, 'CASH', 1, 1, 1)"""
        ],
        {"order_id": "{cart}", "tender_number": 1, "fault": "no order"},
    ),
    Damage(
        "tenders_belong",
        [
            """INSERT INTO payment_operations (operation_id, order_id, tender_number, kind, amount_minor, currency, reason_code,
                                               reference_document)
               VALUES (gen_random_uuid(), '{sold}', 7, 'CAPTURE', 1, 'USD', 'TEST', '')"""
        ],
        {"order_id": "{sold}", "tender_number": 7, "fault": "no tender"},
        title="of an operation",
    ),
    Damage(
        "tenders_belong",
        ["UPDATE tenders SET change_id = '{cart}' WHERE order_id = '{sold}'"],
        {"order_id": "{sold}", "tender_number": 1, "fault": "no change"},
        frozenset({"tenders_cover_total"}),
        title="of a change",
    ),
    Damage(
        "checkouts_end",
        [
            """INSERT INTO checkouts (order_id, request_id, body_hash, request, reservation_id, change_of)
               VALUES ('{cart}', 'checkout-1', '', '', '{held}', '{cart}')"""
        ],
        {"order_id": "{cart}", "state": "PENDING", "is_order": False, "held_minor": 0},
        title="of a change of no order",
    ),
    Damage(
        "checkouts_end",
        [
            """INSERT INTO checkouts (order_id, request_id, body_hash, request, reservation_id, state)
               VALUES ('{cart}', 'checkout-1', '', '', '{held}', 'PLACED')"""
        ],
        {"order_id": "{cart}", "state": "PLACED", "is_order": False, "held_minor": 0},
    ),
    Damage(
        "checkouts_end",
        [
            """INSERT INTO checkouts (order_id, request_id, body_hash, request, reservation_id, state, refusal)
               VALUES ('{cart}', 'checkout-1', '', '', '{held}', 'REFUSED', 'CART_CHANGED')""",
            """INSERT INTO tenders (order_id, tender_number, kind, amount_minor, provider, authorized_minor)
               VALUES ('{cart}', 1, 'CARD', 5, 'STRIPE', 5)""",
            """WITH operation AS (
                   INSERT INTO payment_operations (operation_id, order_id, tender_number, kind, amount_minor, currency,
                                                   reason_code, reference_document)
                   VALUES (gen_random_uuid(), '{cart}', 1, 'AUTHORIZE', 5, 'USD', 'TEST', '') RETURNING operation_id)
               INSERT INTO payment_outcomes (operation_id, outcome) SELECT operation_id, 'SUCCEEDED' FROM operation""",
        ],
        {"order_id": "{cart}", "state": "REFUSED", "is_order": False, "held_minor": 5},
        title="money is set aside for nothing",
    ),
    Damage(
        "checkouts_keep",
        ["UPDATE carts SET locked_for = '{sold}' WHERE cart_id = '{cart}'"],
        {"what": "cart {cart}", "order_id": "{sold}", "problem": "nobody pays for it"},
    ),
    Damage(
        "checkouts_keep",
        ["UPDATE claims SET pinned_for = '{sold}' WHERE reservation_id = '{held}'"],
        {"what": "reservation {held}", "order_id": "{sold}", "problem": "nobody pays for it"},
        title="a reservation",
    ),
    Damage(
        "checkouts_keep",
        [
            """INSERT INTO checkouts (order_id, request_id, body_hash, request, reservation_id, cart_id)
               VALUES (gen_random_uuid(), 'checkout-1', '', '', '{held}', '{cart}')"""
        ],
        {"what": "cart {cart}", "problem": "others may change it"},
        title="of one under way",
    ),
    Damage(
        "renewals",
        [
            """INSERT INTO payment_operations (operation_id, order_id, tender_number, kind, amount_minor, currency, reason_code,
                                               reference_document, authorization_id)
               VALUES (gen_random_uuid(), '{sold}', 1, 'RELEASE', 5, 'USD', 'TEST', '', '{cart}')"""
        ],
        {"order_id": "{sold}", "tender_number": 1, "authorization_id": "{cart}", "renewals": 0, "releases": 1},
    ),
    Damage(
        "gift_card_balances",
        [
            """INSERT INTO gift_cards (gift_card_id, code_hash, last_characters, currency, balance_minor)
               VALUES ('{cart}', '', '', 'USD', 5)"""
        ],
        {"gift_card_id": "{cart}", "balance_minor": 5, "moved_minor": 0},
    ),
    Damage(
        "gift_cards_spent_once",
        [
            """INSERT INTO gift_cards (gift_card_id, code_hash, last_characters, currency, balance_minor)
               VALUES ('{cart}', '', '', 'USD', 0)""",
            """INSERT INTO gift_card_movements (gift_card_id, movement_id, amount_minor, kind, reference_document)
               VALUES ('{cart}', '{sold}', 5, 'ISSUE', ''), ('{cart}', '{opened}', -5, 'REDEEM', '')""",
        ],
        {"operation_id": "{opened}", "gift_card_id": "{cart}", "due_minor": 0, "moved_minor": -5},
    ),
    Damage(
        "returns_held_once",
        [
            AUTHORIZATION.format(state="AUTHORIZED", days=1),
            """INSERT INTO return_authorization_lines (return_authorization_id, line_number, sku, quantity)
               VALUES ('{cart}', 1, '{bread}', 9)""",
        ],
        {"order_id": "{picked_up}", "line_number": 1, "returned_quantity": 1, "held": 9},
        frozenset({"requests_once"}),
    ),
    Damage(
        "return_authorizations",
        [
            AUTHORIZATION.format(state="RECEIVED", days=-1),
            """INSERT INTO return_authorization_lines (return_authorization_id, line_number, sku, quantity, received_quantity)
               VALUES ('{cart}', 1, '{bread}', 1, 1)""",
        ],
        {"return_authorization_id": "{cart}", "line_number": 1, "received_quantity": 1, "returned": 0},
        frozenset({"requests_once"}),
        title="received without a return",
    ),
    Damage(
        "return_authorizations",
        [
            AUTHORIZATION.format(state="CANCELLED", days=1),
            """INSERT INTO return_authorization_lines (return_authorization_id, line_number, sku, quantity, refused_quantity)
               VALUES ('{cart}', 1, '{bread}', 1, 1)""",
            """INSERT INTO return_refused_units
                      (return_authorization_id, refusal_number, line_number, quantity, reason, location_id)
               VALUES ('{cart}', 1, 1, 1, 'worn', '{north}')""",
        ],
        {"return_authorization_id": "{cart}", "line_number": 0, "state": "CANCELLED"},
        frozenset({"requests_once"}),
        title="cancelled though it came",
    ),
    Damage(
        "return_authorizations",
        [
            AUTHORIZATION.format(state="EXPIRED", days=-1),
            """INSERT INTO return_authorization_lines (return_authorization_id, line_number, sku, quantity, refused_quantity)
               VALUES ('{cart}', 1, '{bread}', 1, 1)""",
            """INSERT INTO return_refused_units
                      (return_authorization_id, refusal_number, line_number, quantity, reason, location_id)
               VALUES ('{cart}', 1, 1, 1, 'worn', '{north}')""",
        ],
        {"return_authorization_id": "{cart}", "line_number": 0, "state": "EXPIRED"},
        frozenset({"requests_once"}),
        title="expired though all came",
    ),
    Damage(
        "blind_returns_paid_once",
        ["INSERT INTO blind_return_days VALUES ('ann', '2026-01-01', 'USD', 1, 5)"],
        {"what": "ann on 2026-01-01", "refund_minor": 0, "moved_minor": 5},
        title="day",
    ),
    Damage(
        "blind_returns_paid_once",
        ["INSERT INTO blind_returns VALUES ('{returned}', '2026-01-01', 'STORE_CREDIT')"],
        {"what": "{returned}", "refund_kind": "STORE_CREDIT", "moved_minor": 0},
        title="paid for a return that has its proof",
    ),
    Damage(
        "exchanges_settled",
        ["INSERT INTO exchanges VALUES ('{cart}', '{returned}', '{sold}', 5)"],
        {"exchange_id": "{cart}", "kind": "COUNTER", "carried_minor": 5, "taken_minor": 0, "tendered_minor": 0},
        frozenset({"requests_once"}),
    ),
    Damage(
        "returned_units",
        ["UPDATE order_lines SET returned_quantity = 0 WHERE order_id = '{picked_up}' AND line_number = 1"],
        {"order_id": "{picked_up}", "line_number": 1, "returned_quantity": 0, "return_lines": 1},
        frozenset({"refunds"}),
        title="count",
    ),
    Damage(
        "returned_units",
        ["UPDATE return_lines SET line_number = 9 WHERE return_id = '{returned}' AND line_number = 1"],
        {"order_id": "{picked_up}", "line_number": 9, "returned_quantity": None, "return_lines": 1},
        frozenset({"refunds"}),
        title="of no line",
    ),
    Damage(
        "return_totals",
        ["UPDATE returns SET refund_minor = 1"],
        {"return_id": "{returned}", "order_id": "{picked_up}", "refund_minor": 1, "lines_minor": 449},
    ),
    Damage(
        "orders_moved_once",
        [
            """INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code,
                                            reference_document)
               SELECT location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document
                 FROM stock_movements WHERE reference_document = 'order/{sold}'""",
            "UPDATE stock_levels SET available = available - 1 WHERE location_id = '{south}' AND sku = '{milk}'",
        ],
        {"document": "order/{sold}", "location_id": "{south}", "sku": "{milk}", "sold_due": 1, "sold_moved": 2},
        title="twice",
    ),
    Damage(
        "orders_moved_once",
        [
            move(1, "available", "allocated", "order/none"),
            move(1, "allocated", "available", "order/none"),
            """UPDATE gate_deltas SET lines = '[["milk", 11, null], ["bread", 10, null]]'
                WHERE location_id = '{north}' AND number = 1""",
        ],
        {"document": "order/none", "allocated_due": 0, "allocated_moved": 1, "freed_moved": 1},
        title="of no order",
    ),
    Damage(
        "returns_moved_once",
        [
            "UPDATE stock_movements SET reference_document = '' WHERE reference_document = 'return/{returned}' "
            "AND sku = '{milk}'"
        ],
        {"document": "return/{returned}", "sku": "{milk}", "disposition": "available", "returned": 1, "moved": 0},
    ),
    Damage(
        "confirmed_claims",
        ["UPDATE claims SET lines = '[[\"{milk}\", 1]]' WHERE order_id = '{opened}' AND location_id = '{north}'"],
        {"order_id": "{opened}", "location_id": "{north}", "sku": "{milk}", "claimed": 1, "ordered": 2},
        title="lines",
    ),
    Damage(
        "confirmed_claims",
        ["UPDATE claims SET order_id = '{sold}' WHERE order_id = '{opened}'"],
        {"order_id": "{sold}", "reservation_id": "{opened_reservation}", "claimed": 2, "ordered": None},
        title="of another order",
    ),
    Damage(
        "confirmed_claims",
        ["UPDATE orders SET reservation_id = NULL WHERE order_id = '{opened}'"],
        {"order_id": "{opened}", "reservation_id": None, "claimed": None, "ordered": 2},
        title="order of no reservation",
    ),
    Damage(
        "ordered_carts",
        ["UPDATE carts SET order_id = '{sold}' WHERE cart_id = '{cart}'"],
        {
            "cart_id": "{cart}",
            "order_id": "{from_cart}",
            "cart_order_id": "{sold}",
            "problem": "do not name each other",
        },
        title="another order",
    ),
    Damage(
        "ordered_carts",
        ["UPDATE orders SET cart_id = '{cart}' WHERE order_id = '{sold}'"],
        {"cart_id": "{cart}", "order_id": "{sold}", "problem": "do not name each other"},
        title="ordered twice",
    ),
    Damage(
        "ordered_carts",
        ["UPDATE carts SET currency = 'EUR' WHERE cart_id = '{cart}'"],
        {"cart_id": "{cart}", "problem": "differ in currency"},
        title="currency",
    ),
    Damage(
        "ordered_carts",
        ["UPDATE cart_lines SET quantity = 2 WHERE cart_id = '{cart}'"],
        {"cart_id": "{cart}", "problem": "differ in lines"},
        title="lines",
    ),
    Damage(
        "requests_once",
        ["DELETE FROM requests WHERE method = 'DispatchTransferRequest'"],
        {"kind": "transfer", "id": "{transfer}", "exists": True, "requests": 0},
        title="effect without a request",
    ),
    Damage(
        "requests_once",
        [
            "INSERT INTO requests SELECT 'again', method, body_hash, response, settles, created_time FROM requests "
            "WHERE method = 'CreateReturnRequest'"
        ],
        {"kind": "return", "id": "{returned}", "exists": True, "requests": 2},
        title="two requests",
    ),
    Damage(
        "requests_once",
        ["DELETE FROM claims WHERE reservation_id = '{broken}'"],
        {"kind": "reservation", "id": "{broken}", "exists": False, "requests": 1},
        title="request without its effect",
    ),
    Damage(
        "requests_once",
        ["INSERT INTO requests (request_id, method, body_hash) VALUES ('half', 'MoveStockRequest', '')"],
        {"kind": "request without an answer", "id": "half"},
        title="no answer",
    ),
    Damage(
        "events_once",
        ["DELETE FROM events WHERE subject = 'order/{sold}'"],
        {"subject": "order/{sold}", "events": 0, "exists": True},
        title="silent",
    ),
    Damage(
        "events_once",
        [
            "INSERT INTO events (event_id, type, subject, data) VALUES (gen_random_uuid(), 'onhand.return.created.v1', "
            "'return/none', '{{}}')"
        ],
        {"subject": "return/none", "events": 1, "exists": False},
        title="of nothing",
    ),
    Damage(
        "promises_visible",
        [
            "DELETE FROM shortfalls WHERE shortfall_id = '{short}'",
            "DELETE FROM shortfall_ends WHERE shortfall_id = '{short}'",
        ],
        {
            "location_id": "{depot}",
            "sku": "{bread}",
            "problem": "lacks other than its shortfalls",
            "units": 1,
            "shortfalls": 0,
        },
        frozenset({"orders_moved_once", "shortfalls_moved_once"}),
        title="silent",
    ),
    Damage(
        "promises_visible",
        [
            "UPDATE shortfalls SET fulfillment_order_id = (SELECT fulfillment_order_id FROM fulfillment_orders "
            "WHERE order_id = '{took}') WHERE shortfall_id = '{short}'"
        ],
        {
            "location_id": "{depot}",
            "sku": "{bread}",
            "problem": "lacks more than it has to bring",
            "units": 0,
            "shortfalls": 1,
        },
        frozenset({"orders_moved_once", "shortfalls_moved_once"}),
        title="of another's",
    ),
    Damage(
        "promises_visible",
        ["UPDATE stock_levels SET overdrawn_time = NULL"],
        {
            "location_id": "{north}",
            "sku": "{bread}",
            "problem": "reservations are short and it is not marked",
            "units": 9,
        },
        title="not marked",
    ),
    Damage(
        "shortfalls_end",
        ["UPDATE shortfall_ends SET quantity = 2 WHERE shortfall_id = '{short}' AND reason = 'COVERED'"],
        {"shortfall_id": "{short}", "quantity": 3, "open_quantity": 1, "ended_quantity": 3},
        frozenset({"shortfalls_moved_once"}),
        title="ended twice",
    ),
    Damage(
        "shortfalls_end",
        ["DELETE FROM events WHERE subject = 'shortfall/{short}' AND type = 'onhand.shortfall.opened.v1'"],
        {"shortfall_id": "{short}", "events_opened": 0, "events_resolved": 2},
        title="not told of",
    ),
    Damage(
        "shortfalls_end",
        ["UPDATE count_tasks SET state = 'DONE', closed_time = now() WHERE location_id = '{depot}'"],
        {"shortfall_id": "{short}", "location_id": "{depot}"},
        title="nobody is asked to count",
    ),
    Damage(
        "shortfalls_moved_once",
        ["UPDATE stock_movements SET reference_document = 'order/{sold}' WHERE reason_code = 'SHORTFALL_COVERED'"],
        {"document": "order/{lacking}", "covered_due": 1, "covered_moved": 0, "opened_due": 3, "opened_moved": 3},
        title="another order's",
    ),
    Damage(
        "shortfalls_moved_once",
        ["UPDATE stock_movements SET reason_code = 'OTHER' WHERE reason_code = 'SHORTFALL_FOUND'"],
        {"location_id": "{depot}", "sku": "{bread}", "found_due": 1, "found_moved": 0},
        title="found without a reason",
    ),
]


@pytest.mark.parametrize("rule", [rule.name for rule in invariants.RULES])
async def test_a_damage_is_reported_by_the_rule_it_breaks(day: Day, rule: str) -> None:
    for damage in (d for d in DAMAGES if d.rule == rule):
        violations = await day.judged(damage.statements)
        expected = {k: v.format(**day.ids) if isinstance(v, str) else v for k, v in damage.evidence.items()}
        assert any(expected.items() <= row.items() for row in violations.get(rule, [])), (damage.title, violations)
        assert violations.keys() == {rule} | damage.with_it, damage.title


def test_every_rule_has_a_damage() -> None:
    assert {damage.rule for damage in DAMAGES} == RULE_NAMES


async def test_evidence_is_limited_and_everything_counted(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "EVIDENCE_MAX", 2)
    await day.damage("UPDATE orders SET total_minor = total_minor + 1")
    checks = {check.name: check for check in (await verify(day.dsn, None)).checks}
    assert len(checks["order_totals"].violations) == 2
    assert checks["order_totals"].count == 11


async def test_a_database_of_another_revision_is_not_judged(day: Day) -> None:
    await day.damage("UPDATE alembic_version SET version_num = '9999'")
    report = await day.verify()
    (check,) = report.checks
    assert (check.name, check.is_ok) == (SCHEMA_NAME, False)
    assert check.violations[0]["revision"] == "9999"


async def test_a_database_that_was_never_migrated_is_not_judged(empty_database_dsn: str) -> None:
    violations = failed((await verify(empty_database_dsn, None)).checks)
    assert violations[SCHEMA_NAME][0]["revision"] is None


async def test_a_database_that_does_not_answer_is_refused() -> None:
    with pytest.raises(LedgerUnavailable):
        await verify("postgresql://nobody@127.0.0.1:1/none", None)


# ------------------------------------------------------------------------------------------------------------- the gate
def _key(location_id: str, what: str) -> str:
    return "oh:{" + location_id + "}:" + what


async def _gate_violations(day: Day) -> list[dict[str, Any]]:
    violations = failed((await day.verify()).checks)
    assert violations.keys() <= {GATE_NAME}
    return violations.get(GATE_NAME, [])


@pytest.mark.parametrize("offset", [1, -1])
async def test_a_gate_that_promises_otherwise_than_the_ledger_is_reported(day: Day, offset: int) -> None:
    with redis.Redis.from_url(day.redis_url) as client:
        client.hincrby(_key(SOUTH, "stock"), MILK, offset)
    assert await _gate_violations(day) == [{"location_id": SOUTH, "what": "atp", "key": MILK, "offset": offset}]


async def test_a_gate_with_stock_of_nothing_is_reported(day: Day) -> None:
    with redis.Redis.from_url(day.redis_url) as client:
        client.hincrby(_key(SOUTH, "stock"), "nothing", 5)
    assert await _gate_violations(day) == [{"location_id": SOUTH, "what": "atp", "key": "nothing", "offset": 5}]


async def test_a_gate_with_another_floor_is_reported(day: Day) -> None:
    with redis.Redis.from_url(day.redis_url) as client:
        client.hset(_key(DEPOT, "floors"), MILK, "0")
    assert await _gate_violations(day) == [{"location_id": DEPOT, "what": "floor", "key": MILK, "offset": -2}]


async def test_a_gate_that_lost_a_reservation_is_reported(day: Day) -> None:
    (((claim_id,),)) = await day.shop.fetch(
        "SELECT claim_id FROM claims WHERE reservation_id = $1", UUID(day.ids["broken"])
    )
    await day.shop.app.gate.drop([Drop(NORTH, claim_id, give_back=True)])
    assert await _gate_violations(day) == [
        {"location_id": NORTH, "what": "atp", "key": BREAD, "offset": 9},
        {"location_id": NORTH, "what": "claim", "key": str(claim_id), "offset": -1},
    ]


async def test_an_increase_that_never_reached_the_gate_is_reported(day: Day) -> None:
    ((number, lines),) = await day.shop.fetch(
        "SELECT number, lines FROM gate_deltas WHERE location_id = $1 ORDER BY number DESC LIMIT 1", SOUTH
    )
    with redis.Redis.from_url(day.redis_url) as client:
        client.hset(_key(SOUTH, "stock"), "#delta", number - 1)
        for sku, quantity, _ in lines:
            client.hincrby(_key(SOUTH, "stock"), sku, -quantity)
    made = "UPDATE gate_deltas SET created_time = now() - interval '{} seconds' WHERE location_id = '{{south}}'"
    await day.damage(made.format(0))  # the day was built for a test before
    assert await _gate_violations(day) == []  # it may be on its way
    await day.damage(made.format(61))
    assert await _gate_violations(day) == [{"location_id": SOUTH, "what": "delta", "key": "", "offset": -1}]


async def test_a_gate_ahead_of_the_ledgers_epoch_is_reported(day: Day) -> None:
    with redis.Redis.from_url(day.redis_url) as client:
        client.hincrby(_key(SOUTH, "stock"), "#epoch", 3)
    assert await _gate_violations(day) == [{"location_id": SOUTH, "what": "epoch", "key": "", "offset": 3}]


async def _orphan(day: Day, *, due_seconds: float) -> UUID:
    """A claim whose process died before it was journalled."""
    claim_id = new_id()
    ((now,),) = await day.shop.fetch("SELECT now()")
    due = milliseconds(now + timedelta(seconds=due_seconds))
    await day.shop.app.gate.take([Take(SOUTH, claim_id, due, [(MILK, 2, 0)])])
    return claim_id


async def test_a_claim_that_awaits_its_sweeper_is_counted_and_no_violation(day: Day) -> None:
    await _orphan(day, due_seconds=600)
    report = await day.verify()
    assert failed(report.checks) == {}
    assert report.gate is not None
    assert report.gate.claims_awaiting_sweep == 1


async def test_a_claim_that_no_sweeper_met_in_time_is_reported(day: Day) -> None:
    claim_id = await _orphan(day, due_seconds=-LATE_SECONDS - 1)
    assert await _gate_violations(day) == [{"location_id": SOUTH, "what": "claim", "key": str(claim_id), "offset": 1}]


async def test_units_of_a_waiting_claim_that_are_sold_all_the_same_are_reported(day: Day) -> None:
    await _orphan(day, due_seconds=600)
    with redis.Redis.from_url(day.redis_url) as client:
        client.hincrby(_key(SOUTH, "stock"), MILK, 2)
    assert await _gate_violations(day) == [{"location_id": SOUTH, "what": "atp", "key": MILK, "offset": 2}]


async def test_a_gate_that_lost_everything_promises_nothing_and_is_no_violation(day: Day) -> None:
    with redis.Redis.from_url(day.redis_url) as client:
        client.flushall()
    report = await day.verify()
    assert failed(report.checks) == {}
    assert report.gate is not None
    assert (report.gate.locations, report.gate.empty, report.gate.compared) == (3, 3, 0)


async def test_a_gate_of_an_older_epoch_promises_nothing_and_is_no_violation(day: Day) -> None:
    await day.damage("UPDATE location_epochs SET epoch = epoch + 1 WHERE location_id = '{south}'")
    report = await day.verify()
    assert failed(report.checks) == {}
    assert report.gate is not None
    assert (report.gate.stale, report.gate.compared) == (1, 2)


async def test_a_gate_that_does_not_answer_fails_its_check_with_the_reason(day: Day) -> None:
    report = await verify(day.dsn, "redis://127.0.0.1:1/0")
    violations = failed(report.checks)
    assert violations.keys() == {GATE_NAME}
    assert "does not answer" in violations[GATE_NAME][0]["problem"]
    assert violations[GATE_NAME][0]["detail"]
    assert report.gate is None


async def test_a_gate_that_may_throw_claims_away_fails_its_check(day: Day, private_redis: EmbeddedValkey) -> None:
    with redis.Redis.from_url(private_redis.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    violations = failed((await verify(day.dsn, private_redis.url)).checks)
    assert "noeviction" in violations[GATE_NAME][0]["detail"]


async def test_verifying_while_calls_go_on_finds_what_differs_and_nothing_else(day: Day) -> None:
    is_over = asyncio.Event()

    async def trade() -> None:
        while not is_over.is_set():
            await day.shop.receive(SOUTH, {MILK: 1})
            await day.shop.sell(SOUTH, {MILK: 1}, 199)

    trading = asyncio.create_task(trade())
    try:
        for _ in range(3):
            assert failed((await day.verify()).checks) == {}
        with redis.Redis.from_url(day.redis_url) as client:
            client.hincrby(_key(SOUTH, "stock"), MILK, -1)
        assert await _gate_violations(day) == [{"location_id": SOUTH, "what": "atp", "key": MILK, "offset": -1}]
    finally:
        is_over.set()
        await trading


async def test_a_large_location_is_compared_in_parts(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onhand.reservations.inspect.SKUS_MAX", 1)
    with redis.Redis.from_url(day.redis_url) as client:
        client.hincrby(_key(NORTH, "stock"), MILK, 1)
        client.hincrby(_key(NORTH, "stock"), BREAD, 1)
    violations = await _gate_violations(day)
    assert [(v["key"], v["offset"]) for v in violations] == [(BREAD, 1), (MILK, 1)]
