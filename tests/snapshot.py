"""What is in a ledger and a gate, taken and put back: a test begins with what another had to build."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio

import keeper

TABLES = """
SELECT quote_ident(relname) FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"""
SEQUENCES = """
SELECT quote_ident(sequencename), coalesce(last_value, start_value), last_value IS NOT NULL FROM pg_sequences
 WHERE schemaname = 'public'"""


@dataclass(frozen=True)
class Rows:
    """All that the tables of a database have."""

    tables: tuple[str, ...]
    rows: str
    """A JSON object of the rows by table, of those that have any."""
    filled: tuple[str, ...]
    sequences: str
    """A statement that sets them."""

    @classmethod
    async def read(cls, connection: Any) -> Rows:
        """Reads them."""
        tables = [row[0] for row in await connection.fetch(TABLES)]
        filled = await _filled(connection, tables)
        parts = ", ".join(f"'{t}', (SELECT jsonb_agg(t) FROM {t} t)" for t in filled)
        rows = await connection.fetchval(f"SELECT jsonb_build_object({parts})::text")
        sequences = ", ".join(
            f"setval('{n}', {last}, {is_called})" for n, last, is_called in await connection.fetch(SEQUENCES)
        )
        return cls(tuple(tables), rows, tuple(filled), f"SELECT {sequences}")

    async def write(self, connection: Any) -> None:
        """Makes the same tables have them, and nothing else, on a connection that looks at no triggers and references."""
        async with connection.transaction():
            if found := await _filled(connection, self.tables):
                await connection.execute("; ".join(f"DELETE FROM {table}" for table in found))
            inserts = ", ".join(
                f"i{n} AS (INSERT INTO {t} OVERRIDING SYSTEM VALUE"
                f" SELECT * FROM jsonb_populate_recordset(NULL::{t}, $1::text::jsonb -> '{t}'))"
                for n, t in enumerate(self.filled)
            )
            await connection.execute(f"WITH {inserts} SELECT 1", self.rows)
            await connection.execute(self.sequences)


async def _filled(connection: Any, tables: Any) -> list[str]:
    parts = " UNION ALL ".join(f"SELECT '{table}' WHERE (SELECT true FROM {table} LIMIT 1)" for table in tables)
    return [row[0] for row in await connection.fetch(parts)]


BUILT_SECONDS_MAX = 45
"""What is older is built anew: its reservations would end, and what is late would count as lost, on a slow machine first."""


@dataclass(frozen=True)
class _Built:
    time: float
    rows: Rows
    keys: dict[bytes, bytes]
    value: Any


_BUILT: dict[tuple[str, str, str], _Built] = {}
"""By what it is, the server of the ledger, and the run of the gate."""


async def built(name: str, dsn: str, redis_url: str, build: Callable[[str, str], Awaitable[Any]]) -> Any:
    """Builds something in an empty ledger and gate, or puts back what it came to before; what `build` returned.

    A gate's data is worth nothing to another server, or to the same one once it was started again: then it is built anew, and
    so it is when it is old.
    """
    async with redis.asyncio.Redis.from_url(redis_url) as gate:
        key = name, urlsplit(dsn)._replace(path="").geturl(), (await gate.info("server"))["run_id"]
        kept = _BUILT.get(key)
        if kept is None or time.monotonic() - kept.time > BUILT_SECONDS_MAX:
            began = time.monotonic()
            value = await build(dsn, redis_url)
            rows = await keeper.on(dsn, Rows.read)
            keys = {each: await gate.dump(each) for each in await gate.keys()}
            _BUILT[key] = _Built(began, rows, keys, value)
            return value
        await keeper.on(dsn, kept.rows.write)
        async with gate.pipeline(transaction=False) as pipeline:
            for each, content in kept.keys.items():
                pipeline.restore(each, 0, content)
            await pipeline.execute()
        return kept.value
