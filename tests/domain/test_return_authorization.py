"""The states of announced goods: a test a row, legal and illegal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from onhand.domain.return_authorization import (
    OPEN,
    TRANSITIONS,
    AuthorizationState,
    AuthorizationStep,
    Awaited,
    after,
    check_receivable,
    inspect,
    state_at,
)
from onhand.domain.return_errors import IllegalReturnStep, ReturnAuthorizationExceeded

S, P = AuthorizationState, AuthorizationStep
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEGAL = {
    S.AUTHORIZED: {
        P.RECEIVE_PART: S.PARTIALLY_RECEIVED,
        P.RECEIVE_REST: S.RECEIVED,
        P.CANCEL: S.CANCELLED,
        P.EXPIRE: S.EXPIRED,
    },
    S.PARTIALLY_RECEIVED: {
        P.RECEIVE_PART: S.PARTIALLY_RECEIVED,
        P.RECEIVE_REST: S.RECEIVED,
        P.CANCEL: S.RECEIVED,
        P.EXPIRE: S.EXPIRED,
    },
    S.RECEIVED: {},
    S.CANCELLED: {},
    S.EXPIRED: {P.RECEIVE_LATE: S.RECEIVED},
}


@pytest.mark.parametrize(("state", "step"), list(product(S, P)), ids=lambda each: each.value)
def test_every_step_in_every_state_goes_where_the_table_says_or_nowhere(state: S, step: P) -> None:
    if step in LEGAL[state]:
        assert after(state, step, "a") is LEGAL[state][step]
        return
    with pytest.raises(IllegalReturnStep) as refused:
        after(state, step, "a")
    assert (refused.value.state, refused.value.step) == (state.value, step.value)
    legal = [each.value for each in LEGAL[state] if each is not P.EXPIRE]
    assert refused.value.legal_steps == (", ".join(legal) or "nothing")


def test_the_table_has_nothing_else() -> None:
    assert len(TRANSITIONS) == sum(map(len, LEGAL.values()))


@pytest.mark.parametrize("stored", list(S))
def test_time_ends_what_is_open_and_nothing_else(stored: S) -> None:
    assert state_at(stored, NOW + timedelta(microseconds=1), NOW) is stored
    assert state_at(stored, NOW, NOW) is (S.EXPIRED if stored in OPEN else stored)


@pytest.mark.parametrize("state", list(S))
def test_units_come_while_somebody_awaits_them_or_late(state: S) -> None:
    if state in (S.AUTHORIZED, S.PARTIALLY_RECEIVED, S.EXPIRED):
        check_receivable(state, "a")
        return
    with pytest.raises(IllegalReturnStep):
        check_receivable(state, "a")


LINES = {1: Awaited(1, "milk", 5, received=1, refused=1), 2: Awaited(2, "bread", 2)}


@pytest.mark.parametrize(
    ("state", "came", "step"),
    [
        (S.AUTHORIZED, {1: 3, 2: 2}, P.RECEIVE_REST),
        (S.AUTHORIZED, {1: 3}, P.RECEIVE_PART),
        (S.PARTIALLY_RECEIVED, {2: 1}, P.RECEIVE_PART),
        (S.EXPIRED, {2: 1}, P.RECEIVE_LATE),
        (S.EXPIRED, {1: 3, 2: 2}, P.RECEIVE_LATE),
    ],
)
def test_what_came_says_which_step_it_is(state: S, came: dict[int, int], step: P) -> None:
    assert inspect("a", state, LINES, came) is step


@pytest.mark.parametrize(("came", "awaited"), [({1: 4}, 3), ({3: 1}, 0), ({1: 1, 2: 3}, 2)])
def test_more_than_is_awaited_is_refused(came: dict[int, int], awaited: int) -> None:
    with pytest.raises(ReturnAuthorizationExceeded) as refused:
        inspect("a", S.AUTHORIZED, LINES, came)
    assert refused.value.awaited == awaited
