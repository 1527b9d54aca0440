"""The revision of the ledger that this program was made for, known without Alembic, which takes long to import."""

from pathlib import Path

import asyncpg

from onhand.postgres import Database
from onhand.settings import Unusable

VERSIONS = Path(__file__).parent / "migrations" / "versions"

REVISION = "SELECT version_num FROM alembic_version"


def expected_revision() -> str:
    """The newest revision: their files are named by it, in order."""
    return max(path.name.partition("_")[0] for path in VERSIONS.glob("[0-9]*.py"))


async def check_revision(database: Database) -> None:
    """Raises Unusable where the database is at another revision, or at none."""
    try:
        async with database.connection() as connection:
            found = await connection.fetchval(REVISION)
    except asyncpg.UndefinedTableError:
        found = None
    expected = expected_revision()
    if found is not None and found > expected:
        raise Unusable(f"the ledger is at revision {found}, and this program was made for {expected}: use a newer one")
    if found != expected:
        raise Unusable(
            "the ledger has no tables yet: run `onhand migrate` first"
            if found is None
            else f"the ledger is at revision {found} of {expected}: run `onhand migrate` first"
        )
