"""The HTTP server of the second edge: Granian's, in the process and on the event loop of the gRPC server.

So both edges share one set of handlers, pools and combined rounds. Granian reads and writes HTTP on a thread of its own that
needs no interpreter; Python sees whole requests.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings, HTTP2Settings
from granian.rsgi import HTTPProtocol, Scope
from granian.server.embed import Server

from onhand.settings import Unusable

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that may wait for the process to take them."""
REQUESTS_MAX = 8192
"""Requests that Granian hands in at once; admission refuses long before, and says when to come back."""
STREAMS_MAX = 1000
"""Calls at once on one connection of HTTP/2."""
IDLE_SECONDS_MAX = 75
"""How long a connection of HTTP/1.1 is kept for its next request. A proxy should let go of it sooner."""
PING_SECONDS = 30
"""How often a connection of HTTP/2 is asked whether somebody is there."""
HEAD_BYTES_MAX = 64 * 1024
"""Path, query and headers of a request."""
END_SECONDS_MAX = 2.0
"""How long answers on their way may take when the server stops; the calls have ended before."""

Application = Callable[[Scope, HTTPProtocol], Awaitable[None]]


class HttpServer:
    """Granian around an RSGI application: listening from `start` to `stop`."""

    def __init__(self, application: Application, host: str, port: int) -> None:
        self.__rsgi__ = application
        self.host = host
        self.port = port
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    async def start(self) -> None:
        """Listens on its port, which other processes of ours may share. Raises Unusable where nothing can listen there."""
        self._server = Server(
            self,
            _ip(self.host, self.port),
            self.port,
            interface=Interfaces.RSGI,
            http=HTTPModes.auto,
            websockets=False,
            backlog=BACKLOG,
            backpressure=REQUESTS_MAX,
            http1_settings=HTTP1Settings(header_read_timeout=IDLE_SECONDS_MAX * 1000, max_buffer_size=HEAD_BYTES_MAX),
            http2_settings=HTTP2Settings(
                keep_alive_interval=PING_SECONDS * 1000,
                max_concurrent_streams=STREAMS_MAX,
                max_headers_size=HEAD_BYTES_MAX,
            ),
            log_enabled=False,
        )
        self._serving = asyncio.create_task(self._server.serve(), name="HTTP server")
        begun = asyncio.create_task(self._begun.wait())
        try:
            # What Granian does right after it has said so is done when this goes on: it listens, or has failed to.
            await asyncio.wait((self._serving, begun), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
        finally:
            begun.cancel()
        if self._serving.done():
            raise Unusable(f"{self.host}:{self.port} cannot be listened on") from self._serving.exception()

    def check(self) -> None:
        """Raises RuntimeError where the server ended by itself."""
        if self._serving is not None and self._serving.done():
            raise RuntimeError("the HTTP server ended by itself")

    async def stop(self) -> None:
        """Listens no more, and ends what connections there are once their calls are answered."""
        if self._server is None or self._serving is None:
            return
        self._server.stop()  # type: ignore[no-untyped-call]
        done, _ = await asyncio.wait((self._serving,), timeout=END_SECONDS_MAX)
        if not done:
            log.warning("connections of HTTP are still open; leaving them")
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun.set()


def _ip(host: str, port: int) -> str:
    """As gRPC's port was reserved: Granian takes no names."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return str(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4][0])
