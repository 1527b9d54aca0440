"""A TCP proxy that breaks connections on demand: cuts, delays, holds back, swallows, or loses the answers."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine
from enum import Enum
from typing import Any, TypeVar, cast

import uvloop

Result = TypeVar("Result")

QUEUE_BYTES_MAX = 1 << 20
"""What is held back in one direction of a connection before its sender has to wait."""
ANSWERS_BEFORE_CUT = 6
"""Pieces of answers that a connection gets which is opened while answers are cut: a handshake, and a little more."""
CONTROL_SECONDS_MAX = 10.0
"""How long the proxies' thread may take to do what it is told."""


class Mode(Enum):
    """What a proxy does with what it gets."""

    OPEN = "open"
    CLOSED = "closed"  # every connection ends, new ones at once
    SLOW = "slow"  # every piece is late, in order
    HELD = "held"  # nothing passes until the mode changes; then all of it arrives
    SILENT = "silent"  # new connections are accepted, nothing passes; these connections end when the mode changes
    ANSWERS_CUT = "answers_cut"  # requests pass; a connection that is answered ends, without the answer


class _Flow:
    """One direction of one connection: pieces in order, None for its end."""

    def __init__(self, pair: _Pair, *, is_answer: bool) -> None:
        self.pair = pair
        self._is_answer = is_answer
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self.is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None

    def take(self, piece: bytes | None) -> None:
        """What the source sent; passed on, or kept."""
        pair = self.pair
        if pair.is_lost:
            return
        if self._is_answer and piece is not None and pair.answers_left is not None:
            pair.answers_left -= 1
            if pair.answers_left < 0:
                pair.proxy.answers_cut += 1
                pair.abort()
                return
        late = pair.proxy.delay_seconds if pair.proxy.mode is Mode.SLOW else 0.0
        self._waiting.append((pair.loop.time() + late, piece))
        self._bytes += len(piece or b"")
        self.pump()
        self._throttle()

    def pump(self) -> None:
        """Passes on what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.sink is None or self.pair.proxy.mode is Mode.HELD or self.pair.is_lost:
            return
        now = self.pair.loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, piece = self._waiting.popleft()
            if piece is None:
                self.sink.close()  # after what was written before
                return
            self._bytes -= len(piece)
            if not self.sink.is_closing():
                self.sink.write(piece)
        if self._waiting:
            self._timer = self.pair.loop.call_at(self._waiting[0][0], self.pump)
        self._throttle()

    def _throttle(self) -> None:
        if self.source is None or self.source.is_closing():
            return
        if not self.is_paused and self._bytes > QUEUE_BYTES_MAX:
            self.is_paused = True
            self.source.pause_reading()
        elif self.is_paused and self._bytes <= QUEUE_BYTES_MAX:
            self.is_paused = False
            self.source.resume_reading()

    def stop(self) -> None:
        """Forgets what is late."""
        if self._timer is not None:
            self._timer.cancel()


class _End(asyncio.Protocol):
    """One end of a connection: what it receives goes into its flow."""

    def __init__(self, flow: _Flow, back: _Flow) -> None:
        self._flow = flow
        self._back = back

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._flow.source = stream
        self._back.sink = stream
        if self._flow.pair.is_aborted:
            stream.abort()
            return
        self._back.pump()

    def data_received(self, data: bytes) -> None:
        self._flow.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._flow.take(None)
        self._back.stop()


class _Pair:
    """A client's connection and the one that the proxy opened for it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.loop = asyncio.get_running_loop()
        self.is_lost = False
        """Nothing passes any more, and neither side is told."""
        self.is_aborted = False
        self.answers_left: int | None = None
        self.requests = _Flow(self, is_answer=False)
        self.answers = _Flow(self, is_answer=True)
        self._opening: asyncio.Task[None] | None = None

    def accept(self) -> asyncio.Protocol:
        """The client's end; the other one is opened at once."""
        self.proxy.pairs.add(self)
        self._opening = self.loop.create_task(self._open())
        return _End(self.requests, self.answers)

    async def _open(self) -> None:
        if self.proxy.mode is Mode.CLOSED:
            self.abort()
            return
        try:
            await self.loop.create_connection(lambda: _End(self.answers, self.requests), *self.proxy.target)
        except OSError:
            self.abort()

    def is_over(self) -> bool:
        """Whether both ends are closed."""
        return all(flow.source is None or flow.source.is_closing() for flow in (self.requests, self.answers))

    def abort(self) -> None:
        """Ends both connections; what was not passed on is lost."""
        self.is_lost = self.is_aborted = True
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        for flow in (self.requests, self.answers):
            flow.stop()
            if flow.source is not None:
                flow.source.abort()
        self.proxy.pairs.discard(self)


class Proxy:
    """Listens on a port of its own and passes on to `target`; `set` says how."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.mode = Mode.OPEN
        self.delay_seconds = 0.0
        self.pairs: set[_Pair] = set()
        self.answers_cut = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listens on 127.0.0.1; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _accept(self) -> asyncio.Protocol:
        for old in [pair for pair in self.pairs if pair.is_over() and not pair.is_lost]:
            self.pairs.discard(old)
        pair = _Pair(self)
        pair.is_lost = self.mode is Mode.SILENT
        if self.mode is Mode.ANSWERS_CUT:
            pair.answers_left = ANSWERS_BEFORE_CUT
        return pair.accept()

    def set(self, mode: Mode, *, delay_seconds: float = 0.0) -> int:
        """Changes what the proxy does. Returns how many connections that are open now are concerned."""
        concerned = [pair for pair in self.pairs if not pair.is_over()]
        was, self.mode, self.delay_seconds = self.mode, mode, delay_seconds
        if was is Mode.SILENT or mode is Mode.CLOSED:
            for pair in list(self.pairs):
                pair.abort()
        for pair in self.pairs:
            pair.is_lost = mode is Mode.SILENT
            pair.answers_left = 0 if mode is Mode.ANSWERS_CUT else None
            pair.requests.pump()
            pair.answers.pump()
        return len(concerned)

    async def stop(self) -> None:
        """Ends the port and all connections."""
        if self._server is not None:
            self._server.close()
        for pair in list(self.pairs):
            pair.abort()


class ProxyThread:
    """Proxies on an event loop in a thread of their own, told what to do from any other thread."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> ProxyThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies:
            self.run(proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_SECONDS_MAX)
        self._loop.close()

    def add(self, port: int) -> tuple[Proxy, int]:
        """A new proxy to a port of 127.0.0.1, and the port that it listens on."""
        proxy = Proxy("127.0.0.1", port)
        self._proxies.append(proxy)
        return proxy, self.run(proxy.start())

    def set(self, proxy: Proxy, mode: Mode, *, delay_seconds: float = 0.0) -> int:
        """Changes what a proxy does. Returns how many open connections are concerned."""

        async def change() -> int:
            return proxy.set(mode, delay_seconds=delay_seconds)

        return self.run(change())

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What this comes to on the proxies' loop, where others may serve too."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_SECONDS_MAX)
