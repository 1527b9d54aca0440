"""Money: exponents, rounding, limits."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.errors import AmountTooLarge, CurrencyUnknown
from onhand.domain.money import AMOUNT_MINOR_MAX, EXPONENTS, checked, exponent, line_total

AMOUNTS = st.integers(0, 10**9)
PRICE_QUANTITIES = st.integers(1, 10**6)
QUANTITIES = st.integers(0, 10**6)


@pytest.mark.parametrize(("currency", "digits"), [("USD", 2), ("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4)])
def test_a_currency_has_the_digits_that_iso_4217_gives_it(currency: str, digits: int) -> None:
    assert exponent(currency) == digits


@pytest.mark.parametrize("code", ["", "usd", "US", "USDX", "XXX", "XAU", "ABC"])
def test_a_code_that_is_no_currency_is_refused(code: str) -> None:
    with pytest.raises(CurrencyUnknown) as refused:
        exponent(code)
    assert refused.value.metadata() == {"currency": code}


def test_every_currency_is_three_capital_letters_and_listed_once() -> None:
    assert len(EXPONENTS) > 150
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in EXPONENTS)


@pytest.mark.parametrize(
    ("amount_minor", "price_quantity", "quantity", "total"),
    [
        (199, 1, 3, 597),
        (263, 3785, 3785, 263),
        (1, 2, 1, 1),  # half a cent is rounded up
        (1, 3, 1, 0),
        (5, 2, 3, 8),  # 7.5
        (499, 1000, 250, 125),  # 124.75
        (0, 1, 1_000_000_000, 0),
        (100, 1, 0, 0),
    ],
)
def test_a_line_costs_its_share_of_the_price_with_half_a_unit_rounded_up(
    amount_minor: int, price_quantity: int, quantity: int, total: int
) -> None:
    assert line_total(amount_minor, price_quantity, quantity) == total


@given(AMOUNTS, PRICE_QUANTITIES, QUANTITIES)
def test_a_line_total_is_never_more_than_half_a_unit_off(amount_minor: int, price_quantity: int, quantity: int) -> None:
    exact = Fraction(amount_minor * quantity, price_quantity)
    assert -Fraction(1, 2) < line_total(amount_minor, price_quantity, quantity) - exact <= Fraction(1, 2)


@given(AMOUNTS, PRICE_QUANTITIES, QUANTITIES, QUANTITIES)
def test_more_never_costs_less(amount_minor: int, price_quantity: int, one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert line_total(amount_minor, price_quantity, less) <= line_total(amount_minor, price_quantity, more)


@given(AMOUNTS, PRICE_QUANTITIES, st.integers(0, 1000))
def test_whole_multiples_of_the_price_quantity_cost_whole_multiples_of_the_price(
    amount_minor: int, price_quantity: int, times: int
) -> None:
    assert line_total(amount_minor, price_quantity, times * price_quantity) == times * amount_minor


@given(st.lists(st.tuples(AMOUNTS, PRICE_QUANTITIES, QUANTITIES), max_size=20))
def test_a_sum_of_lines_is_off_by_half_a_unit_a_line_at_most(lines: list[tuple[int, int, int]]) -> None:
    exact = sum((Fraction(a * q, p) for a, p, q in lines), Fraction(0))
    assert abs(sum(line_total(*line) for line in lines) - exact) <= Fraction(len(lines), 2)


def test_an_amount_beyond_the_limit_is_refused() -> None:
    assert checked(AMOUNT_MINOR_MAX) == AMOUNT_MINOR_MAX
    with pytest.raises(AmountTooLarge) as refused:
        line_total(AMOUNT_MINOR_MAX, 1, 2)
    assert refused.value.reason == "AMOUNT_TOO_LARGE"
    assert refused.value.amount_minor == 2 * AMOUNT_MINOR_MAX


@pytest.mark.parametrize("price", [(-1, 1, 1), (1, 0, 1), (1, -1, 1), (1, 1, -1)])
def test_what_is_no_price_or_quantity_is_a_programming_error(price: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        line_total(*price)
