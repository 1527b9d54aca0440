"""Goods in somebody's hand and promises of them, at the same moment, whoever comes first; and what reservations show of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from broken import (
    CANCELLED,
    CHOOSE,
    COUNT,
    COVERED,
    HEAD,
    IN_HAND,
    buy,
    ends,
    in_turn,
    open_at,
    pickup,
    reservation,
    sale,
    short_of,
    short_reservations,
    shorts,
    tasks,
    until_waiting,
    verified,
)
from onhand.dev.valkey import EmbeddedValkey
from onhand.domain.errors import LedgerUnavailable, ReservationShort
from onhand.domain.stock import Level
from onhand.postgres import asyncpg_dsn
from onhand.v1 import inventory_pb2
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import BREAD, CALLER, MILK, NORTH, SOUTH, Shop, fulfillment_of, refused, told


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop


# ------------------------------------------------------------------------------------------------------------ reservations
async def test_the_youngest_reservation_is_short_and_says_so(shop: Shop) -> None:
    old, young = await shop.reserve({NORTH: {MILK: 5}}), await shop.reserve({NORTH: {MILK: 4}, SOUTH: {MILK: 1}})
    await shop.sell(NORTH, {MILK: 3}, 597)  # one was nobody's

    assert (await reservation(shop, old)).shortfalls == []
    (short,) = (await reservation(shop, young)).shortfalls
    assert (short.reservation_id, short.location_id, short.sku) == (young, NORTH, MILK)
    assert (short.quantity, short.short_quantity, short.next_step) == (4, 2, COUNT)
    assert short.expire_time == (await reservation(shop, young)).expire_time
    assert await short_reservations(shop) == [(young, 2)]
    assert await short_reservations(shop, location_id=SOUTH) == []
    events = "SELECT data ->> 'reservation_id', data -> 'short_quantity' FROM events WHERE type = 'onhand.reservation.short.v1'"
    assert await shop.fetch(events) == [(young, 2)]
    await shop.sell(NORTH, {MILK: 3}, 597)
    assert [await short_of(shop, r) for r in (old, young)] == [1, 4]
    assert await shop.fetch(events + " ORDER BY sequence") == [(young, 2), (old, 1), (young, 4)]
    assert await short_reservations(shop, location_id=NORTH) == [(old, 1), (young, 4)]
    assert (await refused(short_reservations(shop, location_id="nowhere"))).reason == "LOCATION_NOT_FOUND"
    await shop.count(NORTH, {MILK: 4})
    assert [s.next_step for s in (await reservation(shop, young)).shortfalls] == [CHOOSE]


async def test_a_reservation_that_is_short_cannot_be_ordered_though_its_units_are_there_for_an_older_one(
    shop: Shop,
) -> None:
    old, young = await shop.reserve({NORTH: {MILK: 5}}), await shop.reserve({NORTH: {MILK: 5}})
    await shop.sell(NORTH, {MILK: 2}, 398)
    reason, values = await told(buy(shop, young, 5))
    assert (reason, values["requested"], values["available"]) == ("RESERVATION_SHORT", "5", "3")
    order = (await buy(shop, old, 5)).order
    assert order.lines[0].short_quantity == 0
    assert (await refused(buy(shop, young, 5))).reason == "RESERVATION_SHORT"
    assert await short_of(shop, young) == 2
    await shop.receive(NORTH, {MILK: 2})
    assert (await short_of(shop, young), await short_reservations(shop)) == (0, [])
    assert (await buy(shop, young, 5)).order.state == pb.ORDER_STATE_OPEN


@pytest.mark.parametrize("end", ["released", "expired"])
async def test_the_end_of_an_older_reservation_is_the_end_of_a_younger_ones_shortfall(shop: Shop, end: str) -> None:
    old, young = await shop.reserve({NORTH: {MILK: 5}}), await shop.reserve({NORTH: {MILK: 5}})
    await shop.sell(NORTH, {MILK: 4}, 796)
    assert [await short_of(shop, r) for r in (old, young)] == [0, 4]
    if end == "released":
        request = inventory_pb2.ReleaseReservationRequest(request_id=request_id(), reservation_id=old)
        await shop.promise.release_reservation(request, CALLER)
    else:
        await shop.execute(
            "UPDATE claims SET deadline = now() - interval '1 second' WHERE reservation_id = $1::text::uuid", old
        )
    assert await short_of(shop, young) == 0
    assert (await reservation(shop, old)).shortfalls == []
    assert (await buy(shop, young, 5)).order.state == pb.ORDER_STATE_OPEN
    if end == "expired":
        await shop.sweeper.expire()


async def test_short_reservations_are_listed_in_pages(shop: Shop) -> None:
    held = [
        await shop.reserve({place: {sku: 5}}) for place in (NORTH, SOUTH) for sku in (BREAD, MILK) for _ in range(2)
    ]
    for place in (NORTH, SOUTH):
        await shop.sell(place, {BREAD: 6, MILK: 6}, 2694)
    expected = [(r, 1 if n % 2 == 0 else 5) for n, r in enumerate(held)]
    assert await short_reservations(shop) == expected
    paged, token = [], ""
    for _ in range(len(held)):
        request = inventory_pb2.ListShortReservationsRequest(page_size=1, page_token=token)
        page = await shop.promise.list_short_reservations(request, CALLER)
        paged += [(s.reservation_id, s.short_quantity) for s in page.shortfalls]
        token = page.next_page_token
    assert (paged, token) == (expected, "")


async def test_a_position_is_not_looked_at_for_ever(shop: Shop) -> None:
    held = await shop.reserve({NORTH: {MILK: 5}})
    await shop.sell(NORTH, {MILK: 8}, 1592)
    marked = "SELECT count(*) FROM stock_levels WHERE overdrawn_time IS NOT NULL"
    await shop.receive(NORTH, {MILK: 3})
    assert (await short_of(shop, held), await shop.fetch(marked)) == (0, [(1,)])  # another may be on its way
    await shop.execute("UPDATE stock_levels SET overdrawn_time = overdrawn_time - interval '2 hours'")
    await shop.sell(NORTH, {MILK: 1}, 199)
    await shop.receive(NORTH, {MILK: 1})
    assert await shop.fetch(marked) == [(1,)]  # marked anew by the sale
    await shop.execute("UPDATE stock_levels SET overdrawn_time = overdrawn_time - interval '2 hours'")
    await shop.receive(NORTH, {MILK: 1})
    assert (await short_of(shop, held), await shop.fetch(marked)) == (0, [(0,)])


async def test_a_reservation_on_its_way_to_the_journal_is_short_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate gave it the last units, a sale took them, and only then the ledger heard of the reservation."""
    journal, came, go = shop.app.reservations._journal, asyncio.Event(), asyncio.Event()
    write = journal.write

    async def late(entries: Any) -> Any:
        came.set()
        await go.wait()
        return await write(entries)

    monkeypatch.setattr(journal, "write", late)
    reserving = asyncio.create_task(shop.reserve({NORTH: {MILK: 10}}))
    await came.wait()
    await shop.sell(NORTH, {MILK: 4}, 796)
    go.set()
    held = await reserving
    assert await short_of(shop, held) == 4
    assert (await refused(buy(shop, held, 10))).reason == "RESERVATION_SHORT"


