"""Ways in which the gate or the ledger goes away, each as real as it can be forced, and the ways back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import psutil

from onhand.dev.postgres import EmbeddedPostgres
from onhand.dev.valkey import EmbeddedValkey

COMMANDS = re.compile(rb"(?:^|(?<=\n))\*\d+\r\n")
LOADING = b"-LOADING Valkey is loading the dataset in memory\r\n"
READ_ONLY = b"-READONLY You can't write against a read only replica.\r\n"


class Wire:
    """A proxy before one server. `open` passes all; `silent` accepts and swallows all; `says` answers every command itself."""

    def __init__(self, upstream: str | tuple[str, int]) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_silent = False
        self._says: bytes | None = None
        self.swallowed = bytearray()
        """What was sent into the silence."""

    async def listen(self, path: Path | None = None) -> int:
        """On a Unix socket, or on a free port, which it returns."""
        if path is not None:
            self._server = await asyncio.start_unix_server(self._serve, path)
            return 0
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def fall_silent(self) -> None:
        """A network that drops everything: no connection ends, no byte arrives."""
        self._is_silent = True

    def say(self, answer: bytes) -> None:
        """Answers every further command so."""
        self._says = answer

    def heal(self) -> None:
        """Passes again what comes on new connections; what was swallowed is lost, with its connections."""
        self._is_silent, self._says = False, None
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Ends all."""
        assert self._server is not None
        self._server.close()
        self.heal()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        with suppress(OSError):
            if isinstance(self._upstream, str):
                answers, upstream = await asyncio.open_unix_connection(self._upstream)
            else:
                answers, upstream = await asyncio.open_connection(*self._upstream)
            self._writers.add(upstream)
            with suppress(asyncio.CancelledError):
                await asyncio.gather(self._pump(reader, upstream, writer), self._pump(answers, writer, None))
        for each in (writer, upstream):
            if each is not None:
                self._writers.discard(each)
                each.transport.abort()
        self._tasks.discard(task)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter | None
    ) -> None:
        while data := await source.read(65536):
            if self._is_silent:
                self.swallowed += data if back is not None else b""
            elif self._says is not None and back is not None:
                back.write(self._says * len(COMMANDS.findall(data)))
            else:
                sink.write(data)
                await sink.drain()
        sink.transport.abort()


def socket_of(dsn: str) -> str | tuple[str, int]:
    """Where a DSN leads: the path of a Unix socket, or host and port."""
    parts = urlsplit(dsn)
    folder = parse_qs(parts.query).get("host")
    return f"{folder[0]}/.s.PGSQL.5432" if folder else (str(parts.hostname), int(parts.port or 5432))


async def wired_postgres(dsn: str, folder: Path) -> tuple[Wire, str]:
    """A wire before a PostgreSQL, and the DSN that leads through it."""
    upstream, parts = socket_of(dsn), urlsplit(dsn)
    wire = Wire(upstream)
    if isinstance(upstream, str):
        folder.chmod(0o755)
        await wire.listen(folder / ".s.PGSQL.5432")
        return wire, urlunsplit(parts._replace(query=f"host={folder}"))
    port = await wire.listen()
    return wire, urlunsplit(parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{port}"))


async def wired_redis(url: str) -> tuple[Wire, str]:
    """A wire before a Valkey, and the URL that leads through it."""
    parts = urlsplit(url)
    wire = Wire((str(parts.hostname), int(parts.port or 6379)))
    port = await wire.listen()
    return wire, urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))


@contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    """SIGSTOP, children first found then stopped; they go on afterwards."""
    assert pid is not None
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)  # first, so that it makes no more children
    family = [process, *process.children(recursive=True)]
    for member in family[1:]:
        member.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for member in family:
            with suppress(psutil.NoSuchProcess):
                os.kill(member.pid, signal.SIGCONT)


@contextmanager
def killed(server: EmbeddedPostgres | EmbeddedValkey) -> Iterator[None]:
    """SIGKILL, and a new start."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def between(begin: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """What a wire does for a while."""
    begin()
    try:
        yield
    finally:
        end()
