"""Possession wins, and whose promise it broke is there to be seen until it is mended. Each test ends with every rule of verify."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broken import (
    CANCELLED,
    CHOOSE,
    COUNT,
    COUNTED,
    COVERED,
    IN_HAND,
    NONE,
    WAIT,
    decide,
    ends,
    open_at,
    pickup,
    short_of,
    shorts,
    tasks,
    verified,
)
from onhand.domain.stock import Level
from onhand.v1 import inventory_pb2, types_pb2
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import BREAD, CALLER, MILK, NORTH, SOUTH, Shop, fulfillment_of, refused, told


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop


# ------------------------------------------------------------------------------------------------------------ whose promise
async def test_a_sale_of_promised_goods_shows_on_the_order_it_broke(shop: Shop) -> None:
    order = await pickup(shop, 10)
    sold = await shop.sell(NORTH, {MILK: 3}, 597)

    (short,) = await shorts(shop, order)
    assert (short.order_id, short.order_number) == (order.order_id, order.order_number)
    assert short.fulfillment_order_id == order.fulfillment_orders[0].fulfillment_order_id
    assert (short.line_number, short.location_id, short.sku) == (1, NORTH, MILK)
    assert (short.quantity, short.open_quantity, short.next_step) == (3, 3, COUNT)
    assert (short.cause, short.reference_document) == (pb.SHORTFALL_CAUSE_SALE, f"order/{sold.order_id}")
    assert short.created_time == short.updated_time == sold.created_time
    now = await shop.order(order.order_id)
    assert (now.lines[0].short_quantity, now.fulfillment_orders[0].lines[0].short_quantity) == (3, 3)
    assert await tasks(shop) == [(NORTH, MILK)]
    assert await shop.level(NORTH, MILK) == Level(allocated=7)
    movements = await shop.fetch(
        "SELECT from_bucket, to_bucket, quantity, reason_code FROM stock_movements WHERE movement_id >"
        " (SELECT max(movement_id) FROM stock_movements WHERE reason_code = 'ORDER_PLACED') ORDER BY movement_id"
    )
    assert movements == [
        ("adjustment", "available", 3, "FOUND_AT_SALE"),
        ("available", "customer", 3, "SALE"),
        ("allocated", "adjustment", 3, "SHORTFALL_OPENED"),
    ]
    assert ("onhand.shortfall.opened.v1", NORTH) in await shop.events("onhand.shortfall")
    found = await shop.orders.list_orders(pb.ListOrdersRequest(is_short=True), CALLER)
    assert [o.order_id for o in found.orders] == [order.order_id]
    position = await shop.promise.get_stock_position(
        inventory_pb2.GetStockPositionRequest(location_id=NORTH, sku=MILK), CALLER
    )
    assert (position.position.short_quantity, position.position.on_hand) == (3, 7)


async def test_an_ordinary_sale_breaks_nothing_and_asks_nothing(shop: Shop) -> None:
    order = await pickup(shop, 4)
    statements: list[str] = []
    connections: list[Any] = []

    async def listen(connection: Any) -> None:
        if connection not in connections:
            connections.append(connection)
            connection.add_query_logger(lambda query: statements.append(query.query))

    original = shop.database.connection

    @asynccontextmanager
    async def listened() -> AsyncIterator[Any]:
        async with original() as connection:
            await listen(connection)
            yield connection

    shop.database.connection = listened  # type: ignore[method-assign]
    await shop.sell(NORTH, {MILK: 6}, 1194)
    shop.database.connection = original  # type: ignore[method-assign]
    assert [s for s in statements if "INSERT INTO orders" in s]
    assert not [s for s in statements if "shortfalls" in s or "shortages" in s or "overdrawn_time =" in s]
    assert await shorts(shop, order) == []
    assert await open_at(shop) == []


async def test_the_youngest_order_that_is_not_picked_breaks_first(shop: Shop) -> None:
    oldest, picked, youngest = await pickup(shop, 3), await pickup(shop, 3), await pickup(shop, 4)
    for step in (shop.accept, shop.pick):
        await step(fulfillment_of(picked, NORTH).fulfillment_order_id)

    await shop.sell(NORTH, {MILK: 5}, 995)
    assert [[s.open_quantity for s in await shorts(shop, o)] for o in (oldest, picked, youngest)] == [[1], [], [4]]
    # What nobody can have taken from a shelf was not promised: two more are found, and break what is left, no more.
    await shop.sell(NORTH, {MILK: 4}, 796)
    assert [[s.open_quantity for s in await shorts(shop, o)] for o in (oldest, picked, youngest)] == [[1, 2], [], [4]]
    assert await shop.level(NORTH, MILK) == Level(allocated=3)
    # A count says that nothing is there at all: then not what was picked either.
    (result,) = await shop.count(NORTH, {MILK: 0})
    assert (result.expected_quantity, result.short_quantity) == (3, 3)
    assert [s.open_quantity for s in await shorts(shop, picked)] == [3]


async def test_reservations_break_before_orders(shop: Shop) -> None:
    order, held = await pickup(shop, 4), await shop.reserve({NORTH: {MILK: 5}})
    await shop.sell(NORTH, {MILK: 6}, 1194)
    assert await short_of(shop, held) == 5
    assert await shorts(shop, order) == []
    await shop.sell(NORTH, {MILK: 1}, 199)
    assert (await short_of(shop, held), [s.quantity for s in await shorts(shop, order)]) == (5, [1])


async def test_each_line_and_each_location_is_judged_by_itself(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 10, BREAD: 10}, SOUTH: {MILK: 10}})
    await shop.sell(NORTH, {MILK: 2, BREAD: 1}, 648)
    found = {(s.location_id, s.sku): s.open_quantity for s in await shorts(shop, placed.order)}
    assert found == {(NORTH, MILK): 2, (NORTH, BREAD): 1}
    by_sku = {line.sku: line.short_quantity for line in (await shop.order(placed.order.order_id)).lines}
    assert by_sku == {MILK: 2, BREAD: 1}


# ----------------------------------------------------------------------------------------------------------- how they end
async def test_a_count_that_finds_the_goods_ends_two_shortfalls_at_once(shop: Shop) -> None:
    first, second = await pickup(shop, 5), await pickup(shop, 5)
    await shop.sell(NORTH, {MILK: 7}, 1393)
    assert [[s.open_quantity for s in await shorts(shop, o)] for o in (first, second)] == [[2], [5]]

    (result,) = await shop.count(NORTH, {MILK: 12})

    assert (result.expected_quantity, result.variance_quantity, result.short_quantity) == (3, 9, 0)
    assert (result.level.available, result.level.allocated) == (2, 10)
    for order, quantity in ((first, 2), (second, 5)):
        (short,) = await shorts(shop, order)
        assert (short.open_quantity, short.next_step, ends(short)) == (0, NONE, [(quantity, COUNTED)])
        assert short.ends[0].reference_document == "count_sheet/1"
        assert (await shop.order(order.order_id)).lines[0].short_quantity == 0
    assert (await open_at(shop), await tasks(shop)) == ([], [])
    assert await shop.level(NORTH, MILK) == Level(available=2, allocated=10)
    assert await shop.atp(NORTH, MILK) == 2


async def test_a_count_that_finds_some_mends_the_oldest_order_and_leaves_a_choice(shop: Shop) -> None:
    first, second = await pickup(shop, 5), await pickup(shop, 5)
    await shop.sell(NORTH, {MILK: 7}, 1393)
    await shop.count(NORTH, {MILK: 6})
    ((old,), (young,)) = (await shorts(shop, first), await shorts(shop, second))
    assert (old.open_quantity, old.next_step, ends(old)) == (0, NONE, [(2, COUNTED)])
    assert (young.open_quantity, young.next_step, ends(young)) == (4, CHOOSE, [(1, COUNTED)])
    assert await tasks(shop) == []


async def test_a_count_that_finds_nothing_more_leaves_a_choice(shop: Shop) -> None:
    order = await pickup(shop, 10)
    await shop.sell(NORTH, {MILK: 2}, 398)
    (result,) = await shop.count(NORTH, {MILK: 8})
    assert (result.variance_quantity, result.short_quantity) == (0, 0)
    (short,) = await shorts(shop, order)
    assert (short.open_quantity, short.next_step, short.ends) == (2, CHOOSE, [])
    assert [name for name, _ in await shop.events("onhand.shortfall")] == [
        "onhand.shortfall.opened.v1",
        "onhand.shortfall.next_step.v1",
    ]


async def test_a_count_below_what_is_allocated_breaks_orders(shop: Shop) -> None:
    order = await pickup(shop, 8)
    request = inventory_pb2.CountStockRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[inventory_pb2.CountedLine(sku=MILK, counted_quantity=5)],
        reference_document="count_sheet/7",
    )
    first = await shop.stock.count_stock(request, CALLER)
    (result,) = first.results
    assert (result.expected_quantity, result.variance_quantity, result.short_quantity) == (10, -5, 3)
    assert (result.level.available, result.level.allocated) == (0, 5)
    (short,) = await shorts(shop, order)
    assert (short.open_quantity, short.next_step, short.cause) == (3, CHOOSE, pb.SHORTFALL_CAUSE_COUNT)
    assert short.reference_document == "count_sheet/7"
    assert await shop.stock.count_stock(request, CALLER) == first
    assert len(await shorts(shop, order)) == 1
    (again,) = await shop.count(NORTH, {MILK: 5})
    assert (again.expected_quantity, again.variance_quantity, again.short_quantity) == (5, 0, 0)


async def test_a_count_of_less_than_is_promised_or_damaged_leaves_what_was_counted(shop: Shop) -> None:
    await shop.stock.adjust_stock(
        inventory_pb2.AdjustStockRequest(
            request_id=request_id(),
            location_id=NORTH,
            sku=MILK,
            bucket=inventory_pb2.BUCKET_DAMAGED,
            quantity=3,
            reason_code="FOUND",
        ),
        CALLER,
    )
    order = await pickup(shop, 6)
    await shop.count(NORTH, {MILK: 2})
    assert await shop.level(NORTH, MILK) == Level(damaged=2)
    assert [s.open_quantity for s in await shorts(shop, order)] == [6]


@pytest.mark.parametrize("how", ["receipt", "return", "transfer", "cancellation", "correction", "undamaged"])
async def test_whatever_comes_into_stock_goes_to_the_oldest_order_that_lacks_it(shop: Shop, how: str) -> None:
    bought = (await shop.sell(SOUTH, {MILK: 4}, 796)).order_id
    if how == "undamaged":
        await move(shop, 4, inventory_pb2.BUCKET_AVAILABLE, inventory_pb2.BUCKET_DAMAGED)
        await shop.receive(NORTH, {MILK: 4})
    first, second, third = await pickup(shop, 3), await pickup(shop, 3), await pickup(shop, 4)
    await shop.accept(fulfillment_of(third, NORTH).fulfillment_order_id)
    await shop.pick(fulfillment_of(third, NORTH).fulfillment_order_id)
    await shop.sell(NORTH, {MILK: 6}, 1194)
    before = await shop.atp(NORTH, MILK)
    if how == "receipt":
        await shop.receive(NORTH, {MILK: 4})
    elif how == "return":
        await shop.take_back(
            bought, NORTH, pb.ReturnedLine(line_number=1, quantity=4, disposition=pb.DISPOSITION_AVAILABLE)
        )
    elif how == "transfer":
        await transfer(shop, 4)
    elif how == "cancellation":
        await shop.cancel(third.order_id, {1: 4})
    elif how == "correction":
        await shop.stock.adjust_stock(
            inventory_pb2.AdjustStockRequest(
                request_id=request_id(), location_id=NORTH, sku=MILK, quantity=4, reason_code="FOUND"
            ),
            CALLER,
        )
    else:
        await move(shop, 4, inventory_pb2.BUCKET_DAMAGED, inventory_pb2.BUCKET_AVAILABLE)
    assert [ends(s) for o in (first, second) for s in await shorts(shop, o)] == [[(3, COVERED)], [(1, COVERED)]]
    assert [s.open_quantity for s in await open_at(shop, NORTH)] == [2]
    # Nobody else was offered them in between, nor is now.
    assert (before, await shop.atp(NORTH, MILK), (await shop.level(NORTH, MILK)).available) == (0, 0, 0)
    await shop.receive(NORTH, {MILK: 5})
    assert (await open_at(shop), await shop.atp(NORTH, MILK)) == ([], 3)


async def move(shop: Shop, quantity: int, from_bucket: Any, to_bucket: Any) -> None:
    """Milk of the north between two buckets."""
    request = inventory_pb2.MoveStockRequest(
        request_id=request_id(),
        location_id=NORTH,
        sku=MILK,
        quantity=quantity,
        from_bucket=from_bucket,
        to_bucket=to_bucket,
        reason_code="INSPECTED",
    )
    await shop.stock.move_stock(request, CALLER)


async def transfer(shop: Shop, quantity: int) -> None:
    """Milk from the south to the north."""
    (transfers,) = (handler for handler in shop.handlers if hasattr(handler, "dispatch_transfer"))
    sent = await transfers.dispatch_transfer(  # type: ignore[attr-defined]
        inventory_pb2.DispatchTransferRequest(
            request_id=request_id(),
            from_location_id=SOUTH,
            to_location_id=NORTH,
            lines=[types_pb2.BasketLine(sku=MILK, quantity=quantity)],
        ),
        CALLER,
    )
    request = inventory_pb2.ReceiveTransferRequest(request_id=request_id(), transfer_id=sent.transfer.transfer_id)
    await transfers.receive_transfer(request, CALLER)  # type: ignore[attr-defined]


async def test_what_somebody_picks_was_there(shop: Shop) -> None:
    order = await pickup(shop, 10)
    work = fulfillment_of(order, NORTH).fulfillment_order_id
    await shop.sell(NORTH, {MILK: 2}, 398)
    await shop.accept(work)
    assert [s.open_quantity for s in await open_at(shop)] == [2]
    picked = await shop.pick(work)
    (short,) = picked.shortfalls
    assert (short.open_quantity, short.next_step, ends(short)) == (0, NONE, [(2, IN_HAND)])
    assert await shop.level(NORTH, MILK) == Level(allocated=10)
    # It is still counted: the count finds what the ledger has, and nobody lacks anything.
    assert await tasks(shop) == [(NORTH, MILK)]
    (result,) = await shop.count(NORTH, {MILK: 10})
    assert (result.variance_quantity, await tasks(shop)) == (0, [])


@pytest.mark.parametrize("step", ["mark_ready", "hand_over", "ship"])
async def test_what_is_set_out_handed_over_or_shipped_was_there_whatever_was_counted(shop: Shop, step: str) -> None:
    kind = pb.FULFILLMENT_KIND_SHIP if step == "ship" else pb.FULFILLMENT_KIND_PICKUP
    placed = await shop.place({NORTH: {MILK: 6}}, kind)
    work = fulfillment_of(placed.order, NORTH).fulfillment_order_id
    await shop.accept(work)
    await shop.pick(work)
    if step == "hand_over":
        await shop.mark_ready(work)
    await shop.count(NORTH, {MILK: 1})
    assert [s.open_quantity for s in await shorts(shop, placed.order)] == [5]
    if step == "hand_over":
        await shop.hand_over(work, placed.pickup_codes[0].pickup_code)
    else:
        await {"ship": shop.ship, "mark_ready": shop.mark_ready}[step](work)
    (short,) = await shorts(shop, placed.order)
    assert ends(short) == [(5, IN_HAND)]
    assert await shop.level(NORTH, MILK) == (Level(allocated=6) if step == "mark_ready" else Level())


async def test_cancelling_what_is_short_gives_the_money_back_and_frees_nothing(shop: Shop) -> None:
    order = await pickup(shop, 10)
    await shop.sell(NORTH, {MILK: 3}, 597)
    await shop.count(NORTH, {MILK: 7})
    answer = await shop.cancel(order.order_id, {1: 2})
    assert answer.refund.units * 100 + answer.refund.nanos // 10_000_000 == 398
    (short,) = answer.order.fulfillment_orders[0].shortfalls
    assert (short.open_quantity, short.next_step, ends(short)) == (1, CHOOSE, [(2, CANCELLED)])
    assert answer.order.lines[0].short_quantity == 1
    assert await shop.level(NORTH, MILK) == Level(allocated=7)
    answer = await shop.cancel(order.order_id, {1: 3})
    (short,) = answer.order.fulfillment_orders[0].shortfalls
    assert (short.open_quantity, ends(short)) == (0, [(2, CANCELLED), (1, CANCELLED)])
    assert await shop.level(NORTH, MILK) == Level(available=2, allocated=5)
    assert await shop.atp(NORTH, MILK) == 2
    await shop.cancel(order.order_id, {1: 5})
    assert (await shop.order(order.order_id)).state == pb.ORDER_STATE_CANCELLED
    assert await shop.level(NORTH, MILK) == Level(available=7)


async def test_a_line_that_is_split_is_cancelled_where_it_is_short(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 10}, SOUTH: {MILK: 10}})).order
    await shop.accept(fulfillment_of(order, NORTH).fulfillment_order_id)
    await shop.sell(NORTH, {MILK: 4}, 796)
    await shop.cancel(order.order_id, {1: 5})
    assert [s.open_quantity for s in await shorts(shop, order)] == [0]
    assert (await shop.level(NORTH, MILK), await shop.level(SOUTH, MILK)) == (
        Level(allocated=6),
        Level(available=1, allocated=9),
    )


async def test_units_that_are_freed_and_short_at_once_go_where_they_are_lacking(shop: Shop) -> None:
    first, second = await pickup(shop, 5), await pickup(shop, 5)
    await shop.sell(NORTH, {MILK: 7}, 1393)  # two of the first, all of the second
    await shop.receive(NORTH, {MILK: 1})
    # Of the first's four, one is short and ends with it; three are free, and go to the second.
    await shop.cancel(first.order_id, {1: 5})
    (short,) = await shorts(shop, second)
    assert (short.open_quantity, ends(short)) == (1, [(4, COVERED)])
    assert await shop.level(NORTH, MILK) == Level(allocated=4)
    assert [ends(s) for s in await shorts(shop, first)] == [[(1, COVERED), (1, CANCELLED)]]


# ------------------------------------------------------------------------------------------------------ lists and decisions
async def test_open_shortfalls_are_listed_by_location_and_step_in_pages(shop: Shop) -> None:
    for location_id in (NORTH, SOUTH):
        for _ in range(2):
            await shop.place({location_id: {MILK: 5}}, customer_id="ada")
        await shop.sell(location_id, {MILK: 10}, 1990)
    await shop.count(SOUTH, {MILK: 0})
    assert [(s.location_id, s.next_step) for s in await open_at(shop)] == [(NORTH, COUNT)] * 2 + [(SOUTH, CHOOSE)] * 2
    assert {s.customer_id for s in await open_at(shop)} == {"ada"}
    assert [s.location_id for s in await open_at(shop, SOUTH)] == [SOUTH] * 2
    assert [s.location_id for s in await open_at(shop, next_step=COUNT)] == [NORTH] * 2
    assert await open_at(shop, SOUTH, next_step=COUNT) == []
    paged, token = [], ""
    for _ in range(4):
        request = pb.ListShortfallsRequest(page_size=1, page_token=token)
        page = await shop.orders.list_shortfalls(request, CALLER)
        paged += page.shortfalls
        token = page.next_page_token
    assert (paged, token) == (await open_at(shop), "")
    assert await told(open_at(shop, "nowhere")) == ("LOCATION_NOT_FOUND", {"location_id": "nowhere"})
    assert (await refused(open_at(shop, next_step=9))).reason == "INVALID_REQUEST"  # type: ignore[arg-type]


async def test_who_waits_is_served_by_what_comes_in(shop: Shop) -> None:
    order = await pickup(shop, 10)
    await shop.sell(NORTH, {MILK: 2}, 398)
    (short,) = await shorts(shop, order)
    assert await told(decide(shop, short.shortfall_id, pb.SHORTFALL_DECISION_WAIT)) == (
        "SHORTFALL_NOT_TO_DECIDE",
        {"shortfall_id": short.shortfall_id, "next_step": "COUNT"},
    )
    await shop.count(NORTH, {MILK: 8})
    id = request_id()
    decided = await decide(shop, short.shortfall_id, pb.SHORTFALL_DECISION_WAIT, id)
    assert decided.next_step == WAIT
    assert await decide(shop, short.shortfall_id, pb.SHORTFALL_DECISION_WAIT, id) == decided
    assert (await refused(decide(shop, short.shortfall_id, pb.SHORTFALL_DECISION_WAIT))).reason == (
        "SHORTFALL_NOT_TO_DECIDE"
    )
    await shop.count(NORTH, {MILK: 8})
    assert [s.next_step for s in await shorts(shop, order)] == [WAIT]
    await shop.receive(NORTH, {MILK: 2})
    assert [ends(s) for s in await shorts(shop, order)] == [[(2, COVERED)]]
    steps = await shop.fetch(
        "SELECT type, data ->> 'next_step', data ->> 'open_quantity' FROM events WHERE type LIKE 'onhand.shortfall%'"
        " ORDER BY transaction, sequence"
    )
    assert steps == [
        ("onhand.shortfall.opened.v1", "COUNT", "2"),
        ("onhand.shortfall.next_step.v1", "CHOOSE", "2"),
        ("onhand.shortfall.next_step.v1", "WAIT", "2"),
        ("onhand.shortfall.resolved.v1", "NONE", "0"),
    ]


async def test_only_shortfalls_that_are_known_are_decided(shop: Shop) -> None:
    order = await pickup(shop, 10)
    await shop.count(NORTH, {MILK: 8})
    (short,) = await shorts(shop, order)
    unknown = order.order_id
    for decision in (pb.SHORTFALL_DECISION_RESOURCE, pb.SHORTFALL_DECISION_WAIT):
        assert (await refused(decide(shop, unknown, decision))).reason == "SHORTFALL_NOT_FOUND"
    assert (await refused(decide(shop, short.shortfall_id, 9))).reason == "INVALID_REQUEST"  # type: ignore[arg-type]
