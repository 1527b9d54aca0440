"""What pays for other goods: money that is there, taken where it would be given back last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.exchange import carryable, plan_carry
from onhand.domain.payment import GIVE_BACK_ORDER, Payment, Provider, Tendered
from onhand.domain.return_errors import ExchangeNotCaptured


def tendered(number: int, kind: str, amount: int, captured: int | None = None, **fields: int) -> Tendered:
    """A tender of which so much was captured, all of it unless told."""
    payment = Payment(amount, amount, amount if captured is None else captured)
    return Tendered(number, kind, Provider.TILL, payment, **fields)


def test_cash_pays_before_the_card_and_a_gift_card_last() -> None:
    tenders = [tendered(1, "GIFT_CARD", 100), tendered(2, "CASH", 50), tendered(3, "CARD", 70)]
    plan = plan_carry("o", "USD", tenders, 150)
    assert [(tender.kind, part) for tender, part in plan] == [("CASH", 50), ("CARD", 70), ("GIFT_CARD", 30)]


def test_what_was_asked_back_or_is_not_captured_pays_nothing() -> None:
    assert carryable(tendered(1, "CARD", 100, captured=0)) == 0
    assert carryable(tendered(1, "CARD", 100, captured=60)) == 60
    assert carryable(tendered(1, "CARD", 100, given_back_minor=30)) == 70
    assert carryable(tendered(1, "CARD", 100, captured=60, given_back_minor=40, voiding_minor=40)) == 60
    with pytest.raises(ExchangeNotCaptured) as refused:
        plan_carry("o", "USD", [tendered(1, "CARD", 100, captured=60)], 61)
    assert (refused.value.wanted_minor, refused.value.captured_minor) == (61, 60)


@given(
    st.lists(
        st.tuples(st.sampled_from(GIVE_BACK_ORDER), st.integers(1, 1000), st.integers(0, 1000)), min_size=1, max_size=6
    ),
    st.data(),
)
def test_all_of_it_is_found_and_no_tender_gives_more_than_it_has(
    given_tenders: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    tenders = [
        tendered(n, kind, amount, given_back_minor=min(back, amount))
        for n, (kind, amount, back) in enumerate(given_tenders, 1)
    ]
    there = sum(map(carryable, tenders))
    wanted = data.draw(st.integers(0, there))
    plan = plan_carry("o", "USD", tenders, wanted)
    assert sum(part for _, part in plan) == wanted
    assert all(0 < part <= carryable(tender) for tender, part in plan)
    assert len({tender.tender_number for tender, _ in plan}) == len(plan)
