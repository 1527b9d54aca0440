"""Every row of both state tables, by the calls themselves: each legal step works, every other is refused in every state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broken import broken_rules
from onhand.domain.order import TRANSITIONS, FulfillmentKind, FulfillmentState, Step
from onhand.v1 import order_pb2 as pb
from shelf import request_id
from shop import ADDRESS, BREAD, CALLER, MILK, NORTH, SOUTH, Shop, told

PICKUP, SHIP = FulfillmentKind.PICKUP, FulfillmentKind.SHIP
S = FulfillmentState
CLOSED = pb.REJECT_REASON_CLOSED

# How a fulfillment order of a kind comes into each of its states.
WAYS: dict[tuple[FulfillmentKind, FulfillmentState], list[Step]] = {
    (PICKUP, S.REQUESTED): [],
    (PICKUP, S.ACCEPTED): [Step.ACCEPT],
    (PICKUP, S.PICKED): [Step.ACCEPT, Step.PICK],
    (PICKUP, S.READY_FOR_PICKUP): [Step.ACCEPT, Step.PICK, Step.MARK_READY],
    (PICKUP, S.PICKED_UP): [Step.ACCEPT, Step.PICK, Step.MARK_READY, Step.HAND_OVER],
    (PICKUP, S.CANCELLED): [Step.CANCEL],
    (PICKUP, S.REJECTED): [Step.REJECT],
    (PICKUP, S.MOVED): [Step.REJECT, Step.MOVE],
    (PICKUP, S.NO_SHOW): [Step.ACCEPT, Step.PICK, Step.MARK_READY, Step.NO_SHOW],
    (PICKUP, S.RESTOCKED): [Step.ACCEPT, Step.PICK, Step.MARK_READY, Step.NO_SHOW, Step.PUT_AWAY],
    (SHIP, S.REQUESTED): [],
    (SHIP, S.ACCEPTED): [Step.ACCEPT],
    (SHIP, S.PICKED): [Step.ACCEPT, Step.PICK],
    (SHIP, S.SHIPPED): [Step.ACCEPT, Step.PICK, Step.SHIP],
    (SHIP, S.DELIVERED): [Step.ACCEPT, Step.PICK, Step.SHIP, Step.DELIVER],
    (SHIP, S.RETURNED): [Step.ACCEPT, Step.PICK, Step.SHIP, Step.RETURN],
    (SHIP, S.CANCELLED): [Step.CANCEL],
    (SHIP, S.REJECTED): [Step.REJECT],
    (SHIP, S.MOVED): [Step.REJECT, Step.MOVE],
}


class Case:
    """A fulfillment order of one unit of milk, and each step on it as a call."""

    def __init__(self, shop: Shop, placed: pb.PlaceOrderResponse) -> None:
        self.shop = shop
        self.order_id = placed.order.order_id
        self.work = placed.order.fulfillment_orders[0].fulfillment_order_id
        self.code = placed.pickup_codes[0].pickup_code if placed.pickup_codes else "none"

    @property
    def tomorrow(self) -> datetime:
        """Later than now, and earlier than what a hold is bounded by."""
        return datetime.now(UTC) + timedelta(days=1)

    async def call(self, rpc: str, request: type[Any], **fields: Any) -> Any:
        """A call on the work."""
        message = request(request_id=request_id(), fulfillment_order_id=self.work, **fields)
        return await getattr(self.shop.orders, rpc)(message, CALLER)

    async def move(self) -> Any:
        """Another location brings it: what was rejected, or what a count did not find."""
        order = await self.shop.order(self.order_id)
        (short,) = (s for f in order.fulfillment_orders for s in f.shortfalls if s.open_quantity)
        request = pb.DecideShortfallRequest(
            request_id=request_id(),
            shortfall_id=short.shortfall_id,
            decision=pb.SHORTFALL_DECISION_RESOURCE,
            location_id=SOUTH,
            ship_to=ADDRESS,
        )
        return await self.shop.orders.decide_shortfall(request, CALLER)

    def steps(self) -> dict[Step, Callable[[], Awaitable[Any]]]:
        """Each step that is a call on a fulfillment order. CANCEL and MOVE are not: they are asked for of lines and shortfalls."""
        shop, work = self.shop, self.work
        substitute = {"line_number": 1, "sku": BREAD, "substitute_quantity": 1, "consent": pb.CONSENT_PHONE}
        parcel = pb.Parcel(lines=[pb.ParcelLine(line_number=1, quantity=1)])
        return {
            Step.ACCEPT: lambda: shop.accept(work),
            Step.PICK: lambda: shop.pick(work),
            Step.MARK_READY: lambda: shop.mark_ready(work),
            Step.RESET_CODE: lambda: shop.reset_code(work),
            Step.HAND_OVER: lambda: shop.hand_over(work, self.code),
            Step.SHIP: lambda: shop.ship(work),
            Step.DELIVER: lambda: shop.deliver(work),
            Step.REJECT: lambda: shop.reject(work, (1, 0, CLOSED)),
            Step.UNPICK: lambda: self.call("unpick_fulfillment_order", pb.UnpickFulfillmentOrderRequest),
            Step.SUBSTITUTE: lambda: self.call("substitute_line", pb.SubstituteLineRequest, **substitute),
            Step.ARRIVE: lambda: self.call("mark_arrived", pb.MarkArrivedRequest),
            Step.NO_SHOW: lambda: self.call("mark_no_show", pb.MarkNoShowRequest),
            Step.EXTEND_HOLD: lambda: self.call(
                "extend_pickup_hold", pb.ExtendPickupHoldRequest, hold_end_time=self.tomorrow
            ),
            Step.PUT_AWAY: lambda: self.call("put_away_fulfillment_order", pb.PutAwayFulfillmentOrderRequest),
            Step.PACK: lambda: self.call("pack_fulfillment_order", pb.PackFulfillmentOrderRequest, parcels=[parcel]),
            Step.RETURN: lambda: self.call("return_undelivered", pb.ReturnUndeliveredRequest),
        }

    async def take(self, step: Step) -> None:
        """A step that is legal now."""
        if step is Step.CANCEL:
            await self.shop.cancel(self.order_id, {1: 1})
        elif step is Step.MOVE:
            if await self.state() is not S.REJECTED:
                await self.shop.count(NORTH, {MILK: 0})
            await self.move()
        else:
            await self.steps()[step]()

    async def state(self) -> FulfillmentState:
        """As stored."""
        ((state,),) = await self.shop.fetch(
            "SELECT state FROM fulfillment_orders WHERE fulfillment_order_id = $1", self.work
        )
        return FulfillmentState(state)


async def in_state(shop: Shop, kind: FulfillmentKind, state: FulfillmentState) -> Case:
    """Work that came there by its steps."""
    placed = await shop.place({NORTH: {MILK: 1}}, pb.FulfillmentKind.Value(f"FULFILLMENT_KIND_{kind.value}"))
    case = Case(shop, placed)
    for step in WAYS[kind, state]:
        await case.take(step)
    assert await case.state() is state
    return case


def test_each_state_of_the_table_is_come_into() -> None:
    rows = {(kind, state) for kind, state, _ in TRANSITIONS} | {(kind, to) for (kind, _, _), to in TRANSITIONS.items()}
    assert rows == set(WAYS)


@pytest.mark.parametrize(("kind", "state", "step"), TRANSITIONS, ids=lambda row: row.value)
async def test_a_legal_step_leads_where_its_row_says(
    shop: Shop, kind: FulfillmentKind, state: FulfillmentState, step: Step
) -> None:
    case = await in_state(shop, kind, state)
    await case.take(step)
    assert await case.state() is TRANSITIONS[kind, state, step]
    assert await broken_rules(shop) == []


@pytest.mark.parametrize(("kind", "state"), WAYS, ids=lambda row: row.value)
async def test_every_other_step_is_refused_with_its_reason_and_the_state(
    shop: Shop, kind: FulfillmentKind, state: FulfillmentState
) -> None:
    case = await in_state(shop, kind, state)
    legal = {step for k, s, step in TRANSITIONS if (k, s) == (kind, state)}
    for step, call in case.steps().items():
        if step in legal:
            continue
        reason, values = await told(call())
        assert (reason, values["state"], values["step"]) == ("ILLEGAL_TRANSITION", state.value, step.value)
        assert set(values["legal_steps"].split(", ")) == ({s.value for s in legal} or {"nothing"})
    if Step.CANCEL not in legal and state is not S.MOVED:  # what was moved is cancelled where it is now
        assert (await told(shop.cancel(case.order_id, {1: 1})))[0] == "CANCEL_EXCEEDED"
    assert await case.state() is state
