"""Calls that carry many reservations: each has an effect and an answer of its own, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.rpc import error_details_pb2

from onhand.app import App
from onhand.caller import Caller
from onhand.domain.errors import Kind, Refusal
from onhand.edge.admission import Budget
from onhand.edge.gateway import Gateway
from onhand.edge.method import Calls
from onhand.v1 import inventory_pb2 as pb

CARRIERS = (pb.BatchReserveRequest, pb.ReserveStreamRequest)
CALLER = Caller("tester", None)


@dataclass(eq=False)
class OneRefused(Refusal):
    """One of many was refused, or nobody knows what became of it: the others have their outcome."""

    why: str
    kind = Kind.PRECONDITION
    message = "one of many: {why}"

    @property
    def reason(self) -> str:  # type: ignore[override]
        return self.why


def carried(message: Any) -> Sequence[Any]:
    """The requests that have an effect of their own, and an answer."""
    return message.requests if isinstance(message, CARRIERS) else (message,)


def each_of(message: Any, answer: Message) -> Iterator[tuple[str, Message]]:
    """What an answer says of each request that it is of, by request_id."""
    if not isinstance(message, CARRIERS):
        yield message.request_id, answer
        return
    for outcome in answer.outcomes:  # type: ignore[attr-defined]
        yield outcome.request_id, pb.ReserveResponse(reservation=outcome.reservation)


async def reserve_many(app: App, message: Any, told: dict[str, Message]) -> pb.BatchReserveResponse:
    """Makes a call that carries many: all outcomes, in the order of the requests. Raises OneRefused where one has none.

    `told` gets the answers by request_id as they come: their client has them, even if nothing else ever comes.
    """
    outcomes: dict[str, pb.ReserveOutcome] = {}

    def tell(answer: pb.BatchReserveResponse | pb.ReserveStreamResponse) -> None:
        for outcome in answer.outcomes:
            outcomes[outcome.request_id] = outcome
            if outcome.HasField("reservation"):
                told[outcome.request_id] = pb.ReserveResponse(reservation=outcome.reservation)

    (gateway,) = (h for service in app.services.values() for h in service if isinstance(h, Gateway))
    if isinstance(message, pb.BatchReserveRequest):
        tell(await gateway.batch_reserve(message, CALLER))
    else:
        read, write = _client(message.requests, tell)
        await gateway.reserve_stream(read, write, CALLER, Budget("reservations", 1000), Calls())
    for outcome in outcomes.values():
        if not outcome.HasField("reservation"):
            raise OneRefused(_reason(outcome))
    return pb.BatchReserveResponse(outcomes=[outcomes[request.request_id] for request in message.requests])


def _client(
    requests: Sequence[pb.ReserveRequest], tell: Callable[[pb.ReserveStreamResponse], None]
) -> tuple[Callable[[], Awaitable[bytes | None]], Callable[[bytes], Awaitable[None]]]:
    """Of a stream: asks for the first, and for the others together once that is answered."""
    messages = [pb.ReserveStreamRequest(requests=part) for part in (requests[1:], requests[:1])]
    is_answered = asyncio.Event()
    is_answered.set()

    async def read() -> bytes | None:
        await is_answered.wait()
        is_answered.clear()
        return messages.pop().SerializeToString() if messages else None

    async def write(encoded: bytes) -> None:
        tell(pb.ReserveStreamResponse.FromString(encoded))
        is_answered.set()

    return read, write


def _reason(outcome: pb.ReserveOutcome) -> str:
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in outcome.error.details), outcome
    return info.reason
