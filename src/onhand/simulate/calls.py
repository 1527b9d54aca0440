"""Calls with patience: what is UNAVAILABLE is repeated under its request_id, what is refused is raised with its reason."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from onhand.v1.cart_pb2_grpc import CartServiceStub
from onhand.v1.catalog_pb2_grpc import CatalogServiceStub
from onhand.v1.counting_pb2_grpc import CountServiceStub
from onhand.v1.inventory_pb2_grpc import InventoryServiceStub
from onhand.v1.order_pb2_grpc import OrderServiceStub
from onhand.v1.payment_pb2_grpc import PaymentServiceStub
from onhand.v1.receiving_pb2_grpc import ReceivingServiceStub
from onhand.v1.returns_pb2_grpc import ReturnServiceStub
from onhand.v1.sourcing_pb2_grpc import SourcingServiceStub

if TYPE_CHECKING:
    from onhand.v1.cart_pb2_grpc import CartServiceAsyncStub
    from onhand.v1.catalog_pb2_grpc import CatalogServiceAsyncStub
    from onhand.v1.counting_pb2_grpc import CountServiceAsyncStub
    from onhand.v1.inventory_pb2_grpc import InventoryServiceAsyncStub
    from onhand.v1.order_pb2_grpc import OrderServiceAsyncStub
    from onhand.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from onhand.v1.receiving_pb2_grpc import ReceivingServiceAsyncStub
    from onhand.v1.returns_pb2_grpc import ReturnServiceAsyncStub
    from onhand.v1.sourcing_pb2_grpc import SourcingServiceAsyncStub

CALL_SECONDS_MAX = 10.0
"""The deadline of one attempt."""
RETRY_SECONDS_MAX = 90.0
"""How long one call is repeated in all: a server that was killed has time to come back."""
RETRY_PAUSE_SECONDS = 0.1
RETRY_PAUSE_SECONDS_MAX = 1.0
"""The first pause between two attempts; each is twice the one before, up to the greatest."""
CHANNELS = 4
"""Connections a client process opens: the server's processes share one port, and each connection ends at one of them."""
ACTOR_KEY = "x-onhand-actor"
"""Metadata that says who acts."""
DETAILS_KEY = "grpc-status-details-bin"

