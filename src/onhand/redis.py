"""Connections to the gate, each bound to the server run that it was opened to.

A command whose answer is lost is never sent again here: whoever called decides what an unknown outcome means.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from onhand.deadline import patience, shared_context
from onhand.domain.errors import GateUnavailable
from onhand.settings import Unusable, cause_of, host_of
from onhand.telemetry import GATE_UNREACHABLE

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 8
"""Connections a process holds to a gate at most."""
CONNECT_SECONDS_MAX = 0.5
"""How long a connection may take to open, and to be known."""
ANSWER_SECONDS_MAX = 0.5
"""How long a pipeline may take to be answered: a till with a deadline of a second still sells past a silent gate."""
LARGE_SECONDS_MAX = 10.0
"""How long a pipeline that carries a whole location may take."""
PROBE_SECONDS = 0.1
"""How often a gate that fell silent is asked whether it is back. Meanwhile every call is told at once that it is not."""
IDENTITY_SECONDS_MAX = 0.1
"""How long a connection is believed to lead to the same primary: far less than a fail-over and back can take."""

Command = Sequence[str | bytes | int]
CONNECTION_ERRORS = (RedisError, OSError, TimeoutError, EOFError)
SILENCE_ERRORS = (TimeoutError, RedisTimeoutError)
"""Nothing came, and the next call would wait as long. Whoever refuses a connection, or says LOADING, is no waste of time."""


class Unreachable(Exception):
    """The gate did not answer. What was sent may have had its effect."""


class _Bound:
    """A connection, and what names the data of the server at its other end.

    `run_id` is the server's own and that of its replication: a primary that was a replica for a while, and lost what the
    other primary had not got, is the same run of the same server, but has a new replication id.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        self.run_id = ""
        self._replication_id = ""
        self._identified = 0.0

    async def identify(self) -> None:
        """Learns whose data this is. Raises Unreachable if the server is a replica."""
        (info,) = await self.ask([("INFO", "server", "replication")])
        if isinstance(info, ResponseError):
            raise info
        values = _info(info)
        self._check_role(values)
        self._replication_id = values["master_replid"]
        self.run_id = f"{values['run_id']}/{self._replication_id}"
        self._identified = time.monotonic()

    async def call(self, commands: Sequence[Command], seconds_max: float) -> list[Any]:
        """Sends commands to the primary that was identified. Raises Unreachable if it is that no more."""
        if time.monotonic() - self._identified < IDENTITY_SECONDS_MAX:
            return await self.ask(commands, seconds_max)
        sent = time.monotonic()
        info, *replies = await self.ask([("INFO", "replication"), *commands], seconds_max)
        if isinstance(info, ResponseError):
            raise info
        values = _info(info)
        self._check_role(values)
        if values["master_replid"] != self._replication_id:
            raise Unreachable("the server was a replica meanwhile")
        self._identified = sent
        return replies

    @staticmethod
    def _check_role(values: dict[str, str]) -> None:
        if values["role"] != "master":
            raise Unreachable("the server is a replica")

    async def ask(self, commands: Sequence[Command], seconds_max: float = ANSWER_SECONDS_MAX) -> list[Any]:
        async with patience(seconds_max):
            with _ended_is_lost():
                await self.connection.send_packed_command(self.connection.pack_commands(commands), check_health=False)
            replies: list[Any] = []
            for _ in commands:
                try:
                    # The time is kept here, for all of them: redis-py's own timer costs more than the answer, for each.
                    replies.append(await self.connection.read_response(disable_decoding=True, timeout=inf))
                except ResponseError as error:
                    replies.append(error)
            return replies


