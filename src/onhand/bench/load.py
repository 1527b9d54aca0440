"""Client processes: closed loops over a few connections each, each call timed from its first byte sent to its answer read."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
import traceback
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvloop

from onhand.bench.shapes import BATCH, REQUEST_ID_LENGTH, Draw, Reserved, Shop, drawn
from onhand.bench.wire import Connection, Head, connect, connect_head, grpc_head
from onhand.v1 import inventory_pb2

CLIENT_PROCESSES = 2
"""How many make the load."""
CONNECTIONS = 4
"""Of a client process, for each server process: the kernel deals them out by chance."""
CALL_SECONDS = 5
"""The deadline that every call tells."""
DRAIN_SECONDS_MAX = 10.0
"""How long calls under way may take at the end of a measurement."""
REFUSED_SHARE_MAX = 0.001
"""Of all calls: with more refused ones it is not the work alone that was measured."""
STREAM_MESSAGE_MAX = 100
"""Reservations in one message of a stream."""
PREPARE_IN_FLIGHT = 2
"""Batches at once of a client process that makes the reservations that are to be ordered."""
PREPARE_SECONDS_MAX = 60.0
"""How long that may take."""
END_SECONDS_MAX = 5.0
"""How long a client process that is told to end may take."""

context = multiprocessing.get_context("spawn")
now = time.perf_counter


class BenchError(Exception):
    """The bench cannot measure: calls were refused, a process or a server died. The message says what happened."""


class Edge(Enum):
    """How a call reaches the server."""

    GRPC = "grpc"
    STREAM = "stream"
    CONNECT = "connect"


@dataclass(frozen=True)
class Load:
    """What is called, and how often at once."""

    kind: str
    """Of messages, as onhand.bench.shapes.drawn has it."""
    path: str
    edge: Edge
    host: str
    port: int
    in_flight: int
    shop: Shop
    seed: int
    is_echo: bool = False
    server_processes: int = 1
    orders: int = 0
    """Reservations that are made before, untimed, for calls that each use one up."""


@dataclass
class Tally:
    """What became of one measurement in one process, or in several."""

    window_seconds: float = 0.0
    """How long calls were begun."""
    in_window: int = 0
    """Answered within the window."""
    answered: int = 0
    """In all, those that were under way at its end included: what processor time is shared by."""
    refused: int = 0
    refusal: bytes = b""
    is_used_up: bool = False
    """Whether there was nothing left to call before the window's end."""
    latencies: array[float] = field(default_factory=lambda: array("d"))
    """Seconds, of every answered call."""

    def add(self, other: Tally) -> None:
        """Joins what another process saw in the same window."""
        self.window_seconds = max(self.window_seconds, other.window_seconds)
        self.in_window += other.in_window
        self.answered += other.answered
        self.refused += other.refused
        self.refusal = self.refusal or other.refusal
        self.is_used_up |= other.is_used_up
        self.latencies.extend(other.latencies)


