"""Carts: what they cost, and how two become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.cart import MAX_CART_LINES, MAX_QUANTITY, CartLine, UnitPrice, merged, total, unpriced
from onhand.domain.errors import AmountTooLarge, CartFull, QuantityTooLarge

QUANTITIES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1000))


def test_the_total_is_the_sum_of_the_lines_that_have_a_price() -> None:
    lines = [
        CartLine("tea", 2, UnitPrice(450, 1)),
        CartLine("fuel", 10_000, UnitPrice(263, 3785)),
        CartLine("new", 5, None),
    ]
    assert total(lines) == 900 + 695
    assert unpriced(lines) == ["new"]


def test_an_empty_cart_costs_nothing() -> None:
    assert total([]) == 0


def test_a_total_beyond_the_limit_is_refused_although_no_line_is() -> None:
    lines = [CartLine(f"s{n}", MAX_QUANTITY, UnitPrice(999_999, 1)) for n in range(2)]
    with pytest.raises(AmountTooLarge):
        total(lines)


@given(QUANTITIES, QUANTITIES)
def test_a_merge_keeps_every_unit_of_both_carts(one: dict[str, int], other: dict[str, int]) -> None:
    result = merged("cart", one, other)
    assert result.keys() == one.keys() | other.keys()
    assert all(quantity == one.get(sku, 0) + other.get(sku, 0) for sku, quantity in result.items())


@given(QUANTITIES, QUANTITIES)
def test_a_merge_holds_the_same_either_way(one: dict[str, int], other: dict[str, int]) -> None:
    assert merged("cart", one, other) == merged("cart", other, one)


def test_a_merge_that_would_make_too_many_lines_is_refused() -> None:
    full = {f"s{n}": 1 for n in range(MAX_CART_LINES)}
    assert len(merged("cart", full, {"s0": 1})) == MAX_CART_LINES
    with pytest.raises(CartFull) as refused:
        merged("cart", full, {"one more": 1})
    assert refused.value.metadata() == {"cart_id": "cart", "lines": "201", "lines_max": "200"}


def test_a_merge_that_would_make_too_large_a_line_is_refused() -> None:
    with pytest.raises(QuantityTooLarge) as refused:
        merged("cart", {"tea": MAX_QUANTITY}, {"tea": 1})
    assert refused.value.quantity == MAX_QUANTITY + 1
