"""Gift cards: a balance that pays in the order's own transaction, never falls below zero, and is kept by a hash."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from onhand.v1 import order_pb2 as orders
from onhand.v1 import payment_pb2 as pb
from purse import back, issue, operations, payments, purse, sale, sold, state, tender
from shelf import request_id
from shop import CALLER, MILK, NORTH, SOUTH, Shop, cents, dollars, told

CODE = "K7QF-3M9D-X2PA-88HT"


async def balance(shop: Shop, card_id: str) -> int:
    """What is on it, in cents."""
    return cents(
        (await purse(shop).get_gift_card(pb.GetGiftCardRequest(gift_card_id=card_id), CALLER)).gift_card.balance
    )


async def test_a_card_is_found_by_its_id_and_by_its_code_however_it_is_written(shop: Shop) -> None:
    card = await issue(shop, CODE, 5000)
    assert (cents(card.balance), card.last_characters) == (5000, "88HT")
    for field in ({"gift_card_id": card.gift_card_id}, {"code": CODE}, {"code": "k7qf3m9d x2pa88ht"}):
        assert (await purse(shop).get_gift_card(pb.GetGiftCardRequest(**field), CALLER)).gift_card == card


async def test_nothing_that_is_stored_spends_a_card(shop: Shop) -> None:
    card = await issue(shop, CODE, 5000)
    await sold(shop, 1, tender("GIFT_CARD", 199, gift_card_code=CODE))
    tables = await shop.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    for (table,) in tables:
        for (text,) in await shop.fetch(f"SELECT to_jsonb(t)::text FROM {table} t"):
            assert "K7QF" not in text
            assert CODE.encode().hex() not in text
            assert CODE.replace("-", "").encode().hex() not in text
    assert CODE not in str(card)


async def test_a_code_is_given_out_once(shop: Shop) -> None:
    await issue(shop, CODE, 5000)
    assert await told(issue(shop, CODE.lower(), 1)) == ("GIFT_CARD_EXISTS", {"last_characters": "88HT"})


@pytest.mark.parametrize("code", ["SHORT", "-" * 40, "A" * 65, "ÄÖÜ" * 10])
async def test_a_code_that_could_be_guessed_is_refused(shop: Shop, code: str) -> None:
    assert (await told(issue(shop, code, 5000)))[0] == "INVALID_REQUEST"


async def test_a_repeat_issues_once(shop: Shop) -> None:
    request = pb.IssueGiftCardRequest(request_id=request_id(), code=CODE, amount=dollars(700))
    first, again = [await purse(shop).issue_gift_card(request, CALLER) for _ in range(2)]
    assert first == again
    assert await balance(shop, first.gift_card.gift_card_id) == 700


async def test_money_is_added_in_the_cards_own_currency_only(shop: Shop) -> None:
    card = await issue(shop, CODE, 100)
    request = pb.TopUpGiftCardRequest(request_id=request_id(), gift_card_id=card.gift_card_id, amount=dollars(50))
    assert cents((await purse(shop).top_up_gift_card(request, CALLER)).gift_card.balance) == 150
    assert cents((await purse(shop).top_up_gift_card(request, CALLER)).gift_card.balance) == 150
    request = pb.TopUpGiftCardRequest(request_id=request_id(), gift_card_id=card.gift_card_id)
    request.amount.currency_code, request.amount.units = "EUR", 1
    assert (await told(purse(shop).top_up_gift_card(request, CALLER)))[0] == "CURRENCY_MISMATCH"


async def test_a_sale_is_paid_by_card_and_the_rest_in_cash(shop: Shop) -> None:
    card = await issue(shop, CODE, 300)
    order = await sold(shop, 2, tender("GIFT_CARD", 300, gift_card_code=CODE), tender("CASH", 98))
    assert await balance(shop, card.gift_card_id) == 0
    first, second = await payments(shop, order.order_id)
    assert (state(first), first.gift_card_id, first.provider) == (
        "CAPTURED",
        card.gift_card_id,
        pb.PAYMENT_PROVIDER_GIFT_CARD,
    )
    assert operations(first) == [("AUTHORIZE", "SUCCEEDED", 300), ("CAPTURE", "SUCCEEDED", 300)]
    assert operations(second) == []
    assert all(not t.gift_card_code for t in order.tenders)
    assert await shop.level(NORTH, MILK) != await shop.level(SOUTH, MILK)


async def test_an_order_is_paid_by_card_and_a_repeat_of_it_spends_nothing(shop: Shop) -> None:
    card = await issue(shop, CODE, 1000)
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    request = shop.place_request(
        reservation_id,
        {NORTH: orders.FULFILLMENT_KIND_PICKUP},
        398,
        tenders=[tender("GIFT_CARD", 398, gift_card_code=CODE)],
    )
    first, again = [await shop.orders.place_order(request, CALLER) for _ in range(2)]
    assert first == again
    assert await balance(shop, card.gift_card_id) == 602


async def test_what_comes_back_is_on_the_card_again_before_the_drawer_opens(shop: Shop) -> None:
    card = await issue(shop, CODE, 300)
    order = await sold(shop, 2, tender("CASH", 98), tender("GIFT_CARD", 300, gift_card_code=CODE))
    await shop.take_back(order.order_id, SOUTH, back(1))
    assert await balance(shop, card.gift_card_id) == 199
    await shop.take_back(order.order_id, SOUTH, back(1))
    assert await balance(shop, card.gift_card_id) == 300
    cash, paid = await payments(shop, order.order_id)
    assert (cents(cash.refunded), state(paid)) == (98, "REFUNDED")
    moved = (
        await purse(shop).list_gift_card_movements(
            pb.ListGiftCardMovementsRequest(gift_card_id=card.gift_card_id), CALLER
        )
    ).movements
    assert [(pb.GiftCardMovementKind.Name(m.kind)[24:], m.amount.units) for m in moved] == [
        ("REFUND", 1), ("REFUND", 1), ("REDEEM", -3), ("ISSUE", 3),
    ]  # fmt: skip


async def test_a_card_that_has_too_little_pays_nothing_and_the_order_is_not_placed(shop: Shop) -> None:
    card = await issue(shop, CODE, 198)
    before = await shop.level(NORTH, MILK)
    assert await told(sold(shop, 1, tender("GIFT_CARD", 199, gift_card_code=CODE))) == (
        "GIFT_CARD_SHORT",
        {"gift_card_id": card.gift_card_id, "wanted_minor": "199", "balance_minor": "198", "currency": "USD"},
    )
    twice = [tender("GIFT_CARD", 100, gift_card_code=CODE), tender("GIFT_CARD", 99, gift_card_code=CODE)]
    assert (await told(sold(shop, 1, *twice)))[0] == "GIFT_CARD_SHORT"
    assert await shop.level(NORTH, MILK) == before
    assert await balance(shop, card.gift_card_id) == 198


async def test_a_code_that_nobody_issued_pays_nothing(shop: Shop) -> None:
    assert (await told(sold(shop, 1, tender("GIFT_CARD", 199, gift_card_code=CODE))))[0] == "GIFT_CARD_NOT_FOUND"
    assert (await told(sold(shop, 1, tender("CARD", 199, gift_card_code=CODE))))[0] == "INVALID_REQUEST"


async def test_one_card_spent_at_many_tills_at_once_is_never_overdrawn(shop: Shop) -> None:
    card = await issue(shop, CODE, 3 * 199)
    asked = [shop.orders.sell(sale(1, tender("GIFT_CARD", 199, gift_card_code=CODE)), CALLER) for _ in range(6)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(outcome, orders.SellResponse) for outcome in outcomes) == 3
    assert await balance(shop, card.gift_card_id) == 0


async def test_a_card_that_does_not_exist_is_refused(shop: Shop) -> None:
    missing = "00000000-0000-0000-0000-000000000000"
    top_up = pb.TopUpGiftCardRequest(request_id=request_id(), gift_card_id=missing, amount=dollars(1))
    for call in (
        purse(shop).get_gift_card(pb.GetGiftCardRequest(gift_card_id=missing), CALLER),
        purse(shop).get_gift_card(pb.GetGiftCardRequest(code=CODE), CALLER),
        purse(shop).top_up_gift_card(top_up, CALLER),
        purse(shop).list_gift_card_movements(pb.ListGiftCardMovementsRequest(gift_card_id=missing), CALLER),
    ):
        assert (await told(call))[0] == "GIFT_CARD_NOT_FOUND"
    assert (await told(purse(shop).get_gift_card(pb.GetGiftCardRequest(), CALLER)))[0] == "INVALID_REQUEST"


async def test_the_database_keeps_balances_above_zero_and_movements_for_ever(shop: Shop) -> None:
    await issue(shop, CODE, 5)
    for damage in ("UPDATE gift_cards SET balance_minor = -1", "DELETE FROM gift_card_movements"):
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.RestrictViolationError)):
            await shop.execute(damage)
