"""The bench's own HTTP/2 client against a server that nobody here wrote, and against onhand's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from onhand.bench.wire import Connection, ConnectionEnded, Head, connect, grpc_head

WINDOW_BYTES = 65_535
CALLS = 500


class Answers:
    """What became of calls, by their tokens."""

    def __init__(self) -> None:
        self._futures: dict[float, asyncio.Future[bytes | None]] = {}

    def __call__(self, token: float, message: bytes | None) -> None:
        self._futures.pop(token).set_result(message)

    async def of(self, connection: Connection, *bodies: bytes) -> list[bytes | None]:
        """Calls with each of the bodies at once."""
        waiting = []
        for n, body in enumerate(bodies):
            future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            self._futures[float(n)] = future
            waiting.append(future)
            connection.call(body, float(n))
        connection.flush()
        return await asyncio.wait_for(asyncio.gather(*waiting), 20)


async def double(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """Says it twice; refuses what begins with `no`."""
    if request.startswith(b"no"):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not that one")
    return request * 2


async def tell(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """Says what it was told beside the message."""
    told = dict(context.invocation_metadata() or ())
    return f"{told['user-agent']} {context.time_remaining():.0f}".encode()


async def shout(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
    """Says each message again, louder."""
    async for request in requests:
        yield request.upper()


@asynccontextmanager
async def serving(**options: int) -> AsyncIterator[tuple[int, grpc.aio.Server]]:
    server = grpc.aio.server(options=[(name.replace("__", "."), value) for name, value in options.items()])
    handlers = {
        "Double": grpc.unary_unary_rpc_method_handler(double),
        "Tell": grpc.unary_unary_rpc_method_handler(tell),
        "Shout": grpc.stream_stream_rpc_method_handler(shout),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Wire", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, server
    finally:
        await server.stop(None)


@asynccontextmanager
async def connected(
    port: int, rpc: str, answered: Callable[[float, bytes | None], None], **windows: int
) -> AsyncIterator[Connection]:
    connection = await connect("127.0.0.1", port, grpc_head(f"/test.Wire/{rpc}", 5), answered, **windows)
    try:
        yield connection
    finally:
        connection.close()


async def test_many_calls_on_one_connection_are_each_answered_with_their_own() -> None:
    answers = Answers()
    async with serving() as (port, _), connected(port, "Double", answers) as connection:
        for _ in range(3):
            bodies = [b"%d" % n for n in range(CALLS)]
            assert await answers.of(connection, *bodies) == [body * 2 for body in bodies]


async def test_a_refused_call_is_told_from_an_answered_one() -> None:
    answers = Answers()
    async with serving() as (port, _), connected(port, "Double", answers) as connection:
        assert await answers.of(connection, b"yes", b"no", b"", b"yes again") == [
            b"yesyes",
            None,
            b"",
            b"yes againyes again",
        ]
        assert b"not that one" in connection.refusal


async def test_headers_that_are_named_by_number_say_the_same() -> None:
    answers = Answers()
    async with serving() as (port, _), connected(port, "Tell", answers) as connection:
        first, *later = await answers.of(connection, b"", b"", b"")
        assert first is not None
        assert first.startswith(b"onhand-bench")
        assert first.endswith(b" 5")
        assert set(later) == {first}


async def test_headers_are_spelt_out_where_a_server_keeps_none() -> None:
    head = grpc_head("/test.Wire/Tell", 5)
    spelt = head.block(is_first=False, has_table=False)
    assert b"/test.Wire/Tell" in spelt
    assert spelt == head.block(is_first=True, has_table=False)
    assert len(head.block(is_first=False)) < len(spelt) / 4


@pytest.mark.parametrize("size", [WINDOW_BYTES - 5, WINDOW_BYTES + 1, 1_500_000])
async def test_a_message_crosses_the_windows_of_both_sides(size: int) -> None:
    answers = Answers()
    windows = {"stream_window_bytes": WINDOW_BYTES, "connection_window_bytes": 2 * WINDOW_BYTES}
    async with serving() as (port, _), connected(port, "Double", answers, **windows) as connection:
        bodies = [bytes([65 + n]) * size for n in range(3)]
        for _ in range(2):
            assert await answers.of(connection, b"few", *bodies) == [b"fewfew", *(body * 2 for body in bodies)]


async def test_calls_beyond_what_a_server_takes_at_once_wait() -> None:
    answers = Answers()
    async with (
        serving(grpc__max_concurrent_streams=3) as (port, _),
        connected(port, "Double", answers) as connection,
    ):
        bodies = [b"%d" % n for n in range(50)]
        assert await answers.of(connection, *bodies) == [body * 2 for body in bodies]


async def test_a_stream_carries_many_messages_both_ways() -> None:
    heard: list[bytes | None] = []
    ended = asyncio.Event()

    def hear(message: bytes | None) -> None:
        heard.append(message)
        if message is None:
            ended.set()

    windows = {"stream_window_bytes": WINDOW_BYTES, "connection_window_bytes": 2 * WINDOW_BYTES}
    async with serving() as (port, _), connected(port, "Shout", lambda *_: None, **windows) as connection:
        stream = connection.open_stream(hear)
        sent = [b"message %d " % n + b"x" * (n % 7 * 1000) for n in range(CALLS)]
        for message in sent:
            connection.send(stream, message)
        connection.finish(stream)
        connection.flush()
        await asyncio.wait_for(ended.wait(), 20)
    assert heard == [*(message.upper() for message in sent), None]


async def test_a_connection_that_the_server_closes_takes_no_more_calls() -> None:
    answers = Answers()
    async with serving() as (port, server), connected(port, "Double", answers) as connection:
        await answers.of(connection, b"one")
        await server.stop(None)
        with pytest.raises(ConnectionEnded):
            await asyncio.wait_for(connection.lost, 20)


async def test_who_speaks_no_http2_is_found_out() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionEnded):
            await connect("127.0.0.1", port, Head("/x", "application/grpc"), lambda *_: None)
