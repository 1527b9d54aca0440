"""Parts of a pickup: ready before the rest, taken without the rest, given to who lost the code. Each test ends with verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from unittest.mock import patch

import pytest

from broken import shorts, verified
from onhand.caller import Caller
from onhand.domain.stock import Level
from onhand.redis import Unreachable
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import BREAD, CALLER, MILK, NORTH, Shop, refused, told

READY, PICKED = pb.FULFILLMENT_STATE_READY_FOR_PICKUP, pb.FULFILLMENT_STATE_PICKED
PICKED_UP = pb.FULFILLMENT_STATE_PICKED_UP
LICENCE = pb.Proof(kind=pb.PROOF_KIND_GOVERNMENT_ID, reference="..4711")
BANK_CARD = pb.Proof(kind=pb.PROOF_KIND_PAYMENT_CARD, reference="..1234")


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop


def lines(units: Mapping[int, int]) -> list[pb.WorkLine]:
    """Of a request."""
    return [pb.WorkLine(line_number=n, quantity=q) for n, q in units.items()]


async def mark_ready(shop: Shop, work: str, units: Mapping[int, int]) -> pb.MarkReadyForPickupResponse:
    """A part is ready."""
    request = pb.MarkReadyForPickupRequest(request_id=request_id(), fulfillment_order_id=work, lines=lines(units))
    return await shop.orders.mark_ready_for_pickup(request, CALLER)


async def hand_over(
    shop: Shop, work: str, units: Mapping[int, int] | None = None, caller: Caller = CALLER, **fields: Any
) -> pb.HandOverFulfillmentOrderResponse:
    """The customer takes a part, or all."""
    request = pb.HandOverFulfillmentOrderRequest(
        **{"request_id": request_id(), "fulfillment_order_id": work, "lines": lines(units or {}), **fields}
    )
    return await shop.orders.hand_over_fulfillment_order(request, caller)


async def picked(shop: Shop, units: Mapping[str, int]) -> tuple[str, str]:
    """Work that is off the shelf, and its code."""
    (code,) = (await shop.place({NORTH: units})).pickup_codes
    await shop.accept(code.fulfillment_order_id)
    await shop.pick(code.fulfillment_order_id)
    return code.fulfillment_order_id, code.pickup_code


def units_of(work: pb.FulfillmentOrder) -> dict[int, int]:
    """What it has to bring."""
    return {n.line_number: n.quantity - n.cancelled_quantity - n.moved_quantity for n in work.lines}


# ------------------------------------------------------------------------------------------------------------------ ready
async def test_what_is_ready_waits_and_the_rest_follows_with_the_same_code(shop: Shop) -> None:
    work, code = await picked(shop, {MILK: 3, BREAD: 2})
    answer = await mark_ready(shop, work, {2: 2})
    assert (answer.fulfillment_order.state, units_of(answer.fulfillment_order)) == (READY, {2: 2})
    rest = answer.rest
    assert (rest.state, units_of(rest), rest.from_fulfillment_order_id) == (PICKED, {1: 2, 2: 1}, work)
    assert not rest.HasField("hold_end_time")
    assert await shop.level(NORTH, MILK) == Level(available=7, allocated=3)
    await shop.hand_over(work, code)
    order = await shop.order(rest.order_id)
    assert (order.state, [n.fulfilled_quantity for n in order.lines]) == (pb.ORDER_STATE_OPEN, [0, 2])
    await shop.mark_ready(rest.fulfillment_order_id)
    await shop.hand_over(rest.fulfillment_order_id, code)
    assert (await shop.order(rest.order_id)).state == pb.ORDER_STATE_COMPLETED


async def test_all_of_it_is_ready_where_all_is_named(shop: Shop) -> None:
    work, _ = await picked(shop, {MILK: 3, BREAD: 2})
    answer = await mark_ready(shop, work, {1: 0, 2: 3})
    assert (answer.fulfillment_order.state, answer.HasField("rest")) == (READY, False)


async def test_a_part_that_it_does_not_have_is_refused(shop: Shop) -> None:
    work, _ = await picked(shop, {MILK: 3})
    assert (await told(mark_ready(shop, work, {1: 4})))[0] == "FULFILLMENT_LINE_EXCEEDED"
    assert (await told(mark_ready(shop, work, {2: 1})))[0] == "FULFILLMENT_LINE_EXCEEDED"
    twice = pb.MarkReadyForPickupRequest(
        request_id=request_id(), fulfillment_order_id=work, lines=[pb.WorkLine(line_number=1)] * 2
    )
    assert (await refused(shop.orders.mark_ready_for_pickup(twice, CALLER))).reason == "INVALID_REQUEST"


async def test_what_is_short_of_a_line_stays_with_the_part_that_lacks_it(shop: Shop) -> None:
    work, code = await picked(shop, {MILK: 10})
    await shop.count(NORTH, {MILK: 6})  # four of what was picked are not there
    answer = await mark_ready(shop, work, {1: 5})
    assert [n.short_quantity for n in answer.fulfillment_order.lines] == [0]
    assert [(n.quantity, n.short_quantity) for n in answer.rest.lines] == [(5, 4)]
    await shop.hand_over(work, code)
    assert await shop.level(NORTH, MILK) == Level(allocated=1)


async def test_more_in_hand_than_were_thought_to_be_there_were_there(shop: Shop) -> None:
    work, _ = await picked(shop, {MILK: 10})
    await shop.count(NORTH, {MILK: 6})
    answer = await mark_ready(shop, work, {1: 8})
    assert [(n.quantity, n.short_quantity) for n in answer.rest.lines] == [(2, 2)]
    order = await shop.order(answer.rest.order_id)
    assert [s.open_quantity for s in await shorts(shop, order)] == [2]
    assert await shop.level(NORTH, MILK) == Level(allocated=8)


# --------------------------------------------------------------------------------------------------------------- hand-over
async def test_a_customer_takes_a_part_and_comes_again_for_the_rest(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 3, BREAD: 2}})
    id = request_id()
    answer = await hand_over(shop, work, {2: 1}, pickup_code=code, request_id=id)
    assert await hand_over(shop, work, {2: 1}, pickup_code=code, request_id=id) == answer
    assert (answer.fulfillment_order.state, units_of(answer.fulfillment_order)) == (PICKED_UP, {2: 1})
    assert (answer.rest.state, units_of(answer.rest)) == (READY, {1: 2, 2: 2})
    assert answer.rest.hold_end_time == answer.fulfillment_order.hold_end_time
    await shop.hand_over(answer.rest.fulfillment_order_id, code)
    assert await shop.level(NORTH, MILK) == Level(available=7)


async def test_a_customer_who_does_not_want_the_rest_gets_the_money_for_it(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 3, BREAD: 2}})
    answer = await hand_over(shop, work, {2: 1}, pickup_code=code, cancel_rest=True)
    assert answer.rest.state == pb.FULFILLMENT_STATE_CANCELLED
    order = await shop.order(answer.rest.order_id)
    assert order.state == pb.ORDER_STATE_COMPLETED
    assert [(n.fulfilled_quantity, n.cancelled_quantity) for n in order.lines] == [(0, 2), (1, 2)]
    assert (order.refunded.units, order.refunded.nanos) == (8, 980_000_000)
    assert await shop.level(NORTH, MILK) == Level(available=9)
    assert await shop.atp(NORTH, BREAD) == 10


async def test_parts_taken_at_once_are_each_taken_once(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 4}})
    results = await asyncio.gather(
        *(hand_over(shop, work, {1: 3}, pickup_code=code) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(r, pb.HandOverFulfillmentOrderResponse) for r in results) == 1
    assert {getattr(r, "reason", "") for r in results} == {"", "ILLEGAL_TRANSITION"}
    assert await shop.level(NORTH, MILK) == Level(available=6, allocated=1)


async def test_a_part_is_handed_over_and_the_rest_cancelled_while_the_gate_is_away(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 3, BREAD: 2}})
    with patch.object(type(shop.app.connections), "pipeline", side_effect=Unreachable("cut off")):
        kept = await hand_over(shop, work, {2: 1}, pickup_code=code)
        answer = await hand_over(shop, kept.rest.fulfillment_order_id, {2: 1}, pickup_code=code, cancel_rest=True)
    assert answer.rest.state == pb.FULFILLMENT_STATE_CANCELLED
    assert await shop.level(NORTH, MILK) == Level(available=8)
    assert (await shop.atp(NORTH, MILK), await shop.atp(NORTH, BREAD)) == (8, 10)


# ---------------------------------------------------------------------------------------------------------------- identity
async def test_who_lost_the_code_shows_two_proofs_that_are_kept_with_who_saw_them(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 3}})
    for _ in range(5):
        await refused(shop.hand_over(work, "XXXXXXXX"))
    assert (await refused(shop.hand_over(work, code))).reason == "PICKUP_CODE_LOCKED"
    identity = pb.IdentityCheck(recipient="Ada Lovelace", proofs=[LICENCE, BANK_CARD])
    answer = await hand_over(shop, work, identity=identity)
    assert answer.fulfillment_order.state == PICKED_UP
    checks = await shop.fetch("SELECT fulfillment_order_id::text, recipient, proofs, actor FROM identity_checks")
    assert checks == [(work, "Ada Lovelace", [["GOVERNMENT_ID", "..4711"], ["PAYMENT_CARD", "..1234"]], "tester")]


async def test_one_proof_is_not_enough_nor_the_same_twice_nor_seen_by_nobody(shop: Shop) -> None:
    work, code = await shop.ready({NORTH: {MILK: 3}})
    for proofs in ([], [LICENCE], [LICENCE, LICENCE]):
        identity = pb.IdentityCheck(recipient="Ada", proofs=proofs)
        reason, values = await told(hand_over(shop, work, identity=identity))
        assert (reason, values["required"]) == ("PROOFS_MISSING", "2")
    identity = pb.IdentityCheck(recipient="Ada", proofs=[LICENCE, BANK_CARD])
    assert (await refused(hand_over(shop, work, caller=Caller("", None), identity=identity))).reason == "ACTOR_REQUIRED"
    assert (await refused(hand_over(shop, work))).reason == "INVALID_REQUEST"
    assert (await refused(hand_over(shop, work, pickup_code=code, identity=identity))).reason == "INVALID_REQUEST"
    assert await shop.fetch("SELECT count(*) FROM identity_checks") == [(0,)]
    assert await shop.fetch("SELECT pickup_code_failures FROM fulfillment_orders") == [(0,)]
