"""The gRPC server: every rpc of a service is served by the handler of its name."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

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
from onhand.edge.admission import Admission, Budget
from onhand.edge.errors import CODES, DETAILS_KEY, status_of
from onhand.edge.validation import Validator
from onhand.telemetry import CALL_SECONDS, REFUSALS

log = logging.getLogger(__name__)

DRAIN_SECONDS_MAX = 10
"""How long calls under way may take to end when the server stops."""
DRAIN_SECONDS_MIN = 0.5
"""How long a stopping server still answers new calls, by UNAVAILABLE: what gRPC finds unanswered it would cancel."""
STREAM_SECONDS_MAX = 0.5
"""How long answers on their way, and streams, may then take."""
CALL_SECONDS_MAX = 10.0
"""How long any call may take, and one without a deadline."""
ANSWER_SECONDS_MAX = 0.25
"""How long before its deadline a call is answered at the latest, so that the answer reaches its caller in time."""
ANSWER_SHARE = 0.1
"""The same, as a share of the time that it has: what counts is whichever is less."""
PENDING_MAX = 1000
"""Calls of one method that gRPC holds, unread, for a process too busy to look; it cancels what comes beyond."""
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""The largest request or answer."""
ACTOR_LENGTH_MAX = 128
"""How much of a caller's name is kept."""
ACTOR_KEY = "x-onhand-actor"
"""Metadata in which a caller says who acts; it is kept on every movement."""

OVERLOADED_CODE = CODES[Overloaded.kind]

Handler = Callable[[Any, Caller], Coroutine[Any, Any, Message]]


