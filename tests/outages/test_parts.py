"""Each way in which a part goes away, against each kind of call: who is served, who is told what, and the way back.

Every call has a deadline, and is answered before it: that is the contract under test, and no test here asserts more about time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from google.protobuf.message import Message

from api import MILK, MILK_CENTS, NORTH, SOUTH, WEB, Api, card, eventually, lines, opened, place, refusal_of, request_id
from onhand.dev.postgres import EmbeddedPostgres
from onhand.dev.valkey import EmbeddedValkey
from onhand.ledger.migrate import migrate
from onhand.v1 import inventory_pb2 as pb
from onhand.v1 import order_pb2 as orders
from outages.breaks import LOADING, READ_ONLY, Wire, between, killed, stopped, wired_postgres, wired_redis

DEADLINE_SECONDS = 5.0
Code = grpc.StatusCode
SERVED = "served"


@dataclass
class Day:
    """What is open at the moment when a part goes away: each kind of call, with what it needs."""

    api: Api
    requests: dict[str, tuple[Callable[..., Awaitable[Any]], Message]] = field(default_factory=dict)
    answers: dict[str, Message] = field(default_factory=dict)

    @classmethod
    async def prepared(cls, api: Api) -> Day:
        """One order that waits to be picked up, one that was, one that is about to be placed; ten of milk more."""
        await api.receive(NORTH, {MILK: 10})
        waiting, gone = [await _ready(api) for _ in range(2)]
        await api.orders.HandOverFulfillmentOrder(gone)
        ((order_id,),) = await api.fetch(
            "SELECT order_id::text FROM fulfillment_orders WHERE fulfillment_order_id::text = $1",
            gone.fulfillment_order_id,
        )
        held = await api.reserve({NORTH: {MILK: 1}})
        day = cls(api)
        day.requests = {
            "reserve": (
                api.inventory.Reserve,
                pb.ReserveRequest(
                    request_id=request_id(),
                    channel=WEB,
                    baskets=[pb.LocationBasket(location_id=NORTH, lines=lines({MILK: 1}))],
                ),
            ),
            "sale": (
                api.orders.Sell,
                orders.SellRequest(
                    request_id=request_id(),
                    location_id=NORTH,
                    currency_code="USD",
                    lines=[orders.SaleLine(sku=MILK, quantity=1)],
                    tenders=card(MILK_CENTS),
                ),
            ),
            "pickup": (api.orders.HandOverFulfillmentOrder, waiting),
            "return": (
                api.orders.CreateReturn,
                orders.CreateReturnRequest(
                    request_id=request_id(),
                    order_id=order_id,
                    location_id=NORTH,
                    channel=WEB,
                    lines=[orders.ReturnedLine(line_number=1, quantity=1, disposition=orders.DISPOSITION_AVAILABLE)],
                ),
            ),
            "receive": (
                api.inventory.ReceiveStock,
                pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5})),
            ),
            "place order": (
                api.orders.PlaceOrder,
                orders.PlaceOrderRequest(
                    request_id=request_id(),
                    reservation_id=held.reservation_id,
                    currency_code="USD",
                    tenders=card(MILK_CENTS),
                    fulfillments=[orders.FulfillmentChoice(location_id=NORTH, kind=orders.FULFILLMENT_KIND_PICKUP)],
                ),
            ),
            "read": (
                api.inventory.GetAvailability,
                pb.GetAvailabilityRequest(channel=WEB, skus=[MILK], location_ids=[SOUTH]),
            ),
        }
        return day

    async def outcome(self, kind: str) -> str:
        """What a call gets before its deadline: SERVED, or the reason of an UNAVAILABLE that says when to come back."""
        call, request = self.requests[kind]
        try:
            self.answers[kind] = await call(request, timeout=DEADLINE_SECONDS)
            return SERVED
        except grpc.aio.AioRpcError as error:
            caught = error
        assert caught.code() is Code.UNAVAILABLE, f"{kind}: {caught.code()} {caught.details()}"
        refusal = refusal_of(caught)
        assert refusal.retry_seconds, refusal
        return refusal.reason

    async def outcomes(self) -> dict[str, str]:
        """All of them at once, as a shop has it."""
        return dict(zip(self.requests, await asyncio.gather(*map(self.outcome, self.requests)), strict=True))

    async def until_served(self) -> None:
        """Every call once more, with the request_id that it had: each comes to its effect, once."""
        for kind in self.requests:

            async def served(kind: str = kind) -> str:
                return await self.outcome(kind)

            await eventually(served, SERVED)
        # Of 10 + 10 received: two picked up and sold to others, one sold; one came back; one is allocated, one reserved.
        position = await self.api.position(NORTH, MILK)
        assert (position.on_hand, position.allocated, position.reserved) == (20 - 2 - 1 + 1 + 5, 1, 1)

    def read(self) -> tuple[int, bool]:
        """What the last read said of ten at another location, and whether that may be old."""
        answer = self.answers["read"]
        assert isinstance(answer, pb.GetAvailabilityResponse)
        return answer.locations[0].items[0].available_to_promise, answer.is_stale


async def _sweep(api: Api) -> None:
    """Has the patrol look at every claim now: what calls of unknown outcome hold would else be held until their time is over."""
    due = "oh:{" + NORTH + "}:due"
    (claims,) = await api.app.connections.pipeline(lambda _: [("ZRANGE", due, 0, -1)])
    if claims:
        await api.app.connections.pipeline(lambda _: [("ZADD", due, "XX", 1, claim) for claim in claims])


async def _ready(api: Api) -> orders.HandOverFulfillmentOrderRequest:
    placed = await place(api, {NORTH: {MILK: 1}})
    work = placed.order.fulfillment_orders[0].fulfillment_order_id
    for step, message in (
        (api.orders.AcceptFulfillmentOrder, orders.AcceptFulfillmentOrderRequest),
        (api.orders.PickFulfillmentOrder, orders.PickFulfillmentOrderRequest),
        (api.orders.MarkReadyForPickup, orders.MarkReadyForPickupRequest),
    ):
        await step(message(request_id=request_id(), fulfillment_order_id=work))  # type: ignore[operator]
    return orders.HandOverFulfillmentOrderRequest(
        request_id=request_id(), fulfillment_order_id=work, pickup_code=placed.pickup_codes[0].pickup_code
    )


# ---------------------------------------------------------------------------------------------------- the gate is down
GATE_DOWN = dict.fromkeys(("sale", "pickup", "return", "receive", "place order", "read"), SERVED) | {
    "reserve": "GATE_UNAVAILABLE"
}


@asynccontextmanager
async def _gate(dsn: str, server: EmbeddedValkey) -> AsyncIterator[tuple[Api, Wire]]:
    wire, url = await wired_redis(server.url)
    try:
        async with opened(dsn, url) as api:
            yield api, wire
    finally:
        await wire.close()


def _gate_breaks(how: str, server: EmbeddedValkey, wire: Wire) -> AbstractContextManager[None]:
    return {
        "killed": lambda: killed(server),
        "stopped": lambda: stopped(server.pid),
        "in a black hole": lambda: between(wire.fall_silent, wire.heal),
        "loading": lambda: between(lambda: wire.say(LOADING), wire.heal),
        "read only": lambda: between(lambda: wire.say(READ_ONLY), wire.heal),
    }[how]()


@pytest.mark.parametrize("how", ["killed", "stopped", "in a black hole", "loading", "read only"])
async def test_without_the_gate_all_but_reservations_go_on(
    database_dsn: str, private_redis: EmbeddedValkey, how: str
) -> None:
    async with _gate(database_dsn, private_redis) as (api, wire):
        day = await Day.prepared(api)
        assert await day.outcome("read") == SERVED
        with _gate_breaks(how, private_redis, wire):
            assert await day.outcomes() == GATE_DOWN
            assert day.read() == (10, False)
            # What went past the gate is read at once.
            on_hand = (await api.position(NORTH, MILK)).available
            assert on_hand == 20 - 2 - 1 + 1 + 5 - 1
            assert await api.atp(NORTH, MILK) == on_hand
        await day.until_served()
        await eventually(lambda: api.atp(NORTH, MILK), on_hand - 1)


async def test_nobody_waits_for_a_gate_that_is_known_to_be_silent(
    database_dsn: str, private_redis: EmbeddedValkey
) -> None:
    async with _gate(database_dsn, private_redis) as (api, wire):
        with between(wire.fall_silent, wire.heal):
            day = Day(api, {"reserve": (api.inventory.Reserve, _reserve())})
            assert await day.outcome("reserve") == "GATE_UNAVAILABLE"
            connections, waits_for_it = api.app.connections, set()
            connect = connections._open

            async def opened_by() -> Any:
                waits_for_it.add(asyncio.current_task().get_name())  # type: ignore[union-attr]
                return await connect()

            with patch.object(connections, "_open", opened_by):
                for _ in range(5):
                    assert set(await asyncio.gather(*(day.outcome("reserve") for _ in range(10)))) == {
                        "GATE_UNAVAILABLE"
                    }
            assert waits_for_it <= {"probe of the gate"}
            assert wire.swallowed.count(b"onhand_1_take") <= 1  # the call that found out, unless a patrol did
        await eventually(lambda: day.outcome("reserve"), SERVED)


def _reserve(location_id: str = NORTH) -> pb.ReserveRequest:
    return pb.ReserveRequest(
        request_id=request_id(),
        channel=WEB,
        baskets=[pb.LocationBasket(location_id=location_id, lines=lines({MILK: 1}))],
    )


# -------------------------------------------------------------------------------------------------- the ledger is down
@asynccontextmanager
async def _ledger(server: EmbeddedPostgres, redis_url: str, folder: Path) -> AsyncIterator[tuple[Api, Wire]]:
    server.create_database("onhand")
    dsn = server.dsn("onhand")
    await asyncio.to_thread(migrate, dsn)
    wire, wired = await wired_postgres(dsn, folder)
    try:
        async with opened(wired, redis_url) as api:
            yield api, wire
    finally:
        await wire.close()


def _ledger_breaks(how: str, server: EmbeddedPostgres, wire: Wire) -> AbstractContextManager[None]:
    return {
        "killed": lambda: killed(server),
        "stopped": lambda: stopped(server.pid),
        "in a black hole": lambda: between(wire.fall_silent, wire.heal),
    }[how]()


@pytest.mark.parametrize("how", ["killed", "stopped", "in a black hole"])
async def test_without_the_ledger_reads_go_on_and_everybody_else_is_told(
    private_postgres: EmbeddedPostgres, redis_url: str, scratch_dir: Path, how: str
) -> None:
    async with _ledger(private_postgres, redis_url, scratch_dir) as (api, wire):
        day = await Day.prepared(api)
        assert await day.outcome("read") == SERVED
        with _ledger_breaks(how, private_postgres, wire):
            first = await day.outcomes()
            assert first.pop("read") == SERVED
            assert day.read() == (10, True)
            # What was sent into the silence may have had its effect.
            assert set(first.values()) <= {"LEDGER_UNAVAILABLE", "OUTCOME_UNKNOWN"}, first
            again = await day.outcomes()
            assert again.pop("read") == SERVED
            assert day.read() == (10, True)
            assert set(again.values()) == {"LEDGER_UNAVAILABLE"}, again  # nothing is sent any more
            assert await _reason(api.position(NORTH, MILK)) == "LEDGER_UNAVAILABLE"
        await day.until_served()
        await _sweep(api)


async def test_nobody_waits_for_a_ledger_that_is_known_to_be_silent(
    private_postgres: EmbeddedPostgres, redis_url: str, scratch_dir: Path
) -> None:
    async with _ledger(private_postgres, redis_url, scratch_dir) as (api, wire):
        with between(wire.fall_silent, wire.heal):
            day = Day(api, {"reserve": (api.inventory.Reserve, _reserve())})
            assert await day.outcome("reserve") in ("LEDGER_UNAVAILABLE", "OUTCOME_UNKNOWN")
            await eventually(lambda: day.outcome("reserve"), "LEDGER_UNAVAILABLE")
            sent = wire.swallowed.count(b"INSERT INTO claims")
            outcomes = await asyncio.gather(*(day.outcome("reserve") for _ in range(50)))
            assert set(outcomes) == {"LEDGER_UNAVAILABLE"}
            assert wire.swallowed.count(b"INSERT INTO claims") == sent
        await eventually(lambda: day.outcome("reserve"), SERVED)
        await _sweep(api)


async def _reason(call: Awaitable[Any]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value).reason
