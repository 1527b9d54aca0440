"""Many reservations in one call, and on one stream: each is what Reserve would have made of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2

from api import BREAD, MILK, NORTH, SOUTH, Api, Code, invalid, lines, request_id
from onhand.edge import gateway
from onhand.v1 import inventory_pb2 as pb
from onhand.v1 import types_pb2


def wanted(quantities: dict[str, int], *, at: str = NORTH, request: str = "") -> pb.ReserveRequest:
    return pb.ReserveRequest(
        request_id=request or request_id(),
        channel=types_pb2.CHANNEL_WEB,
        baskets=[pb.LocationBasket(location_id=at, lines=lines(quantities))],
    )


def reason(outcome: pb.ReserveOutcome) -> str:
    """Of a refusal; empty where there is a reservation."""
    if outcome.WhichOneof("outcome") == "reservation":
        assert outcome.reservation.state == pb.RESERVATION_STATE_ACTIVE
        return ""
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in outcome.error.details)
    assert info.domain == "onhand"
    return info.reason


async def test_each_reservation_of_a_batch_keeps_its_own_outcome(api: Api) -> None:
    first = wanted({MILK: 1})
    held = await api.inventory.Reserve(first)
    other_body = wanted({MILK: 2}, request=first.request_id)
    requests = [
        wanted({MILK: 2}),
        wanted({MILK: 100}),
        wanted({MILK: 1}, at="nowhere"),
        wanted({"no-such-sku": 1}),
        wanted({MILK: 0}),
        pb.ReserveRequest(request_id="short"),
        first,
        other_body,
        wanted({MILK: 3, BREAD: 1}, at=SOUTH),
    ]
    response = await api.inventory.BatchReserve(pb.BatchReserveRequest(requests=requests))
    assert [outcome.request_id for outcome in response.outcomes] == [request.request_id for request in requests]
    assert [reason(outcome) for outcome in response.outcomes] == [
        "",
        "INSUFFICIENT_STOCK",
        "LOCATION_NOT_FOUND",
        "SKU_NOT_FOUND",
        "INVALID_REQUEST",
        "INVALID_REQUEST",
        "",
        "REQUEST_ID_REUSED",
        "",
    ]
    assert response.outcomes[6].reservation == held.reservation
    assert await api.atp(NORTH, MILK) == 7
    assert await api.atp(SOUTH, MILK) == 7

    # All of it again: nothing more happens, and whoever had a reservation has the same.
    again = await api.inventory.BatchReserve(pb.BatchReserveRequest(requests=requests))
    assert [o for o in again.outcomes if o.HasField("reservation")] == [
        o for o in response.outcomes if o.HasField("reservation")
    ]
    assert await api.atp(NORTH, MILK) == 7


async def test_a_request_twice_in_a_batch_has_one_effect(api: Api) -> None:
    request = wanted({MILK: 4})
    response = await api.inventory.BatchReserve(pb.BatchReserveRequest(requests=[request, request, request]))
    assert len({outcome.reservation.reservation_id for outcome in response.outcomes}) == 1
    assert await api.atp(NORTH, MILK) == 6


async def test_of_a_batch_for_more_than_there_is_exactly_what_is_there_is_held(api: Api) -> None:
    requests = [wanted({MILK: 1}) for _ in range(25)]
    response = await api.inventory.BatchReserve(pb.BatchReserveRequest(requests=requests))
    assert sorted(reason(outcome) for outcome in response.outcomes) == [""] * 10 + ["INSUFFICIENT_STOCK"] * 15
    assert await api.atp(NORTH, MILK) == 0


async def test_a_batch_of_nothing_and_one_too_large_are_refused_whole(api: Api) -> None:
    await invalid(api.inventory.BatchReserve(pb.BatchReserveRequest()), "requests")
    many = pb.BatchReserveRequest(requests=[wanted({MILK: 1}) for _ in range(101)])
    await invalid(api.inventory.BatchReserve(many), "requests")
    assert await api.atp(NORTH, MILK) == 10


async def outcomes_of(api: Api, messages: list[pb.ReserveStreamRequest]) -> dict[str, pb.ReserveOutcome]:
    call = api.inventory.ReserveStream(iter(messages))
    return {outcome.request_id: outcome async for message in call for outcome in message.outcomes}


async def test_a_stream_answers_everything_before_it_ends(api: Api) -> None:
    requests = [wanted({MILK: 1}) for _ in range(12)] + [wanted({MILK: 0}), wanted({BREAD: 1}, at="nowhere")]
    found = await outcomes_of(api, [pb.ReserveStreamRequest(requests=[request]) for request in requests])
    assert set(found) == {request.request_id for request in requests}
    reasons = [reason(found[request.request_id]) for request in requests]
    assert sorted(reasons[:12]) == [""] * 10 + ["INSUFFICIENT_STOCK"] * 2
    assert reasons[12:] == ["INVALID_REQUEST", "LOCATION_NOT_FOUND"]
    assert await api.atp(NORTH, MILK) == 0
    assert await outcomes_of(api, []) == {}


async def test_outcomes_come_while_the_stream_is_open(api: Api) -> None:
    call = api.inventory.ReserveStream()
    for _ in range(3):
        request = wanted({MILK: 1})
        await call.write(pb.ReserveStreamRequest(requests=[request]))
        (outcome,) = (await call.read()).outcomes
        assert (outcome.request_id, reason(outcome)) == (request.request_id, "")
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is Code.OK


async def test_what_a_broken_stream_had_asked_for_is_held_once_and_known_to_its_repeat(api: Api) -> None:
    requests = [wanted({MILK: 1}) for _ in range(5)]
    call = api.inventory.ReserveStream()
    await call.write(pb.ReserveStreamRequest(requests=requests))
    await call.read()
    call.cancel()
    found = await outcomes_of(api, [pb.ReserveStreamRequest(requests=requests)])
    assert [reason(found[request.request_id]) for request in requests] == [""] * 5
    assert await api.atp(NORTH, MILK) == 5


async def test_a_stream_reads_on_only_as_it_is_answered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "UNANSWERED_MAX", 3)
    requests = [wanted({BREAD: 1}) for _ in range(10)]
    found = await outcomes_of(api, [pb.ReserveStreamRequest(requests=[request]) for request in requests])
    assert [reason(found[request.request_id]) for request in requests] == [""] * 10


async def test_bytes_that_are_no_message_end_a_stream_with_a_reason(api: Api) -> None:
    async def garbage() -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    async def read() -> None:
        call = api.channel.stream_stream("/onhand.v1.InventoryService/ReserveStream")(garbage())
        async for _ in call:
            raise AssertionError("nothing is answered")

    await invalid(read(), "request")


async def test_a_stopping_server_refuses_what_still_comes_on_a_stream(api: Api) -> None:
    call = api.inventory.ReserveStream()
    await call.write(pb.ReserveStreamRequest(requests=[wanted({MILK: 1})]))
    assert reason((await call.read()).outcomes[0]) == ""
    server = api.server
    server.calls.is_stopping = True
    try:
        await call.write(pb.ReserveStreamRequest(requests=[wanted({MILK: 1})]))
        assert reason((await call.read()).outcomes[0]) == "SERVER_STOPPING"
    finally:
        server.calls.is_stopping = False
    await call.done_writing()
    assert await asyncio.wait_for(call.code(), 30) is Code.OK
