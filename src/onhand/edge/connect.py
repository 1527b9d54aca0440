"""The Connect protocol's unary calls on RSGI: a thin shell around the methods that gRPC serves too.

Protobuf and JSON by POST, reads by GET as well, over HTTP/1.1 and HTTP/2; beside them what Envoy's reverse bridge sends, health,
and what browsers ask before a page of another origin may call.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope
from grpc_health.v1 import health, health_pb2

from onhand.domain.errors import Refusal, invalid
from onhand.edge import bridge
from onhand.edge.connect_wire import (
    PROTO,
    Answer,
    Decode,
    Encoding,
    Headers,
    Servable,
    Unreadable,
    encoding_of,
    read_by_get,
    seconds_of,
    too_large,
    uncompressed,
    unreadable,
)
from onhand.edge.errors import status_of
from onhand.edge.method import (
    ACTOR_KEY,
    ACTOR_LENGTH_MAX,
    CALL_SECONDS_MAX,
    FAILED,
    MESSAGE_BYTES_MAX,
    Calls,
    Failed,
    Method,
    RefusedAtOnce,
)
from onhand.v1.payment_pb2 import PAYMENT_PROVIDER_STRIPE, HandleWebhookRequest

log = logging.getLogger(__name__)

ANY_ORIGIN = "*"
PREFLIGHT_SECONDS = 7200
"""How long a browser may remember what it was told about another origin."""
REQUEST_HEADERS = f"content-type, content-encoding, connect-protocol-version, connect-timeout-ms, {ACTOR_KEY}"
"""Headers that a page of another origin may send."""
HEALTH_PATH = "/healthz"
WEBHOOK_CALL = "/onhand.v1.PaymentService/HandleWebhook"
WEBHOOKS = {"/webhooks/stripe": (PAYMENT_PROVIDER_STRIPE, "stripe-signature")}
"""Where providers of payments post, and the header that signs what they do."""
WEBHOOK_ACTOR = "webhook"
LATE_SECONDS = 0.1
"""How long after its deadline a request that does not come whole is given up at the latest."""
NO_STORE = ("cache-control", "no-store")
"""With every read by GET: what a cache kept would be of a moment that is past."""

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """grpc.health.v1.Health/Check. Health is told whatever else there is to do."""

    request_type: type[Message] = health_pb2.HealthCheckRequest

    def __init__(self, names: Collection[str], calls: Calls) -> None:
        self._names = names
        self._calls = calls

    @property
    def is_serving(self) -> bool:
        """Whether new calls are taken."""
        return not self._calls.is_stopping

    async def answer(self, encoded: bytes, actor: str, seconds: float | None, decode: Decode | None = None) -> Message:
        """The health of the server, or of a service. Raises Unreadable where there is no such service."""
        try:
            request = decode(encoded) if decode else health_pb2.HealthCheckRequest.FromString(encoded)
        except DecodeError:
            raise invalid("request", "is no grpc.health.v1.HealthCheckRequest") from None
        service = getattr(request, "service", "")
        if service and service not in self._names:
            raise Unreadable(grpc.StatusCode.NOT_FOUND, f"there is no service {service}")
        answer: Message = health_pb2.HealthCheckResponse(status=SERVING if self.is_serving else NOT_SERVING)
        return answer

    def status(self, refusal: Refusal) -> status_pb2.Status:
        """A refusal as its caller is told of it."""
        return status_of(refusal)


class Route(NamedTuple):
    """What a path leads to, and whether GET may ask for it."""

    method: Servable
    is_read: bool


class Connect:
    """The calls of a process, as RSGI hands them in."""

    def __init__(
        self, methods: Mapping[str, Mapping[str, Method]], calls: Calls, *, origins: Collection[str] = ()
    ) -> None:
        """`methods` by service and name; `origins` whose pages may call from a browser, `*` for any."""
        self._calls = calls
        self._bodies = _Bodies()
        self._origins = frozenset(origins)
        self._health = Health(frozenset(methods), calls)
        self._routes = {f"/{health.SERVICE_NAME}/Check": Route(self._health, True)} | {
            f"/{service}/{name}": Route(method, has_no_side_effects(method.descriptor))
            for service, named in methods.items()
            for name, method in named.items()
        }

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answers one request, whatever it is."""
        try:
            status, headers, body = await self._answered(scope, protocol)
            if self._origins:
                headers = headers + self._permission(scope)
            if self._calls.is_stopping and scope.http_version.startswith("1"):
                headers = [*headers, ("connection", "close")]
            protocol.response_bytes(status, headers, body)
        except ProtocolClosed:
            log.debug("%s: its caller went away", scope.path)

    async def _answered(self, scope: Scope, protocol: HTTPProtocol) -> Answer:
        route = self._routes.get(scope.path)
        if route is None:
            if scope.method == "POST" and scope.path in WEBHOOKS:
                return await self._hooked(scope, protocol)
            return self._beside(scope)
        encoding: Encoding = PROTO
        try:
            if scope.method == "POST":
                content_type = scope.headers.get("content-type")
                if content_type == bridge.CONTENT_TYPE:
                    encoding = bridge.BRIDGED
                    encoded, seconds = await _bridged(scope, protocol, self._bodies)
                else:
                    encoding = encoding_of(content_type)
                    encoded, seconds = await _posted(scope, protocol, self._bodies)
            elif scope.method == "GET" and route.is_read:
                encoding, encoded = read_by_get(scope.query_string)
                seconds = seconds_of(scope.headers.get("connect-timeout-ms"))
            else:
                return self._not_called(scope, route)
            actor = scope.headers.get(ACTOR_KEY)
            answer = await _called(route.method, encoding, encoded, actor, seconds)
        except Unreadable as wrong:
            answer = encoding.unreadable(wrong)
        except ProtocolClosed:
            raise
        except Exception:
            log.exception("%s failed", scope.path)
            answer = encoding.unreadable(Unreadable(grpc.StatusCode.INTERNAL, FAILED))
        if scope.method == "GET":
            answer = answer._replace(headers=[*answer.headers, NO_STORE])
        return answer

    async def _hooked(self, scope: Scope, protocol: HTTPProtocol) -> Answer:
        """What a provider of payments posts, as it posts it. A delivery is known by its signature, which no other has."""
        provider, header = WEBHOOKS[scope.path]
        try:
            body, _ = await self._bodies.read(scope, protocol, None)
        except Unreadable as wrong:
            return PROTO.unreadable(wrong)
        signature = scope.headers.get(header) or ""
        request_id = f"webhook-{hashlib.sha256(signature.encode()).hexdigest()}"
        request = HandleWebhookRequest(request_id=request_id, provider=provider, body=body, signature=signature)
        encoded = request.SerializeToString()
        return await _called(self._routes[WEBHOOK_CALL].method, PROTO, encoded, WEBHOOK_ACTOR, None)

    def _beside(self, scope: Scope) -> Answer:
        """What is asked for besides calls."""
        if scope.path == HEALTH_PATH and scope.method in ("GET", "HEAD"):
            is_serving = self._health.is_serving
            text = b"SERVING\n" if is_serving else b"NOT_SERVING\n"
            return Answer(200 if is_serving else 503, [("content-type", "text/plain"), NO_STORE], text)
        message = f"{scope.path} is not served here; streams, and reflection, are served by gRPC"
        encoding: Encoding = PROTO
        if scope.headers.get("content-type") == bridge.CONTENT_TYPE:
            encoding = bridge.BRIDGED
        return encoding.unreadable(Unreadable(grpc.StatusCode.UNIMPLEMENTED, message, http_status=404))

    def _not_called(self, scope: Scope, route: Route) -> Answer:
        if scope.method == "OPTIONS" and self._origins:
            return Answer(204, [], b"")
        allowed = "GET, POST" if route.is_read else "POST"
        return Answer(405, [("allow", allowed)], b"")

    def _permission(self, scope: Scope) -> Headers:
        """What lets a browser show the answer to a page of another origin, or lets it ask."""
        origin = scope.headers.get("origin")
        if ANY_ORIGIN in self._origins:
            origin, headers = ANY_ORIGIN, []
        else:
            headers = [("vary", "origin")]
            if origin not in self._origins:
                return headers
        headers.append(("access-control-allow-origin", origin))
        if scope.method == "OPTIONS":
            headers += [
                ("access-control-allow-methods", "GET, POST"),
                ("access-control-allow-headers", REQUEST_HEADERS),
                ("access-control-max-age", str(PREFLIGHT_SECONDS)),
            ]
        return headers


