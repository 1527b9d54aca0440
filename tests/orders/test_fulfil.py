"""The steps of a location's work: what each state allows, pickup codes, repeats."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from onhand.domain.errors import Refusal
from onhand.domain.order import TRANSITIONS, FulfillmentKind, FulfillmentState, Step
from onhand.domain.stock import Level
from onhand.ids import new_id
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import CALLER, MILK, NORTH, Shop, refused, told

WRONG = "XXXXXXXX"
WAYS = {
    FulfillmentKind.PICKUP: ["accept", "pick", "mark_ready", "hand_over"],
    FulfillmentKind.SHIP: ["accept", "pick", "ship", "deliver"],
}


def _steps(shop: Shop, work: str, code: str, order_id: str) -> dict[Step, Callable[[], Awaitable[Any]]]:
    return {
        Step.ACCEPT: lambda: shop.accept(work),
        Step.PICK: lambda: shop.pick(work),
        Step.MARK_READY: lambda: shop.mark_ready(work),
        Step.RESET_CODE: lambda: shop.reset_code(work),
        Step.HAND_OVER: lambda: shop.hand_over(work, code),
        Step.SHIP: lambda: shop.ship(work),
        Step.DELIVER: lambda: shop.deliver(work),
    }


@pytest.mark.parametrize("kind", WAYS)
async def test_each_state_allows_what_the_table_says_and_refuses_the_rest(shop: Shop, kind: FulfillmentKind) -> None:
    placed = await shop.place({NORTH: {MILK: 1}}, pb.FulfillmentKind.Value(f"FULFILLMENT_KIND_{kind.value}"))
    (work,) = placed.order.fulfillment_orders
    code = placed.pickup_codes[0].pickup_code if placed.pickup_codes else "none"
    steps = _steps(shop, work.fulfillment_order_id, code, placed.order.order_id)
    state = FulfillmentState.REQUESTED
    for way in [*WAYS[kind], None]:
        legal = {step for k, s, step in TRANSITIONS if (k, s) == (kind, state)}
        for step in steps.keys() - legal:
            reason, values = await told(steps[step]())
            assert (reason, values["state"], values["step"]) == ("ILLEGAL_TRANSITION", state.value, step.value)
            assert values["fulfillment_order_id"] == work.fulfillment_order_id
        if way is not None:
            step = Step[way.upper()]
            await steps[step]()
            state = TRANSITIONS[kind, state, step]
    (left,) = (await shop.order(placed.order.order_id)).fulfillment_orders
    assert left.state == pb.FulfillmentState.Value(f"FULFILLMENT_STATE_{state.value}")


async def test_work_that_does_not_exist_can_not_be_done(shop: Shop) -> None:
    steps = _steps(shop, str(new_id()), WRONG, "")
    assert {(await refused(step())).reason for step in steps.values()} == {"FULFILLMENT_ORDER_NOT_FOUND"}
    steps = _steps(shop, "nonsense", WRONG, "")
    assert {(await refused(step())).reason for step in steps.values()} == {"INVALID_REQUEST"}


async def test_a_step_is_taken_once_however_many_try(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 1}})
    work = placed.order.fulfillment_orders[0].fulfillment_order_id
    results = await asyncio.gather(*(shop.accept(work) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(result, pb.FulfillmentOrder) for result in results) == 1
    assert {r.reason for r in results if isinstance(r, Refusal)} == {"ILLEGAL_TRANSITION"}


async def test_a_repeated_step_gets_its_first_answer(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 1}})
    work = placed.order.fulfillment_orders[0].fulfillment_order_id
    request = pb.AcceptFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work)
    first = await shop.orders.accept_fulfillment_order(request, CALLER)
    await shop.pick(work)
    assert await shop.orders.accept_fulfillment_order(request, CALLER) == first
    request.fulfillment_order_id = str(new_id())
    assert (await refused(shop.orders.accept_fulfillment_order(request, CALLER))).reason == "REQUEST_ID_REUSED"
    # An id belongs to its method too.
    other = pb.PickFulfillmentOrderRequest(request_id=request.request_id, fulfillment_order_id=work)
    assert (await refused(shop.orders.pick_fulfillment_order(other, CALLER))).reason == "REQUEST_ID_REUSED"


# -------------------------------------------------------------------------------------------------------- pickup codes
async def test_a_code_given_wrong_five_times_is_locked_until_support_gives_a_new_one(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 2}})
    for left in (4, 3, 2, 1):
        assert await told(shop.hand_over(work, WRONG)) == (
            "PICKUP_CODE_WRONG",
            {"fulfillment_order_id": work, "attempts_left": str(left)},
        )
    locked = ("PICKUP_CODE_LOCKED", {"fulfillment_order_id": work, "failures": "5"})
    assert await told(shop.hand_over(work, WRONG)) == locked
    assert await told(shop.hand_over(work, code)) == locked
    assert await told(shop.hand_over(work, WRONG)) == locked
    # The count is all that the attempts left behind.
    assert await shop.fetch("SELECT pickup_code_failures, state FROM fulfillment_orders") == [(5, "READY_FOR_PICKUP")]
    assert await shop.level(NORTH, MILK) == Level(available=8, allocated=2)
    (listed,) = (
        await shop.orders.list_fulfillment_orders(pb.ListFulfillmentOrdersRequest(location_id=NORTH), CALLER)
    ).fulfillment_orders
    assert listed.is_pickup_locked

    new_code = await shop.reset_code(work)
    assert (await refused(shop.hand_over(work, code))).reason == "PICKUP_CODE_WRONG"
    handed_over = await shop.hand_over(work, new_code)
    assert (handed_over.state, handed_over.is_pickup_locked) == (pb.FULFILLMENT_STATE_PICKED_UP, False)


async def test_codes_guessed_at_once_are_counted_one_by_one(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 1}})
    refusals = await asyncio.gather(*(refused(shop.hand_over(work, f"XXXXXX{n}")) for n in range(20)))
    assert [r.reason for r in refusals].count("PICKUP_CODE_WRONG") <= 4
    assert {r.reason for r in refusals} <= {"PICKUP_CODE_WRONG", "PICKUP_CODE_LOCKED"}
    assert (await refused(shop.hand_over(work, code))).reason == "PICKUP_CODE_LOCKED"
    assert await shop.fetch("SELECT pickup_code_failures FROM fulfillment_orders") == [(5,)]


async def test_a_wrong_code_that_is_sent_again_after_a_time_out_counts_once(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 1}})
    same = request_id()
    for _ in range(7):
        reason, values = await told(shop.hand_over(work, WRONG, same))
        assert (reason, values["attempts_left"]) == ("PICKUP_CODE_WRONG", "4")
    # A refusal binds nothing: the same request may bring the right code.
    await shop.hand_over(work, code, same)


async def test_a_wrong_code_that_is_sent_again_after_others_counts_once_too(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 1}})
    attempts = [(f"XXXXXX{n}", request_id()) for n in range(2)]
    for _ in range(3):
        for said, request in attempts:
            await refused(shop.hand_over(work, said, request))
    assert (await told(shop.hand_over(work, WRONG)))[1]["attempts_left"] == "2"
    await shop.hand_over(work, code)


async def test_other_codes_under_one_request_id_are_all_counted(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 1}})
    same = request_id()
    for n in range(5):
        await refused(shop.hand_over(work, f"XXXXXX{n}", same))
    assert (await refused(shop.hand_over(work, code, same))).reason == "PICKUP_CODE_LOCKED"


async def test_a_hand_over_that_is_repeated_or_guessed_at_afterwards_changes_nothing(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 1}})
    same = request_id()
    first = await shop.hand_over(work, code, same)
    assert await shop.hand_over(work, code, same) == first
    assert (await refused(shop.hand_over(work, WRONG, same))).reason == "REQUEST_ID_REUSED"
    assert (await refused(shop.hand_over(work, WRONG))).reason == "ILLEGAL_TRANSITION"
    assert await shop.fetch("SELECT pickup_code_failures FROM fulfillment_orders") == [(0,)]
    assert await shop.level(NORTH, MILK) == Level(available=9)


async def test_a_code_that_comes_before_the_goods_are_ready_is_not_judged(shop: Shop) -> None:
    placed = await shop.place({NORTH: {MILK: 1}})
    work = placed.order.fulfillment_orders[0].fulfillment_order_id
    for code in (WRONG, placed.pickup_codes[0].pickup_code):
        assert (await refused(shop.hand_over(work, code))).reason == "ILLEGAL_TRANSITION"
    assert await shop.fetch("SELECT pickup_code_failures FROM fulfillment_orders") == [(0,)]


async def test_a_code_is_for_its_own_order(shop: Shop) -> None:
    work, _ = await shop.ready({NORTH: {MILK: 1}})
    _, other_code = await shop.ready({NORTH: {MILK: 1}})
    assert (await refused(shop.hand_over(work, other_code))).reason == "PICKUP_CODE_WRONG"


async def test_a_repeated_reset_gives_the_same_code(shop: Shop) -> None:
    work, _ = await shop.ready({NORTH: {MILK: 1}})
    request = pb.ResetPickupCodeRequest(request_id=request_id(), fulfillment_order_id=work)
    first, again = [await shop.orders.reset_pickup_code(request, CALLER) for _ in range(2)]
    assert first == again
    await shop.hand_over(work, first.pickup_code.pickup_code)
