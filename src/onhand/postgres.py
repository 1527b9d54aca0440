"""The ledger's connections: one asyncpg pool, bounded in size and in waiting."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from onhand.deadline import patience, seconds_left, shared_context
from onhand.domain.errors import LedgerUnavailable, Overloaded
from onhand.settings import Unusable, cause_of, host_of
from onhand.telemetry import LEDGER_UNAVAILABLE

if TYPE_CHECKING:
    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = PoolConnectionProxy
    Pool = asyncpg.Pool

log = logging.getLogger(__name__)

Isolation = Literal["read_committed", "repeatable_read"]

POOL_SIZE_MAX = 16
"""Connections a process may hold."""
WAITING_MAX = 500
"""Calls that may wait for a connection; one more is refused with OVERLOADED."""
CONNECT_SECONDS_MAX = 5.0
"""How long a connection may take to open."""
ACQUIRE_SECONDS_MAX = 2.0
"""How long a call waits for a free connection before it is answered UNAVAILABLE."""
STATEMENT_SECONDS_MAX = 10.0
"""How long one statement may take."""
LOOK_SECONDS = 0.1
"""How often it is looked whether anything came from the ledger while calls wait for it."""
SILENCE_SECONDS = 0.3
"""How long nothing may come while calls wait, before a probe asks whether the ledger is there at all."""
PROBE_SECONDS_MAX = 1.5
"""How long the probe may take: on an overloaded machine a new connection alone takes half a second.

