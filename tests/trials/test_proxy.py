"""The proxy that breaks connections: each of its faults, forced on a server that records what reaches it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from onhand.trials.proxy import ANSWERS_BEFORE_CUT, QUEUE_BYTES_MAX, Mode, Proxy

LOOK_SECONDS = 0.05
"""How long it is looked whether something passes that must not. Longer changes nothing: no timer lets it pass."""


@dataclass
class Echo:
    """Answers every line with itself, and knows what it got."""

    lines: list[bytes] = field(default_factory=list)
    got: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.lines.append(line)
                self.got.set()
                writer.write(line)
                await writer.drain()
        self.closed.set()
        writer.close()


@dataclass
class Stand:
    """A server behind a proxy, and connections to it."""

    echo: Echo
    proxy: Proxy
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0, limit=1 << 24)
    proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
    stand = Stand(echo, proxy, await proxy.start())
    yield stand
    for writer in stand.writers:
        writer.close()
    await proxy.stop()
    server.close()


async def _is_ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def _hears_nothing(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), LOOK_SECONDS)
    except TimeoutError:
        return True
    return False


async def test_an_open_proxy_passes_everything_and_the_end_too(stand: Stand) -> None:
    reader, writer = await stand.connect()

    for n in range(100):
        writer.write(b"%d\n" % n)
    assert [await reader.readline() for _ in range(100)] == [b"%d\n" % n for n in range(100)]
    writer.write_eof()
    writer.close()
    await stand.echo.closed.wait()

    assert len(stand.echo.lines) == 100


async def test_a_cut_ends_open_connections_and_new_ones_until_it_is_mended(stand: Stand) -> None:
    reader, writer = await stand.connect()
    writer.write(b"before\n")
    assert await reader.readline() == b"before\n"

    assert stand.proxy.set(Mode.CLOSED) == 1

    assert await _is_ended(reader)
    await stand.echo.closed.wait()
    again, _ = await stand.connect()
    assert await _is_ended(again)
    stand.proxy.set(Mode.OPEN)
    reader, writer = await stand.connect()
    writer.write(b"after\n")
    assert await reader.readline() == b"after\n"


async def test_what_is_held_arrives_late_whole_and_in_order(stand: Stand) -> None:
    reader, writer = await stand.connect()
    writer.write(b"1\n")
    assert await reader.readline() == b"1\n"

    stand.proxy.set(Mode.HELD)
    writer.write(b"2\n")
    writer.write(b"3\n")
    new_reader, new_writer = await stand.connect()
    new_writer.write(b"4\n")
    assert await _hears_nothing(reader)
    assert await _hears_nothing(new_reader)
    assert stand.echo.lines == [b"1\n"]

    stand.proxy.set(Mode.OPEN)
    assert [await reader.readline(), await reader.readline()] == [b"2\n", b"3\n"]
    assert await new_reader.readline() == b"4\n"


async def test_a_request_whose_sender_gave_up_while_it_was_held_still_arrives(stand: Stand) -> None:
    reader, writer = await stand.connect()
    writer.write(b"1\n")
    await reader.readline()
    stand.proxy.set(Mode.HELD)
    stand.echo.got.clear()
    writer.write(b"late\n")
    await asyncio.sleep(0)
    writer.close()
    assert await _never(stand.echo.got)

    stand.proxy.set(Mode.OPEN)
    await stand.echo.got.wait()

    assert stand.echo.lines[-1] == b"late\n"
    await stand.echo.closed.wait()


async def test_a_black_hole_accepts_and_swallows_and_its_connections_end_when_it_is_mended(stand: Stand) -> None:
    reader, writer = await stand.connect()
    writer.write(b"1\n")
    await reader.readline()

    stand.proxy.set(Mode.SILENT)
    writer.write(b"lost\n")
    new_reader, new_writer = await stand.connect()
    new_writer.write(b"lost too\n")
    assert await _hears_nothing(reader)
    assert await _hears_nothing(new_reader)

    stand.proxy.set(Mode.OPEN)
    assert await _is_ended(reader)
    assert await _is_ended(new_reader)
    assert stand.echo.lines == [b"1\n"]


async def test_a_request_arrives_and_its_answer_does_not(stand: Stand) -> None:
    reader, writer = await stand.connect()
    writer.write(b"1\n")
    await reader.readline()

    stand.proxy.set(Mode.ANSWERS_CUT)
    stand.echo.got.clear()
    writer.write(b"unanswered\n")
    await stand.echo.got.wait()

    assert await _is_ended(reader)
    assert stand.echo.lines == [b"1\n", b"unanswered\n"]
    assert stand.proxy.answers_cut == 1


async def test_a_connection_that_is_opened_while_answers_are_cut_gets_a_few(stand: Stand) -> None:
    stand.proxy.set(Mode.ANSWERS_CUT)
    reader, writer = await stand.connect()

    for n in range(ANSWERS_BEFORE_CUT):
        writer.write(b"%d\n" % n)
        assert await reader.readline() == b"%d\n" % n
    writer.write(b"unanswered\n")

    assert await _is_ended(reader)
    assert stand.echo.lines[-1] == b"unanswered\n"


async def test_a_slow_link_passes_everything_late_and_in_order_also_what_follows_when_it_is_mended(
    stand: Stand,
) -> None:
    reader, writer = await stand.connect()
    loop = asyncio.get_running_loop()
    stand.proxy.set(Mode.SLOW, delay_seconds=0.1)

    sent = loop.time()
    writer.write(b"1\n")
    assert await reader.readline() == b"1\n"
    assert loop.time() - sent >= 0.2  # there and back: what the fault is, not how fast the proxy is
    stand.echo.got.clear()
    writer.write(b"2\n")
    await asyncio.sleep(0)
    await stand.echo.got.wait()
    stand.proxy.set(Mode.OPEN)
    writer.write(b"3\n")

    assert [await reader.readline(), await reader.readline()] == [b"2\n", b"3\n"]


async def test_a_sender_waits_once_too_much_is_held_and_nothing_of_it_is_lost(stand: Stand) -> None:
    reader, writer = await stand.connect()
    stand.proxy.set(Mode.HELD)
    line = b"x" * (1 << 16) + b"\n"
    count = 16 * QUEUE_BYTES_MAX // len(line)
    sending = asyncio.create_task(_send(writer, line, count))
    await asyncio.wait({sending}, timeout=LOOK_SECONDS)
    assert not sending.done()
    (pair,) = stand.proxy.pairs
    assert pair.requests.is_paused

    stand.proxy.set(Mode.OPEN)
    received = 0
    while received < count * len(line):
        received += len(await reader.read(1 << 20))
    await sending

    assert stand.echo.lines == [line] * count


async def test_a_server_that_is_away_ends_the_connection(stand: Stand) -> None:
    proxy = Proxy("127.0.0.1", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
    try:
        assert await _is_ended(reader)
    finally:
        writer.close()
        await proxy.stop()


async def _never(event: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(event.wait(), LOOK_SECONDS)
    except TimeoutError:
        return True
    return False


async def _send(writer: asyncio.StreamWriter, line: bytes, count: int) -> None:
    for _ in range(count):
        writer.write(line)
        await writer.drain()
