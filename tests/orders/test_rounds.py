"""Orders and sales in rounds: one transaction for many, and each has the outcome that it would have alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from onhand.crash import Step, watched
from onhand.domain.errors import LedgerUnavailable, Refusal
from onhand.domain.stock import Level
from onhand.v1 import cart_pb2, inventory_pb2, types_pb2
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import ADDRESS, BREAD, CALLER, MILK, MILK_BARCODE, NORTH, SOUTH, Shop, card, dollars

PICKUP, SHIP = pb.FULFILLMENT_KIND_PICKUP, pb.FULFILLMENT_KIND_SHIP
PLACE, SELL, ALONE = "ledger.place_orders", "ledger.record_sales", "ledger.mutate"

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class Steps:
    """Counts steps, and does something before the first of a name."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.first: dict[str, Callable[[], Awaitable[Any]]] = {}
        self.then: dict[str, Callable[[], Awaitable[Any]]] = {}

    async def before(self, step: Step) -> None:
        self.passed.append(step.name)
        if work := self.first.pop(step.name, None):
            await work()

    async def after(self, step: Step) -> None:
        if work := self.then.pop(step.name, None):
            await work()


@contextmanager
def observed() -> Iterator[Steps]:
    steps = Steps()
    with watched(steps):
        yield steps


async def outcomes(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Answers, and the reasons of refusals, of calls that are made at once."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [each.reason if isinstance(each, Refusal) else each for each in results]


async def checkouts(shop: Shop, *baskets: dict[str, dict[str, int]]) -> list[pb.PlaceOrderRequest]:
    """Requests for orders of reservations of milk."""
    requests = []
    for basket in baskets:
        reservation_id = await shop.reserve(basket)
        total = sum(199 * quantity for lines in basket.values() for quantity in lines.values())
        requests.append(shop.place_request(reservation_id, dict.fromkeys(basket, PICKUP), total))
    return requests


def sale(lines: dict[str, int], total: int, location_id: str = NORTH, **fields: Any) -> pb.SellRequest:
    """What a till sends."""
    return pb.SellRequest(
        request_id=request_id(),
        location_id=location_id,
        lines=[pb.SaleLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()],
        currency_code="USD",
        tenders=card(total),
        **fields,
    )


async def stored(shop: Shop, request: Any) -> bytes:
    """The first answer of a request, as a repeat gets it."""
    ((response,),) = await shop.fetch("SELECT response FROM requests WHERE request_id = $1", request.request_id)
    assert isinstance(response, bytes)
    return response


async def sweep(shop: Shop) -> None:
    """What a server does beside the calls, as if the hints of what was left behind had passed."""
    await shop.relay.close()
    for location_id in (NORTH, SOUTH):
        await shop.app.rebuilder.rebuild(location_id, is_forced=True)
    await shop.app.sweeper.patrol()


# ------------------------------------------------------------------------------------------------------------ answers
async def test_orders_of_a_round_are_answered_as_they_are_read(shop: Shop) -> None:
    cart_id = await shop.cart({BREAD: 1, MILK: 3}, "ada")
    two_places = await shop.reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 1, BREAD: 1}}, "ada")
    kinds = {NORTH: PICKUP, SOUTH: SHIP}
    requests = [
        shop.place_request(two_places, kinds, 3 * 199 + 250, cart_id=cart_id),
        *await checkouts(shop, {NORTH: {MILK: 1}}, {SOUTH: {MILK: 2}}),
    ]
    with observed() as steps:
        answers = await asyncio.gather(*(shop.orders.place_order(r, CALLER) for r in requests))
    assert (steps.passed.count(PLACE), steps.passed.count(ALONE)) == (1, 0)
    for request, answer in zip(requests, answers, strict=True):
        assert answer.order == await shop.order(answer.order.order_id)
        assert await stored(shop, request) == answer.SerializeToString()
        assert await shop.orders.place_order(request, CALLER) == answer
    assert answers[0].order.customer_id == "ada"
    assert answers[0].order.ship_to == ADDRESS
    assert answers[0].order.cart_id == cart_id
    assert [(c.location_id) for c in answers[0].pickup_codes] == [NORTH]
    assert await shop.fetch("SELECT state FROM carts") == [("ORDERED",)]


