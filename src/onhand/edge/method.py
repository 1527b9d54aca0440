"""One rpc around its handler, whatever carries it: admission, decoding, validation, deadline, metrics.

A transport hands in the encoded request and who calls, and gets the response message or a refusal. gRPC (`onhand.edge.server`)
and Connect (`onhand.edge.connect`) are thin shells around the same methods.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn, cast

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from onhand.caller import Caller
from onhand.deadline import set_until
from onhand.domain.errors import (
    NotInTime,
    OutcomeUnknown,
    Overloaded,
    Refusal,
    RequestIdReused,
    ServerStopping,
    invalid,
)
from onhand.edge.admission import Admission, Budget, is_mutation
from onhand.edge.errors import CODES, status_of
from onhand.edge.validation import Validator
from onhand.telemetry import CALL_SECONDS, REFUSALS

log = logging.getLogger(__name__)

DRAIN_SECONDS_MAX = 10
"""How long calls under way may take to end when the server stops."""
DRAIN_SECONDS_MIN = 0.5
"""How long a stopping server still answers new calls, by UNAVAILABLE: what gRPC finds unanswered it would cancel."""
CALL_SECONDS_MAX = 10.0
"""How long any call may take, and one without a deadline."""
ANSWER_SECONDS_MAX = 0.25
"""How long before its deadline a call is answered at the latest, so that the answer reaches its caller in time."""
ANSWER_SHARE = 0.1
"""The same, as a share of the time that it has: what counts is whichever is less."""
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""The largest request or answer."""
ACTOR_LENGTH_MAX = 128
"""How much of a caller's name is kept."""
ACTOR_KEY = "x-onhand-actor"
"""Metadata, or header, in which a caller says who acts; it is kept on every movement."""
FAILED = "an error of onhand's own; it is logged. Repeat with the same request_id"
"""What a caller is told of an error that nobody expected."""

Handler = Callable[[Any, Caller], Awaitable[Message]]
"""A coroutine function; or a function that returns a future of work that goes on whether its caller waits or not."""


def kept_back(seconds: float) -> float:
    """How long before its deadline a call is answered, of the time that it has left."""
    return min(ANSWER_SECONDS_MAX, ANSWER_SHARE * seconds)


class RefusedAtOnce(Exception):
    """There is no room for one more call of this kind. The status, a google.rpc.Status, was encoded once for many of them."""

    def __init__(self, message: str, encoded_status: bytes) -> None:
        super().__init__(message)
        self.message = message
        self.encoded_status = encoded_status


class Failed(Exception):
    """An error of onhand's own, logged already."""


