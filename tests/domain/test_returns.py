"""Refund arithmetic: pro rata, exact, never more than was paid."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.errors import ReturnExceeded
from onhand.domain.returns import check_returnable, refund


def test_the_thirds_of_a_euro_are_a_euro() -> None:
    refunds = [refund(total_minor=100, quantity=3, given_back=done, now=1) for done in range(3)]
    assert refunds == [33, 34, 33]


def test_a_free_line_gives_nothing_back() -> None:
    assert refund(total_minor=0, quantity=5, given_back=2, now=3) == 0


def test_units_worth_less_than_a_cent_give_back_whole_cents_in_time() -> None:
    assert sum(refund(total_minor=263, quantity=3785, given_back=n, now=1) for n in range(3785)) == 263


@pytest.mark.parametrize(("given_back", "now"), [(0, 4), (3, 1), (-1, 1), (1, -1)])
def test_more_than_the_line_has_is_no_question_to_ask(given_back: int, now: int) -> None:
    with pytest.raises(ValueError):
        refund(total_minor=100, quantity=3, given_back=given_back, now=now)


@given(
    total=st.integers(0, 10**15), steps=st.lists(st.integers(1, 10**6), min_size=1, max_size=30), rest=st.integers(0, 5)
)
def test_refunds_follow_pro_rata_within_half_a_unit_and_add_up_to_what_was_paid(
    total: int, steps: list[int], rest: int
) -> None:
    quantity = sum(steps) + rest
    given_back = paid_back = 0
    for now in steps:
        amount = refund(total_minor=total, quantity=quantity, given_back=given_back, now=now)
        assert amount >= 0
        given_back += now
        paid_back += amount
        assert abs(paid_back - Fraction(total * given_back, quantity)) <= Fraction(1, 2)
        assert paid_back <= total
    if rest == 0:
        assert paid_back == total


def test_only_what_the_customer_has_can_come_back() -> None:
    facts = {"order_id": "o", "line_number": 1, "sku": "milk", "bought": 5, "fulfilled": 4, "returned": 1}
    check_returnable(**facts, now=3)  # type: ignore[arg-type]
    with pytest.raises(ReturnExceeded) as refused:
        check_returnable(**facts, now=4)  # type: ignore[arg-type]
    assert (refused.value.requested, refused.value.bought, refused.value.returned) == (4, 5, 1)