def has_no_side_effects(method: MethodDescriptor) -> bool:
    """Whether the proto declares that a call changes nothing, so that GET may ask for it."""
    return bool(method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS)


async def _called(
    method: Servable, encoding: Encoding, encoded: bytes, actor: str | None, seconds: float | None
) -> Answer:
    try:
        response = await method.answer(
            encoded, actor[:ACTOR_LENGTH_MAX] if actor else "", seconds, encoding.decoder(method)
        )
    except Refusal as refusal:
        return encoding.refusal(method.status(refusal))
    except RefusedAtOnce as refused:
        return encoding.refusal_at_once(refused.encoded_status)
    except Failed as failed:
        return encoding.unreadable(Unreadable(grpc.StatusCode.INTERNAL, str(failed)))
    return encoding.answer(response)


async def _posted(scope: Scope, protocol: HTTPProtocol, bodies: _Bodies) -> tuple[bytes, float | None]:
    """The request of a call and the seconds that are left for it. Raises Unreadable."""
    headers = scope.headers
    if headers.get("connect-protocol-version", "1") != "1":
        raise unreadable("connect-protocol-version is 1")
    seconds = seconds_of(headers.get("connect-timeout-ms"))
    body, seconds = await bodies.read(scope, protocol, seconds)
    compression = headers.get("content-encoding")
    return body if compression is None else uncompressed(compression, body), seconds