# ------------------------------------------------------------------------------------------------------- closed loops
class Loop:
    """Unary calls: as soon as one is answered its place is taken by the next."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._until = 0.0
        self._under_way = 0
        self._connections: list[Connection] = []
        self._done: asyncio.Future[None] | None = None
        self.tally = Tally()
        self.keep: list[bytes] | None = None
        """Answers, where they are wanted."""

    async def open(self, load: Load, connections: int) -> None:
        """Connects."""
        for _ in range(connections):
            connection = await connect(load.host, load.port, head_of(load), self._never)
            self._connections.append(connection)

    def _never(self, token: float, message: bytes | None) -> None:
        raise AssertionError("answered before it is asked")

    async def run(self, in_flight: int, seconds: float) -> Tally:
        """Calls for so long, then waits for what is under way."""
        self._done = asyncio.get_running_loop().create_future()
        began = now()
        self._until = began + seconds
        for n, connection in enumerate(self._connections):
            places = in_flight // len(self._connections) + (n < in_flight % len(self._connections))
            connection.answered = self._answerer(connection)
            for _ in range(places):
                message = self._draw()
                if message is None:
                    self.tally.is_used_up = True
                    break
                connection.call(message, now())
                self._under_way += 1
            connection.flush()
        if self._under_way:
            await _first(self._done, self._connections, seconds)
        self.tally.window_seconds = min(seconds, now() - began)
        return self.tally

    def _answerer(self, connection: Connection) -> Any:
        tally, draw = self.tally, self._draw
        append, keep, until, call = tally.latencies.append, self.keep, self._until, connection.call

        def answered(sent: float, message: bytes | None) -> None:
            time = now()
            if message is None:
                tally.refused += 1
                tally.refusal = connection.refusal
            else:
                append(time - sent)
                tally.answered += 1
                if time < until:
                    tally.in_window += 1
                if keep is not None:
                    keep.append(message)
            if time < until:
                following = draw()
                if following is not None:
                    call(following, time)
                    return
                tally.is_used_up = True
            self._under_way -= 1
            if not self._under_way and self._done is not None and not self._done.done():
                self._done.set_result(None)

        return answered

    def close(self) -> None:
        """Ends the connections."""
        for connection in self._connections:
            connection.close()


class Gateway:
    """Streams on which a gateway multiplexes shoppers: what they ask goes into one message, as far as it is there at once."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._streams: list[tuple[Connection, int]] = []
        self._sent: list[dict[str, float]] = []
        self._until = 0.0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tally = Tally()

    async def open(self, load: Load, connections: int) -> None:
        """Connects, and opens one stream on each connection."""
        for n in range(connections):
            connection = await connect(load.host, load.port, head_of(load), lambda token, message: None)
            stream = connection.open_stream(lambda message, n=n: self._heard(n, message))  # type: ignore[misc]
            connection.flush()
            self._streams.append((connection, stream))
            self._sent.append({})

    def _ask(self, n: int, count: int, time: float) -> None:
        connection, stream = self._streams[n]
        sent, parts = self._sent[n], []
        for _ in range(count):
            message = self._draw()
            assert message is not None
            sent[message[2 : 2 + REQUEST_ID_LENGTH].decode()] = time
            parts.append(b"\x0a" + _length(message) + message)
            if len(parts) == STREAM_MESSAGE_MAX:
                connection.send(stream, b"".join(parts))
                parts.clear()
        if parts:
            connection.send(stream, b"".join(parts))

    def _heard(self, n: int, message: bytes | None) -> None:
        time, tally, sent = now(), self.tally, self._sent[n]
        if message is None:
            if not self._done.done():
                why = printable(self._streams[n][0].refusal)
                self._done.set_exception(BenchError(f"a stream ended by itself: {why}"))
            return
        outcomes = inventory_pb2.ReserveStreamResponse.FromString(message).outcomes
        for outcome in outcomes:
            began = sent.pop(outcome.request_id)
            if outcome.WhichOneof("outcome") == "reservation":
                tally.answered += 1
                tally.latencies.append(time - began)
                tally.in_window += time < self._until
            else:
                tally.refused += 1
                tally.refusal = str(outcome.error).encode()
        if time < self._until:
            self._ask(n, len(outcomes), time)
        elif not any(self._sent) and not self._done.done():
            self._done.set_result(None)

    async def run(self, in_flight: int, seconds: float) -> Tally:
        """Asks for so long, then waits for what is under way."""
        began = now()
        self._until = began + seconds
        for n, (connection, _) in enumerate(self._streams):
            self._ask(n, in_flight // len(self._streams) + (n < in_flight % len(self._streams)), began)
            connection.flush()
        await _first(self._done, [connection for connection, _ in self._streams], seconds)
        self.tally.window_seconds = min(seconds, now() - began)
        return self.tally

    def close(self) -> None:
        """Ends the streams and their connections."""
        for connection, stream in self._streams:
            connection.finish(stream)
            connection.flush()
            connection.close()


def _length(message: bytes) -> bytes:
    size = len(message)
    return bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))


