"""The pool: what its connections meet becomes one refusal, and a broken connection is nobody's."""

from __future__ import annotations

import asyncpg
import pytest

from onhand.domain.errors import LedgerUnavailable
from onhand.postgres import Database


async def test_a_connection_whose_protocol_is_out_of_step_is_given_to_nobody(database_dsn: str) -> None:
    database = await Database.open(database_dsn, pool_size=1)
    pids: list[int] = []

    async def ask() -> None:
        async with database.connection() as connection:
            pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
            if len(pids) == 1:
                raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")

    try:
        with pytest.raises(LedgerUnavailable):
            await ask()
        await ask()
        assert pids[0] != pids[1]
    finally:
        await database.close()
