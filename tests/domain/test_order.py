"""The state machines: every step in every state, legal or not, as the table says; and what follows for the order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.errors import CancelExceeded, IllegalTransition, OrderLineNotFound
from onhand.domain.order import (
    CANCELLABLE,
    EMPTY,
    HOLDING,
    INITIAL,
    LEFT,
    ORDER_STATES,
    PHASES,
    TRANSITIONS,
    Cancellation,
    FulfillmentKind,
    FulfillmentPart,
    FulfillmentState,
    OrderState,
    Phase,
    Step,
    after,
    check_parts,
    order_state,
    plan_cancellation,
)
from onhand.domain.work_errors import FulfillmentLineExceeded

EVERY_CASE = list(itertools.product(FulfillmentKind, FulfillmentState, Step))
S = FulfillmentState


@pytest.mark.parametrize(("kind", "state", "step"), [case for case in EVERY_CASE if case in TRANSITIONS])
def test_a_step_that_the_table_names_leads_where_it_says(
    kind: FulfillmentKind, state: FulfillmentState, step: Step
) -> None:
    assert after(kind, state, step, "f") is TRANSITIONS[kind, state, step]


@pytest.mark.parametrize(("kind", "state", "step"), [case for case in EVERY_CASE if case not in TRANSITIONS])
def test_any_other_step_is_refused_with_the_state_and_what_it_allows(
    kind: FulfillmentKind, state: FulfillmentState, step: Step
) -> None:
    with pytest.raises(IllegalTransition) as refused:
        after(kind, state, step, "f")
    assert (refused.value.state, refused.value.step) == (state.value, step.value)
    legal = {s.value for k, from_state, s in TRANSITIONS if (k, from_state) == (kind, state)}
    assert set(refused.value.legal_steps.split(", ")) == (legal or {"nothing"})


@pytest.mark.parametrize(
    ("kind", "steps", "states"),
    [
        (
            FulfillmentKind.PICKUP,
            [Step.ACCEPT, Step.PICK, Step.MARK_READY, Step.HAND_OVER],
            [S.REQUESTED, S.ACCEPTED, S.PICKED, S.READY_FOR_PICKUP, S.PICKED_UP],
        ),
        (
            FulfillmentKind.SHIP,
            [Step.ACCEPT, Step.PICK, Step.SHIP, Step.DELIVER],
            [S.REQUESTED, S.ACCEPTED, S.PICKED, S.SHIPPED, S.DELIVERED],
        ),
        (FulfillmentKind.CARRY_OUT, [], [S.PICKED_UP]),
    ],
)
def test_each_kind_goes_the_way_that_the_design_gives_it(
    kind: FulfillmentKind, steps: list[Step], states: list[FulfillmentState]
) -> None:
    state = INITIAL[kind]
    assert state is states[0]
    for step, expected in zip(steps, states[1:], strict=True):
        state = after(kind, state, step, "f")
        assert state is expected


def _reachable(kind: FulfillmentKind) -> set[FulfillmentState]:
    found = {INITIAL[kind]}
    while more := {to for (k, state, _), to in TRANSITIONS.items() if k is kind and state in found} - found:
        found |= more
    return found


def test_every_row_of_the_table_starts_in_a_state_that_its_kind_can_be_in() -> None:
    for kind, state, _ in TRANSITIONS:
        assert state in _reachable(kind)


def test_a_final_phase_is_never_left() -> None:
    # But for the goods of a no-show, which somebody still puts away: the customer has nothing of it any more.
    left = {(state, step) for _, state, step in TRANSITIONS if PHASES[state] is not Phase.OPEN}
    assert left == {(S.NO_SHOW, Step.PUT_AWAY)}
    assert PHASES[S.RESTOCKED] is PHASES[S.NO_SHOW]


def test_a_location_stops_holding_units_only_by_steps_that_say_where_they_go() -> None:
    for (_, state, step), to in TRANSITIONS.items():
        if state in HOLDING and to not in HOLDING:
            assert step in (Step.HAND_OVER, Step.SHIP, Step.CANCEL, Step.REJECT, Step.MOVE, Step.NO_SHOW)
        assert not (state not in HOLDING and to in HOLDING)


def test_what_is_cancellable_is_what_a_location_still_holds_or_nobody_brings() -> None:
    assert {S.REQUESTED, S.ACCEPTED, S.PICKED, S.READY_FOR_PICKUP} == HOLDING
    assert HOLDING | {S.REJECTED} == CANCELLABLE


def test_each_state_is_of_units_that_are_open_with_the_customer_or_nobodys() -> None:
    assert set(FulfillmentState) == CANCELLABLE | LEFT | EMPTY
    assert not CANCELLABLE & LEFT
    assert not (CANCELLABLE | LEFT) & EMPTY
    for kind, state, step in TRANSITIONS:
        assert (step is Step.CANCEL) <= ((kind, state, Step.MOVE) in TRANSITIONS)


def test_every_state_has_a_phase_and_every_set_of_phases_an_order_state() -> None:
    assert set(PHASES) == set(FulfillmentState)
    sets = {frozenset(c) for n in range(1, len(Phase) + 1) for c in itertools.combinations(Phase, n)}
    assert set(ORDER_STATES) == sets


@given(st.lists(st.sampled_from(FulfillmentState), min_size=1))
def test_an_order_is_open_while_any_of_its_work_is(states: list[FulfillmentState]) -> None:
    state = order_state(states)
    assert (state is OrderState.OPEN) == any(PHASES[s] is Phase.OPEN for s in states)
    assert (state is OrderState.CANCELLED) == all(PHASES[s] is Phase.CANCELLED for s in states)
    assert order_state(reversed(states)) is state


def test_an_order_of_which_a_part_was_cancelled_is_completed_by_the_rest() -> None:
    assert order_state([S.CANCELLED, S.PICKED_UP]) is OrderState.COMPLETED
    assert order_state([S.CANCELLED, S.SHIPPED]) is OrderState.OPEN


# ---------------------------------------------------------------------------------------------------------- cancelling
def test_the_work_that_is_least_far_is_cancelled_first() -> None:
    parts = [
        FulfillmentPart("a", S.PICKED, 1, "milk", 5),
        FulfillmentPart("b", S.REQUESTED, 1, "milk", 2),
        FulfillmentPart("c", S.PICKED_UP, 1, "milk", 9),
    ]
    assert plan_cancellation("o", parts, [(1, 4)]) == [
        Cancellation("b", 1, "milk", 2),
        Cancellation("a", 1, "milk", 2),
    ]


def test_a_line_that_the_order_does_not_have_can_not_be_cancelled() -> None:
    with pytest.raises(OrderLineNotFound):
        plan_cancellation("o", [FulfillmentPart("a", S.REQUESTED, 1, "milk", 5)], [(2, 1)])


def test_what_was_handed_over_is_not_cancellable() -> None:
    parts = [FulfillmentPart("a", S.PICKED_UP, 1, "milk", 5), FulfillmentPart("b", S.ACCEPTED, 1, "milk", 1)]
    with pytest.raises(CancelExceeded) as refused:
        plan_cancellation("o", parts, [(1, 2)])
    assert (refused.value.requested, refused.value.cancellable) == (2, 1)


@st.composite
def _parts(draw: st.DrawFn) -> list[FulfillmentPart]:
    return [
        FulfillmentPart(f, draw(st.sampled_from(FulfillmentState)), line, f"sku{line}", draw(st.integers(0, 20)))
        for f in draw(st.sets(st.sampled_from("abcd"), min_size=1))
        for line in draw(st.sets(st.integers(1, 3), min_size=1))
    ]


@given(_parts(), st.dictionaries(st.integers(1, 3), st.integers(1, 40), min_size=1))
def test_a_cancellation_takes_exactly_what_is_wanted_from_what_is_held(
    parts: list[FulfillmentPart], wanted: dict[int, int]
) -> None:
    try:
        plan = plan_cancellation("o", parts, wanted.items())
    except (CancelExceeded, OrderLineNotFound):
        assert any(
            sum(p.quantity for p in parts if p.line_number == line and p.state in CANCELLABLE) < quantity
            for line, quantity in wanted.items()
        )
        return
    for line, quantity in wanted.items():
        assert sum(c.quantity for c in plan if c.line_number == line) == quantity
    held = {(p.fulfillment_order_id, p.line_number): p for p in parts}
    for cancellation in plan:
        part = held[cancellation.fulfillment_order_id, cancellation.line_number]
        assert part.state in CANCELLABLE
        assert 0 < cancellation.quantity <= part.quantity
    assert len({(c.fulfillment_order_id, c.line_number) for c in plan}) == len(plan)


# --------------------------------------------------------------------------------------------------------------- parts
@pytest.mark.parametrize(
    ("wanted", "units"),
    [([], {1: 3, 2: 1}), ([(1, 2)], {1: 2}), ([(1, 0), (2, 1)], {1: 3, 2: 1}), ([(2, 0)], {2: 1})],
)
def test_a_step_is_on_the_lines_that_are_given_or_on_all(wanted: list[tuple[int, int]], units: dict[int, int]) -> None:
    assert check_parts("f", Step.REJECT, {1: 3, 2: 1, 3: 0}, wanted) == units


@pytest.mark.parametrize("wanted", [(1, 4), (3, 0), (3, 1), (9, 1)])
def test_a_step_on_more_than_there_is_is_refused(wanted: tuple[int, int]) -> None:
    with pytest.raises(FulfillmentLineExceeded) as refused:
        check_parts("f", Step.REJECT, {1: 3, 3: 0}, [wanted])
    assert (refused.value.line_number, refused.value.step) == (wanted[0], "REJECT")