async def _bridged(scope: Scope, protocol: HTTPProtocol, bodies: _Bodies) -> tuple[bytes, float | None]:
    """The same, as Envoy's reverse bridge sends it. Raises Unreadable."""
    if not scope.http_version.startswith("1"):
        # A gRPC client that came without the bridge could not read the answer, which has no trailers.
        raise Unreadable(
            grpc.StatusCode.UNIMPLEMENTED, "this port serves Connect, and gRPC behind Envoy's reverse bridge"
        )
    body, seconds = await bodies.read(scope, protocol, bridge.seconds_of(scope.headers.get("grpc-timeout")))
    return bridge.unframed(body, scope.headers.get("grpc-encoding")), seconds


class _Bodies:
    """Bodies of requests that are being read, each until its deadline."""

    def __init__(self) -> None:
        self._until: dict[asyncio.Task[None], float] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, scope: Scope, protocol: HTTPProtocol, seconds: float | None) -> tuple[bytes, float | None]:
        """The body of a request, and what is left of the seconds it has. Raises Unreadable."""
        length = scope.headers.get("content-length")
        if length is not None and int(length) > MESSAGE_BYTES_MAX:
            raise too_large()
        task = asyncio.current_task()
        assert task is not None
        began = time.monotonic()
        self._until[task] = began + (CALL_SECONDS_MAX if seconds is None else min(seconds, CALL_SECONDS_MAX))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LATE_SECONDS, self._look)
        try:
            body = await (protocol() if length is not None else _chunks(protocol))
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                raise Unreadable(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "the request did not come before its deadline; nothing was begun"
                ) from None
            raise
        finally:
            self._until.pop(task, None)
            self._late.discard(task)
        return body, None if seconds is None else seconds - (time.monotonic() - began)

    def _look(self) -> None:
        """Gives up what is late. One timer for all: one each would cost every call more than finding its method."""
        now = time.monotonic()
        for task in [task for task, until in self._until.items() if until <= now]:
            del self._until[task]
            self._late.add(task)
            task.cancel()
        self._timer = asyncio.get_running_loop().call_later(LATE_SECONDS, self._look) if self._until else None


async def _chunks(protocol: HTTPProtocol) -> bytes:
    """A body that does not say how long it is."""
    chunks, length = [], 0
    async for chunk in protocol:
        chunks.append(chunk)
        length += len(chunk)
        if length > MESSAGE_BYTES_MAX:
            raise too_large()
    return b"".join(chunks)
