"""Real servers to ask: `onhand serve` processes on one ledger and one gate, which can be killed and cut off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import grpc
import redis
from google.protobuf import message_factory
from google.protobuf.message import Message

from api import Refusal, refusal_of
from onhand.edge.admission import is_mutation
from onhand.postgres import asyncpg_dsn
from onhand.serve import reserve_port
from onhand.v1 import (
    cart_pb2,
    catalog_pb2,
    counting_pb2,
    inventory_pb2,
    order_pb2,
    payment_pb2,
    receiving_pb2,
    returns_pb2,
)
from onhand.verify import verify

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (inventory_pb2, "InventoryService"),
        (catalog_pb2, "CatalogService"),
        (cart_pb2, "CartService"),
        (order_pb2, "OrderService"),
        (payment_pb2, "PaymentService"),
        (returns_pb2, "ReturnService"),
        (receiving_pb2, "ReceivingService"),
        (counting_pb2, "CountService"),
    )
)
METHODS = {method.name: method for service in SERVICES for method in service.methods}
MUTATIONS = tuple(name for name, method in METHODS.items() if is_mutation(method))
SERVERS = 2
CALL_SECONDS_MAX = 30.0
START_SECONDS_MAX = 200.0

Result = TypeVar("Result")


def request_type(rpc: str) -> type[Message]:
    """The class of a request."""
    return message_factory.GetMessageClass(METHODS[rpc].input_type)


class Wire:
    """A TCP port that leads to the gate, until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._gate = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._is_cut = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake, wake = socket.socketpair()
        self._selector.register(wake, selectors.EVENT_READ)
        self._ends = wake
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Ends every connection, and each new one at once."""
        with self._lock:
            self._is_cut = True
            for end in list(self._pairs):
                self._drop(end)

    def mend(self) -> None:
        """New connections get through again."""
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        """Ends all of it."""
        self.cut()
        self._wake.close()
        self._thread.join()
        self._listener.close()
        self._ends.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._ends:
                    return
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket):
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if self._is_cut:
            near.close()
            return
        far = socket.create_connection(self._gate)
        for end, other in ((near, far), (far, near)):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        if end not in self._pairs:
            return
        try:
            if data := end.recv(1 << 16):
                self._pairs[end].sendall(data)
                return
        except OSError:
            pass  # one of the two is gone: so is the connection
        self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        other = self._pairs.pop(end, None)
        if other is None:
            return
        del self._pairs[other]
        for each in (end, other):
            self._selector.unregister(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@dataclass
class Server:
    """One process, its wire to the gate, and a connection to it."""

    process: subprocess.Popen[bytes]
    wire: Wire
    held: socket.socket
    channel: grpc.Channel
    is_ready: bool = False
    stubs: dict[str, Any] = field(default_factory=dict)

    def future(self, rpc: str, request: Message) -> grpc.Future[Message]:
        """Asks, without waiting for the answer."""
        if rpc not in self.stubs:
            method = METHODS[rpc]
            self.stubs[rpc] = self.channel.unary_unary(
                f"/{method.containing_service.full_name}/{rpc}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
        return self.stubs[rpc].future(request, timeout=CALL_SECONDS_MAX)  # type: ignore[no-any-return]

    def wait(self) -> None:
        """Until it answers."""
        if not self.is_ready:
            grpc.channel_ready_future(self.channel).result(START_SECONDS_MAX)
            self.is_ready = True

    def end(self) -> None:
        """SIGKILL: its work is in the ledger or never was."""
        self.process.kill()
        self.process.wait()
        self.channel.close()
        self.held.close()
        self.wire.close()


class World:
    """Two servers to ask, a third that takes the place of a killed one, and what lies beneath them."""

    def __init__(self, postgres_dsn: str, redis_url: str, log: Path) -> None:
        self.postgres_dsn, self.redis_url, self.log = postgres_dsn, redis_url, log
        self.redis = redis.Redis.from_url(redis_url)
        self._loop = asyncio.new_event_loop()
        self._broken: dict[str, int] = {}
        self.has_failed = False
        """Whether a step of an example failed."""
        self._ledger = self.run(asyncpg.connect(asyncpg_dsn(postgres_dsn)))
        self.servers = [self._start() for _ in range(SERVERS)]
        self._spare = self._start()
        for server in self.servers:
            server.wait()

    def close(self) -> None:
        """Ends all of it."""
        for server in (*self.servers, self._spare):
            server.end()
        self.run(self._ledger.close())
        self._loop.close()
        self.redis.close()

    def _start(self) -> Server:
        parts = urlsplit(self.redis_url)
        user, at, _ = parts.netloc.rpartition("@")
        wire = Wire(parts.hostname or "127.0.0.1", parts.port or 6379)
        held = reserve_port("127.0.0.1", 0)
        port = held.getsockname()[1]
        environment = os.environ | {
            "ONHAND_POSTGRES_DSN": self.postgres_dsn,
            "ONHAND_REDIS_URL": parts._replace(netloc=f"{user}{at}127.0.0.1:{wire.port}").geturl(),
            "ONHAND_PORT_IS_SHARED": "1",
            "ONHAND_PARENT_PID": str(os.getpid()),
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "onhand.cli", "serve", "--processes", "1", "--port", str(port)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
        return Server(process, wire, held, grpc.insecure_channel(f"127.0.0.1:{port}", options=options))

    def kill(self, n: int) -> None:
        """A server dies; another process takes its place."""
        self.servers[n].end()
        self.servers[n], self._spare = self._spare, self._start()
        self.servers[n].wait()

    # ---------------------------------------------------------------------------------------------------------- asking
    def ask(self, n: int, rpc: str, request: Message) -> Message | Refusal:
        """The answer of a server, or its refusal."""
        return self.ask_all([(n, rpc, request)])[0]

    def ask_all(self, calls: Sequence[tuple[int, str, Message]]) -> list[Message | Refusal]:
        """The answers to calls that are made at once."""
        futures = [self.servers[n].future(rpc, request) for n, rpc, request in calls]
        return [self._outcome(future) for future in futures]

    @staticmethod
    def _outcome(future: Any) -> Message | Refusal:
        error = future.exception()
        if error is None:
            return future.result()  # type: ignore[no-any-return]
        return refusal_of(error)

    # ---------------------------------------------------------------------------------------------- what lies beneath
    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does what is asynchronous."""
        return self._loop.run_until_complete(work)

    def broken_rules(self) -> dict[str, Any]:
        """The rules of the ledger that more rows break than when this was asked last, with evidence."""
        report = self.run(verify(self.postgres_dsn, None))
        before, self._broken = self._broken, {check.name: check.count for check in report.checks}
        return {check.name: check.violations for check in report.checks if check.count > before.get(check.name, 0)}

    def fetch(self, query: str, *values: Any) -> list[Any]:
        """Rows of the ledger, past the API."""
        return self.run(self._ledger.fetch(query, *values))
