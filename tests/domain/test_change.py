"""What other quantities make of an order, before it is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.change import Addition, OrderedLine, freed, plan_quantities
from onhand.domain.errors import CancelExceeded, OrderLineNotFound
from onhand.domain.order import Cancellation, FulfillmentPart
from onhand.domain.order import FulfillmentState as S
from onhand.domain.work_errors import LineNotToRaise

LINES = {1: OrderedLine("milk", 6, 1), 2: OrderedLine("bread", 2, 0)}
PARTS = [
    FulfillmentPart("a", S.ACCEPTED, 1, "milk", 2),
    FulfillmentPart("b", S.REQUESTED, 1, "milk", 3, 1),
    FulfillmentPart("c", S.PICKED, 2, "bread", 2),
]


def test_what_was_cancelled_does_not_count_as_wanted() -> None:
    assert plan_quantities("o", LINES, PARTS, [(1, 5), (2, 2)]).fewer == {}
    assert plan_quantities("o", LINES, PARTS, [(1, 4)]).cancellations == [Cancellation("b", 1, "milk", 1)]


def test_more_is_brought_by_the_work_that_is_least_far() -> None:
    assert plan_quantities("o", LINES, PARTS, [(1, 7)]).additions == [Addition(1, "b", "milk", 2)]


def test_what_nobody_can_still_add_to_is_refused() -> None:
    with pytest.raises(LineNotToRaise):
        plan_quantities("o", LINES, PARTS, [(2, 3)])
    with pytest.raises(OrderLineNotFound):
        plan_quantities("o", LINES, PARTS, [(3, 3)])
    with pytest.raises(CancelExceeded):
        plan_quantities("o", {1: OrderedLine("milk", 9, 0)}, PARTS, [(1, 3)])


@given(st.integers(0, 5))
def test_what_is_freed_is_what_is_cancelled_and_there(quantity: int) -> None:
    plan = plan_quantities("o", LINES, PARTS, [(1, quantity)])
    units = freed(plan.cancellations, PARTS, {"a": "north", "b": "south"})
    assert sum(c.quantity for c in plan.cancellations) == 5 - quantity
    assert sum(units.values()) == max(0, 5 - quantity - 1)