# ----------------------------------------------------------------------------------------------------- at the same moment
async def test_an_order_that_comes_before_the_sale_of_its_last_unit_is_short(shop: Shop, database_dsn: str) -> None:
    held = await shop.reserve({NORTH: {MILK: 10}})
    request = sale(1)
    placed, sold = await in_turn(
        database_dsn, shop, lambda: buy(shop, held, 10), lambda: shop.orders.sell(request, CALLER)
    )
    (short,) = await shorts(shop, placed.order)
    assert (short.open_quantity, short.next_step) == (1, COUNT)
    assert short.reference_document == f"order/{sold.order.order_id}"
    assert await short_reservations(shop) == []


async def test_a_sale_that_comes_before_the_order_of_its_unit_leaves_the_reservation_short(
    shop: Shop, database_dsn: str
) -> None:
    held = await shop.reserve({NORTH: {MILK: 10}})
    request = sale(1)
    sold, placed = await in_turn(
        database_dsn, shop, lambda: shop.orders.sell(request, CALLER), lambda: buy(shop, held, 10)
    )
    assert isinstance(sold, pb.SellResponse)
    assert isinstance(placed, ReservationShort)
    assert (placed.shorts[0].requested, placed.shorts[0].available) == (10, 9)
    assert (await short_of(shop, held), await open_at(shop)) == (1, [])


