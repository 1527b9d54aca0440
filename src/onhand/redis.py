"""Connections to the gate, each bound to the server run that it was opened to.

A command whose answer is lost is never sent again here: whoever called decides what an unknown outcome means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from onhand.domain.errors import GateUnavailable

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 8
"""Connections a process holds to a gate at most."""
CONNECT_SECONDS_MAX = 1.0
"""How long a connection may take to open."""
ANSWER_SECONDS_MAX = 2.0
"""How long a pipeline may take to be answered."""

Command = Sequence[str | bytes | int]
CONNECTION_ERRORS = (RedisError, OSError, TimeoutError, EOFError)


class Unreachable(Exception):
    """The gate did not answer. What was sent may have had its effect."""


class _Bound:
    """A connection, and the run id of the server at its other end."""

    def __init__(self, connection: AbstractConnection, run_id: str) -> None:
        self.connection = connection
        self.run_id = run_id

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            await self.connection.send_packed_command(self.connection.pack_commands(commands), check_health=False)
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(await self.connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
            return replies


class GateConnections:
    """A small pool of connections to one Redis or Valkey server, with our function library loaded."""

    def __init__(self, url: str, library: str) -> None:
        self.url = url
        self._library = library
        self._factory = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS_MAX,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        self._idle: list[_Bound] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._loaded_runs: set[str] = set()

    async def close(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            await self._drop(self._idle.pop())

    async def pipeline(self, build: Callable[[str], Sequence[Command]]) -> list[Any]:
        """Sends the commands that `build` makes for the server's run id, in one write, and returns their replies.

        A reply may be a ResponseError. Raises Unreachable.
        """
        async with self._slots:
            bound: _Bound | None = None
            try:
                bound = self._idle.pop() if self._idle else await self._open()
                commands = build(bound.run_id)
                replies = await bound.ask(commands)
                if any(isinstance(r, ResponseError) and "Function not found" in str(r) for r in replies):
                    # Somebody flushed the functions. Nothing of a call to an unknown function was done.
                    await self._load(bound)
                    missing = [i for i, r in enumerate(replies) if isinstance(r, ResponseError)]
                    again = await bound.ask([commands[i] for i in missing])
                    for i, reply in zip(missing, again, strict=True):
                        replies[i] = reply
                if any(isinstance(r, ResponseError) and str(r).startswith(("READONLY", "LOADING")) for r in replies):
                    raise Unreachable(str(next(r for r in replies if isinstance(r, ResponseError))))
            except BaseException as error:
                if bound is not None:  # replies of this call may still be on their way
                    await self._drop(bound)
                if isinstance(error, CONNECTION_ERRORS):
                    raise Unreachable(f"{type(error).__name__}: {error}"[:200]) from error
                raise
            self._idle.append(bound)
            return replies

    async def _open(self) -> _Bound:
        connection: AbstractConnection = self._factory.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await connection.connect()  # type: ignore[no-untyped-call]
            bound = _Bound(connection, "")
            (info,) = await bound.ask([("INFO", "server")])
            if isinstance(info, ResponseError):
                raise info
            bound.run_id = next(
                line.partition(":")[2] for line in info.decode().splitlines() if line.startswith("run_id:")
            )
            if bound.run_id not in self._loaded_runs:
                await self._load(bound)
            return bound
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _load(self, bound: _Bound) -> None:
        (reply,) = await bound.ask([("FUNCTION", "LOAD", "REPLACE", self._library)])
        if isinstance(reply, ResponseError):
            raise reply
        self._loaded_runs.add(bound.run_id)

    @staticmethod
    async def _drop(bound: _Bound) -> None:
        try:
            await bound.connection.disconnect(nowait=True)
        except CONNECTION_ERRORS as error:
            log.debug("closing a connection to the gate: %s", error)

    async def check(self) -> None:
        """Refuses a server that may throw claims away. Raises GateUnavailable."""
        try:
            (policy,) = await self.pipeline(lambda _: [("CONFIG", "GET", "maxmemory-policy")])
        except Unreachable as error:
            raise GateUnavailable(str(error)) from error
        if isinstance(policy, ResponseError):
            log.warning("CONFIG is not permitted: make sure yourself that maxmemory-policy is noeviction")
        elif policy[1] != b"noeviction":
            raise GateUnavailable(f"maxmemory-policy is {policy[1].decode()}; set it to noeviction")
