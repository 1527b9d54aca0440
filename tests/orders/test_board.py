"""What a store's board watches: nothing missed, nothing out of order, one poll for all, and a cursor to come again with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest

from api import Api, eventually, serving
from onhand.domain.errors import Refusal
from onhand.orders import board as board_module
from onhand.orders.board import Board, Position
from onhand.postgres import asyncpg_dsn
from onhand.v1 import order_pb2 as pb
from onhand.v1 import order_pb2_grpc
from shop import MILK, NORTH, SOUTH, Shop, open_shop

Messages = AsyncGenerator[pb.WatchFulfillmentOrdersResponse, None]


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """A poll that is as quick as a test wants it."""
    with patch.object(board_module, "POLL_SECONDS", 0.005):
        yield


@asynccontextmanager
async def watching(shop: Shop, location_id: str = NORTH, cursor: str = "") -> AsyncGenerator[tuple[Messages, str]]:
    """The messages of a stream after its first, and the cursor of that."""
    async with aclosing(shop.app.board.watch(location_id, cursor)) as messages:
        first = await anext(messages)
        assert not first.changes
        yield messages, first.cursor


async def steps(messages: Messages, count: int) -> tuple[list[str], str]:
    """What so many changes are called, and the last cursor."""
    found: list[str] = []
    cursor = ""
    while len(found) < count:
        message = await anext(messages)
        found += [
            change.type.removeprefix("onhand.fulfillment_order.").removesuffix(".v1") for change in message.changes
        ]
        cursor = message.cursor or cursor
    assert len(found) == count, found
    return found, cursor


async def polling(shop: Shop) -> bool:
    """Whether somebody reads for all."""
    return shop.app.board._polling is not None


async def has_read(shop: Shop, at: Position) -> bool:
    """Whether it went on from there."""
    return shop.app.board._at > at


async def test_the_work_of_a_location_is_told_as_it_happens_and_that_of_others_is_not(shop: Shop) -> None:
    async with watching(shop) as (messages, _):
        await shop.ready({SOUTH: {MILK: 1}})
        work, code = await shop.ready({NORTH: {MILK: 1}})
        await shop.hand_over(work, code)
        told, _ = await steps(messages, 5)
        assert told == ["requested", "accepted", "picked", "ready_for_pickup", "picked_up"]


async def test_who_comes_again_with_a_cursor_misses_nothing_and_gets_nothing_twice(shop: Shop) -> None:
    async with watching(shop) as (messages, first):
        work, code = await shop.ready({NORTH: {MILK: 1}})
        _, cursor = await steps(messages, 4)
    await shop.hand_over(work, code)
    async with watching(shop, cursor=cursor) as (messages, _):
        assert (await steps(messages, 1))[0] == ["picked_up"]
        await shop.place({NORTH: {MILK: 1}})
        assert (await steps(messages, 1))[0] == ["requested"]
    async with watching(shop, cursor=first) as (messages, _):
        assert len((await steps(messages, 6))[0]) == 6


async def test_a_change_names_its_work_its_order_its_state_and_itself(shop: Shop) -> None:
    async with watching(shop) as (messages, _):
        placed = await shop.place({NORTH: {MILK: 1}})
        work = placed.order.fulfillment_orders[0].fulfillment_order_id
        await shop.accept(work)
        changes = [change for _ in range(2) for change in (await anext(messages)).changes][:2]
        if len(changes) < 2:
            changes += (await anext(messages)).changes
    assert {(c.fulfillment_order_id, c.order_id) for c in changes} == {(work, placed.order.order_id)}
    assert [c.state for c in changes] == [pb.FULFILLMENT_STATE_UNSPECIFIED, pb.FULFILLMENT_STATE_ACCEPTED]
    assert len({c.event_id for c in changes}) == 2
    assert all(c.HasField("event_time") for c in changes)


async def test_what_a_transaction_that_still_runs_will_tell_is_waited_for(shop: Shop, database_dsn: str) -> None:
    connection = await asyncpg.connect(asyncpg_dsn(database_dsn))
    try:
        async with watching(shop) as (messages, _):
            transaction = connection.transaction()
            await transaction.start()
            work = (await shop.place({NORTH: {MILK: 1}})).order.fulfillment_orders[0].fulfillment_order_id
            # An older transaction than the next, and it commits after it.
            await connection.execute(
                "INSERT INTO events (event_id, type, subject, location_id, data) SELECT gen_random_uuid(),"
                " 'onhand.fulfillment_order.late.v1', '', $1, jsonb_build_object('fulfillment_order_id', $2::text,"
                " 'order_id', '')",
                NORTH,
                work,
            )
            await shop.accept(work)
            assert (await steps(messages, 1))[0] == ["requested"]
            await transaction.commit()
            assert (await steps(messages, 2))[0] == ["late", "accepted"]
    finally:
        await connection.close()


async def test_one_poll_serves_all_and_ends_with_the_last_of_them(shop: Shop) -> None:
    own, read = [0], Board._read

    async def counted(board: Board, after: Position, location_id: str) -> Any:
        own[0] += location_id != ""
        return await read(board, after, location_id)

    with patch.object(Board, "_read", counted):
        streams = [shop.app.board.watch(NORTH, "") for _ in range(20)]
        for stream in streams:
            await anext(stream)
        caught_up = 0
        for n in range(4):
            waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
            await eventually(lambda: polling(shop), True)
            await shop.place({NORTH: {MILK: 1}})
            messages = await asyncio.gather(*waiting)
            assert [len(m.changes) for m in messages] == [1] * 20
            caught_up = caught_up if n else own[0]
        # Each reads by itself to catch up at first, and never again.
        assert own[0] == caught_up > 0
        for stream in streams:
            await stream.aclose()
        await eventually(lambda: polling(shop), False)


async def test_an_idle_stream_gets_a_checkpoint_to_come_again_with(shop: Shop) -> None:
    with patch.object(board_module, "IDLE_SECONDS", 0.01):
        async with watching(shop) as (messages, first):
            await shop.sell(NORTH, {MILK: 1}, 199)
            message = await anext(messages)
            while message.cursor == first:
                message = await anext(messages)
            assert not message.changes
    await shop.place({NORTH: {MILK: 1}})
    async with watching(shop, cursor=message.cursor) as (messages, _):
        assert (await steps(messages, 1))[0] == ["requested"]


async def test_a_reader_who_falls_behind_catches_up_by_itself(shop: Shop) -> None:
    with patch.object(board_module, "BEHIND_MAX", 2):
        async with watching(shop) as (messages, _):
            await shop.place({NORTH: {MILK: 1}})
            assert (await steps(messages, 1))[0] == ["requested"]
            for _ in range(4):
                await shop.place({NORTH: {MILK: 1}})
            at = shop.app.board._at
            await shop.sell(SOUTH, {MILK: 1}, 199)
            await eventually(lambda: has_read(shop, at), True)
            assert (await steps(messages, 4))[0] == ["requested"] * 4


async def test_long_histories_are_read_in_parts_and_given_in_messages_of_a_size(shop: Shop) -> None:
    async with watching(shop) as (_, first):
        for _ in range(3):
            await shop.ready({NORTH: {MILK: 1}})
    with patch.object(board_module, "READ_MAX", 5), patch.object(board_module, "BATCH_MAX", 2):
        async with watching(shop, cursor=first) as (messages, _):
            told, cursor = await steps(messages, 12)
            assert told == ["requested", "accepted", "picked", "ready_for_pickup"] * 3
            assert cursor


@pytest.mark.parametrize(
    ("location_id", "cursor", "reason"),
    [
        ("nowhere", "", "LOCATION_NOT_FOUND"),
        (NORTH, "nonsense", "INVALID_REQUEST"),
        (NORTH, "LTEuMA==", "INVALID_REQUEST"),
        (NORTH, Position(2**60, 0).cursor(), "CURSOR_TOO_OLD"),
    ],
)
async def test_a_cursor_that_cannot_be_gone_on_from_is_refused(
    shop: Shop, location_id: str, cursor: str, reason: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await anext(shop.app.board.watch(location_id, cursor))
    assert refused.value.reason == reason


async def test_a_cursor_after_which_a_day_has_passed_is_too_old(shop: Shop) -> None:
    async with watching(shop) as (_, cursor):
        await shop.place({NORTH: {MILK: 1}})
    await shop.execute("UPDATE events SET time = time - interval '25 hours'")
    with pytest.raises(Refusal) as refused:
        await anext(shop.app.board.watch(NORTH, cursor))
    assert refused.value.reason == "CURSOR_TOO_OLD"
    async with watching(shop):
        pass


async def test_a_poll_that_fails_tells_who_watches_to_come_again(shop: Shop) -> None:
    async with watching(shop) as (messages, cursor):
        waiting = asyncio.ensure_future(anext(messages))
        await eventually(lambda: polling(shop), True)
        with patch.object(board_module, "READ", "SELECT nothing"), pytest.raises(Refusal) as refused:
            await waiting
        assert refused.value.reason == "LEDGER_UNAVAILABLE"
    await shop.place({NORTH: {MILK: 1}})
    async with watching(shop, cursor=cursor) as (messages, _):
        assert (await steps(messages, 1))[0] == ["requested"]


async def test_a_board_is_watched_over_grpc_and_ends_with_a_status(database_dsn: str, redis_url: str) -> None:
    async with open_shop(database_dsn, redis_url) as shop, serving(database_dsn, redis_url) as api:
        await _watch_over_grpc(shop, api)


async def _watch_over_grpc(shop: Shop, api: Api) -> None:
    stub: Any = order_pb2_grpc.OrderServiceStub(api.channel)
    call = stub.WatchFulfillmentOrders(pb.WatchFulfillmentOrdersRequest(location_id=NORTH))
    first = await call.read()
    await shop.place({NORTH: {MILK: 1}})
    assert [c.type for c in (await call.read()).changes] == ["onhand.fulfillment_order.requested.v1"]
    call.cancel()
    again = stub.WatchFulfillmentOrders(pb.WatchFulfillmentOrdersRequest(location_id=NORTH, cursor=first.cursor))
    await again.read()
    assert len((await again.read()).changes) == 1
    for fields, code in (({"location_id": "nowhere"}, "NOT_FOUND"), ({}, "INVALID_ARGUMENT")):
        call = stub.WatchFulfillmentOrders(pb.WatchFulfillmentOrdersRequest(**fields))
        assert (await call.code()).name == code