async def test_an_order_of_a_round_is_what_it_is_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ids(order: pb.Order) -> pb.Order:
        for field in ("order_id", "order_number", "reservation_id", "placed_time", "created_time", "updated_time"):
            order.ClearField(field)  # type: ignore[arg-type]
        for work in order.fulfillment_orders:
            for field in ("fulfillment_order_id", "order_id", "order_number", "created_time", "updated_time"):
                work.ClearField(field)  # type: ignore[arg-type]
        return order

    (first,) = await checkouts(shop, {NORTH: {MILK: 1}, SOUTH: {MILK: 2}})
    in_round = (await shop.orders.place_order(first, CALLER)).order
    (second,) = await checkouts(shop, {NORTH: {MILK: 1}, SOUTH: {MILK: 2}})
    events = "SELECT type, location_id FROM events WHERE type LIKE 'onhand.%order%' ORDER BY transaction, sequence"
    told = await shop.fetch(events)
    with observed() as steps:
        monkeypatch.setattr("onhand.orders.together.ATTEMPTS_MAX", 0)
        alone = (await shop.orders.place_order(second, CALLER)).order
    assert (steps.passed.count(PLACE), steps.passed.count(ALONE)) == (0, 1)
    assert without_ids(in_round) == without_ids(alone)
    assert await shop.fetch(events) == [*told, *told]
    rows = await shop.fetch("""
        SELECT location_id, sku, quantity, from_bucket, to_bucket, reason_code, channel, actor, count(*)
          FROM stock_movements WHERE reason_code = 'ORDER_PLACED' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1""")
    assert [row[-1] for row in rows] == [2, 2]


async def test_sales_of_a_round_are_answered_as_they_are_read(shop: Shop) -> None:
    earlier, later = Timestamp(seconds=1_700_000_000), Timestamp(seconds=4_000_000_000)
    requests = [
        sale({MILK: 1, BREAD: 2}, 199 + 500, customer_id="ada", occurred_time=earlier),
        sale({MILK: 1}, 199, occurred_time=later),
        pb.SellRequest(
            request_id=request_id(),
            location_id=NORTH,
            lines=[
                pb.SaleLine(barcode=MILK_BARCODE, quantity=1),
                pb.SaleLine(sku=MILK, quantity=2, total=dollars(100)),
                pb.SaleLine(barcode=MILK_BARCODE.lstrip("0"), quantity=1),
            ],
            currency_code="USD",
            tenders=[*card(200), pb.Tender(kind=pb.TENDER_KIND_CASH, amount=dollars(298))],
        ),
    ]
    with observed() as steps:
        answers = await asyncio.gather(*(shop.orders.sell(r, CALLER) for r in requests))
    assert (steps.passed.count(SELL), steps.passed.count(ALONE)) == (1, 0)
    for request, answer in zip(requests, answers, strict=True):
        assert answer.order == await shop.order(answer.order.order_id)
        assert await stored(shop, request) == answer.SerializeToString()
        assert await shop.orders.sell(request, CALLER) == answer
    assert answers[0].order.placed_time == earlier
    assert answers[1].order.placed_time == answers[1].order.created_time
    assert [(line.sku, line.quantity) for line in answers[2].order.lines] == [(MILK, 1), (MILK, 2), (MILK, 1)]
    assert await shop.level(NORTH, MILK) == Level(available=10 - 6)
    await shop.relay.close()
    assert await shop.fetch("SELECT state, count(*) FROM claims GROUP BY 1") == [("consumed", 3)]