@contextmanager
def _ended_is_lost() -> Iterator[None]:
    """uvloop tells by a RuntimeError that a connection ended between two writes to it."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(f"the connection ended: {error}"[:200]) from error


def _info(reply: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)


class GateConnections:
    """A small pool of connections to one Redis or Valkey server, with our function library loaded."""

    def __init__(self, url: str, library: str) -> None:
        """Connects to nothing yet. Raises Unusable where the address cannot be read."""
        self.url = url
        self._library = library
        try:
            self._factory = ConnectionPool.from_url(
                url,
                protocol=2,
                socket_connect_timeout=CONNECT_SECONDS_MAX,
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
            )
        except ValueError as error:
            raise Unusable(f"the address of Redis/Valkey cannot be used: {error}") from error
        self._idle: list[_Bound] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._loaded_runs: set[str] = set()
        self._busy: set[_Bound] = set()
        self._silence = ""
        self._probe: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Closes the idle connections."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await self._drop_idle()

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._drop(self._idle.pop())

    async def pipeline(
        self, build: Callable[[str], Sequence[Command]], *, seconds_max: float = ANSWER_SECONDS_MAX
    ) -> list[Any]:
        """Sends the commands that `build` makes for the server's run id, in one write, and returns their replies.

        A reply may be a ResponseError. Raises Unreachable: after `seconds_max` without an answer, and at once as long as
        the server is known to be silent.
        """
        async with self._slots:
            if self._silence:
                GATE_UNREACHABLE.inc()
                raise Unreachable(f"silent, and asked again every {PROBE_SECONDS} s: {self._silence}")
            bound: _Bound | None = None
            try:
                bound = self._idle.pop() if self._idle else await self._open()
                self._busy.add(bound)
                commands = build(bound.run_id)
                replies = await bound.call(commands, seconds_max)
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
                if isinstance(error, (Unreachable, *CONNECTION_ERRORS)):
                    GATE_UNREACHABLE.inc()
                    await self._drop_idle()  # they lead to the same server: let nobody else find that out
                if isinstance(error, SILENCE_ERRORS):
                    self._fall_silent(error)
                if isinstance(error, CONNECTION_ERRORS):
                    raise Unreachable(cause_of(error)) from error
                raise
            finally:
                if bound is not None:
                    self._busy.discard(bound)
            self._idle.append(bound)
            return replies

    def _fall_silent(self, error: BaseException) -> None:
        """From now on one probe waits for the server; nobody else does."""
        if self._silence:
            return
        self._silence = cause_of(error)
        self._probe = asyncio.create_task(self._find_again(), name="probe of the gate", context=shared_context())

    async def _find_again(self) -> None:
        is_told = False
        while True:
            try:
                self._idle.append(await self._open())
            except SILENCE_ERRORS:
                if not is_told:
                    is_told = True
                    log.warning("the gate at %s is silent: %s", host_of(self.url), self._silence)
                for bound in list(self._busy):  # whoever waits still is told too, however long it was ready to wait
                    await self._drop(bound)
                await asyncio.sleep(PROBE_SECONDS)
                continue
            except (Unreachable, *CONNECTION_ERRORS) as error:
                log.warning("the gate at %s refuses calls: %s", host_of(self.url), error)
            else:
                if is_told:
                    log.warning("the gate at %s answers again", host_of(self.url))
            self._silence = ""
            return

    async def _open(self) -> _Bound:
        connection: AbstractConnection = self._factory.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with patience(CONNECT_SECONDS_MAX):
                with _ended_is_lost():
                    await connection.connect()  # type: ignore[no-untyped-call]
                bound = _Bound(connection)
                await bound.identify()
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
        """Raises GateUnavailable, and Unusable where the server admits us not, or may throw claims away."""
        where = f"Redis/Valkey at {host_of(self.url)}"
        try:
            (policy,) = await self.pipeline(lambda _: [("CONFIG", "GET", "maxmemory-policy")])
        except Unreachable as error:
            if isinstance(error.__cause__, (AuthenticationError, NoPermissionError)):
                raise Unusable(f"{where}: {error.__cause__}. Correct user and password in its address") from error
            raise GateUnavailable(str(error)) from error
        if isinstance(policy, ResponseError):
            log.warning("CONFIG is not permitted: make sure yourself that maxmemory-policy is noeviction")
        elif policy[1] != b"noeviction":
            raise Unusable(f"{where}: maxmemory-policy is {policy[1].decode()}; set it to noeviction")
