"""Transfers as a table: every legal step leads on, every other is refused, and no unit is in two places or in none."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.errors import TransferExceeded
from onhand.domain.stock_work_errors import IllegalStep
from onhand.domain.transfer import (
    TRANSITIONS,
    TransferLine,
    TransferState,
    TransferStep,
    arrive,
    check_step,
    give_up,
    state_after,
)

LEGAL = {
    (TransferState.REQUESTED, TransferStep.DISPATCH),
    (TransferState.REQUESTED, TransferStep.CANCEL),
    (TransferState.IN_TRANSIT, TransferStep.RECEIVE),
    (TransferState.IN_TRANSIT, TransferStep.CLOSE),
    (TransferState.RECEIVED, TransferStep.RECEIVE),
    (TransferState.CLOSED, TransferStep.RECEIVE),
}
ALL = sorted(product(TransferState, TransferStep), key=str)


@pytest.mark.parametrize(("state", "step"), ALL, ids=lambda value: value.value)
def test_a_step_is_possible_exactly_where_the_table_says(state: TransferState, step: TransferStep) -> None:
    if (state, step) in LEGAL:
        check_step("transfer/1", state, step)
        return
    with pytest.raises(IllegalStep) as caught:
        check_step("transfer/1", state, step)
    told = caught.value.metadata()
    legal = [s.value for s in TransferStep if (state, s) in LEGAL]
    assert told == {
        "document": "transfer/1",
        "state": state.value,
        "step": step.value,
        "legal_steps": ", ".join(legal) or "nothing",
    }


@pytest.mark.parametrize(
    ("state", "step", "line", "after"),
    [
        ("REQUESTED", "DISPATCH", TransferLine("a", 5, 5), "IN_TRANSIT"),
        ("REQUESTED", "CANCEL", TransferLine("a", 5), "CANCELLED"),
        ("IN_TRANSIT", "RECEIVE", TransferLine("a", 0, 5, 3), "IN_TRANSIT"),
        ("IN_TRANSIT", "RECEIVE", TransferLine("a", 0, 5, 5), "RECEIVED"),
        ("IN_TRANSIT", "RECEIVE", TransferLine("a", 0, 5, 6, 1), "RECEIVED"),
        ("IN_TRANSIT", "CLOSE", TransferLine("a", 0, 5, 3, lost=2), "CLOSED"),
        ("IN_TRANSIT", "CLOSE", TransferLine("a", 0, 5, 3, returned=2), "CLOSED"),
        ("RECEIVED", "RECEIVE", TransferLine("a", 0, 5, 7, 2), "RECEIVED"),
        ("CLOSED", "RECEIVE", TransferLine("a", 0, 5, 4, lost=1), "CLOSED"),
        ("CLOSED", "RECEIVE", TransferLine("a", 0, 5, 5), "RECEIVED"),
    ],
)
def test_where_a_step_leads_follows_from_the_lines(state: str, step: str, line: TransferLine, after: str) -> None:
    assert state_after(TransferState(state), TransferStep(step), [line]) is TransferState(after)


def test_every_row_of_the_table_is_reached() -> None:
    assert set(TRANSITIONS) == LEGAL


def test_more_than_was_sent_is_refused_unless_somebody_accepts_it() -> None:
    line = TransferLine("a", dispatched=5, received=2, lost=1)
    assert arrive("1", line, 3, accepts_more=False).line == replace(line, received=5, lost=0)
    with pytest.raises(TransferExceeded) as caught:
        arrive("1", line, 4, accepts_more=False)
    assert (caught.value.in_transit, caught.value.received) == (3, 4)
    arrival = arrive("1", line, 4, accepts_more=True)
    assert (arrival.found, arrival.over, arrival.line) == (1, 1, replace(line, received=6, lost=0, over=1))


quantities = st.integers(1, 20)


@given(
    st.integers(0, 20),
    st.lists(
        st.one_of(st.tuples(st.just("arrive"), quantities), st.tuples(st.sampled_from(["lost", "back"]), st.just(0)))
    ),
)
def test_a_unit_is_received_lost_returned_or_on_its_way(dispatched: int, steps: list[tuple[str, int]]) -> None:
    line, arrived, found, over, lost, back = TransferLine("a", dispatched=dispatched), 0, 0, 0, 0, 0
    for what, quantity in steps:
        if what == "arrive":
            arrival = arrive("1", line, quantity, accepts_more=True)
            line, arrived = arrival.line, arrived + quantity
            found, over = found + arrival.found, over + arrival.over
        else:
            on_way = line.on_way
            line = give_up(line, is_back=what == "back")
            lost, back = lost + (what == "lost") * on_way, back + (what == "back") * on_way
        assert line.on_way >= 0
        assert line.dispatched == dispatched
        assert (line.received, line.over, line.lost, line.returned) == (arrived, over, lost - found, back)
        # What left, or was found on the way, is what came in, was lost, came back or is on its way.
        assert dispatched + over + found == arrived + lost + back + line.on_way
