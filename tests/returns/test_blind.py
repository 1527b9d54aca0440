"""Goods without a proof: priced low, limited by customer and day, paid once."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from bring import AVAILABLE, DAMAGED, MANAGER, age, blind, blind_line, bring_blind, desk
from onhand.domain.stock import Level
from onhand.v1 import order_pb2 as orders
from onhand.v1 import payment_pb2
from onhand.v1 import returns_pb2 as pb
from purse import issue, purse
from shelf import set_price
from shop import BREAD, CALLER, FUEL, MILK, MILK_BARCODE, NORTH, SOUTH, Shop, cents, dollars, refused, told

CODE = "K7QF-3M9D-X2PA-88HT"
CASH = orders.TENDER_KIND_CASH


@pytest.fixture
def policy() -> str:
    """Bread is sold for good; three returns and ten dollars a day."""
    return """
        [final_sale]
        skus = ["bread"]
        [blind]
        returns_per_day_max = 3
        amount_minor_max = 800
        amount_per_day_minor_max = 1000
        price_days = 7
    """


async def balance(shop: Shop, gift_card_id: str) -> int:
    """What is on a card, in cents."""
    request = payment_pb2.GetGiftCardRequest(gift_card_id=gift_card_id)
    return cents((await purse(shop).get_gift_card(request, CALLER)).gift_card.balance)


async def sold_for(shop: Shop, amount: int, quantity: int = 1) -> orders.Order:
    """Milk that a till charged so much for."""
    request = orders.SellRequest(
        request_id=f"sold-for-{amount}-{quantity}",
        location_id=NORTH,
        lines=[orders.SaleLine(sku=MILK, quantity=quantity, total=dollars(amount))],
        currency_code="USD",
        tenders=[orders.Tender(kind=CASH, amount=dollars(amount))] if amount else [],
    )
    return (await shop.orders.sell(request, CALLER)).order


async def test_goods_without_a_proof_are_on_hand_and_paid_onto_a_new_card(shop: Shop) -> None:
    answer = await bring_blind(shop, blind_line(2), gift_card_code=CODE)
    returned = answer.returned
    assert (returned.kind, returned.order_id, returned.order_number) == (orders.RETURN_KIND_BLIND, "", "")
    assert (returned.customer_id, cents(returned.refund), returned.location_id) == ("ada", 398, SOUTH)
    assert await shop.level(SOUTH, MILK) == Level(available=12)
    assert await shop.atp(SOUTH, MILK) == 12
    assert await balance(shop, answer.gift_card_id) == 398
    found = await shop.orders.list_returns(orders.ListReturnsRequest(customer_id="ada"), CALLER)
    assert list(found.returns) == [returned]


async def test_or_onto_a_card_that_is_there(shop: Shop) -> None:
    card = await issue(shop, CODE, 100)
    answer = await bring_blind(shop, blind_line(), gift_card_id=card.gift_card_id)
    assert (answer.gift_card_id, await balance(shop, card.gift_card_id)) == (card.gift_card_id, 299)


async def test_the_lowest_recent_price_is_given_back(shop: Shop) -> None:
    await sold_for(shop, 150)
    assert cents((await bring_blind(shop, blind_line())).returned.refund) == 150
    # Three for less a piece, and what was given away, which nobody paid.
    await sold_for(shop, 400, 3)
    await sold_for(shop, 0)
    assert cents((await bring_blind(shop, blind_line())).returned.refund) == 133
    await set_price(shop.catalog, MILK, dollars(100))
    assert cents((await bring_blind(shop, blind_line())).returned.refund) == 100


async def test_an_offer_counts_as_long_as_it_is_recent_that_it_ended(shop: Shop) -> None:
    for cents_asked in (120, 199):  # nobody bought at 120
        await set_price(shop.catalog, MILK, dollars(cents_asked))
    assert cents((await bring_blind(shop, blind_line())).returned.refund) == 120
    # 60 was asked until 9 days ago, 110 from then on until a moment ago: a week ago it was 110.
    await shop.execute("ALTER TABLE price_changes DISABLE TRIGGER price_changes_append_only")
    await shop.execute("DELETE FROM price_changes WHERE sku = 'milk'")
    await shop.execute("ALTER TABLE price_changes ENABLE TRIGGER price_changes_append_only")
    for cents_asked, days in ((60, 20), (110, 9), (199, 0)):
        await shop.execute(
            "INSERT INTO price_changes (sku, currency, amount_minor, price_quantity, set_time)"
            " VALUES ('milk', 'USD', $1, 1, now() - make_interval(days => $2))",
            cents_asked,
            days,
        )
    assert cents((await bring_blind(shop, blind_line())).returned.refund) == 110
    with pytest.raises(asyncpg.RestrictViolationError):
        await shop.execute("UPDATE price_changes SET amount_minor = 1")


async def test_an_old_sale_is_no_recent_price(shop: Shop) -> None:
    order = await sold_for(shop, 50)
    await age(shop, order.order_id, days=8)
    assert cents((await bring_blind(shop, blind_line())).returned.refund) == 199


async def test_each_condition_is_a_line(shop: Shop) -> None:
    lines = [
        pb.BlindLine(barcode=MILK_BARCODE, quantity=1, disposition=AVAILABLE),
        blind_line(1, disposition=DAMAGED, reason="leaks"),
    ]
    returned = (await bring_blind(shop, *lines)).returned
    assert [(line.line_number, line.sku, line.disposition, line.reason) for line in returned.lines] == [
        (1, MILK, AVAILABLE, ""),
        (2, MILK, DAMAGED, "leaks"),
    ]
    assert await shop.level(SOUTH, MILK) == Level(available=11, damaged=1)


async def test_a_location_that_never_held_it_has_it_then(shop: Shop) -> None:
    await shop.add_location("new")
    await bring_blind(shop, blind_line(), location_id="new")
    assert await shop.level("new", MILK) == Level(available=1)


@pytest.mark.parametrize(
    ("before", "quantity", "limit", "value", "allowed"),
    [
        ([], 5, "minor units of a return", 995, 800),
        ([4], 2, "minor units of a day", 1194, 1000),
        ([1, 1, 1], 1, "returns of a day", 4, 3),
    ],
)
async def test_one_customer_brings_so_much_and_no_more(
    shop: Shop, before: list[int], quantity: int, limit: str, value: int, allowed: int
) -> None:
    for units in before:
        await bring_blind(shop, blind_line(units))
    expected = {"limit": limit, "value": str(value), "allowed": str(allowed), "customer_id": "ada"}
    assert await told(bring_blind(shop, blind_line(quantity), location_id=NORTH)) == ("BLIND_RETURN_LIMIT", expected)
    await bring_blind(shop, blind_line(1), customer_id="bob")
    answer = await bring_blind(shop, blind_line(quantity), override=MANAGER)
    assert list(answer.returned.override.overridden) == ["BLIND_RETURN_LIMIT"]


async def test_a_refused_return_counts_for_nothing(shop: Shop) -> None:
    for _ in range(3):
        await refused(bring_blind(shop, blind_line(5)))
    await bring_blind(shop, blind_line())
    assert await shop.fetch("SELECT returns, refund_minor FROM blind_return_days") == [(1, 199)]


async def test_two_counters_at_once_do_not_get_around_the_limit(shop: Shop) -> None:
    calls = [bring_blind(shop, blind_line(), location_id=place) for place in (NORTH, SOUTH) * 4]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in results) == 3
    assert {getattr(e, "reason", e) for e in results if isinstance(e, BaseException)} == {"BLIND_RETURN_LIMIT"}


async def test_a_new_day_is_a_new_limit(shop: Shop) -> None:
    for _ in range(3):
        await bring_blind(shop, blind_line())
    await shop.execute("UPDATE blind_return_days SET day = day - 1")
    await shop.execute("UPDATE blind_returns SET day = day - 1")
    await bring_blind(shop, blind_line())


async def test_cash_is_paid_where_the_policy_or_a_manager_says_so(shop: Shop) -> None:
    request = blind(blind_line(), refund_kind=CASH, gift_card_code="")
    reason, values = await told(desk(shop).create_blind_return(request, CALLER))
    assert (reason, values) == (
        "BLIND_REFUND_NOT_ALLOWED",
        {"refund_kind": "CASH", "allowed_kinds": "STORE_CREDIT"},
    )
    request.override.CopyFrom(MANAGER)
    answer = await desk(shop).create_blind_return(request, CALLER)
    assert (answer.refund_kind, answer.gift_card_id) == (CASH, "")


async def test_what_is_sold_for_good_needs_a_manager(shop: Shop) -> None:
    assert (await refused(bring_blind(shop, blind_line(sku=BREAD)))).reason == "FINAL_SALE"
    await bring_blind(shop, blind_line(sku=BREAD), override=MANAGER)


async def test_a_repeat_pays_once(shop: Shop) -> None:
    request = blind(blind_line())
    first, again = [await desk(shop).create_blind_return(request, CALLER) for _ in range(2)]
    assert first == again
    assert await balance(shop, first.gift_card_id) == 199


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"location_id": "nowhere"}, "LOCATION_NOT_FOUND"),
        ({"lines": [blind_line(sku="none")]}, "SKU_NOT_FOUND"),
        ({"lines": [blind_line(sku=FUEL)], "currency_code": "EUR"}, "PRICE_NOT_FOUND"),
        ({"lines": [pb.BlindLine(barcode="96385074", quantity=1, disposition=AVAILABLE)]}, "BARCODE_NOT_FOUND"),
        ({"lines": [pb.BlindLine(quantity=1, disposition=AVAILABLE)]}, "INVALID_REQUEST"),
        ({"lines": [pb.BlindLine(sku=MILK, quantity=1)]}, "INVALID_REQUEST"),
        ({"currency_code": "ZZZ"}, "CURRENCY_UNKNOWN"),
        ({"refund_kind": orders.TENDER_KIND_CARD}, "INVALID_REQUEST"),
        ({"refund_kind": CASH}, "INVALID_REQUEST"),
        ({"gift_card_code": ""}, "INVALID_REQUEST"),
        ({"gift_card_code": "", "gift_card_id": "00000000-0000-0000-0000-000000000000"}, "GIFT_CARD_NOT_FOUND"),
    ],
)
async def test_what_can_not_be_meant_is_refused(shop: Shop, fields: dict[str, Any], reason: str) -> None:
    request = blind(*fields.pop("lines", [blind_line()]), **fields)
    assert (await refused(desk(shop).create_blind_return(request, CALLER))).reason == reason


async def test_a_code_is_given_out_once(shop: Shop) -> None:
    await bring_blind(shop, blind_line(), gift_card_code=CODE)
    assert (await refused(bring_blind(shop, blind_line(), gift_card_code=CODE))).reason == "GIFT_CARD_EXISTS"


async def test_goods_that_are_worth_nothing_are_taken_back_for_nothing(shop: Shop) -> None:
    answer = await bring_blind(shop, blind_line(1, sku=FUEL))
    assert (cents(answer.returned.refund), answer.gift_card_id) == (0, "")
