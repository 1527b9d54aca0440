"""Counts as tables, and why what happens while somebody counts does not falsify them."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.counting import (
    LINE_STEPS,
    TRANSITIONS,
    CountState,
    CountStep,
    LineState,
    Since,
    check_step,
    is_within,
    state_of,
)
from onhand.domain.stock_work_errors import IllegalStep

OPEN = (CountState.COUNTING, CountState.REVIEW)


@pytest.mark.parametrize(
    ("state", "step"), sorted(product(CountState, CountStep), key=str), ids=lambda value: value.value
)
def test_a_step_is_possible_exactly_where_the_table_says(state: CountState, step: CountStep) -> None:
    assert ((state, step) in TRANSITIONS) == (state in OPEN)
    if state in OPEN:
        check_step("count/1", state, step)
        return
    with pytest.raises(IllegalStep) as caught:
        check_step("count/1", state, step)
    assert (caught.value.state, caught.value.step, caught.value.legal_steps) == (state.value, step.value, "nothing")


def test_where_a_step_leads_follows_from_the_lines() -> None:
    """Every line is taken through every step; the state that the lines then have is one that the table knows."""
    for lines in product(LineState, repeat=2):
        if LineState.DROPPED in lines:
            continue
        before = _state(lines)
        for step in CountStep:
            for n, line in enumerate(lines):
                if (
                    (before, step) in TRANSITIONS
                    and (after := LINE_STEPS.get((line, step)))
                    and step is not CountStep.CANCEL
                ):
                    changed = (*lines[:n], after, *lines[n + 1 :])
                    assert _state(changed) in TRANSITIONS[before, step], (lines, step)


def _state(lines: tuple[LineState, ...]) -> CountState:
    return state_of(has_to_count=LineState.TO_COUNT in lines, has_counted=LineState.COUNTED in lines)


def test_a_tolerance_is_of_units_or_of_hundredths() -> None:
    for counted, expected, quantity, percent, within in (
        (10, 10, 0, 0, True),
        (9, 10, 0, 0, False),
        (9, 10, 1, 0, True),
        (9, 10, 0, 10, True),
        (8, 10, 1, 19, False),
        (0, 0, 0, 0, True),
        (1, 0, 0, 100, False),
        (3, -2, 5, 0, True),
    ):
        found = is_within(counted=counted, expected=expected, tolerance_quantity=quantity, tolerance_percent=percent)
        assert found is within, (counted, expected, quantity, percent)


@given(
    st.integers(0, 30),
    st.integers(0, 30),
    st.lists(st.tuples(st.sampled_from(["sale", "receipt"]), st.integers(1, 5))),
)
def test_what_is_sold_and_received_meanwhile_falsifies_nothing(
    shelf: int, ledger: int, trade: list[tuple[str, int]]
) -> None:
    """A ledger that is wrong, a shelf that is counted at first, and a till that finds what the ledger lacks."""
    counted, recorded, moved, at_first = shelf, 0, 0, ledger
    for what, n in trade:
        if what == "receipt":
            shelf, ledger, recorded, moved = shelf + n, ledger + n, recorded + n, moved + n
        elif n <= shelf:  # nobody buys what is not there
            found = max(0, n - ledger)
            shelf, ledger, recorded, moved = shelf - n, ledger + found - n, recorded + found - n, moved - n
    since = Since(ledger, recorded, moved)
    assert since.expected == at_first
    assert since.there_now(counted) == shelf
