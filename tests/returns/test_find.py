"""Finding what may come back: by order, by receipt, by customer."""

from __future__ import annotations

import pytest

from bring import age, bring, desk, returnable, units
from onhand.ids import new_id
from onhand.v1 import returns_pb2 as pb
from shop import BREAD, CALLER, MILK, NORTH, SOUTH, Shop, cents, refused, told


@pytest.fixture
def policy() -> str:
    """Bread is sold for good."""
    return 'window_days = 30\n[final_sale]\nskus = ["bread"]'


async def test_a_receipt_says_what_may_come_back(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 3, BREAD: 1}, 847)
    await bring(shop, order.order_id)
    for found in (
        await returnable(shop, order_id=order.order_id),
        await returnable(shop, order_number=order.order_number),
        await returnable(shop, order_number=order.order_number.lower().replace("-", " ")),
    ):
        milk, bread = found
        assert (milk.sku, milk.name, milk.fulfilled_quantity, milk.returned_quantity) == (MILK, MILK, 3, 1)
        assert (milk.returnable_quantity, cents(milk.refund), list(milk.refusals)) == (2, 398, [])
        assert milk.fulfilled_time == order.placed_time
        assert milk.window_end_time.seconds - milk.fulfilled_time.seconds == 30 * 86_400
        assert (bread.line_number, list(bread.refusals)) == (2, ["FINAL_SALE"])


async def test_what_is_too_old_is_shown_with_its_refusal(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    await age(shop, order.order_id, days=31)
    (line,) = await returnable(shop, order_id=order.order_id)
    assert list(line.refusals) == ["RETURN_WINDOW_PASSED"]


async def test_what_nobody_has_or_has_brought_back_is_left_out(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1, BREAD: 1}, 449)
    await bring(shop, order.order_id)
    assert [line.sku for line in await returnable(shop, order_id=order.order_id)] == [BREAD]
    waiting = (await shop.place({NORTH: {MILK: 1}})).order
    assert await returnable(shop, order_id=waiting.order_id) == []


async def test_a_customer_without_a_receipt_has_all_orders_in_pages(shop: Shop) -> None:
    orders = [await shop.sell(place, {MILK: 1, BREAD: 1}, 449) for place in (NORTH, SOUTH, NORTH)]
    await shop.execute("UPDATE orders SET customer_id = 'ada'")
    other = await shop.sell(NORTH, {MILK: 1}, 199)
    expected = [(order.order_id, n) for order in reversed(orders) for n in (1, 2)]
    found, token = [], ""
    while True:
        request = pb.ListReturnableLinesRequest(customer_id="ada", page_size=4, page_token=token)
        page = await desk(shop).list_returnable_lines(request, CALLER)
        found += [(line.order_id, line.line_number) for line in page.lines]
        token = page.next_page_token
        if not token:
            break
    assert found == expected
    assert (other.order_id, 1) not in found


async def test_lines_of_one_order_go_on_in_pages(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1, BREAD: 1}, 449)
    first = await desk(shop).list_returnable_lines(
        pb.ListReturnableLinesRequest(order_id=order.order_id, page_size=1), CALLER
    )
    rest = await returnable(shop, order_id=order.order_id, page_size=1, page_token=first.next_page_token)
    assert [line.sku for line in (*first.lines, *rest)] == [MILK, BREAD]


async def test_what_is_not_there_is_not_found(shop: Shop) -> None:
    assert (await told(returnable(shop, order_number="AAAA-BBBB-CCCC")))[0] == "ORDER_NOT_FOUND"
    assert (await told(returnable(shop, order_id=str(new_id()))))[0] == "ORDER_NOT_FOUND"
    assert await returnable(shop, customer_id="nobody") == []


@pytest.mark.parametrize("fields", [{}, {"order_number": "A", "customer_id": "ada"}])
async def test_one_way_to_find_is_given(shop: Shop, fields: dict[str, str]) -> None:
    assert (await refused(returnable(shop, **fields))).reason == "INVALID_REQUEST"


async def test_what_is_shown_can_be_brought(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 7}, 1393)
    (line,) = await returnable(shop, order_id=order.order_id)
    returned = await bring(shop, line.order_id, units(line.returnable_quantity, number=line.line_number))
    assert returned.refund == line.refund