async def _first(done: asyncio.Future[None], connections: Sequence[Connection], seconds: float) -> None:
    lost = [connection.lost for connection in connections]
    await asyncio.wait((done, *lost), timeout=seconds + DRAIN_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
    for each in lost:
        if each.done():
            each.result()
    if not done.done():
        raise BenchError(f"calls were not answered within {DRAIN_SECONDS_MAX} s of the end")
    done.result()


def head_of(load: Load) -> Head:
    """The headers of its calls."""
    if load.edge is Edge.CONNECT:
        return connect_head(load.path, CALL_SECONDS)
    return grpc_head(load.path, None if load.edge is Edge.STREAM else CALL_SECONDS)


def printable(block: bytes) -> str:
    """What can be read of a header block: servers spell out messages of errors."""
    return "".join(chr(byte) if 32 <= byte < 127 else " " for byte in block).strip()


# --------------------------------------------------------------------------------------------------- a client process
class Client:
    """What one client process does, order by order."""

    def __init__(self) -> None:
        self._reserved: dict[bool, list[Reserved]] = {False: [], True: []}
        self._loop: Loop | Gateway | None = None
        self._load: Load | None = None

    async def prepare(self, load: Load) -> None:
        """Connects, and reserves what is to be ordered."""
        is_hot = load.kind.endswith("_hot")
        if load.orders:
            await self._reserve(load, load.orders - len(self._reserved[is_hot]), is_hot=is_hot)
        draw = drawn(load.kind, load.shop, load.seed, self._reserved[is_hot], is_echo=load.is_echo)
        self._load = load
        self._loop = Gateway(draw) if load.edge is Edge.STREAM else Loop(draw)
        await self._loop.open(load, min(CONNECTIONS * load.server_processes, load.in_flight))
        gc.collect()

    async def _reserve(self, load: Load, count: int, *, is_hot: bool) -> None:
        if count <= 0:
            return
        kind, path = "reserve_batch_hot" if is_hot else "reserve_batch", "/onhand.v1.InventoryService/BatchReserve"
        batch = drawn(kind, load.shop, load.seed + 1, [])
        left = iter(range(-(-count // BATCH)))
        loop = Loop(lambda: batch() if next(left, None) is not None else None)
        loop.keep = []
        wanted = Load(kind, path, Edge.GRPC, load.host, load.port, PREPARE_IN_FLIGHT, load.shop, load.seed)
        await loop.open(wanted, PREPARE_IN_FLIGHT)
        try:
            refuse_refusals(await loop.run(PREPARE_IN_FLIGHT, PREPARE_SECONDS_MAX), "reservations for orders")
        finally:
            loop.close()
        for message in loop.keep:
            for outcome in inventory_pb2.BatchReserveResponse.FromString(message).outcomes:
                made = outcome.reservation
                if not made.reservation_id:
                    raise BenchError(f"a reservation for an order was refused: {outcome.error.message}")
                units = sum(line.quantity for line in made.baskets[0].lines)
                self._reserved[is_hot].append(Reserved(made.reservation_id, made.baskets[0].location_id, units))

    async def run(self, seconds: float) -> Tally:
        """Makes the calls that were prepared."""
        assert self._loop is not None
        assert self._load is not None
        gc.disable()
        try:
            return await self._loop.run(self._load.in_flight, seconds)
        finally:
            gc.enable()
            self._loop.close()
            self._loop = None


def refuse_refusals(tally: Tally, what: str) -> None:
    """Raises BenchError where more than REFUSED_SHARE_MAX of the calls were refused."""
    if tally.refused > REFUSED_SHARE_MAX * (tally.answered + tally.refused):
        why = printable(tally.refusal)
        raise BenchError(f"{what}: {tally.refused} of {tally.answered + tally.refused} calls were refused: {why}")


def _client_process(pipe: Pipe, cpus: set[int]) -> None:
    os.sched_setaffinity(0, cpus)
    gc.freeze()  # what was imported is not looked at again
    client = Client()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while (order := pipe.recv()) is not None:
            name, argument = order
            try:
                pipe.send((None, runner.run(getattr(client, name)(argument))))
            except Exception:
                pipe.send((traceback.format_exc(), None))


class Workers:
    """Processes that do what they are ordered to, all of them at once."""

    def __init__(self, work: Any, count: int, *arguments: Any) -> None:
        self._pipes: list[Pipe] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [process.pid for process in self._processes if process.pid is not None]

    def all_do(self, name: str, arguments: Sequence[Any]) -> list[Any]:
        """As many as there are arguments do `name`, each with its own; their results in order. Raises BenchError."""
        pipes = self._pipes[: len(arguments)]
        for pipe, argument in zip(pipes, arguments, strict=True):
            pipe.send((name, argument))
        results, traces = [], []
        for pipe in pipes:  # all of them: what is left unread would be taken for the next answer
            try:
                trace, result = pipe.recv()
            except EOFError:
                raise BenchError("a process of the bench died") from None
            results.append(result)
            traces += [trace] if trace is not None else []
        if traces:
            raise BenchError(traces[0])
        return results

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            try:
                pipe.send(None)
            except OSError:
                continue
        for process in self._processes:
            process.join(END_SECONDS_MAX)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def clients(cpus: set[int], count: int = CLIENT_PROCESSES) -> Iterator[Workers]:
    """Client processes, ended at the end."""
    workers = Workers(_client_process, count, cpus)
    try:
        yield workers
    finally:
        workers.close()