@pytest.mark.parametrize("first", ["sale", "pick"])
async def test_what_is_picked_in_the_moment_of_a_sale(shop: Shop, database_dsn: str, first: str) -> None:
    older, order = await pickup(shop, 5), await pickup(shop, 5)
    work = fulfillment_of(order, NORTH).fulfillment_order_id
    await shop.accept(work)
    request = sale(2)
    calls = [lambda: shop.orders.sell(request, CALLER), lambda: shop.pick(work)]
    await in_turn(database_dsn, shop, *(calls if first == "sale" else reversed(calls)))
    if first == "sale":  # it was taken for gone, and was in somebody's hand
        assert [ends(s) for s in await shorts(shop, order)] == [[(2, IN_HAND)]]
        assert await shorts(shop, older) == []
    else:  # it was off the shelf already
        assert await shorts(shop, order) == []
        assert [s.open_quantity for s in await shorts(shop, older)] == [2]


@pytest.mark.parametrize("first", ["sale", "cancellation"])
async def test_what_is_cancelled_in_the_moment_of_a_sale(shop: Shop, database_dsn: str, first: str) -> None:
    older, order = await pickup(shop, 5), await pickup(shop, 5)
    request = sale(2)
    calls = [lambda: shop.orders.sell(request, CALLER), lambda: shop.cancel(order.order_id, {1: 3})]
    results = await in_turn(database_dsn, shop, *(calls if first == "sale" else reversed(calls)))
    assert not [r for r in results if isinstance(r, BaseException)]
    if first == "sale":
        assert [ends(s) for s in await shorts(shop, order)] == [[(2, CANCELLED)]]
        assert results[1].order.fulfillment_orders[0].shortfalls[0].open_quantity == 0
        assert await shop.level(NORTH, MILK) == Level(available=1, allocated=7)
    else:
        assert await shop.level(NORTH, MILK) == Level(available=1, allocated=7)
        assert await shorts(shop, order) == []
    assert await shorts(shop, older) == []


@pytest.mark.parametrize("first", ["count", "sale"])
async def test_a_count_in_the_moment_of_a_sale(shop: Shop, database_dsn: str, first: str) -> None:
    order = await pickup(shop, 10)
    request = sale(1)
    calls = [lambda: shop.count(NORTH, {MILK: 9}), lambda: shop.orders.sell(request, CALLER)]
    await in_turn(database_dsn, shop, *(calls if first == "count" else reversed(calls)))
    found = [(s.open_quantity, s.next_step) for s in await shorts(shop, order)]
    if first == "count":  # after it a unit was sold
        assert found == [(1, CHOOSE), (1, COUNT)]
        assert await tasks(shop) == [(NORTH, MILK)]
    else:  # it saw the shelf as the sale had left it
        assert found == [(1, CHOOSE)]
        assert await tasks(shop) == []


async def test_two_sales_and_a_receipt_at_once_lose_no_promise(shop: Shop, database_dsn: str) -> None:
    order = await pickup(shop, 10)
    requests = [sale(2), sale(3)]
    results = await in_turn(
        database_dsn,
        shop,
        lambda: shop.orders.sell(requests[0], CALLER),
        lambda: shop.receive(NORTH, {MILK: 1}),
        lambda: shop.orders.sell(requests[1], CALLER),
    )
    assert not [r for r in results if isinstance(r, BaseException)]
    assert [(s.quantity, ends(s)) for s in await shorts(shop, order)] == [(2, [(1, COVERED)]), (3, [])]
    assert await shop.level(NORTH, MILK) == Level(allocated=6)


