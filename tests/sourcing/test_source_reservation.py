"""SourceReservation over gRPC: a plan that is reserved, once, and whose reasons the order tells."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api import BREAD, DEPOT, MILK, NORTH, SOUTH, WEB, Api, Code, card, lines, refused, request_id
from onhand.domain.order import FulfillmentKind
from onhand.v1 import inventory_pb2 as stock
from onhand.v1 import order_pb2 as orders
from onhand.v1 import sourcing_pb2 as pb
from onhand.v1 import sourcing_pb2_grpc

PICKUP, SHIP = orders.FULFILLMENT_KIND_PICKUP, orders.FULFILLMENT_KIND_SHIP
ADDRESS = orders.Address(recipient="Ada", lines=["1 Main St"], locality="Springfield", region_code="US")


def wanted(quantities: dict[str, int], method: int = SHIP, **more: Any) -> pb.SourceReservationRequest:
    return pb.SourceReservationRequest(
        **{"request_id": request_id(), "channel": WEB, "method": method, "lines": lines(quantities), **more}
    )


async def source(api: Api, request: pb.SourceReservationRequest) -> pb.SourceReservationResponse:
    return await sourcing_pb2_grpc.SourcingServiceStub(api.channel).SourceReservation(request)


def held(reservation: stock.Reservation) -> dict[str, dict[str, int]]:
    return {basket.location_id: {line.sku: line.quantity for line in basket.lines} for basket in reservation.baskets}


async def place(api: Api, reservation: stock.Reservation, cents: int, kind: int = SHIP) -> orders.Order:
    request = orders.PlaceOrderRequest(
        request_id=request_id(),
        reservation_id=reservation.reservation_id,
        currency_code="USD",
        fulfillments=[orders.FulfillmentChoice(location_id=b.location_id, kind=kind) for b in reservation.baskets],
        ship_to=ADDRESS,
        tenders=card(cents),
    )
    return (await api.orders.PlaceOrder(request)).order


async def order_of(api: Api, order_id: str) -> orders.Order:
    return (await api.orders.GetOrder(orders.GetOrderRequest(order_id=order_id))).order


async def test_an_order_tells_why_its_locations_bring_it_and_by_when(api: Api) -> None:
    request = wanted({MILK: 12, BREAD: 1}, customer_id="ada", ttl_seconds=60)
    answer = await source(api, request)
    assert held(answer.reservation) == {DEPOT: {MILK: 9, BREAD: 1}, NORTH: {MILK: 3}}
    assert answer.reservation.customer_id == "ada"
    assert await source(api, request) == answer
    request.lines[0].quantity = 1
    await refused(source(api, request), Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED")

    placed = await place(api, answer.reservation, 12 * 199 + 250)
    order = await order_of(api, placed.order_id)
    (decision,) = order.sourcing_decisions
    assert (decision.policy, decision.is_proven_optimal, decision.gap, decision.fulfillment_order_id) == (
        "standard",
        True,
        0,
        "",
    )
    assert {p.location_id: (p.rule, p.ready_time) for p in decision.parcels} == {
        p.location_id: (p.rule, p.ready_time) for p in answer.plan.parcels
    }
    assert [rule.rule for rule in decision.rules if rule.is_used] == [p.rule for p in answer.plan.parcels[:1]]
    assert {each.location_id: each.reason for each in decision.passed_over} == {SOUTH: "NO_BETTER"}
    ready = {p.location_id: p.ready_time for p in answer.plan.parcels}
    assert {f.location_id: f.promised_ready_time for f in order.fulfillment_orders} == ready
    listed = await api.orders.ListFulfillmentOrders(orders.ListFulfillmentOrdersRequest(location_id=NORTH))
    assert [f.promised_ready_time for f in listed.fulfillment_orders] == [ready[NORTH]]
    (found,) = (await api.orders.ListOrders(orders.ListOrdersRequest(customer_id="ada"))).orders
    assert not found.sourcing_decisions


async def test_what_another_location_took_over_is_told_beside_it(api: Api) -> None:
    reservation = (await source(api, wanted({MILK: 3}, PICKUP, location_ids=[NORTH]))).reservation
    order = await place(api, reservation, 3 * 199, PICKUP)
    reject = orders.RejectFulfillmentOrderRequest(
        request_id=request_id(),
        fulfillment_order_id=order.fulfillment_orders[0].fulfillment_order_id,
        lines=[orders.RejectedLine(line_number=1, quantity=1, reason=orders.REJECT_REASON_DAMAGED)],
    )
    (part,) = (await api.orders.RejectFulfillmentOrder(reject)).rejected
    resource = orders.DecideShortfallRequest(
        request_id=request_id(),
        shortfall_id=part.shortfalls[0].shortfall_id,
        decision=orders.SHORTFALL_DECISION_RESOURCE,
    )
    taken = (await api.orders.DecideShortfall(resource)).fulfillment_order
    told = await order_of(api, order.order_id)
    assert [d.fulfillment_order_id for d in told.sourcing_decisions] == ["", taken.fulfillment_order_id]
    first, then = (d.parcels[0] for d in told.sourcing_decisions)
    assert (first.location_id, then.location_id) == (NORTH, SOUTH)
    # What was split off keeps the promise of the whole.
    assert [(f.location_id, f.promised_ready_time) for f in told.fulfillment_orders] == [
        (NORTH, first.ready_time),
        (NORTH, first.ready_time),
        (SOUTH, then.ready_time),
    ]


async def test_it_is_all_or_nothing_unless_a_part_is_accepted(api: Api) -> None:
    refusal = await refused(
        source(api, wanted({MILK: 31, BREAD: 33})),
        Code.FAILED_PRECONDITION,
        "NOT_SOURCED",
        policy="standard",
        sku=BREAD,
        quantity="3",
        held_quantity="0",
        unsourced_lines="2",
    )
    assert refusal.shorts == {
        BREAD: "3 that nobody brings, 0 are there",
        MILK: "1 that nobody brings, 0 are there",
    }
    assert await api.atp(DEPOT, MILK) == 10
    answer = await source(api, wanted({MILK: 31, BREAD: 33}, accepts_partial=True))
    assert [(u.sku, u.quantity) for u in answer.plan.unsourced] == [(BREAD, 3), (MILK, 1)]
    assert sum(basket[MILK] for basket in held(answer.reservation).values()) == 30
    nothing = wanted({MILK: 1}, accepts_partial=True)
    await refused(source(api, nothing), Code.FAILED_PRECONDITION, "NOT_SOURCED", unsourced_lines="1")


async def test_what_goes_meanwhile_is_planned_anew_a_few_times(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, buyers = api.app.sourcing.plan, [DEPOT, NORTH]

    async def late(*wanted: Any, **more: Any) -> Any:
        planned = await plan(*wanted, **more)
        if buyers:
            await api.reserve({buyers.pop(0): {MILK: 9}})
        return planned

    monkeypatch.setattr(api.app.sourcing, "plan", late)
    assert held((await source(api, wanted({MILK: 3}))).reservation) == {SOUTH: {MILK: 3}}

    async def stale(*wanted: Any, **more: Any) -> Any:
        return frozen

    frozen = await plan([(MILK, 7)], method=FulfillmentKind.SHIP, channel="WEB")
    await api.reserve({SOUTH: {MILK: 1}})
    monkeypatch.setattr(api.app.sourcing, "plan", stale)
    request = wanted({MILK: 7})
    await refused(
        source(api, request), Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", location_id=SOUTH, available="6"
    )
    monkeypatch.setattr(api.app.sourcing, "plan", plan)
    request.lines[0].quantity = 6  # a refusal had no effect: neither units nor the id are taken
    assert held((await source(api, request)).reservation) == {SOUTH: {MILK: 6}}


async def test_two_repeats_that_both_hold_units_make_one_reservation(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    take, both = api.app.claims.take, asyncio.Barrier(2)

    async def together(*wants: Any, **more: Any) -> Any:
        taken = await take(*wants, **more)
        await both.wait()
        return taken

    monkeypatch.setattr(api.app.claims, "take", together)
    request = wanted({MILK: 3})
    first, second = await asyncio.gather(source(api, request), source(api, request))
    assert first == second
    assert await api.atp(DEPOT, MILK) == 7
    assert await api.fetch("SELECT document_id::text FROM sourcing_decisions") == [(first.reservation.reservation_id,)]


async def test_reasons_are_forgotten_once_no_order_can_come_of_them(api: Api) -> None:
    made = [(await source(api, wanted({MILK: 1}))).reservation for _ in range(3)]
    await place(api, made[0], 199)
    await api.release(made[1].reservation_id)
    await api.app.decisions.forget()
    assert await api.fetch("SELECT count(*) FROM sourcing_decisions") == [(3,)]
    await api.execute("UPDATE sourcing_decisions SET look_time = now() - interval '1 second'")
    await api.app.decisions.forget()
    left = await api.fetch("SELECT document_id::text, look_time > now() FROM sourcing_decisions ORDER BY created_time")
    assert left == [(made[0].reservation_id, None), (made[2].reservation_id, True)]


async def test_a_repeat_that_finds_what_its_first_attempt_took_gone_gets_its_answer(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, request, first = api.app.sourcing.plan, wanted({MILK: 30}), []

    async def late(*lines: Any, **more: Any) -> Any:
        monkeypatch.setattr(api.app.sourcing, "plan", plan)
        first.append(await source(api, request))
        return await plan(*lines, **more)

    monkeypatch.setattr(api.app.sourcing, "plan", late)
    assert [await source(api, request)] == first
