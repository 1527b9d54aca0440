"""Another item instead, with the customer's consent: what it costs, whose stock, who agreed. Each test ends with verify."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from broken import shorts, tasks, verified
from onhand.domain.stock import Level
from onhand.v1 import order_pb2 as pb
from shelf import add_product, request_id
from shop import BREAD, CALLER, FUEL, MILK, NORTH, SOUTH, Shop, cents, dollars, refused

OAT, CREAM = "oat-milk", "cream"


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each; the north has oat milk, which is cheaper, and cream."""
    async with verified(database_dsn, redis_url) as shop:
        await add_product(shop.catalog, OAT, dollars(149))
        await add_product(shop.catalog, CREAM, dollars(399))
        await shop.receive(NORTH, {OAT: 5, CREAM: 5})
        yield shop


async def substitute(shop: Shop, work: str, sku: str, quantity: int, **fields: Any) -> pb.SubstituteLineResponse:
    """The customer agreed on the telephone."""
    request = pb.SubstituteLineRequest(
        **{
            "request_id": request_id(),
            "fulfillment_order_id": work,
            "line_number": 1,
            "quantity": quantity,
            "sku": sku,
            "substitute_quantity": quantity,
            "consent": pb.CONSENT_PHONE,
            "consent_reference": "call/7",
            **fields,
        }
    )
    return await shop.orders.substitute_line(request, CALLER)


async def accepted(shop: Shop, units: dict[str, int]) -> tuple[str, str]:
    """Work that somebody began, and its code."""
    (code,) = (await shop.place({NORTH: units})).pickup_codes
    await shop.accept(code.fulfillment_order_id)
    return code.fulfillment_order_id, code.pickup_code


async def test_a_cheaper_item_gives_the_difference_back(shop: Shop) -> None:
    work, code = await accepted(shop, {MILK: 4})
    id = request_id()
    answer = await substitute(shop, work, OAT, 3, request_id=id)
    assert await substitute(shop, work, OAT, 3, request_id=id) == answer
    assert cents(answer.refund) == 3 * 50
    first, second = answer.order.lines
    assert (first.cancelled_quantity, cents(first.refunded), first.substitutes_line_number) == (3, 3 * 199, 0)
    assert (second.line_number, second.sku, second.quantity, cents(second.total)) == (2, OAT, 3, 3 * 149)
    assert second.substitutes_line_number == answer.substitute_line_number - 1 == 1
    assert cents(answer.order.total) == 4 * 199 + 3 * 149
    assert sum(cents(t.amount) for t in answer.order.tenders) == 4 * 199
    assert await shop.level(NORTH, MILK) == Level(available=9, allocated=1)
    assert await shop.level(NORTH, OAT) == Level(available=2, allocated=3)
    assert (await shop.atp(NORTH, MILK), await shop.atp(NORTH, OAT)) == (9, 2)
    assert await shop.fetch(
        "SELECT line_number, substitute_line, quantity, consent, consent_reference, actor FROM substitutions"
    ) == [(1, 2, 3, "PHONE", "call/7", "tester")]
    for step in (shop.pick, shop.mark_ready):
        await step(work)
    await shop.hand_over(work, code)
    order = await shop.order(answer.order.order_id)
    assert [n.fulfilled_quantity for n in order.lines] == [1, 3]
    back = await shop.take_back(
        order.order_id, SOUTH, pb.ReturnedLine(line_number=2, quantity=3, disposition=pb.DISPOSITION_AVAILABLE)
    )
    assert cents(back.refund) == 3 * 149
    assert await shop.level(SOUTH, OAT) == Level(available=3)


async def test_a_dearer_item_costs_what_was_paid(shop: Shop) -> None:
    work, _ = await accepted(shop, {MILK: 4})
    answer = await substitute(shop, work, CREAM, 0, substitute_quantity=2)
    assert cents(answer.refund) == 0
    assert cents(answer.order.lines[1].total) == 2 * 399 - 2
    assert (cents(answer.order.lines[1].price), answer.order.lines[1].price_quantity) == (796, 2)


async def test_what_was_not_found_is_counted_off_and_damage_is_damage(shop: Shop) -> None:
    work, _ = await accepted(shop, {MILK: 4})
    await substitute(shop, work, OAT, 1, reason=pb.REJECT_REASON_NOT_FOUND)
    await substitute(shop, work, OAT, 1, reason=pb.REJECT_REASON_DAMAGED)
    assert await shop.level(NORTH, MILK) == Level(available=6, allocated=2, damaged=1)
    assert await tasks(shop) == [(NORTH, MILK)]


async def test_what_was_short_is_not_freed(shop: Shop) -> None:
    work, _ = await accepted(shop, {MILK: 10})
    await shop.sell(NORTH, {MILK: 2}, 398)
    answer = await substitute(shop, work, OAT, 3)
    assert [s.open_quantity for s in await shorts(shop, answer.order)] == [0]
    assert await shop.level(NORTH, MILK) == Level(available=1, allocated=7)


async def test_a_substitute_must_be_there_have_a_price_and_be_another_item(shop: Shop) -> None:
    work, _ = await accepted(shop, {MILK: 4})
    assert (await refused(substitute(shop, work, OAT, 4, substitute_quantity=6))).reason == "INSUFFICIENT_STOCK"
    assert (await refused(substitute(shop, work, MILK, 1))).reason == "SUBSTITUTE_SAME"
    assert (await refused(substitute(shop, work, OAT, 5))).reason == "FULFILLMENT_LINE_EXCEEDED"
    assert (await refused(substitute(shop, work, OAT, 1, line_number=7))).reason == "ORDER_LINE_NOT_FOUND"
    assert (await refused(substitute(shop, work, "nothing", 1))).reason == "SKU_NOT_FOUND"
    assert (await refused(substitute(shop, work, OAT, 1, consent=9))).reason == "INVALID_REQUEST"
    await add_product(shop.catalog, "priceless")
    await shop.receive(NORTH, {"priceless": 1})
    assert (await refused(substitute(shop, work, "priceless", 1))).reason == "PRICE_NOT_FOUND"
    for step in (shop.pick, shop.mark_ready):
        await step(work)
    assert (await refused(substitute(shop, work, OAT, 1))).reason == "ILLEGAL_TRANSITION"
    assert await shop.level(NORTH, OAT) == Level(available=5)
    assert (await shop.atp(NORTH, OAT), await shop.atp(NORTH, "priceless")) == (5, 1)
    assert await shop.fetch("SELECT count(*) FROM substitutions") == [(0,)]


async def test_a_substitute_can_be_cancelled_or_substituted_itself(shop: Shop) -> None:
    work, _ = await accepted(shop, {MILK: 2, BREAD: 1})
    answer = await substitute(shop, work, OAT, 2, line_number=2)
    answer = await substitute(shop, work, CREAM, 1, line_number=answer.substitute_line_number)
    assert [n.sku for n in answer.order.lines] == [BREAD, MILK, OAT, CREAM]
    cancelled = await shop.cancel(answer.order.order_id, {3: 1, 4: 1})
    assert cents(cancelled.refund) == 149 + cents(answer.order.lines[3].total)
    assert FUEL not in [n.sku for n in cancelled.order.lines]
    assert await shop.level(NORTH, CREAM) == Level(available=5)
