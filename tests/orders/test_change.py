"""Changes of an order: what is previewed is what is made, or nothing is. Each test ends with every rule of verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from broken import broken_rules, in_turn, shorts, verified
from onhand.crash import Step, watched
from onhand.domain.stock import Level
from onhand.v1 import catalog_pb2
from onhand.v1 import order_pb2 as pb
from purse import issue, sale, tender
from shelf import request_id
from shop import ADDRESS, BREAD, CALLER, DEPOT, MILK, NORTH, SOUTH, Shop, card, cents, dollars, refused, told

SHIP = pb.FULFILLMENT_KIND_SHIP
PICKUP = pb.FULFILLMENT_KIND_PICKUP
MOVED = pb.FULFILLMENT_STATE_MOVED


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop


def quantities(units: Mapping[int, int]) -> pb.OrderChange:
    """Other quantities of lines."""
    wanted = [pb.WantedQuantity(line_number=n, quantity=q) for n, q in units.items()]
    return pb.OrderChange(quantities=pb.EditQuantities(lines=wanted))


def move(work: str, location_id: str = "", **fields: Any) -> pb.OrderChange:
    """Another location, or another way."""
    return pb.OrderChange(move=pb.MoveFulfillment(fulfillment_order_id=work, location_id=location_id, **fields))


async def preview(shop: Shop, order: pb.Order, change: pb.OrderChange) -> pb.PreviewOrderChangeResponse:
    """What it would do."""
    request = pb.PreviewOrderChangeRequest(order_id=order.order_id, change=change)
    return await shop.orders.preview_order_change(request, CALLER)


async def apply(
    shop: Shop, order: pb.Order, change: pb.OrderChange, etag: str = "", **fields: Any
) -> pb.ApplyOrderChangeResponse:
    """What was previewed; paid by card."""
    if not etag:
        shown = await preview(shop, order, change)
        etag = shown.etag
        fields = {"tenders": card(cents(shown.charge)) if cents(shown.charge) else [], **fields}
    request = pb.ApplyOrderChangeRequest(
        **{"request_id": request_id(), "order_id": order.order_id, "change": change, "etag": etag, **fields}
    )
    return await shop.orders.apply_order_change(request, CALLER)


def effects(shown: pb.PreviewOrderChangeResponse) -> dict[tuple[str, str], tuple[int, int]]:
    """(freed, promised) by position."""
    return {(e.location_id, e.sku): (e.freed_quantity, e.promised_quantity) for e in shown.stock}


class Counted:
    """Counts how often a step begins."""

    def __init__(self, name: str) -> None:
        self._name, self.count = name, 0

    async def before(self, step: Step) -> None:
        self.count += step.name == self._name

    async def after(self, step: Step) -> None: ...


# ------------------------------------------------------------------------------------------------------------- quantities
async def test_more_is_paid_with_a_gift_card_which_gets_it_back(shop: Shop) -> None:
    code, short = "K7QF-3M9D-X2PA-88HT", "K7QF-3M9D-X2PA-88HU"
    await issue(shop, code, 600)
    await issue(shop, short, 100)
    order = (await shop.place({NORTH: {BREAD: 1}})).order
    shown = await preview(shop, order, quantities({1: 3}))
    assert cents(shown.charge) == 500
    for tenders, reason in (
        ([tender("GIFT_CARD", 500, gift_card_code=short)], "GIFT_CARD_SHORT"),
        ([tender("GIFT_CARD", 499, gift_card_code=code)], "TENDERS_MISMATCH"),
        ([tender("CARD", 500, payment_method="pm_1")], "PROVIDER_NOT_CONFIGURED"),
    ):
        assert (await told(apply(shop, order, quantities({1: 3}), shown.etag, tenders=tenders)))[0] == reason
    paid = [tender("GIFT_CARD", 400, gift_card_code=code), *card(100)]
    id = request_id()
    done = await apply(shop, order, quantities({1: 3}), shown.etag, request_id=id, tenders=paid)
    assert await apply(shop, order, quantities({1: 3}), shown.etag, request_id=id, tenders=paid) == done
    balance = "SELECT balance_minor FROM gift_cards ORDER BY last_characters"
    assert await shop.fetch(balance) == [(200,), (100,)]
    await shop.cancel(order.order_id, {2: 2})
    assert await shop.fetch(balance) == [(600,), (100,)]
    assert await broken_rules(shop) == []


async def test_money_is_locked_before_stock(shop: Shop, database_dsn: str) -> None:
    """A sale that pays with the card that a change pays back onto: whoever is first has both, card and level."""
    code = "K7QF-3M9D-X2PA-88HT"
    await issue(shop, code, 1000)
    held = await shop.reserve({NORTH: {MILK: 3}})
    paid = [tender("GIFT_CARD", 3 * 199, gift_card_code=code)]
    order = (await shop.orders.place_order(shop.place_request(held, {NORTH: PICKUP}, 597, tenders=paid), CALLER)).order
    less = quantities({1: 1})
    etag = (await preview(shop, order, less)).etag
    request = sale(1, tender("GIFT_CARD", 199, gift_card_code=code))
    attempts = Counted("ledger.mutate")
    with watched(attempts):
        await in_turn(
            database_dsn, shop, lambda: apply(shop, order, less, etag), lambda: shop.orders.sell(request, CALLER)
        )
    assert attempts.count == 2, "one was rolled back: they waited for each other"
    assert await shop.fetch("SELECT balance_minor FROM gift_cards") == [(1000 - 3 * 199 + 2 * 199 - 199,)]


async def test_fewer_units_are_cancelled_and_more_are_added_at_todays_price(shop: Shop) -> None:
    order = (await shop.place({NORTH: {BREAD: 2, MILK: 3}})).order
    price = catalog_pb2.SetPriceRequest(request_id=request_id(), sku=BREAD, amount=dollars(275))
    await shop.catalog.set_price(price, CALLER)
    change = quantities({1: 5, 2: 1})
    shown = await preview(shop, order, change)
    assert effects(shown) == {(NORTH, BREAD): (0, 3), (NORTH, MILK): (2, 0)}
    assert (cents(shown.refund), cents(shown.charge)) == (2 * 199, 3 * 275)
    assert await shop.level(NORTH, MILK) == Level(available=7, allocated=3)

    id = request_id()
    done = await apply(shop, order, change, shown.etag, request_id=id, tenders=card(3 * 275))
    assert await apply(shop, order, change, shown.etag, request_id=id, tenders=card(3 * 275)) == done
    assert (done.refund, done.charge) == (shown.refund, shown.charge)
    assert [(n.sku, n.quantity, n.cancelled_quantity) for n in done.order.lines] == [
        (BREAD, 2, 0),
        (MILK, 3, 2),
        (BREAD, 3, 0),
    ]
    assert cents(done.order.total) == sum(cents(t.amount) for t in done.order.tenders)
    assert await shop.level(NORTH, MILK) == Level(available=9, allocated=1)
    assert await shop.level(NORTH, BREAD) == Level(available=5, allocated=5)
    assert (await shop.atp(NORTH, MILK), await shop.atp(NORTH, BREAD)) == (9, 5)


async def test_what_is_short_is_not_shown_as_freed(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 10}})).order
    await shop.sell(NORTH, {MILK: 4}, 796)
    change = quantities({1: 3})
    assert effects(await preview(shop, order, change)) == {(NORTH, MILK): (3, 0)}
    await apply(shop, order, change)
    assert await shop.level(NORTH, MILK) == Level(available=3, allocated=3)


async def test_none_of_it_cancels_the_order(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 2}})).order
    done = await apply(shop, order, quantities({1: 0}))
    assert (done.order.state, cents(done.refund)) == (pb.ORDER_STATE_CANCELLED, 2 * 199)


async def test_a_preview_is_good_only_while_order_and_prices_are_as_they_were(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 2, BREAD: 1}})).order
    work = order.fulfillment_orders[0].fulfillment_order_id
    more, less = quantities({1: 4}), quantities({2: 1})
    shown_more, shown_less = await preview(shop, order, more), await preview(shop, order, less)
    price = catalog_pb2.SetPriceRequest(request_id=request_id(), sku=BREAD, amount=dollars(275))
    await shop.catalog.set_price(price, CALLER)
    paid = {"tenders": card(3 * 250)}
    assert (await refused(apply(shop, order, more, shown_more.etag, **paid))).reason == "CHANGE_OUTDATED"
    await shop.accept(work)
    assert (await refused(apply(shop, order, less, shown_less.etag))).reason == "CHANGE_OUTDATED"
    # Nor for another change than was shown.
    etag = (await preview(shop, order, less)).etag
    assert (await refused(apply(shop, order, quantities({2: 0}), etag))).reason == "CHANGE_OUTDATED"
    assert await shop.atp(NORTH, BREAD) == 9


async def test_what_is_wrong_with_quantities_is_said(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 2}})).order
    work = order.fulfillment_orders[0].fulfillment_order_id
    for change, reason in (
        (quantities({1: 2}), "CHANGE_EMPTY"),
        (quantities({7: 1}), "ORDER_LINE_NOT_FOUND"),
        (pb.OrderChange(), "INVALID_REQUEST"),
    ):
        assert (await refused(preview(shop, order, change))).reason == reason
        assert (await refused(apply(shop, order, change, "x"))).reason == reason
    shown = await preview(shop, order, quantities({1: 20}))
    paid = card(cents(shown.charge))
    call = apply(shop, order, quantities({1: 20}), shown.etag, tenders=paid)
    assert (await refused(call)).reason == "INSUFFICIENT_STOCK"
    shown = await preview(shop, order, quantities({1: 3}))
    assert (await refused(apply(shop, order, quantities({1: 3}), shown.etag))).reason == "TENDERS_MISMATCH"
    for step in (shop.accept, shop.pick):
        await step(work)
    assert (await refused(preview(shop, order, quantities({1: 3})))).reason == "LINE_NOT_TO_RAISE"
    unknown = pb.Order(order_id=work)
    assert (await refused(preview(shop, unknown, quantities({1: 3})))).reason == "ORDER_NOT_FOUND"
    assert await shop.level(NORTH, MILK) == Level(available=8, allocated=2)
    assert await shop.atp(NORTH, MILK) == 8


# ------------------------------------------------------------------------------------------------------------------ moves
async def test_a_pickup_moves_to_another_store_whole(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 2, BREAD: 1}})
    order, (code,) = placed.order, placed.pickup_codes
    work = code.fulfillment_order_id
    await shop.accept(work)
    change = move(work, SOUTH)
    shown = await preview(shop, order, change)
    assert effects(shown) == {
        (NORTH, MILK): (2, 0),
        (NORTH, BREAD): (1, 0),
        (SOUTH, MILK): (0, 2),
        (SOUTH, BREAD): (0, 1),
    }
    assert (cents(shown.refund), cents(shown.charge)) == (0, 0)
    done = await apply(shop, order, change, shown.etag)
    old, new = done.order.fulfillment_orders
    assert (old.state, new.location_id, new.from_fulfillment_order_id) == (MOVED, SOUTH, work)
    assert (await shop.level(NORTH, MILK), await shop.level(SOUTH, MILK)) == (
        Level(available=10),
        Level(available=8, allocated=2),
    )
    assert (await shop.atp(NORTH, MILK), await shop.atp(SOUTH, MILK)) == (10, 8)
    for step in (shop.accept, shop.pick, shop.mark_ready):
        await step(new.fulfillment_order_id)
    assert (await refused(shop.hand_over(new.fulfillment_order_id, code.pickup_code))).reason == "PICKUP_CODE_WRONG"
    await shop.hand_over(new.fulfillment_order_id, done.pickup_code.pickup_code)
    assert (await shop.order(order.order_id)).state == pb.ORDER_STATE_COMPLETED


async def test_units_that_are_short_move_too_and_are_short_no_more(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 10}})).order
    await shop.sell(NORTH, {MILK: 4}, 796)
    await apply(shop, order, move(order.fulfillment_orders[0].fulfillment_order_id, SOUTH))
    assert [s.open_quantity for s in await shorts(shop, order)] == [0]
    assert (await shop.level(NORTH, MILK), await shop.level(SOUTH, MILK)) == (Level(available=6), Level(allocated=10))


async def test_a_pickup_that_waits_is_sent_instead_from_where_it_is(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 2}})
    order = (await shop.orders.list_orders(pb.ListOrdersRequest(), CALLER)).orders[0]
    assert (await refused(preview(shop, order, move(work, kind=SHIP)))).reason == "SHIP_TO_MISSING"
    change = move(work, kind=SHIP, ship_to=ADDRESS)
    shown = await preview(shop, order, change)
    assert effects(shown) == {}
    done = await apply(shop, order, change, shown.etag)
    assert not done.HasField("pickup_code")
    old, new = done.order.fulfillment_orders
    assert (old.state, list(old.lines)) == (MOVED, [])
    assert (new.kind, new.state, new.location_id) == (SHIP, pb.FULFILLMENT_STATE_PICKED, NORTH)
    assert await shop.level(NORTH, MILK) == Level(available=8, allocated=2)
    assert (await refused(shop.hand_over(work, code))).reason == "ILLEGAL_TRANSITION"
    await shop.ship(new.fulfillment_order_id)
    await shop.deliver(new.fulfillment_order_id)
    assert (await shop.order(order.order_id)).state == pb.ORDER_STATE_COMPLETED


async def test_a_shipment_can_be_fetched_instead_with_a_code_of_its_own(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 2}}, SHIP)).order
    work = order.fulfillment_orders[0].fulfillment_order_id
    done = await apply(shop, order, move(work, kind=pb.FULFILLMENT_KIND_PICKUP))
    new = done.pickup_code.fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.mark_ready):
        await step(new)
    await shop.hand_over(new, done.pickup_code.pickup_code)


async def test_what_is_wrong_with_a_move_is_said(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 2}})
    order = (await shop.orders.list_orders(pb.ListOrdersRequest(), CALLER)).orders[0]
    other = (await shop.place({NORTH: {BREAD: 1}})).order.fulfillment_orders[0].fulfillment_order_id
    for change, reason in (
        (move(work, NORTH), "CHANGE_EMPTY"),
        (move(work), "CHANGE_EMPTY"),
        (move(work, "nowhere"), "LOCATION_NOT_FOUND"),
        (move(other, SOUTH), "FULFILLMENT_ORDER_NOT_FOUND"),
        (move(work, kind=pb.FULFILLMENT_KIND_CARRY_OUT), "INVALID_REQUEST"),
    ):
        assert (await refused(preview(shop, order, change))).reason == reason
        assert (await refused(apply(shop, order, change, "x"))).reason == reason
    await shop.reserve({SOUTH: {MILK: 9}})
    assert (await refused(apply(shop, order, move(work, SOUTH)))).reason == "INSUFFICIENT_STOCK"
    assert await shop.level(NORTH, MILK) == Level(available=8, allocated=2)
    await shop.hand_over(work, code)
    assert (await refused(preview(shop, order, move(work, DEPOT)))).reason == "ILLEGAL_TRANSITION"


async def test_a_store_that_rejected_it_is_not_moved_to(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 2}})).order
    work = order.fulfillment_orders[0].fulfillment_order_id
    await shop.reject(work, (1, 0, pb.REJECT_REASON_NOT_FOUND))
    assert (await refused(preview(shop, order, move(work, NORTH, kind=SHIP)))).reason == "LOCATION_EXCLUDED"
    done = await apply(shop, order, move(work, SOUTH))
    assert [s.open_quantity for s in await shorts(shop, order)] == [0]
    south = done.pickup_code.fulfillment_order_id
    assert (await refused(preview(shop, order, move(south, NORTH)))).reason == "LOCATION_EXCLUDED"


async def test_of_two_changes_agreed_to_at_once_one_is_made(shop: Shop) -> None:
    order = (await shop.place({NORTH: {MILK: 4}})).order
    work = order.fulfillment_orders[0].fulfillment_order_id
    changes = [quantities({1: 2}), move(work, SOUTH), move(work, DEPOT), quantities({1: 1})]
    etags = [(await preview(shop, order, change)).etag for change in changes]
    results = await asyncio.gather(
        *(apply(shop, order, change, etag) for change, etag in zip(changes, etags, strict=True)), return_exceptions=True
    )
    assert sum(isinstance(r, pb.ApplyOrderChangeResponse) for r in results) == 1
    assert {getattr(r, "reason", "") for r in results} <= {"", "CHANGE_OUTDATED", "ILLEGAL_TRANSITION"}
