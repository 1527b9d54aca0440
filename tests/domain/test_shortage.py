"""Whose promises goods in hand broke, and what is to be done about it."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.errors import ShortfallNotToDecide
from onhand.domain.shortage import (
    Promise,
    ShortfallCause,
    ShortfallStep,
    break_promises,
    broken_reservations,
    decide_to_wait,
    missing_by_count,
)

SALE, COUNT = ShortfallCause.SALE, ShortfallCause.COUNT


def promise(age: int, quantity: int, *, is_picked: bool = False, line: int = 1) -> Promise:
    """A promise; a greater `age` is a younger one."""
    return Promise(UUID(int=age), line, is_picked, quantity)


@pytest.mark.parametrize(
    ("overdrawn", "found", "broken"),
    [
        (0, 0, 0),  # a sale that nobody minds
        (1, 0, 1),  # two reserved, one of them sold
        (3, 1, 2),  # two reserved, three sold: the third was nobody's
        (4, 4, 0),  # nothing known, nothing reserved
    ],
)
def test_a_fact_breaks_reservations_by_what_the_ledger_knew_to_be_there(
    overdrawn: int, found: int, broken: int
) -> None:
    assert broken_reservations(overdrawn=overdrawn, found=found) == broken


def test_the_youngest_promise_breaks_first() -> None:
    old, middle, young = promise(1, 2), promise(2, 2), promise(3, 2)
    assert break_promises([middle, old, young], 3, SALE) == [(young, 2), (middle, 1)]
    first, second = promise(1, 1, line=1), promise(1, 1, line=2)
    assert break_promises([first, second], 1, SALE) == [(second, 1)]


def test_what_is_picked_is_not_on_the_shelf_for_a_sale_and_last_for_a_count() -> None:
    picked, waiting = promise(9, 2, is_picked=True), promise(1, 1)
    assert break_promises([picked, waiting], 3, SALE) == [(waiting, 1)]
    assert break_promises([picked, waiting], 3, COUNT) == [(waiting, 1), (picked, 2)]


@given(
    st.lists(st.builds(promise, st.integers(0, 5), st.integers(0, 4), is_picked=st.booleans())),
    st.integers(0, 30),
    st.randoms(use_true_random=False),
)
def test_as_many_break_as_are_gone_whoever_is_asked_first(promises: list[Promise], units: int, random: object) -> None:
    unique = list({(p.fulfillment_order_id, p.line_number): p for p in promises}.values())
    broken = break_promises(unique, units, COUNT)
    assert sum(n for _, n in broken) == min(units, sum(p.quantity for p in unique))
    assert all(0 < n <= p.quantity for p, n in broken)
    shuffled = unique.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert break_promises(shuffled, units, COUNT) == broken


@pytest.mark.parametrize(
    ("on_hand", "counted", "held", "taken"),
    [
        (10, 10, (6, 4, 0, 0), [0, 0, 0, 0]),
        (10, 12, (6, 4, 0, 0), [0, 0, 0, 0]),
        (10, 7, (6, 4, 0, 0), [3, 0, 0, 0]),
        (10, 2, (6, 2, 1, 1), [6, 2, 0, 0]),
        (10, 1, (6, 2, 1, 1), [6, 2, 1, 0]),
        (10, 0, (6, 2, 1, 1), [6, 2, 1, 1]),
    ],
)
def test_a_count_takes_what_is_missing_from_one_bucket_after_the_other(
    on_hand: int, counted: int, held: tuple[int, ...], taken: list[int]
) -> None:
    assert missing_by_count(on_hand=on_hand, counted=counted, held=held) == taken


def test_only_what_was_counted_can_be_decided() -> None:
    assert decide_to_wait("s", ShortfallCause.COUNT, ShortfallStep.CHOOSE) is ShortfallStep.WAIT
    for step in set(ShortfallStep) - {ShortfallStep.CHOOSE}:
        with pytest.raises(ShortfallNotToDecide) as refusal:
            decide_to_wait("s", ShortfallCause.COUNT, step)
        assert refusal.value.next_step == step.value