def handler_name(method: str) -> str:
    """GetStockPosition -> get_stock_position."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()


class Calls:
    """The calls under way, and whether the server still takes new ones."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._running: set[asyncio.Task[Any]] = set()

    def begin(self, call: Coroutine[Any, Any, Message]) -> asyncio.Task[Message]:
        """Begins a call that comes to its end even if its caller goes away: nothing is half done."""
        task = asyncio.create_task(call)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Message]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # whoever still waits gets it too
            log.debug("a call ended: %s", error)

    async def follow(self, call: Coroutine[Any, Any, Message]) -> Message:
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
    """One rpc around its handler: deadline, validation, errors."""

    def __init__(
        self, descriptor: MethodDescriptor, handler: Handler, validator: Validator, calls: Calls, budget: Budget
    ) -> None:
        self.name = descriptor.full_name
        self._budget = budget
        self._seconds: dict[grpc.StatusCode, Any] = {}
        self._request_type = message_factory.GetMessageClass(descriptor.input_type)
        self._calls = calls
        self._handler = handler
        self._validator = validator
        self._is_mutation = "request_id" in descriptor.input_type.fields_by_name

    async def answer(self, encoded: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        """Answers one call before its deadline, or aborts it with a google.rpc.Status."""
        budget, began, code = self._budget, time.perf_counter(), grpc.StatusCode.CANCELLED
        given = context.time_remaining()
        seconds = CALL_SECONDS_MAX if given is None else min(given, CALL_SECONDS_MAX)
        seconds -= min(ANSWER_SECONDS_MAX, ANSWER_SHARE * seconds)
        if budget.refuses(seconds):
            self._observe(OVERLOADED_CODE, began)
            REFUSALS.labels(Overloaded.reason).inc()
            message, encoded_status = budget.refusal()
            await context.abort(OVERLOADED_CODE, message, ((DETAILS_KEY, encoded_status),))
        try:
            response = await self._answered(encoded, context, seconds)
            code = grpc.StatusCode.OK
            return response
        except Refusal as refusal:
            code = CODES[refusal.kind]
            REFUSALS.labels(refusal.reason).inc()
            status = status_of(refusal, budget.retry_seconds())
            if isinstance(refusal, RequestIdReused):
                log.info("%s: %s", self.name, refusal)
            await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:
            log.exception("%s failed", self.name)
            code = grpc.StatusCode.INTERNAL
            await context.abort(
                grpc.StatusCode.INTERNAL, "an error of onhand's own; it is logged. Repeat with the same request_id"
            )
        finally:
            self._observe(code, began)
        raise AssertionError("not reached: abort raises")

    def _observe(self, code: grpc.StatusCode, began: float) -> None:
        observer = self._seconds.get(code)
        if observer is None:  # kept, for to find it by its labels takes longer than to use it
            observer = self._seconds[code] = CALL_SECONDS.labels(self.name, code.name)
        observer.observe(time.perf_counter() - began)

    async def _answered(self, encoded: bytes, context: grpc.aio.ServicerContext[Any, Any], seconds: float) -> Message:
        if self._calls.is_stopping:
            raise ServerStopping
        until = time.monotonic() + seconds
        request = self._decoded(encoded)
        self._validator.check(request)
        set_until(until)
        call = self._handler(request, Caller(actor=_actor(context), deadline=until))
        try:
            async with asyncio.timeout(seconds) as timer:
                if self._is_mutation:
                    task = self._calls.begin(self._budget.spend(call))
                    return await asyncio.shield(task)
                return await self._budget.spend(self._calls.follow(call))
        except TimeoutError:
            if not timer.expired():
                raise
            raise (OutcomeUnknown if self._is_mutation else NotInTime)() from None

    def _decoded(self, encoded: bytes) -> Message:
        # Here rather than in gRPC, which would log each such call with its stack and show its caller the exception.
        try:
            return self._request_type.FromString(encoded)
        except DecodeError:
            raise invalid("request", f"is no {self._request_type.DESCRIPTOR.full_name}") from None


def _actor(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR_KEY:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            return text[:ACTOR_LENGTH_MAX]
    return ""


def services(
    implementations: Mapping[str, Sequence[object]], validator: Validator, calls: Calls, admission: Admission
) -> dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
    """gRPC handlers for services by full name, each with the objects that hold its handlers, exactly one an rpc."""
    pool = descriptor_pool.Default()
    handlers = {}
    for name, objects in implementations.items():
        service: ServiceDescriptor = pool.FindServiceByName(name)
        methods = {}
        for method in service.methods:
            response_type = message_factory.GetMessageClass(method.output_type)
            methods[method.name] = grpc.unary_unary_rpc_method_handler(
                Method(method, _handler(objects, method), validator, calls, admission.budget(method)).answer,
                request_deserializer=None,
                response_serializer=response_type.SerializeToString,
            )
        handlers[name] = methods
    return handlers


def _handler(objects: Sequence[object], method: MethodDescriptor) -> Handler:
    found = [getattr(o, handler_name(method.name)) for o in objects if hasattr(o, handler_name(method.name))]
    if len(found) != 1:
        raise AttributeError(f"{method.full_name} has {len(found)} handlers")
    handler: Handler = found[0]
    return handler


def request_types(names: Mapping[str, object]) -> list[type[Message]]:
    """The request messages of services by full name."""
    pool = descriptor_pool.Default()
    return [
        message_factory.GetMessageClass(method.input_type)
        for name in names
        for method in pool.FindServiceByName(name).methods
    ]


class Server:
    """A gRPC server with health and reflection, drained when it stops."""

    def __init__(self, implementations: Mapping[str, Sequence[object]]) -> None:
        self._calls = Calls()
        self.admission = Admission()
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.server.max_pending_requests", PENDING_MAX),
                ("grpc.server.max_pending_requests_hard_limit", PENDING_MAX),
            ]
        )
        self._health = HealthServicer()
        self._names = (*implementations, health.SERVICE_NAME, reflection.SERVICE_NAME)
        validator = Validator(request_types(implementations))
        # Registered methods wait in queues of their own inside gRPC: a flood of one does not stand before the others.
        for name, methods in services(implementations, validator, self._calls, self.admission).items():
            self._server.add_registered_method_handlers(name, methods)  # type: ignore[attr-defined]  # new, its stub older
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(self._names, self._server)

    async def start(self, address: str) -> int:
        """Listens, and reports SERVING. Returns the port. Raises RuntimeError if the address is taken."""
        port = self._server.add_insecure_port(address)
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self) -> None:
        """Reports NOT_SERVING, lets calls under way end, and stops."""
        await self._health.enter_graceful_shutdown()
        await self._calls.drain()
        # What is left are streams, as of health, that end with the server only.
        await self._server.stop(STREAM_SECONDS_MAX)
