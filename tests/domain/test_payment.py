"""The money of a tender: every legal step works, every other one is refused, and nothing appears or vanishes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.payment import (
    GIVE_BACK_ORDER,
    TRANSITIONS,
    Operation,
    Outcome,
    Payment,
    PaymentState,
    PaymentStep,
    Provider,
    Tendered,
    plan_capture,
    plan_give_back,
    split_refund,
)
from onhand.domain.payment_errors import IllegalPaymentStep

S, P = PaymentState, PaymentStep
DECLINED = Outcome.DECLINED

# A payment of 100 in each state; twice where the state has room for what the other has not.
EXAMPLES = {
    S.PENDING: [Payment(100)],
    S.DECLINED: [Payment(100, is_declined=True)],
    S.AUTHORIZED: [Payment(100, 100)],
    S.VOIDED: [Payment(100, 100, 0, 100)],
    S.PARTIALLY_CAPTURED: [Payment(100, 100, 40)],
    S.CAPTURED: [Payment(100, 100, 100), Payment(100, 100, 60, 40)],
    S.PARTIALLY_REFUNDED: [Payment(100, 100, 60, 0, 20), Payment(100, 100, 100, 0, 20)],
    S.REFUNDED: [Payment(100, 100, 40, 0, 40), Payment(100, 100, 100, 0, 100)],
}
TAKE: dict[PaymentStep, Callable[[Payment], Payment]] = {
    P.AUTHORIZE: lambda p: p.after(Operation.AUTHORIZE, p.amount_minor),
    P.DECLINE: lambda p: p.after(Operation.AUTHORIZE, p.amount_minor, DECLINED),
    P.CAPTURE_PART: lambda p: p.after(Operation.CAPTURE, max(1, p.capturable_minor - 1)),
    P.CAPTURE_REST: lambda p: p.after(Operation.CAPTURE, p.capturable_minor),
    P.VOID_PART: lambda p: p.after(Operation.VOID, max(1, p.capturable_minor - 1)),
    P.VOID_REST: lambda p: p.after(Operation.VOID, p.capturable_minor),
    P.REFUND_PART: lambda p: p.after(Operation.REFUND, max(1, p.refundable_minor - 1)),
    P.REFUND_REST: lambda p: p.after(Operation.REFUND, p.refundable_minor),
    P.RENEW: lambda p: p.after(Operation.RENEW, p.capturable_minor),
}
MOVING = (Operation.AUTHORIZE, Operation.CAPTURE, Operation.VOID, Operation.REFUND)


def test_every_state_and_step_has_its_example() -> None:
    assert EXAMPLES.keys() == set(S)
    assert TAKE.keys() == set(P)
    for state, payments in EXAMPLES.items():
        assert {payment.state for payment in payments} == {state}


@pytest.mark.parametrize(("state", "step"), [(s, p) for s in S for p in P], ids=str)
def test_a_step_does_what_the_table_says_or_is_refused(state: PaymentState, step: PaymentStep) -> None:
    after, refusals = set(), []
    for payment in EXAMPLES[state]:
        try:
            after.add(TAKE[step](payment).state)
        except IllegalPaymentStep as refused:
            refusals.append(refused)
    legal = TRANSITIONS.get((state, step))
    assert after == ({legal} if legal else set())
    assert all(refused.state == state.value for refused in refusals)
    assert legal or len(refusals) == len(EXAMPLES[state])


@pytest.mark.parametrize("operation", [Operation.CAPTURE, Operation.VOID, Operation.REFUND, Operation.RENEW])
def test_an_operation_that_the_provider_declines_moves_nothing(operation: Operation) -> None:
    payment = Payment(100, 100, 60, 0, 10)
    assert payment.after(operation, 20, DECLINED) is payment


@pytest.mark.parametrize("amount", [0, -1, 101])
@pytest.mark.parametrize("operation", [*MOVING, Operation.RENEW])
def test_no_operation_is_of_nothing_or_of_more_than_there_is(operation: Operation, amount: int) -> None:
    payment = Payment(100) if operation is Operation.AUTHORIZE else Payment(100, 100, 50)
    with pytest.raises(IllegalPaymentStep):
        payment.after(operation, amount)


@given(st.integers(1, 1000), st.lists(st.tuples(st.sampled_from(Operation), st.integers(1, 400), st.booleans())))
def test_whatever_is_asked_the_sums_stay_within_each_other(
    amount: int, asked: list[tuple[Operation, int, bool]]
) -> None:
    payment = Payment(amount)
    for operation, minor, is_declined in asked:
        before = payment
        try:
            payment = payment.after(operation, minor, DECLINED if is_declined else Outcome.SUCCEEDED)
        except IllegalPaymentStep:
            assert payment is before
            continue
        assert 0 <= payment.captured_minor + payment.voided_minor <= payment.authorized_minor <= amount
        assert 0 <= payment.refunded_minor <= payment.captured_minor
        if payment is not before and not is_declined:
            moved = {
                Operation.AUTHORIZE: payment.authorized_minor - before.authorized_minor,
                Operation.CAPTURE: payment.captured_minor - before.captured_minor,
                Operation.VOID: payment.voided_minor - before.voided_minor,
                Operation.REFUND: payment.refunded_minor - before.refunded_minor,
            }
            assert moved == {each: minor if each is operation else 0 for each in MOVING}


def test_what_is_refunded_was_captured_by_the_oldest_authorization_first() -> None:
    assert split_refund([("a", 100), ("b", 0), ("c", 200)], 150) == [("a", 100), ("c", 50)]
    with pytest.raises(ValueError, match="1 more"):
        split_refund([("a", 100)], 101)


# ------------------------------------------------------------------------------------------------------ giving back
def paid(number: int, kind: str, amount: int, given_back: int = 0) -> Tendered:
    """A tender that a till took."""
    return Tendered(number, kind, Provider.TILL, Payment(amount, amount, amount, 0, given_back), given_back)


def test_the_retailers_own_credit_gets_its_money_back_first_and_cash_last() -> None:
    tenders = [paid(1, "CASH", 50), paid(2, "CARD", 30), paid(3, "GIFT_CARD", 20), paid(4, "CARD", 10)]
    plan = plan_give_back(tenders, 70)
    assert [(p.tender.tender_number, p.amount_minor) for p in plan] == [(3, 20), (2, 30), (4, 10), (1, 10)]
    assert {p.operation for p in plan} == {Operation.REFUND}


def test_what_is_not_captured_is_voided_before_anything_is_refunded() -> None:
    tender = Tendered(1, "CARD", Provider.STRIPE, Payment(100, 100, 40), 0, capturing_minor=10, voiding_minor=5)
    plan = plan_give_back([tender], 60)
    assert [(p.operation, p.amount_minor) for p in plan] == [(Operation.VOID, 45), (Operation.REFUND, 15)]


def test_more_than_was_paid_is_not_given_back() -> None:
    with pytest.raises(ValueError):
        plan_give_back([paid(1, "CASH", 50, 20)], 31)


@st.composite
def _tenders(draw: st.DrawFn) -> list[Tendered]:
    found = []
    for number in range(1, draw(st.integers(2, 6))):
        amount = draw(st.integers(1, 500))
        captured = draw(st.integers(0, amount))
        capturing = draw(st.integers(0, amount - captured))
        payment = Payment(amount, amount, captured)
        found.append(Tendered(number, draw(st.sampled_from(GIVE_BACK_ORDER)), Provider.STRIPE, payment, 0, capturing))
    return found


@given(_tenders(), st.data())
def test_what_is_given_back_adds_up_and_no_tender_gives_more_than_it_bore(
    tenders: list[Tendered], data: st.DataObject
) -> None:
    amount = data.draw(st.integers(0, sum(t.room_minor for t in tenders)))
    plan = plan_give_back(tenders, amount)
    assert sum(p.amount_minor for p in plan) == amount
    for tender in tenders:
        of_it = {p.operation: p.amount_minor for p in plan if p.tender is tender}
        assert sum(of_it.values()) <= tender.room_minor
        assert of_it.get(Operation.VOID, 0) <= tender.uncaptured_minor
    assert plan == plan_give_back(list(reversed(tenders)), amount)


def test_what_leaves_is_captured_by_number_and_the_last_parcel_takes_the_rest() -> None:
    tenders = [Tendered(n, "CARD", Provider.STRIPE, Payment(100, 100, 20)) for n in (2, 1)]
    assert [(t.tender_number, n) for t, n in plan_capture(tenders, 90, is_last=False)] == [(1, 80), (2, 10)]
    assert [(t.tender_number, n) for t, n in plan_capture(tenders, 90, is_last=True)] == [(1, 80), (2, 80)]
    assert plan_capture(tenders, 0, is_last=False) == []