def handler_name(method: str) -> str:
    """GetStockPosition -> get_stock_position."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()


class Calls:
    """The calls under way, and whether the server still takes new ones."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._running: set[asyncio.Future[Any]] = set()

    def begin(self, call: Coroutine[Any, Any, Message]) -> asyncio.Task[Message]:
        """Begins a call that comes to its end even if its caller goes away: nothing is half done."""
        task = asyncio.create_task(call)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # whoever still waits gets it too
            log.debug("a call ended: %s", error)

    def follow(self, work: asyncio.Future[Any]) -> None:
        """Counts work that comes to its end by itself."""
        self._running.add(work)
        work.add_done_callback(self._ended)

    async def wait_for(self, work: asyncio.Future[Message]) -> Message:
        """Waits for work that comes to its end by itself; counts it as long."""
        self._running.add(work)
        try:
            return await work
        finally:
            self._running.discard(work)

    async def accompany(self, call: Awaitable[Message]) -> Message:
        """Lets a call end where its caller goes away: a read, which nobody waits for then."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await call
        finally:
            self._running.discard(task)

    async def drain(self) -> None:
        """Refuses new calls, and waits for those under way."""
        self.is_stopping = True
        until = time.monotonic() + DRAIN_SECONDS_MAX
        await asyncio.sleep(DRAIN_SECONDS_MIN)
        if self._running:
            await asyncio.wait(self._running, timeout=until - time.monotonic())


class Method:
    """One unary rpc."""

    def __init__(
        self, descriptor: MethodDescriptor, handler: Handler, validator: Validator, calls: Calls, budget: Budget
    ) -> None:
        self.descriptor = descriptor
        self.name = descriptor.full_name
        self.request_type = message_factory.GetMessageClass(descriptor.input_type)
        self.response_type = message_factory.GetMessageClass(descriptor.output_type)
        self.is_mutation = is_mutation(descriptor)
        self._budget = budget
        self._seconds: dict[grpc.StatusCode, Any] = {}
        self._calls = calls
        self._handler = handler
        self._check = validator.check

    async def answer(
        self, encoded: bytes, actor: str, seconds: float | None, decode: Callable[[bytes], Message] | None = None
    ) -> Message:
        """Answers one call before its deadline, `seconds` from now (None: it has none).

        Raises Refusal, RefusedAtOnce and Failed. `decode` raises Refusal; without it the request is protobuf.
        """
        budget, began, code = self._budget, time.perf_counter(), grpc.StatusCode.CANCELLED
        seconds = CALL_SECONDS_MAX if seconds is None else min(seconds, CALL_SECONDS_MAX)
        seconds -= kept_back(seconds)
        if budget.refuses(seconds):
            self._observe(CODES[Overloaded.kind], began)
            REFUSALS.labels(Overloaded.reason).inc()
            raise RefusedAtOnce(*budget.refusal())
        try:
            response = await self._answered(encoded, actor, seconds, decode or self._decoded)
            code = grpc.StatusCode.OK
            return response
        except Refusal as refusal:
            code = CODES[refusal.kind]
            REFUSALS.labels(refusal.reason).inc()
            if isinstance(refusal, RequestIdReused):
                log.info("%s: %s", self.name, refusal)
            raise
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("%s failed", self.name)
            code = grpc.StatusCode.INTERNAL
            raise Failed(FAILED) from error
        finally:
            self._observe(code, began)

    def status(self, refusal: Refusal) -> status_pb2.Status:
        """A refusal as its caller is told of it."""
        return status_of(refusal, self._budget.retry_seconds())

    def _observe(self, code: grpc.StatusCode, began: float) -> None:
        observer = self._seconds.get(code)
        if observer is None:  # kept, for to find it by its labels takes longer than to use it
            observer = self._seconds[code] = CALL_SECONDS.labels(self.name, code.name)
        observer.observe(time.perf_counter() - began)

    async def _answered(
        self, encoded: bytes, actor: str, seconds: float, decode: Callable[[bytes], Message]
    ) -> Message:
        if self._calls.is_stopping:
            raise ServerStopping
        until = time.monotonic() + seconds
        request = decode(encoded)
        self._check(request)
        set_until(until)
        work = self._handler(request, Caller(actor=actor, deadline=until))
        if isinstance(work, asyncio.Future):
            return await self._own(work, seconds)
        call = cast(Coroutine[Any, Any, Message], work)
        if not self.is_mutation:
            return await self._read(call, seconds)
        task = self._calls.begin(self._budget.spend(call))
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            raise OutcomeUnknown
        return task.result()

    async def _own(self, work: asyncio.Future[Message], seconds: float) -> Message:
        """Waits for a future. What is behind it goes on by itself: it may be ended here, for nobody else waits for it."""
        began = self._budget.enter()
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, work)
        try:
            return await self._calls.wait_for(work)
        finally:
            timer.cancel()
            self._budget.leave(began)

    def _expire(self, work: asyncio.Future[Message]) -> None:
        if not work.done():
            work.set_exception(OutcomeUnknown() if self.is_mutation else NotInTime())

    async def _read(self, call: Awaitable[Message], seconds: float) -> Message:
        try:
            async with asyncio.timeout(seconds) as timer:
                return await self._budget.spend(self._calls.accompany(call))
        except TimeoutError:
            if not timer.expired():
                raise
            raise NotInTime from None

    def _decoded(self, encoded: bytes) -> Message:
        # Here rather than in gRPC, which would log each such call with its stack and show its caller the exception.
        try:
            return self.request_type.FromString(encoded)
        except DecodeError:
            self.refuse_encoding()

    def refuse_encoding(self) -> NoReturn:
        """Raises InvalidRequest: the bytes are not what they should be."""
        raise invalid("request", f"is no {self.request_type.DESCRIPTOR.full_name}") from None


def methods(
    implementations: Mapping[str, Sequence[object]], validator: Validator, calls: Calls, admission: Admission
) -> dict[str, dict[str, Method]]:
    """The unary rpcs of services by full name, each with the objects that hold its handlers, exactly one an rpc."""
    pool = descriptor_pool.Default()
    return {
        name: {
            method.name: Method(method, handler_of(objects, method), validator, calls, admission.budget(method))
            for method in pool.FindServiceByName(name).methods
            if not is_stream(method)
        }
        for name, objects in implementations.items()
    }


def stream_methods(service: str) -> list[MethodDescriptor]:
    """The streams of a service."""
    return [method for method in descriptor_pool.Default().FindServiceByName(service).methods if is_stream(method)]


def is_stream(method: MethodDescriptor) -> bool:
    """Whether a call carries more than one message either way."""
    return bool(method.client_streaming or method.server_streaming)


def handler_of(objects: Sequence[object], method: MethodDescriptor) -> Any:
    """The handler of an rpc. Raises AttributeError unless there is exactly one."""
    found = [getattr(o, handler_name(method.name)) for o in objects if hasattr(o, handler_name(method.name))]
    if len(found) != 1:
        raise AttributeError(f"{method.full_name} has {len(found)} handlers")
    return found[0]


def request_types(names: Mapping[str, object]) -> list[type[Message]]:
    """The request messages of services by full name."""
    pool = descriptor_pool.Default()
    return [
        message_factory.GetMessageClass(method.input_type)
        for name in names
        for method in pool.FindServiceByName(name).methods
    ]
