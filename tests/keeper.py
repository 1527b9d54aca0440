"""A connection to each database that tests have in turn, kept while they come and go: what it asks for again is planned once.

To plan every rule of `onhand verify` anew takes longer than most tests. They run in a loop of their own thread, since that of a
test ends with it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import asyncpg

from onhand.ledger.invariants import Check, check_rules
from onhand.postgres import BY_INDEX, SESSION, asyncpg_dsn

Result = TypeVar("Result")

_CONNECTIONS: dict[str, Any] = {}
"""By DSN; None until it is opened."""
_TURNS: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
_LOOPS: list[asyncio.AbstractEventLoop] = []


async def on(dsn: str, work: Callable[[Any], Awaitable[Result]]) -> Result:
    """What work with a connection to this database comes to: to the one that is kept, or to one for this work alone."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_on(dsn, work), _loop()))


def wait_on(dsn: str, work: Callable[[Any], Awaitable[Result]]) -> Result:
    """The same for callers without a loop."""
    return asyncio.run_coroutine_threadsafe(_on(dsn, work), _loop()).result()


def keep(dsn: str) -> None:
    """From now on the connection to this database is kept."""
    _CONNECTIONS.setdefault(asyncpg_dsn(dsn), None)


def give_up(dsn: str) -> None:
    """Ends the connection to this database."""

    async def close() -> None:
        if connection := _CONNECTIONS.pop(asyncpg_dsn(dsn), None):
            await connection.close()

    asyncio.run_coroutine_threadsafe(close(), _loop()).result()


async def found(dsn: str, queries: Mapping[str, str]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of those queries that have any, by name."""

    async def rows(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
        return {name: [tuple(row) for row in await connection.fetch(query)] for name, query in queries.items()}

    return {name: rows for name, rows in (await on(dsn, rows)).items() if rows}


async def broken_rules(dsn: str) -> dict[str, list[dict[str, Any]]]:
    """The rules of `onhand verify` that do not hold, with their evidence."""

    async def checks(connection: Any) -> list[Check]:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await check_rules(connection)

    return {check.name: list(check.violations) for check in await on(dsn, checks) if not check.is_ok}


async def _on(dsn: str, work: Callable[[Any], Awaitable[Result]]) -> Result:
    dsn = asyncpg_dsn(dsn)
    if dsn in _CONNECTIONS:
        async with _TURNS[dsn]:
            connection = _CONNECTIONS[dsn]
            if connection is None or connection.is_closed():
                connection = _CONNECTIONS[dsn] = await _connect(dsn)
            return await work(connection)
    connection = await _connect(dsn)
    try:
        return await work(connection)
    finally:
        await connection.close()


async def _connect(dsn: str) -> Any:
    # Rows are put back past triggers and references. To say so for a transaction only would make it plan everything anew.
    settings = SESSION | BY_INDEX | {"application_name": "keeper of tests", "session_replication_role": "replica"}
    connection = await asyncpg.connect(
        dsn,
        server_settings=settings,
        statement_cache_size=1000,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
    )
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    return connection


def _loop() -> asyncio.AbstractEventLoop:
    if not _LOOPS:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="keeper", daemon=True).start()
        _LOOPS.append(loop)
    return _LOOPS[0]