A ledger that answers neither it nor anybody else is given up until a probe is answered."""
PROBE_PAUSE_SECONDS = 0.1
"""How long a probe waits before it asks again."""

# PostgreSQL ends on its own what nobody ends: a process that hangs, or lost the network, holds no lock for longer.
SESSION = {
    "application_name": "onhand",
    "jit": "off",
    # What is asked for all the time is in memory, or on a disk that seeks as fast as it reads: a key is looked up by its index.
    "random_page_cost": "1.1",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "client_connection_check_interval": "2s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25s",
}

# A statement of the server is planned once for a connection, maybe while its tables are empty: never for reading them whole.
# That each has its index, and that no plan depends on its values, is what tests/ledger/test_plans.py is for.
BY_INDEX = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}

# A commit that meets one of these had no effect, or an unknown one: the caller repeats it with the same request_id.
UNAVAILABLE_ERRORS = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a server that dies at the wrong moment leaves asyncpg's protocol out of step
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    OSError,
    TimeoutError,
)
# The whole transaction was rolled back and may be run again at once.
RETRY_ERRORS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


class NotReached(LedgerUnavailable):
    """No connection was to be had, or a lock not in time, which rolls back: for certain, nothing has happened."""


_encode = json.JSONEncoder(separators=(",", ":")).encode


def to_json(value: Any) -> str:
    """JSON text for a column of an unnested array, where a list would be taken for a further dimension."""
    return _encode(value)


async def _prepare(connection: Any) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=to_json, decoder=json.loads, schema="pg_catalog")


async def _keep(_: Any) -> None:
    """No state is left on a connection, so nothing is reset: that saves a round trip a checkout."""


def asyncpg_dsn(dsn: str) -> str:
    """The same address as asyncpg reads it: no SQLAlchemy driver name, and `sslmode` where other drivers say `ssl`."""
    dsn = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", dsn)
    return re.sub(r"(?<=[?&])ssl=", "sslmode=", dsn)


@contextmanager
def connecting(dsn: str) -> Iterator[None]:
    """Around what opens a connection. Raises Unusable where trying again does not help, NotReached where it may."""
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise Unusable(f"the DSN of PostgreSQL cannot be used: {error}") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise Unusable(f"PostgreSQL at {host_of(dsn)}: {error}. Create it, or correct the DSN") from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise Unusable(f"PostgreSQL at {host_of(dsn)}: {error}. Correct user and password in the DSN") from error
    except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
        raise NotReached(cause_of(error)) from error
    except ValueError as error:  # last, since some errors of TLS are ValueErrors too
        raise Unusable(f"the DSN of PostgreSQL cannot be used: {error}") from error


def not_answering(dsn: str, error: LedgerUnavailable) -> str:
    """What a command says of a database that cannot be reached."""
    return f"PostgreSQL at {host_of(dsn)} does not answer ({error.detail}). Start it, or correct its address"


class Database:
    """A pool of connections to one database; errors of the connection become `LedgerUnavailable`.

    Calls wait in a queue of its own rather than in the pool's: it is bounded, knows their deadlines, and is emptied at once
    where the ledger falls silent. Then everybody is told so without waiting, until a probe is answered.
    """

    def __init__(self, dsn: str, pool: Pool, pool_size: int, make_pool: Callable[..., Awaitable[Pool]]) -> None:
        self.pool = pool
        self._make_pool = make_pool
        self.dsn = dsn
        self._pool_size = pool_size
        self._free = pool_size
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._heard = time.monotonic()
        self._is_silent = False
        self._watch = asyncio.create_task(self._watch_over(), name="watch over the ledger", context=shared_context())

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        pool_size: int = POOL_SIZE_MAX,
        statement_seconds_max: float = STATEMENT_SECONDS_MAX,
        reads_whole_tables: bool = False,
    ) -> Database:
        """Connects. Raises NotReached, and Unusable where trying again does not help."""
        session = SESSION if reads_whole_tables else SESSION | BY_INDEX
        make = partial(_pool, dsn, pool_size, statement_seconds_max, session)
        with connecting(dsn):
            pool = await make(min_size=1)
        return cls(dsn, pool, pool_size, make)

    async def close(self) -> None:
        """Ends the pool, waiting shortly for connections in use."""
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        try:
            await asyncio.wait_for(self.pool.close(), timeout=5)
        except TimeoutError:
            self.pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection outside a transaction. Raises NotReached, LedgerUnavailable, Overloaded."""
        await self._turn()
        try:
            pool = self.pool
            try:
                connection = await pool.acquire(timeout=ACQUIRE_SECONDS_MAX)
            except UNAVAILABLE_ERRORS as error:
                LEDGER_UNAVAILABLE.inc()
                raise NotReached(cause_of(error)) from error
            try:
                try:
                    yield connection
                except asyncpg.InternalClientError:
                    connection.terminate()  # nobody else may get it
                    raise
                finally:
                    await _release(pool, connection)
            except asyncpg.LockNotAvailableError as error:
                raise NotReached(cause_of(error)) from error
            except UNAVAILABLE_ERRORS as error:
                LEDGER_UNAVAILABLE.inc()
                raise LedgerUnavailable(cause_of(error)) from error
            self._heard = time.monotonic()
        finally:
            self._pass_on()

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "read_committed", readonly: bool = False
    ) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed when the block ends without an error."""
        async with self.connection() as connection, connection.transaction(isolation=isolation, readonly=readonly):
            yield connection

    # ------------------------------------------------------------------------------------------------------ the queue
    async def _turn(self) -> None:
        """Waits for the right to one of the connections."""
        if self._is_silent:
            LEDGER_UNAVAILABLE.inc()
            raise NotReached(f"silent, and asked again every {PROBE_PAUSE_SECONDS} s")
        seconds = seconds_left(ACQUIRE_SECONDS_MAX)
        if seconds <= 0:
            raise NotReached("its turn came after the deadline of the call")
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded("ledger connections", WAITING_MAX)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(seconds, _fail, turn, f"no connection was free for {seconds:.1f} s")
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # it came at the moment when its caller went away
            raise
        finally:
            timer.cancel()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    # ------------------------------------------------------------------------------------------------ a silent ledger
    async def _watch_over(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._free == self._pool_size:
                self._heard = time.monotonic()  # nobody waits
            elif time.monotonic() - self._heard > SILENCE_SECONDS:
                asked = time.monotonic()
                error = await self._probe()
                if error is not None and self._heard < asked:
                    await self._lose(error)

    async def _probe(self) -> Exception | None:
        """Asks the ledger on a new connection. Whatever PostgreSQL itself answers is an answer."""
        try:
            async with patience(PROBE_SECONDS_MAX):
                connection = await asyncpg.connect(asyncpg_dsn(self.dsn), timeout=CONNECT_SECONDS_MAX)
            connection.terminate()
        except asyncpg.PostgresError:
            pass
        except Exception as error:
            return error
        self._heard = time.monotonic()
        return None

    async def _lose(self, error: Exception) -> None:
        """Ends every connection, with the calls that hang on it; waits until a silent ledger answers again."""
        lost, self.pool = self.pool, await self._make_pool(min_size=0)
        lost.terminate()
        if not isinstance(error, TimeoutError):
            return  # a refused connection costs nobody any time
        self._is_silent = True
        log.warning("PostgreSQL at %s is silent", host_of(self.dsn))
        while self._waiting:
            _fail(self._waiting.popleft(), "silent")
        while isinstance(error, TimeoutError):
            await asyncio.sleep(PROBE_PAUSE_SECONDS)
            found = await self._probe()
            if found is None:
                log.warning("PostgreSQL at %s answers again", host_of(self.dsn))
                break
            error = found
        self._is_silent = False


async def _pool(
    dsn: str, pool_size: int, statement_seconds_max: float, session: Mapping[str, str], *, min_size: int
) -> Pool:
    # PostgreSQL ends a statement a little earlier than its caller gives it up: the answer says what has happened.
    settings = {**session, "statement_timeout": f"{statement_seconds_max * 900:.0f}ms"}
    return await asyncpg.create_pool(
        asyncpg_dsn(dsn),
        min_size=min_size,
        max_size=pool_size,
        init=_prepare,
        reset=_keep,
        timeout=CONNECT_SECONDS_MAX,
        command_timeout=statement_seconds_max,
        max_inactive_connection_lifetime=300,
        server_settings=settings,
    )


async def _release(pool: Pool, connection: Connection) -> None:
    try:
        await pool.release(connection)
    except asyncpg.InterfaceError as error:
        if not pool.is_closing():
            raise
        log.debug("a connection ended with its pool: %s", error)


def _fail(turn: asyncio.Future[None], why: str) -> None:
    if not turn.done():
        turn.set_exception(NotReached(why))
