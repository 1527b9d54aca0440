"""The ledger's connections: one asyncpg pool, bounded in size and in waiting."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from onhand.domain.errors import LedgerUnavailable
from onhand.settings import Unusable, host_of

if TYPE_CHECKING:
    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = PoolConnectionProxy
    Pool = asyncpg.Pool

Isolation = Literal["read_committed", "repeatable_read"]

POOL_SIZE_MAX = 16
"""Connections a process may hold."""
CONNECT_SECONDS_MAX = 5.0
"""How long a connection may take to open."""
ACQUIRE_SECONDS_MAX = 2.0
"""How long a call waits for a free connection before it is answered UNAVAILABLE."""
STATEMENT_SECONDS_MAX = 10.0
"""How long one statement may take."""

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
    """No connection was to be had: nothing was sent, so nothing has happened."""


def to_json(value: Any) -> str:
    """JSON text for a column of an unnested array, where a list would be taken for a further dimension."""
    return json.dumps(value, separators=(",", ":"))


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
        raise NotReached(f"{type(error).__name__}: {error}"[:200]) from error
    except ValueError as error:  # last, since some errors of TLS are ValueErrors too
        raise Unusable(f"the DSN of PostgreSQL cannot be used: {error}") from error


def not_answering(dsn: str, error: LedgerUnavailable) -> str:
    """What a command says of a database that cannot be reached."""
    return f"PostgreSQL at {host_of(dsn)} does not answer ({error.detail}). Start it, or correct its address"


class Database:
    """A pool of connections to one database; errors of the connection become `LedgerUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @classmethod
    async def open(cls, dsn: str, *, pool_size: int = POOL_SIZE_MAX) -> Database:
        """Connects. Raises NotReached, and Unusable where trying again does not help."""
        with connecting(dsn):
            pool: Pool = await asyncpg.create_pool(
                asyncpg_dsn(dsn),
                min_size=1,
                max_size=pool_size,
                init=_prepare,
                reset=_keep,
                timeout=CONNECT_SECONDS_MAX,
                command_timeout=STATEMENT_SECONDS_MAX,
                max_inactive_connection_lifetime=300,
                server_settings={"application_name": "onhand", "jit": "off"},
            )
        return cls(pool)

    async def close(self) -> None:
        """Ends the pool, waiting shortly for connections in use."""
        try:
            await asyncio.wait_for(self.pool.close(), timeout=5)
        except TimeoutError:
            self.pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection outside a transaction. Raises NotReached, LedgerUnavailable."""
        try:
            connection = await self.pool.acquire(timeout=ACQUIRE_SECONDS_MAX)
        except UNAVAILABLE_ERRORS as error:
            raise NotReached(f"{type(error).__name__}: {error}"[:200]) from error
        try:
            try:
                yield connection
            except asyncpg.InternalClientError:
                connection.terminate()  # nobody else may get it
                raise
            finally:
                await self.pool.release(connection)
        except UNAVAILABLE_ERRORS as error:
            raise LedgerUnavailable(f"{type(error).__name__}: {error}"[:200]) from error

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "read_committed", readonly: bool = False
    ) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed when the block ends without an error."""
        async with self.connection() as connection, connection.transaction(isolation=isolation, readonly=readonly):
            yield connection