# ------------------------------------------------------------------------------------------------ each its own outcome
async def test_a_refused_order_leaves_the_others_of_its_round_alone(shop: Shop) -> None:
    good, changed, again, unknown = await checkouts(shop, *[{NORTH: {MILK: 1}}] * 4)
    changed.expected_total.CopyFrom(dollars(1))
    unknown.reservation_id = request_id()
    same_reservation = shop.place_request(again.reservation_id, {NORTH: PICKUP}, 199)
    with observed() as steps:
        calls = [good, changed, again, again, same_reservation, unknown]
        found = await outcomes([shop.orders.place_order(r, CALLER) for r in calls])
    assert steps.passed.count(PLACE) == 1
    assert found[1] == "TOTAL_CHANGED"
    assert found[2] == found[3]
    assert found[4:] == ["RESERVATION_NOT_ACTIVE", "RESERVATION_NOT_FOUND"]
    assert found[0].order == await shop.order(found[0].order.order_id)
    assert await shop.fetch("SELECT count(*) FROM orders") == [(2,)]


async def test_texts_of_any_kind_are_written_as_they_are_given(shop: Shop) -> None:
    odd, good = await checkouts(shop, *[{NORTH: {MILK: 1}}] * 2)
    odd.customer_id, odd.tenders[0].reference = "a\x1fb\x1e", "\x1e"
    good.customer_id, good.tenders[0].reference = 'Zoë, {"\\} NULL', ""
    sold = sale({MILK: 1}, 199, customer_id="\x1f")
    with observed() as steps:
        answers = await asyncio.gather(
            *(shop.orders.place_order(r, CALLER) for r in (odd, good)), shop.orders.sell(sold, CALLER)
        )
    assert (steps.passed.count(PLACE), steps.passed.count(SELL), steps.passed.count(ALONE)) == (1, 0, 2)
    for request, answer in zip((odd, good, sold), answers, strict=True):
        assert answer.order == await shop.order(answer.order.order_id)
        assert answer.order.customer_id == request.customer_id
        assert list(answer.order.tenders) == list(request.tenders)


async def test_a_reservation_that_expires_between_reading_and_writing_fails_alone(shop: Shop) -> None:
    first, second, third = await checkouts(shop, *[{NORTH: {MILK: 1}}] * 3)

    async def expire() -> None:
        await shop.execute(
            "UPDATE claims SET deadline = now() - interval '1 second' WHERE reservation_id = $1", second.reservation_id
        )

    with observed() as steps:
        steps.first[PLACE] = expire
        found = await outcomes([shop.orders.place_order(r, CALLER) for r in (first, second, third)])
    assert (steps.passed.count(PLACE), steps.passed.count(ALONE)) == (2, 1)
    assert found[1] == "RESERVATION_NOT_ACTIVE"
    assert {f.order.state for f in (found[0], found[2])} == {pb.ORDER_STATE_OPEN}
    await shop.sweeper.expire()


async def test_a_change_between_reading_and_writing_is_met(shop: Shop) -> None:
    first, second = await checkouts(shop, *[{NORTH: {MILK: 1}}] * 2)

    async def change() -> None:
        request = inventory_pb2.ChangeReservationRequest(
            request_id=request_id(),
            reservation_id=second.reservation_id,
            baskets=[
                inventory_pb2.LocationBasket(location_id=NORTH, lines=[types_pb2.BasketLine(sku=MILK, quantity=2)])
            ],
        )
        await shop.promise.change_reservation(request, CALLER)

    with observed() as steps:
        steps.first[PLACE] = change
        found = await outcomes([shop.orders.place_order(r, CALLER) for r in (first, second)])
    assert found[1] == "TENDERS_MISMATCH"
    assert found[0].order.total == dollars(199)


async def test_a_cart_that_changes_between_reading_and_writing_is_not_ordered(shop: Shop) -> None:
    (first,) = await checkouts(shop, {NORTH: {MILK: 1}})
    cart_id = await shop.cart({MILK: 1})
    second = shop.place_request(await shop.reserve({NORTH: {MILK: 1}}), {NORTH: PICKUP}, 199, cart_id=cart_id)

    async def change() -> None:
        line = types_pb2.BasketLine(sku=BREAD, quantity=1)
        await shop.carts.add_cart_line(
            cart_pb2.AddCartLineRequest(request_id=request_id(), cart_id=cart_id, line=line), CALLER
        )

    with observed() as steps:
        steps.first[PLACE] = change
        found = await outcomes([shop.orders.place_order(r, CALLER) for r in (first, second)])
    assert found[1] == "CART_CHANGED"
    assert await shop.fetch("SELECT count(*) FROM orders") == [(1,)]


