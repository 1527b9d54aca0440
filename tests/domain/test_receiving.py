"""Advance notices as a table, and what their lines say of what is still to come."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.receiving import (
    TRANSITIONS,
    NoticeLine,
    NoticeState,
    NoticeStep,
    announce,
    check_step,
    receive,
    state_after,
)
from onhand.domain.stock_work_errors import AdvanceNoticeExceeded, IllegalStep

LEGAL = {
    (NoticeState.EXPECTED, NoticeStep.UPDATE),
    (NoticeState.EXPECTED, NoticeStep.CANCEL),
    (NoticeState.EXPECTED, NoticeStep.RECEIVE),
    (NoticeState.EXPECTED, NoticeStep.CLOSE),
    (NoticeState.RECEIVING, NoticeStep.UPDATE),
    (NoticeState.RECEIVING, NoticeStep.RECEIVE),
    (NoticeState.RECEIVING, NoticeStep.CLOSE),
}
ALL = sorted(product(NoticeState, NoticeStep), key=str)


@pytest.mark.parametrize(("state", "step"), ALL, ids=lambda value: value.value)
def test_a_step_is_possible_exactly_where_the_table_says(state: NoticeState, step: NoticeStep) -> None:
    if (state, step) in LEGAL:
        check_step("advance_notice/1", state, step)
        return
    with pytest.raises(IllegalStep) as caught:
        check_step("advance_notice/1", state, step)
    assert (caught.value.state, caught.value.step) == (state.value, step.value)
    assert caught.value.legal_steps == (", ".join(s.value for s in NoticeStep if (state, s) in LEGAL) or "nothing")


@pytest.mark.parametrize(
    ("state", "step", "line", "after"),
    [
        ("EXPECTED", "UPDATE", NoticeLine("a", 5), "EXPECTED"),
        ("EXPECTED", "CANCEL", NoticeLine("a", 5), "CANCELLED"),
        ("EXPECTED", "RECEIVE", NoticeLine("a", 5, 2), "RECEIVING"),
        ("EXPECTED", "RECEIVE", NoticeLine("a", 5, 5, 5), "RECEIVED"),
        ("EXPECTED", "CLOSE", NoticeLine("a", 5), "CLOSED"),
        ("RECEIVING", "UPDATE", NoticeLine("a", 5, 2), "RECEIVING"),
        ("RECEIVING", "UPDATE", NoticeLine("a", 2, 2), "RECEIVED"),
        ("RECEIVING", "RECEIVE", NoticeLine("a", 5, 4), "RECEIVING"),
        ("RECEIVING", "RECEIVE", NoticeLine("a", 5, 6), "RECEIVED"),
        ("RECEIVING", "CLOSE", NoticeLine("a", 5, 4), "CLOSED"),
    ],
)
def test_where_a_step_leads_follows_from_the_lines(state: str, step: str, line: NoticeLine, after: str) -> None:
    assert state_after(NoticeState(state), NoticeStep(step), [line]) is NoticeState(after)


def test_every_row_of_the_table_is_reached() -> None:
    assert set(TRANSITIONS) == LEGAL


@given(st.integers(0, 20), st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=8))
def test_what_came_and_what_is_to_come_is_what_was_announced_and_more(
    expected: int, boxes: list[tuple[int, int]]
) -> None:
    line = NoticeLine("a", expected)
    for good, damaged in boxes:
        if good + damaged > line.to_come:
            with pytest.raises(AdvanceNoticeExceeded):
                receive("1", line, good, damaged, accepts_more=False)
        line = receive("1", line, good, damaged, accepts_more=True)
    assert line.received == sum(map(sum, boxes))
    assert line.damaged == sum(damaged for _, damaged in boxes)
    assert line.received + line.to_come == line.expected + line.over
    assert 0 in (line.to_come, line.over)


def test_a_new_announcement_keeps_what_arrived() -> None:
    lines = {n.sku: n for n in (NoticeLine("a", 5, 2, 1), NoticeLine("b", 3), NoticeLine("c", 4, 4))}
    after = announce(lines, {"a": 1, "d": 7})
    assert after == {"a": NoticeLine("a", 1, 2, 1), "c": NoticeLine("c", 0, 4), "d": NoticeLine("d", 7)}
