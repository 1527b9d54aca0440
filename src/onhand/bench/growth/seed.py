"""Filling a ledger to a size, so that it holds every rule of `onhand verify`.

Indexes and foreign keys are taken away while rows come in and made again before the commit, which checks the keys; the triggers
that keep rows from being changed stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg

from onhand.bench.growth.rows import fill
from onhand.bench.growth.size import Size
from onhand.postgres import asyncpg_dsn

SESSION = (
    "SET synchronous_commit = off",
    "SET maintenance_work_mem = '512MB'",
    "SET work_mem = '256MB'",
    "SET max_parallel_maintenance_workers = 2",
    "SET jit = off",
)
TABLES = (
    "locations", "products", "prices", "location_epochs", "location_delta_heads", "stock_levels", "gate_deltas",
    "stock_movements", "claims", "requests", "events", "orders", "order_lines", "fulfillment_orders", "fulfillment_lines",
    "tenders",
)  # fmt: skip

# What is made again after the rows came in. Of primary keys only that of movements: their order is not that of its columns.
INDEXES = """
SELECT format('%I', c.relname) AS name, pg_get_indexdef(i.indexrelid) AS definition
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = ANY ($1::text[]::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)"""
CONSTRAINTS = """
SELECT k.conrelid::regclass::text AS table, format('%I', k.conname) AS name, pg_get_constraintdef(k.oid) AS definition
  FROM pg_constraint k
 WHERE k.conrelid = ANY ($1::text[]::regclass[])
   AND (k.contype = 'f' OR (k.contype = 'p' AND k.conrelid = 'stock_movements'::regclass))
 ORDER BY k.contype = 'f', 1, 2"""

Progress = Callable[[str], None]


async def seed(dsn: str, size: Size, progress: Progress = lambda _: None) -> float:
    """Fills a migrated, empty ledger, in one transaction; then vacuums it. Returns the seconds that it took.

    No server may be running on it: the gate of one would not learn of what came in.
    """
    began = time.perf_counter()
    connection: Any = await asyncpg.connect(asyncpg_dsn(dsn), timeout=30)
    try:
        for statement in SESSION:
            await connection.execute(statement)
        async with connection.transaction():
            if await connection.fetchval("SELECT EXISTS (SELECT FROM locations)"):
                raise ValueError("only an empty ledger can be filled")
            again = await _set_aside(connection)
            statements = [*fill(size, datetime.now(UTC)), *again]
            for number, (what, statement) in enumerate(statements, 1):
                progress(f"{size.name} store: {what} ({number} of {len(statements)})")
                await connection.execute(statement, timeout=None)
        # Else autovacuum would do it while something is measured, and plans would be those of empty tables.
        for table in TABLES:
            progress(f"{size.name} store: vacuum of {table}")
            await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=None)
        await connection.execute("CHECKPOINT", timeout=None)
    finally:
        await connection.close()
    return time.perf_counter() - began


async def _set_aside(connection: Any) -> list[tuple[str, str]]:
    """Drops secondary indexes and foreign keys; returns the statements that make them again."""
    again: list[tuple[str, str]] = []
    constraints = await connection.fetch(CONSTRAINTS, list(TABLES))
    for row in await connection.fetch(INDEXES, list(TABLES)):
        await connection.execute(f"DROP INDEX {row['name']}")
        again.append((f"index {row['name']}", row["definition"]))
    for row in reversed(constraints):
        await connection.execute(f"ALTER TABLE {row['table']} DROP CONSTRAINT {row['name']}")
    for row in constraints:
        statement = f"ALTER TABLE {row['table']} ADD CONSTRAINT {row['name']} {row['definition']}"
        again.append((f"key {row['name']}", statement))
    return again
