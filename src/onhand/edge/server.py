"""The gRPC server: every rpc of a service is served by the handler of its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from onhand.caller import Caller
from onhand.domain.errors import Overloaded, Refusal
from onhand.edge.admission import Admission, Budget
from onhand.edge.errors import CODES, DETAILS_KEY, status_of
from onhand.edge.method import (
    ACTOR_KEY,
    ACTOR_LENGTH_MAX,
    MESSAGE_BYTES_MAX,
    Calls,
    Failed,
    Method,
    RefusedAtOnce,
    handler_of,
    methods,
    request_types,
    stream_methods,
)
from onhand.edge.validation import Validator

STREAM_SECONDS_MAX = 0.5
"""How long answers on their way, and streams, may then take."""
PENDING_MAX = 1000
"""Calls of one queue that gRPC holds, unread, for a process too busy to look; it cancels what comes beyond."""
OWN_QUEUE_METHODS = frozenset({"Sell", "HandOverFulfillmentOrder", "CreateReturn"})
"""What customers at a counter wait for. Few: with each such queue every call, of any method, costs two microseconds more."""

Context = grpc.aio.ServicerContext[Any, Any]
Read = Callable[[], Awaitable[bytes | None]]
"""The next message of a stream, encoded; None after the last."""
Write = Callable[[bytes], Awaitable[None]]
StreamHandler = Callable[[Read, Write, Caller, Budget, Calls], Awaitable[None]]


class Unary:
    """A method as gRPC calls it."""

    def __init__(self, method: Method) -> None:
        self._method = method

    async def answer(self, encoded: bytes, context: Context) -> Message:
        """Answers one call, or aborts it with a google.rpc.Status."""
        method = self._method
        try:
            return await method.answer(encoded, actor_of(context), context.time_remaining())
        except Refusal as refusal:
            status = method.status(refusal)
            code, message, encoded_status = CODES[refusal.kind], status.message, status.SerializeToString()
        except RefusedAtOnce as refused:
            code, message, encoded_status = CODES[Overloaded.kind], refused.message, refused.encoded_status
        except Failed as failure:
            await context.abort(grpc.StatusCode.INTERNAL, str(failure))
        await context.abort(code, message, ((DETAILS_KEY, encoded_status),))


def actor_of(context: Context) -> str:
    """Who the caller says acts; empty where it does not."""
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR_KEY:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            return text[:ACTOR_LENGTH_MAX]
    return ""


class Streaming:
    """A stream as gRPC calls it: one that only answers is read once."""

    def __init__(self, handler: StreamHandler, budget: Budget, calls: Calls) -> None:
        self._handler = handler
        self._budget = budget
        self._calls = calls

    async def serve(self, _: object, context: Context) -> None:
        """Serves one stream until its caller ends it, or the server stops."""

        async def read() -> bytes | None:
            encoded = await context.read()
            return encoded if isinstance(encoded, bytes) else None  # else it is gRPC's mark of the end

        try:
            await self._handler(read, context.write, Caller(actor=actor_of(context)), self._budget, self._calls)
        except Refusal as refusal:
            status = status_of(refusal)
            await context.abort(CODES[refusal.kind], status.message, ((DETAILS_KEY, status.SerializeToString()),))


class Server:
    """A gRPC server with health and reflection, drained when it stops."""

    def __init__(
        self,
        implementations: Mapping[str, Sequence[object]],
        extra_handlers: Sequence[grpc.GenericRpcHandler[Any, Any]] = (),
    ) -> None:
        """`implementations`: the objects that hold the handlers of each service; `extra_handlers`: served beside them."""
        self.calls = Calls()
        self.admission = Admission()
        self.methods = methods(implementations, Validator(request_types(implementations)), self.calls, self.admission)
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
        for name, objects in implementations.items():
            handlers = self._unary(name) | self._streams(name, objects)
            # Registered methods wait in queues of their own inside gRPC: a flood of others does not stand before them.
            own = {method: handler for method, handler in handlers.items() if method in OWN_QUEUE_METHODS}
            self._server.add_registered_method_handlers(name, own)  # type: ignore[attr-defined]  # new, its stub older
            shared = {method: handler for method, handler in handlers.items() if method not in own}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, shared),))
        if extra_handlers:
            self._server.add_generic_rpc_handlers(tuple(extra_handlers))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(self._names, self._server)

    def _unary(self, service: str) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            name: grpc.unary_unary_rpc_method_handler(
                Unary(method).answer,
                request_deserializer=None,
                response_serializer=method.response_type.SerializeToString,
            )
            for name, method in self.methods[service].items()
        }

    def _streams(self, service: str, objects: Sequence[object]) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            method.name: grpc.stream_stream_rpc_method_handler(
                Streaming(handler_of(objects, method), self.admission.budget(method), self.calls).serve
            )
            for method in stream_methods(service)
        }

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
        await self.calls.drain()
        # What is left are streams, as of health, that end with the server only.
        await self._server.stop(STREAM_SECONDS_MAX)