# The outcome is unknown, or nothing happened: the same request_id makes a repeat safe in both cases.
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,  # by gRPC, for a server process before which thousands wait
)
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
)
_CHANNEL_OPTIONS = [
    # Otherwise all channels to one target would share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

Metadata = grpc.aio.Metadata
Request = TypeVar("Request", bound=Message, contravariant=True)
Response = TypeVar("Response", bound=Message, covariant=True)


class Rpc(Protocol[Request, Response]):
    """A method of a stub."""

    def __call__(
        self, request: Request, /, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Awaitable[Response]: ...


class Refused(Exception):
    """The server refused a call for good: it had no effect. `reason` is ErrorInfo's."""

    def __init__(self, kind: str, reason: str, message: str) -> None:
        super().__init__(f"{kind}: {reason}: {message}")
        self.kind = kind
        self.reason = reason


class GaveUp(Exception):
    """A call has no answer, its outcome is unknown. The server was away for too long, or, if `is_failure`, it failed."""

    def __init__(self, message: str, *, is_failure: bool = False) -> None:
        super().__init__(message)
        self.is_failure = is_failure


@dataclass
class CallRecord:
    """How calls went, by kind."""

    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)

    def merge(self, other: CallRecord) -> None:
        """Adds what another process recorded."""
        for kind, values in other.latencies_ms.items():
            self.latencies_ms.setdefault(kind, []).extend(values)
        for mine, theirs in ((self.refusals, other.refusals), (self.retries, other.retries)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count


class Stubs:
    """The services over one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.inventory: InventoryServiceAsyncStub = InventoryServiceStub(channel)
        self.catalog: CatalogServiceAsyncStub = CatalogServiceStub(channel)
        self.counts: CountServiceAsyncStub = CountServiceStub(channel)
        self.carts: CartServiceAsyncStub = CartServiceStub(channel)
        self.orders: OrderServiceAsyncStub = OrderServiceStub(channel)
        self.payments: PaymentServiceAsyncStub = PaymentServiceStub(channel)
        self.receiving: ReceivingServiceAsyncStub = ReceivingServiceStub(channel)
        self.returns: ReturnServiceAsyncStub = ReturnServiceStub(channel)
        self.sourcing: SourcingServiceAsyncStub = SourcingServiceStub(channel)


class Client:
    """Some connections to one target, used in turn, and the record of what was called on them."""

    def __init__(self, target: str, channels: int = CHANNELS) -> None:
        self._channels = [grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS) for _ in range(channels)]
        self._stubs = itertools.cycle([Stubs(channel) for channel in self._channels])
        self.record = CallRecord()

    def stubs(self) -> Stubs:
        """The next connection's services: one for a whole basket, another for the next."""
        return next(self._stubs)

    async def connect(self, timeout_seconds: float) -> None:
        """Opens all connections. Raises GaveUp."""
        try:
            await asyncio.wait_for(
                asyncio.gather(*(channel.channel_ready() for channel in self._channels)), timeout_seconds
            )
        except TimeoutError as error:
            raise GaveUp("no server answers at the target; is `onhand dev` running?") from error

    async def close(self) -> None:
        """Ends the connections."""
        await asyncio.gather(*(channel.close(None) for channel in self._channels))

    async def call(self, rpc: Rpc[Request, Response], request: Request, actor: str = "") -> Response:
        """One call, repeated while its outcome is open; `actor`: in whose name. Raises Refused and GaveUp."""
        metadata = grpc.aio.Metadata((ACTOR_KEY, actor)) if actor else None
        kind = type(request).__name__.removesuffix("Request")
        pause = RETRY_PAUSE_SECONDS
        give_up = time.monotonic() + RETRY_SECONDS_MAX
        while True:
            started = time.monotonic()
            try:
                response = await rpc(request, timeout=CALL_SECONDS_MAX, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                code = error.code()
                if code in _REFUSALS:
                    reason = reason_of(error)
                    self._count(self.record.refusals, f"{kind} {reason}")
                    self._time(kind, started)
                    raise Refused(kind, reason, error.details() or "") from error
                if code not in _RETRIED or time.monotonic() > give_up:
                    message = f"{kind}: {code.name}: {error.details()}"
                    raise GaveUp(message, is_failure=code not in _RETRIED) from error
                self._count(self.record.retries, f"{kind} {code.name}")
                await asyncio.sleep(max(pause, overload_seconds_of(error)))
                pause = min(2 * pause, RETRY_PAUSE_SECONDS_MAX)
                continue
            self._time(kind, started)
            return response

    def _time(self, kind: str, started: float) -> None:
        self.record.latencies_ms.setdefault(kind, []).append((time.monotonic() - started) * 1000)

    @staticmethod
    def _count(counts: dict[str, int], name: str) -> None:
        counts[name] = counts.get(name, 0) + 1


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """ErrorInfo's reason; the code's name where a server sent none."""
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == DETAILS_KEY:
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode()).details:
                if detail.Unpack(info):
                    return info.reason
    return str(error.code().name)


def overload_seconds_of(error: grpc.aio.AioRpcError) -> float:
    """How long a server that has too much to do asks to be left alone; 0 where something else is the matter."""
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return 0.0
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == DETAILS_KEY:
            retry = error_details_pb2.RetryInfo()
            for detail in status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode()).details:
                if detail.Unpack(retry):
                    return retry.retry_delay.ToMilliseconds() / 1000
    return 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the sorted values do not exceed; 0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latencies(record: CallRecord) -> dict[str, dict[str, float]]:
    """p50, p99 and the greatest, in ms, for each kind of call."""
    return {
        kind: {
            "calls": len(values),
            "p50_ms": round(percentile(values, 0.50), 2),
            "p99_ms": round(percentile(values, 0.99), 2),
            "max_ms": round(max(values), 2),
        }
        for kind, values in sorted(record.latencies_ms.items())
    }
