"""Migrations: whole scripts, all or nothing, one at a time."""

import asyncio
import shutil
import threading
from pathlib import Path

import asyncpg
import pytest

from onhand.ledger import migrate as ledger_migrate
from onhand.ledger.migrate import asyncpg_dsn, current_revision, head_revision, migrate
from onhand.ledger.revision import expected_revision

REVISION = """
from pathlib import Path
from onhand.ledger.migrations.sql import run_script
revision = "0001"
down_revision = None
def upgrade():
    run_script(Path(__file__).with_suffix(".sql"))
"""

SCRIPT = """
CREATE TABLE numbers (n int); -- a percent sign: 100%, and a colon: :name
CREATE FUNCTION add_one() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO numbers VALUES (1);
    INSERT INTO numbers VALUES (2);
END
$$;
SELECT add_one();
"""


@pytest.fixture
def revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of revisions of this test's own, with one, 0001, that runs 0001.sql."""
    folder = tmp_path / "it's 100%"
    (folder / "versions").mkdir(parents=True)
    shutil.copy(ledger_migrate.MIGRATIONS / "env.py", folder)
    (folder / "versions" / "0001.py").write_text(REVISION)
    (folder / "versions" / "0001.sql").write_text(SCRIPT)
    monkeypatch.setattr(ledger_migrate, "MIGRATIONS", folder)
    return folder / "versions"


async def fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


def test_the_ledger_migrates_to_its_newest_revision_and_again_without_effect(empty_database_dsn: str) -> None:
    assert current_revision(empty_database_dsn) is None

    migrate(empty_database_dsn)
    migrate(empty_database_dsn)

    assert current_revision(empty_database_dsn) == head_revision() is not None


def test_a_database_of_the_tests_is_at_the_newest_revision(database_dsn: str) -> None:
    assert current_revision(database_dsn) == head_revision() == expected_revision()


def test_a_script_runs_whole_with_functions_and_percent_signs(revisions: Path, empty_database_dsn: str) -> None:
    migrate(empty_database_dsn)

    rows = asyncio.run(fetch(empty_database_dsn, "SELECT n FROM numbers ORDER BY n"))
    assert [row["n"] for row in rows] == [1, 2]


def test_a_script_that_fails_half_way_leaves_nothing(revisions: Path, empty_database_dsn: str) -> None:
    (revisions / "0001.sql").write_text(SCRIPT + "SELECT nonsense;")

    with pytest.raises(asyncpg.UndefinedColumnError):
        migrate(empty_database_dsn)

    assert current_revision(empty_database_dsn) is None
    tables = "SELECT 1 FROM pg_class WHERE relname = 'numbers'"
    assert asyncio.run(fetch(empty_database_dsn, tables)) == []


def test_servers_that_start_together_take_turns(revisions: Path, empty_database_dsn: str) -> None:
    (revisions / "0001.sql").write_text(SCRIPT + "SELECT pg_sleep(0.2);")
    together, failures = threading.Barrier(4), []

    def server() -> None:
        together.wait()
        try:
            migrate(empty_database_dsn)
        except Exception as error:
            failures.append(error)

    servers = [threading.Thread(target=server) for _ in range(4)]
    for each in servers:
        each.start()
    for each in servers:
        each.join()

    assert failures == []
    assert len(asyncio.run(fetch(empty_database_dsn, "SELECT n FROM numbers"))) == 2


def test_a_revision_that_a_server_s_locks_cross_is_tried_again(revisions: Path, empty_database_dsn: str) -> None:
    (revisions / "0001.sql").write_text("LOCK TABLE first; LOCK TABLE second;" + SCRIPT)
    migrating = threading.Thread(target=migrate, args=[empty_database_dsn])

    async def trade() -> None:
        connection = await asyncpg.connect(empty_database_dsn)
        await connection.execute("CREATE TABLE first (); CREATE TABLE second ()")
        await connection.execute("SET deadlock_timeout = '10min'")  # it is the revision that is rolled back
        async with connection.transaction():
            await connection.execute("LOCK TABLE second")
            migrating.start()
            while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                pass  # it is under way
            await connection.execute("LOCK TABLE first")
        await connection.close()

    asyncio.run(trade())
    migrating.join()

    rows = asyncio.run(fetch(empty_database_dsn, "SELECT n FROM numbers ORDER BY n"))
    assert [row["n"] for row in rows] == [1, 2]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("postgresql://postgres@/onhand?host=/run/x", "postgresql://postgres@/onhand?host=/run/x"),
        ("postgresql+asyncpg://u:p@h:5432/db", "postgresql://u:p@h:5432/db"),
        ("postgres://u:p@h/db?ssl=require", "postgresql://u:p@h/db?sslmode=require"),
        ("postgresql://u@h/db?a=1&ssl=verify-full", "postgresql://u@h/db?a=1&sslmode=verify-full"),
        ("postgresql://u@h/db?sslmode=require", "postgresql://u@h/db?sslmode=require"),
    ],
)
def test_addresses_of_other_drivers_are_understood(given: str, wanted: str) -> None:
    assert asyncpg_dsn(given) == wanted