# -------------------------------------------------------------------------------------------------- crashes, repeats, bypass
async def test_a_sale_that_dies_before_its_commit_broke_no_promise_and_its_repeat_breaks_it_once(
    shop: Shop, database_dsn: str
) -> None:
    order, request = await pickup(shop, 10), sale(2)

    async def killed() -> None:
        (pid,) = (
            await shop.fetch(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )[0]
        await shop.fetch("SELECT pg_terminate_backend($1)", pid)

    connection = await asyncpg.connect(asyncpg_dsn(database_dsn))
    try:
        async with connection.transaction():
            # It waits here for the number of its increase, after all that it wrote of shortfalls.
            assert await connection.fetch(f"{HEAD} FOR UPDATE", NORTH)
            selling = asyncio.ensure_future(shop.orders.sell(request, CALLER))
            await until_waiting(shop, [selling])
            await killed()
            with pytest.raises(LedgerUnavailable):
                await selling
    finally:
        await connection.close()
    assert (await shorts(shop, order), await open_at(shop), await tasks(shop)) == ([], [], [])
    assert await shop.level(NORTH, MILK) == Level(allocated=10)
    first = await shop.orders.sell(request, CALLER)
    assert await shop.orders.sell(request, CALLER) == first
    assert [(s.quantity, s.open_quantity) for s in await shorts(shop, order)] == [(2, 2)]
    assert len(await shop.fetch("SELECT FROM shortfalls")) == 1
    await shop.app.rebuilder.rebuild(NORTH)  # the claim of the first attempt waits for its sweeper


async def test_a_sale_past_a_gate_that_is_down_breaks_reservations_and_orders_visibly(
    database_dsn: str, private_redis: EmbeddedValkey
) -> None:
    async with verified(database_dsn, private_redis.url) as shop:
        order, held = await pickup(shop, 4), await shop.reserve({NORTH: {MILK: 5}})
        private_redis.kill()
        request = sale(8)  # one was free, five were reserved, two were of the order
        first = await shop.orders.sell(request, CALLER)
        assert await shop.orders.sell(request, CALLER) == first
        assert await short_of(shop, held) == 5
        assert [(s.open_quantity, s.next_step) for s in await shorts(shop, order)] == [(2, COUNT)]
        assert (await shop.fetch("SELECT quantity FROM shortages"), await tasks(shop)) == ([(7,)], [(NORTH, MILK)])
        private_redis.start()
        assert (await refused(buy(shop, held, 5))).reason == "RESERVATION_SHORT"
        await shop.receive(NORTH, {MILK: 6})
        assert ([ends(s) for s in await shorts(shop, order)], await short_of(shop, held)) == ([[(2, COVERED)]], 1)
        assert await short_reservations(shop) == [(held, 1)]


async def test_a_count_past_a_gate_that_is_down_breaks_what_it_missed(
    database_dsn: str, private_redis: EmbeddedValkey
) -> None:
    async with verified(database_dsn, private_redis.url) as shop:
        order, held = await pickup(shop, 6), await shop.reserve({NORTH: {MILK: 3}})
        private_redis.kill()
        (result,) = await shop.count(NORTH, {MILK: 4})
        assert (result.expected_quantity, result.short_quantity) == (10, 5)
        assert ([s.next_step for s in await shorts(shop, order)], await short_of(shop, held)) == ([CHOOSE], 3)
        private_redis.start()


async def test_many_tills_and_receipts_at_once_keep_every_promise_or_show_that_it_broke(shop: Shop) -> None:
    orders = [await pickup(shop, 2) for _ in range(5)]

    async def pick(order: pb.Order) -> None:
        work = fulfillment_of(order, NORTH).fulfillment_order_id
        await shop.accept(work)
        await shop.pick(work)

    await asyncio.gather(
        *(shop.sell(NORTH, {MILK: 1}, 199) for _ in range(6)),
        *(shop.receive(NORTH, {MILK: 1}) for _ in range(3)),
        *(pick(order) for order in orders[:2]),
        shop.cancel(orders[4].order_id, {1: 2}),
        shop.count(NORTH, {MILK: 7}),
    )
    short = sum(s.open_quantity for s in await open_at(shop))
    ((allocated, on_hand),) = await shop.fetch(
        "SELECT allocated, available + allocated FROM stock_levels WHERE location_id = $1 AND sku = $2", NORTH, MILK
    )
    assert allocated + short == 8
    await shop.count(NORTH, {MILK: on_hand + short})
    assert await open_at(shop) == []
