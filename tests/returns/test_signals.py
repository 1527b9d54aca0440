"""What returns say about who brings them, and who takes them."""

from __future__ import annotations

from typing import Any

import pytest

from bring import MANAGER, age, announce, blind_line, bring, bring_blind, desk, receive, signals, units
from onhand.v1 import returns_pb2 as pb
from shop import CALLER, MILK, NORTH, Shop, refused


@pytest.fixture
def policy() -> str:
    """More than two returns, or every other one without a proof, are worth a look."""
    return """
        window_days = 30
        [blind]
        returns_per_day_max = 10
        amount_per_day_minor_max = 10000
        [signals]
        days = 7
        returns_max = 2
        receiptless_percent_max = 50
        receiptless_returns_min = 2
    """


def named(answer: pb.GetReturnSignalsResponse) -> list[tuple[str, int, int]]:
    """(kind, value, allowed) of each signal, the newest first."""
    return [
        (pb.ReturnSignalKind.Name(s.kind).removeprefix("RETURN_SIGNAL_KIND_"), s.value, s.allowed)
        for s in answer.signals
    ]


async def of_ada(shop: Shop, count: int) -> Any:
    """An order of ada's."""
    order = await shop.sell(NORTH, {MILK: count}, 199 * count)
    await shop.execute("UPDATE orders SET customer_id = 'ada'")
    return order


async def test_returns_that_repeat_are_told_of(shop: Shop) -> None:
    order = await of_ada(shop, 4)
    for _ in range(2):
        await bring(shop, order.order_id)
    answer = await signals(shop, customer_id="ada")
    assert (answer.return_count, answer.receiptless_count, named(answer), answer.days) == (2, 0, [], 7)
    returned = await bring(shop, order.order_id)
    answer = await signals(shop, customer_id="ada")
    assert (answer.return_count, named(answer)) == (3, [("REPEATED_RETURNS", 3, 2)])
    assert answer.signals[0].return_id == returned.return_id
    assert [name for name, _ in await shop.events("onhand.return.signal")] == ["onhand.return.signal.v1"]
    await bring(shop, order.order_id)
    assert named(await signals(shop, customer_id="ada"))[0] == ("REPEATED_RETURNS", 4, 2)


async def test_old_returns_do_not_count(shop: Shop) -> None:
    order = await of_ada(shop, 3)
    for _ in range(2):
        await bring(shop, order.order_id)
    await shop.execute("UPDATE returns SET created_time = created_time - interval '8 days'")
    await bring(shop, order.order_id)
    answer = await signals(shop, customer_id="ada")
    assert (answer.return_count, named(answer)) == (1, [])


async def test_a_rate_without_proofs_is_told_of_by_customer_and_by_actor(shop: Shop) -> None:
    order = await of_ada(shop, 1)
    await bring(shop, order.order_id)
    await bring_blind(shop, blind_line())
    assert named(await signals(shop, customer_id="ada")) == []
    await bring_blind(shop, blind_line(), customer_id="ada")
    kinds = named(await signals(shop, customer_id="ada"))
    assert ("RECEIPTLESS_RATE", 66, 50) in kinds
    answer = await signals(shop, actor=CALLER.actor)
    assert (answer.return_count, answer.receiptless_count) == (3, 2)
    assert named(answer) == [("RECEIPTLESS_RATE", 66, 50)]


async def test_what_a_manager_let_pass_is_counted(shop: Shop) -> None:
    order = await of_ada(shop, 3)
    await bring(shop, order.order_id)
    await age(shop, order.order_id, days=31)
    await bring(shop, order.order_id, override=MANAGER)
    announced = await announce(shop, order.order_id, {1: 1}, override=MANAGER)
    await receive(shop, announced, units())
    for by in ({"customer_id": "ada"}, {"actor": CALLER.actor}):
        answer = await signals(shop, **by)
        assert (answer.return_count, answer.overridden_count) == (3, 2)


async def test_nobody_known_is_nobody_s_signal(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 4}, 796)
    for _ in range(4):
        await bring(shop, order.order_id, units())
    assert await shop.fetch("SELECT FROM return_signals") == []
    assert (await signals(shop, customer_id="nobody")).return_count == 0


async def test_signals_go_on_in_pages(shop: Shop) -> None:
    order = await of_ada(shop, 5)
    for _ in range(5):
        await bring(shop, order.order_id)
    first = await signals(shop, customer_id="ada", page_size=2)
    rest = await signals(shop, customer_id="ada", page_size=2, page_token=first.next_page_token)
    assert [value for _, value, _ in (*named(first), *named(rest))] == [5, 4, 3]
    assert rest.next_page_token == ""


@pytest.mark.parametrize("by", [{}, {"customer_id": "ada", "actor": "bob"}])
async def test_one_of_them_is_asked_for(shop: Shop, by: dict[str, str]) -> None:
    request = pb.GetReturnSignalsRequest(**by)
    assert (await refused(desk(shop).get_return_signals(request, CALLER))).reason == "INVALID_REQUEST"