async def test_goods_that_a_till_sold_meanwhile_are_not_ordered(shop: Shop) -> None:
    first, second = await checkouts(shop, {NORTH: {MILK: 9}}, {SOUTH: {MILK: 1}})

    async def sell() -> None:
        await shop.sell(NORTH, {MILK: 5}, 5 * 199)

    with observed() as steps:
        steps.first[PLACE] = sell
        found = await outcomes([shop.orders.place_order(r, CALLER) for r in (first, second)])
    assert found[0] == "RESERVATION_SHORT"
    assert found[1].order.state == pb.ORDER_STATE_OPEN


async def test_a_request_that_another_server_answered_meanwhile_is_answered_the_same(
    shop: Shop, database_dsn: str, redis_url: str
) -> None:
    first, second = await checkouts(shop, *[{NORTH: {MILK: 1}}] * 2)
    sold = sale({MILK: 1}, 199)
    async with another(database_dsn, redis_url) as other:
        answers: list[Any] = []

        async def place() -> None:
            answers.append(await other.orders.place_order(second, CALLER))

        async def sell() -> None:
            answers.append(await other.orders.sell(sold, CALLER))

        with observed() as steps:
            steps.first[PLACE] = place
            found = await outcomes([shop.orders.place_order(r, CALLER) for r in (first, second)])
        with observed() as steps:
            steps.first[SELL] = sell
            found += await outcomes([shop.orders.sell(r, CALLER) for r in (sale({MILK: 1}, 199), sold)])
    assert [found[1], found[3]] == answers
    assert await shop.level(NORTH, MILK) == Level(available=10 - 4, allocated=2)
    await sweep(shop)


async def test_sales_of_the_last_units_are_recorded_truthfully(shop: Shop) -> None:
    requests = [sale({MILK: 4}, 4 * 199) for _ in range(3)]
    with observed() as steps:
        answers = await asyncio.gather(*(shop.orders.sell(r, CALLER) for r in requests))
    # The gate says of the third that it takes what is not there; by then the ledger may have booked that.
    assert steps.passed.count(ALONE) >= 1
    assert len({a.order.order_id for a in answers}) == 3
    assert await shop.level(NORTH, MILK) == Level()
    assert await shop.fetch("SELECT quantity FROM stock_movements WHERE reason_code = 'FOUND_AT_SALE'") == [(2,)]


async def test_a_sale_whose_level_fell_meanwhile_goes_its_own_way(shop: Shop) -> None:
    async def fall() -> None:
        await shop.execute(
            "UPDATE stock_levels SET available = 1, damaged = 9 WHERE location_id = $1 AND sku = $2", NORTH, MILK
        )

    with observed() as steps:
        steps.first[SELL] = fall
        requests = [sale({MILK: 1}, 199), sale({MILK: 1}, 199), sale({BREAD: 1}, 250)]
        answers = await asyncio.gather(*(shop.orders.sell(r, CALLER) for r in requests))
    assert (steps.passed.count(SELL), steps.passed.count(ALONE)) == (2, 1)
    assert len({a.order.order_id for a in answers}) == 3
    assert await shop.fetch("SELECT quantity FROM stock_movements WHERE reason_code = 'FOUND_AT_SALE'") == [(1,)]
    # Set right what this test did past all handlers.
    await shop.execute(
        """INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code)
           VALUES ($1, $2, 9, 'available', 'damaged', 'DAMAGED')""",
        NORTH,
        MILK,
    )
    await sweep(shop)


async def test_a_sale_under_an_epoch_that_was_raised_claims_anew(shop: Shop) -> None:
    async def raise_epoch() -> None:
        await shop.execute("UPDATE location_epochs SET epoch = epoch + 1 WHERE location_id = $1", NORTH)

    with observed() as steps:
        steps.first[SELL] = raise_epoch
        requests = [sale({MILK: 1}, 199), sale({MILK: 1}, 199, SOUTH)]
        answers = await asyncio.gather(*(shop.orders.sell(r, CALLER) for r in requests))
    assert steps.passed.count(SELL) == 2
    assert len({a.order.order_id for a in answers}) == 2
    assert await shop.fetch("SELECT location_id, available FROM stock_levels WHERE sku = $1 ORDER BY 1", MILK) == [
        ("depot", 10),
        (NORTH, 9),
        (SOUTH, 9),
    ]
    await sweep(shop)


