"""The states of an offered substitute: a test a row, legal and illegal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from onhand.domain.substitute_offer import TRANSITIONS, OfferState, OfferStep, after, state_at
from onhand.domain.work_errors import SubstituteOfferClosed

S, P = OfferState, OfferStep
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEGAL = {P.ACCEPT: S.ACCEPTED, P.DECLINE: S.DECLINED, P.WITHDRAW: S.WITHDRAWN, P.EXPIRE: S.EXPIRED}


@pytest.mark.parametrize(("state", "step"), list(product(S, P)), ids=lambda each: each.value)
def test_every_step_goes_where_the_table_says_from_an_offer_that_stands_and_from_no_other(state: S, step: P) -> None:
    if state is S.OFFERED:
        assert after(state, step, "o") is LEGAL[step]
        return
    with pytest.raises(SubstituteOfferClosed) as refused:
        after(state, step, "o")
    assert (refused.value.state, refused.value.step) == (state.value, step.value)


def test_the_table_has_nothing_else() -> None:
    assert len(TRANSITIONS) == len(LEGAL)


@pytest.mark.parametrize("stored", list(S))
def test_time_ends_what_stands_and_nothing_else(stored: S) -> None:
    assert state_at(stored, NOW + timedelta(microseconds=1), NOW) is stored
    assert state_at(stored, NOW, NOW) is (S.EXPIRED if stored is S.OFFERED else stored)
