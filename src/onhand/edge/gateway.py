"""Many reservations in one call, or on one stream, for gateways that speak for many shoppers: each keeps its own outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from onhand.caller import Caller
from onhand.domain.errors import Overloaded, Refusal, ServerStopping, invalid
from onhand.edge.admission import Budget
from onhand.edge.errors import status_of
from onhand.edge.method import CALL_SECONDS_MAX, FAILED, Calls
from onhand.edge.validation import Validator
from onhand.telemetry import REFUSALS
from onhand.v1 import inventory_pb2 as v1

log = logging.getLogger(__name__)

UNANSWERED_MAX = 1000
"""Reservations of one stream that may be under way; the next message is read when some are answered."""

VALIDATOR = Validator([v1.ReserveRequest, v1.ReserveStreamRequest])

Reserve = Callable[[v1.ReserveRequest, Caller], asyncio.Future[v1.ReserveResponse]]
"""Begins a reservation that comes to its end by itself."""


class Gateway:
    """The rpcs that carry many reservations."""

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self._check = VALIDATOR.check

    async def batch_reserve(self, request: v1.BatchReserveRequest, caller: Caller) -> v1.BatchReserveResponse:
        """Reserves baskets, each by itself."""
        begun = [self._begin(each, caller) for each in request.requests]
        waiting = [work for work in begun if isinstance(work, asyncio.Future)]
        if waiting:
            await asyncio.wait(waiting)
        return v1.BatchReserveResponse(
            outcomes=[_outcome(each.request_id, work) for each, work in zip(request.requests, begun, strict=True)]
        )

    async def reserve_stream(
        self,
        read: Callable[[], Awaitable[bytes | None]],
        write: Callable[[bytes], Awaitable[None]],
        caller: Caller,
        budget: Budget,
        calls: Calls,
    ) -> None:
        """Reserves what comes on a stream until its caller has sent everything, and everything is answered."""
        stream = _Stream(write)
        writing = asyncio.create_task(stream.write_outcomes(), name="outcomes of a stream")
        try:
            while not stream.is_broken and (encoded := await read()) is not None:
                self._take(stream, encoded, caller.actor, budget, calls)
                await stream.room()
            stream.end()
            await writing
        finally:
            writing.cancel()

    def _take(self, stream: _Stream, encoded: bytes, actor: str, budget: Budget, calls: Calls) -> None:
        """Begins what a message asks for. Raises InvalidRequest where it cannot be read at all."""
        try:
            message = v1.ReserveStreamRequest.FromString(encoded)
        except DecodeError:
            raise invalid("request", "is no onhand.v1.ReserveStreamRequest") from None
        self._check(message)
        caller = Caller(actor=actor, deadline=time.monotonic() + CALL_SECONDS_MAX)
        for request in message.requests:
            work: asyncio.Future[v1.ReserveResponse] | Refusal
            if calls.is_stopping:
                work = ServerStopping()
            elif budget.refuses(CALL_SECONDS_MAX):
                work = Overloaded(budget.name, int(budget.limit))
            else:
                work = self._begin(request, caller)
            if isinstance(work, asyncio.Future):
                budget.follow(work)
                calls.follow(work)
            stream.follow(request.request_id, work)

    def _begin(self, request: v1.ReserveRequest, caller: Caller) -> asyncio.Future[v1.ReserveResponse] | Refusal:
        try:
            self._check(request)
            return self._reserve(request, caller)
        except Refusal as refusal:
            return refusal


class _Stream:
    """The outcomes of one stream: gathered as they come, written together."""

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self.is_broken = False
        self._write = write
        self._outcomes: list[v1.ReserveOutcome] = []
        self._unanswered = 0
        self._is_ended = False
        self._something = asyncio.Event()
        self._less = asyncio.Event()

    def follow(self, request_id: str, work: asyncio.Future[v1.ReserveResponse] | Refusal) -> None:
        """Answers a request as soon as its outcome is known."""
        self._unanswered += 1
        if isinstance(work, asyncio.Future):
            work.add_done_callback(lambda done: self._known(request_id, done))
        else:
            self._known(request_id, work)

    def _known(self, request_id: str, work: asyncio.Future[v1.ReserveResponse] | Refusal) -> None:
        self._outcomes.append(_outcome(request_id, work))
        self._something.set()

    async def room(self) -> None:
        """Returns once few enough wait for their outcome."""
        while self._unanswered >= UNANSWERED_MAX and not self.is_broken:
            self._less.clear()
            await self._less.wait()

    def end(self) -> None:
        """Nothing more will be asked for."""
        self._is_ended = True
        self._something.set()

    async def write_outcomes(self) -> None:
        """Writes outcomes until all are written and the stream was ended, or its caller is gone."""
        try:
            while self._unanswered or not self._is_ended:
                await self._something.wait()
                self._something.clear()
                if not self._outcomes:
                    continue
                outcomes, self._outcomes = self._outcomes, []
                await self._write(v1.ReserveStreamResponse(outcomes=outcomes).SerializeToString())
                self._unanswered -= len(outcomes)
                self._less.set()
        finally:
            self.is_broken = True
            self._less.set()


def _outcome(request_id: str, work: asyncio.Future[Any] | Refusal) -> v1.ReserveOutcome:
    if isinstance(work, Refusal):
        error: BaseException | None = work
    elif work.cancelled():
        error = ServerStopping()
    else:
        error = work.exception()
    if error is None:
        assert isinstance(work, asyncio.Future)
        return v1.ReserveOutcome(request_id=request_id, reservation=work.result().reservation)
    if isinstance(error, Refusal):
        REFUSALS.labels(error.reason).inc()
        return v1.ReserveOutcome(request_id=request_id, error=status_of(error))
    log.error("a reservation of many failed", exc_info=error)
    return v1.ReserveOutcome(request_id=request_id, error=status_pb2.Status(code=code_pb2.INTERNAL, message=FAILED))
