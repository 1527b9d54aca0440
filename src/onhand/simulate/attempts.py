"""Calls of a trial: each attempt goes into the history; what is unknown is repeated at once, late, or never.

Unlike `calls.Client`, which insists until it has an answer, a client here lets go: that is what customers and tills do, and
what the audit has to cope with.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from onhand.simulate.calls import DETAILS_KEY, Stubs
from onhand.simulate.history import OK, REFUSED, UNKNOWN, History
from onhand.v1 import inventory_pb2

DEADLINES_SECONDS = (2.0, 3.0, 5.0)
"""How long attempts wait; each draws one."""
IN_FLIGHT_MAX = 48
"""Attempts that a client process has under way at once."""
RETRIES_AT_ONCE_MAX = 4
"""How often an unknown attempt is repeated before its caller lets go."""
RETRY_PAUSE_SECONDS = 0.15
"""The pause before an attempt is repeated at once; it doubles."""
LATE_SECONDS = (2.0, 15.0)
"""How much later a call is repeated that its caller had let go."""
AT_ONCE, LATE = 0.6, 0.85
"""Of the unknown: up to the first share is repeated at once, from there to the second late, the others never."""
STREAMED = 0.5
"""Of the reservations that are asked for together, those on a stream; the others come in one call."""
TWINS, AGAIN_LATER = 0.03, 0.05
"""The share of mutations sent twice at once, and of answered ones that are sent again later."""

# Certain: the server says that it refused. Everything else may have had its effect.
_CERTAIN = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
)
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # What is repeated is this client's business: a hidden repeat would be an attempt that is not in the history.
    ("grpc.enable_retries", 0),
]


class Result(NamedTuple):
    """How a call went: `answer` where `outcome` is OK, `reason` else; `server` is the number of the one that was asked."""

    outcome: str
    answer: Any
    reason: str
    server: int


class Caller:
    """The calls of one client process."""

    def __init__(self, targets: Sequence[str], history: History, chance: random.Random) -> None:
        self._targets = list(targets)
        self._channels = [grpc.aio.insecure_channel(target, options=_OPTIONS) for target in targets]
        self._stubs = [Stubs(channel) for channel in self._channels]
        self._history = history
        self._chance = chance
        self._in_flight = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._later: set[asyncio.Task[Any]] = set()
        self.let_go: list[tuple[str, str, Message, int, int]] = []
        """Unknown calls that were let go: (service, kind, request, op, attempts so far)."""
        self.answered: list[tuple[str, str, Message, int, int]] = []
        """Some calls that were answered, for a repeat at the end."""

    async def connect(self, timeout_seconds: float) -> None:
        """Opens all connections. Raises TimeoutError."""
        await asyncio.wait_for(asyncio.gather(*(c.channel_ready() for c in self._channels)), timeout_seconds)

    async def close(self) -> None:
        """Ends the connections; what is still under way stays unknown."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*(channel.close(None) for channel in self._channels))

    async def attempt(
        self,
        service: str,
        kind: str,
        request: Message,
        op: int,
        attempt: int,
        *,
        deadline: float | None = None,
        avoid: int | None = None,
    ) -> Result:
        """One attempt, on a server that is drawn; not on the one to `avoid` where there are others."""
        async with self._in_flight:
            place = self._chance.randrange(len(self._stubs))
            if place == avoid:
                place = (place + 1) % len(self._stubs)
            rpc = getattr(getattr(self._stubs[place], service), kind)
            seconds = deadline or self._chance.choice(DEADLINES_SECONDS)
            begun = self._history.begin(op, kind, request, attempt, time.monotonic(), self._targets[place])
            try:
                answer = await rpc(request, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                ended = time.monotonic()
                reason, detail = _why(error)
                outcome = REFUSED if error.code() in _CERTAIN else UNKNOWN
                self._history.end(begun, ended, outcome, reason=reason, detail=detail)
                return Result(outcome, None, reason, place)
            self._history.end(begun, time.monotonic(), OK, answer=answer)
            return Result(OK, answer, "", place)

    async def read(self, service: str, kind: str, request: Message, *, avoid: int | None = None) -> Any | None:
        """A call that changes nothing; None where it has no answer."""
        return (await self.attempt(service, kind, request, self._history.next_op(), 1, avoid=avoid)).answer

    async def mutate(self, service: str, kind: str, request: Message) -> Result:
        """A mutation with the repeats that this seed draws for it. UNKNOWN: its caller let go."""
        op, draw = self._history.next_op(), self._chance.random()
        if draw < TWINS:
            first, second = await asyncio.gather(
                self.attempt(service, kind, request, op, 1), self.attempt(service, kind, request, op, 2)
            )
            result, attempts = (first if first.outcome == OK else second), 2
        else:
            result, attempts = await self.attempt(service, kind, request, op, 1), 1
        return await self._follow(result, service, kind, request, op, attempts)

    async def reserve_many(self, requests: Sequence[inventory_pb2.ReserveRequest]) -> list[Result]:
        """Reservations asked for at once, in one call or on a stream. Those without an outcome are repeated one by one."""
        ops = {request.request_id: self._history.next_op() for request in requests}
        found = await self._attempt_many(requests, ops)
        return await asyncio.gather(
            *(self._follow(found[r.request_id], "inventory", "Reserve", r, ops[r.request_id], 1) for r in requests)
        )

    async def _attempt_many(
        self, requests: Sequence[inventory_pb2.ReserveRequest], ops: Mapping[str, int]
    ) -> dict[str, Result]:
        """One attempt of each, in the history as one of Reserve."""
        async with self._in_flight:
            place, now = self._chance.randrange(len(self._stubs)), time.monotonic()
            begun = {
                r.request_id: self._history.begin(ops[r.request_id], "Reserve", r, 1, now, self._targets[place])
                for r in requests
            }
            found: dict[str, Result] = {}
            lost = {"code": "UNAVAILABLE", "message": "the stream ended"}
            try:
                async for answer in _reserve_many(
                    self._stubs[place],
                    requests,
                    self._chance.choice(DEADLINES_SECONDS),
                    is_streamed=self._chance.random() < STREAMED,
                ):
                    for outcome in answer.outcomes:
                        result, detail = _outcome(outcome, place)
                        found[outcome.request_id] = result
                        self._history.end(
                            begun[outcome.request_id], time.monotonic(), result.outcome, reason=result.reason,
                            detail=detail, answer=result.answer,
                        )  # fmt: skip
            except grpc.aio.AioRpcError as error:
                lost = _why(error)[1]
            for request_id, line in begun.items():
                if request_id not in found:
                    found[request_id] = Result(UNKNOWN, None, lost["code"], place)
                    self._history.end(line, time.monotonic(), UNKNOWN, reason=lost["code"], detail=lost)
            return found

    async def _follow(
        self, result: Result, service: str, kind: str, request: Message, op: int, attempts: int
    ) -> Result:
        """What becomes of a call after its first attempts: repeats of it at once, later, or never."""
        if result.outcome == UNKNOWN:
            way = self._chance.random()
            if way < AT_ONCE:
                pause = RETRY_PAUSE_SECONDS
                while result.outcome == UNKNOWN and attempts < 1 + RETRIES_AT_ONCE_MAX:
                    await asyncio.sleep(pause * (0.5 + self._chance.random()))
                    pause, attempts = pause * 2, attempts + 1
                    result = await self.attempt(service, kind, request, op, attempts)
            elif way < LATE:
                self._repeat_later(service, kind, request, op, attempts)
                return result
        if result.outcome == UNKNOWN:
            self.let_go.append((service, kind, request, op, attempts))
        elif self._chance.random() < AGAIN_LATER:
            if self._chance.random() < 0.5:
                self._repeat_later(service, kind, request, op, attempts)
            else:
                self.answered.append((service, kind, request, op, attempts))
        return result

    def _repeat_later(self, service: str, kind: str, request: Message, op: int, attempts: int) -> None:
        async def later() -> None:
            await asyncio.sleep(self._chance.uniform(*LATE_SECONDS))
            result = await self.attempt(service, kind, request, op, attempts + 1)
            if result.outcome == UNKNOWN:
                self.let_go.append((service, kind, request, op, attempts + 1))

        task = asyncio.create_task(later())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def finish_later(self) -> None:
        """Waits for the late repeats that are under way."""
        while self._later:
            await asyncio.wait(set(self._later))

    async def repeat_at_the_end(self, share_of_unknown: float) -> None:
        """When everything is healed: late repeats of a share of the unknown calls, and of answered ones."""
        unknown = [each for each in self.let_go if self._chance.random() < share_of_unknown]
        await asyncio.gather(
            *(
                self.attempt(service, kind, request, op, attempts + 1, deadline=10.0)
                for service, kind, request, op, attempts in [*unknown, *self.answered]
            )
        )


async def _reserve_many(
    stubs: Stubs, requests: Sequence[inventory_pb2.ReserveRequest], seconds: float, *, is_streamed: bool
) -> AsyncIterator[inventory_pb2.ReserveStreamResponse | inventory_pb2.BatchReserveResponse]:
    """Outcomes, as they come."""
    if not is_streamed:
        yield await stubs.inventory.BatchReserve(inventory_pb2.BatchReserveRequest(requests=requests), timeout=seconds)
        return

    async def asked() -> AsyncIterator[inventory_pb2.ReserveStreamRequest]:
        yield inventory_pb2.ReserveStreamRequest(requests=requests)

    async for answer in stubs.inventory.ReserveStream(asked(), timeout=seconds):
        yield answer


def _why(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, Any]]:
    """ErrorInfo's reason and metadata, with the short lines of a refusal for stock; the code's name without them."""
    detail: dict[str, Any] = {"code": error.code().name, "message": (error.details() or "")[:200]}
    reason = str(error.code().name)
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == DETAILS_KEY:
            status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
            reason = _read_details(status, detail) or reason
    return reason, detail


def _read_details(status: status_pb2.Status, detail: dict[str, Any]) -> str:
    """Adds what a status says to a detail; returns the reason, if it has one."""
    reason = ""
    info, failure = error_details_pb2.ErrorInfo(), error_details_pb2.PreconditionFailure()
    for each in status.details:
        if each.Unpack(info):
            reason = info.reason
            detail["metadata"] = dict(info.metadata)
        elif each.Unpack(failure):
            detail["shorts"] = [[v.subject, v.description] for v in failure.violations]
    return reason


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _outcome(outcome: inventory_pb2.ReserveOutcome, server: int) -> tuple[Result, dict[str, Any]]:
    """What a stream says of one of its requests, as Reserve would have answered it."""
    if outcome.HasField("reservation"):
        return Result(OK, inventory_pb2.ReserveResponse(reservation=outcome.reservation), "", server), {}
    code = _CODES[outcome.error.code]
    detail: dict[str, Any] = {"code": code.name, "message": outcome.error.message[:200]}
    reason = _read_details(outcome.error, detail) or code.name
    return Result(REFUSED if code in _CERTAIN else UNKNOWN, None, reason, server), detail