async def test_a_round_whose_outcome_is_unknown_is_unknown_to_all_and_happened_once(shop: Shop) -> None:
    orders = await checkouts(shop, *[{NORTH: {MILK: 1}}] * 2)
    sales = [sale({MILK: 1}, 199, SOUTH) for _ in range(2)]

    async def lose() -> None:
        raise LedgerUnavailable("the connection is gone")

    with observed() as steps:
        steps.then[PLACE] = steps.then[SELL] = lose
        found = await outcomes(
            [*(shop.orders.place_order(r, CALLER) for r in orders), *(shop.orders.sell(r, CALLER) for r in sales)]
        )
    assert found == ["LEDGER_UNAVAILABLE"] * 4
    for request in orders:
        answer = await shop.orders.place_order(request, CALLER)
        assert answer.order == await shop.order(answer.order.order_id)
    for sold in sales:
        assert (await shop.orders.sell(sold, CALLER)).order.state == pb.ORDER_STATE_COMPLETED
    assert await shop.level(NORTH, MILK) == Level(available=8, allocated=2)
    assert await shop.level(SOUTH, MILK) == Level(available=8)
    await sweep(shop)


# --------------------------------------------------------------------------------------------------------- two servers
@asynccontextmanager
async def another(dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """A second server process of the shop, as far as gate and ledger know."""
    from onhand.app import App

    app = await App.open(dsn, redis_url)
    try:
        yield Shop(app)
    finally:
        await app.close()


async def test_rounds_of_two_servers_wait_for_each_other_and_never_in_a_circle(
    shop: Shop, database_dsn: str, redis_url: str
) -> None:
    for location_id in (NORTH, SOUTH):
        await shop.receive(location_id, {MILK: 200, BREAD: 200})
    before = await shop.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    async with another(database_dsn, redis_url) as other:
        calls = []
        for number in range(40):
            server = (shop, other)[number % 2]
            reservation_id = await shop.reserve({NORTH: {MILK: 1, BREAD: 1}, SOUTH: {BREAD: 1}})
            placed = shop.place_request(reservation_id, {NORTH: PICKUP, SOUTH: PICKUP}, 199 + 500)
            calls.append(server.orders.place_order(placed, CALLER))
            lines = {BREAD: 1, MILK: 1} if number % 3 else {MILK: 1, BREAD: 1}
            calls.append(server.orders.sell(sale(lines, 449, (NORTH, SOUTH)[number % 2]), CALLER))
        with observed() as steps:
            answers = await asyncio.gather(*calls)
    assert len({a.order.order_id for a in answers}) == 80
    assert ALONE not in steps.passed
    assert await shop.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == before


async def test_a_round_waits_for_a_level_and_takes_what_is_left(shop: Shop) -> None:
    """The level is locked by another transaction that takes from it: the statement goes on with what was committed."""
    (first,) = await checkouts(shop, {NORTH: {MILK: 3}})
    async with shop.database.transaction() as connection:
        await connection.execute(
            "UPDATE stock_levels SET available = available - 5 WHERE location_id = $1 AND sku = $2", NORTH, MILK
        )
        await connection.execute(
            """INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code)
               VALUES ($1, $2, 5, 'available', 'customer', 'SALE')""",
            NORTH,
            MILK,
        )
        call = asyncio.create_task(shop.orders.place_order(first, CALLER))
        async with asyncio.timeout(60):
            while await shop.fetch(WAITING) == [(0,)]:
                pass
    assert (await call).order.state == pb.ORDER_STATE_OPEN
    assert await shop.level(NORTH, MILK) == Level(available=2, allocated=3)
    await shop.app.rebuilder.rebuild(NORTH, is_forced=True)
