"""Bring a database to the ledger's newest revision, by the revisions inside this package."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from onhand.postgres import CONNECT_SECONDS_MAX, asyncpg_dsn, connecting
from onhand.settings import Unusable

_Result = TypeVar("_Result")

ATTEMPTS_MAX = 10
"""How often a revision is tried that ends in a deadlock with a server that trades."""

MIGRATIONS = Path(__file__).parent / "migrations"

# Any constant will do; it only has to differ from the other advisory locks of this database.
_MIGRATION_LOCK_KEY = 0x6F6E68616E64


def migrate(dsn: str) -> None:
    """Upgrade to the newest revision, or change nothing: servers that start together take turns, one does the work.

    Each revision is one transaction. Uses an event loop of its own, so it is not to be called from inside one.
    Raises LedgerUnavailable, and Unusable where the database is beyond every revision known here.
    """

    def upgrade(connection: Connection) -> None:
        # Held by the session rather than a transaction, since every revision commits; freed when the connection closes.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK_KEY})
        connection.commit()
        config = _config()
        config.attributes["connection"] = connection
        try:
            _upgrade(config)
        except CommandError as error:
            raise Unusable(f"the ledger cannot be migrated by this program: {error}; use a newer one") from error

    asyncio.run(_with_connection(dsn, upgrade))


def _upgrade(config: Config) -> None:
    for attempt in range(ATTEMPTS_MAX):
        try:
            return command.upgrade(config, "head")
        except asyncpg.DeadlockDetectedError:
            # Whoever trades meanwhile locks the same tables, in another order. That revision is undone, those before it are not.
            if attempt == ATTEMPTS_MAX - 1:
                raise


def head_revision() -> str | None:
    """The newest revision this code knows; None while there is none."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def current_revision(dsn: str) -> str | None:
    """The revision the database is at; None for a database that was never migrated. Not from inside an event loop."""
    return asyncio.run(
        _with_connection(dsn, lambda connection: MigrationContext.configure(connection).get_current_revision())
    )


def _config() -> Config:
    config = Config()
    # Alembic interpolates "%" in its options; the DSN never becomes one, it stays in Python.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


async def _with_connection(dsn: str, work: Callable[[Connection], _Result]) -> _Result:
    async def connect() -> Any:
        with connecting(dsn):
            return await asyncpg.connect(asyncpg_dsn(dsn), timeout=CONNECT_SECONDS_MAX)

    # asyncpg reads the DSN, not SQLAlchemy: socket folders, sslmode and passwords mean the same here as in the server.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()
