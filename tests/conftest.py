"""Real servers for every test: one PostgreSQL and one Valkey or Redis a session, a database of its own a test.

ONHAND_TEST_POSTGRES: `embedded` (default), `tcp` (over TCP with TLS; programs from ONHAND_TEST_POSTGRES_BIN, or the
newest under /usr/lib/postgresql), or the DSN of a server in which databases may be created.
ONHAND_TEST_REDIS: `valkey` (default), the name or path of a redis-server, or the URL of a server that may be emptied.
"""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import pytest
import redis

from databases import Databases, database, execute, in_thread
from onhand.dev.postgres import EmbeddedPostgres, has_tls
from onhand.dev.valkey import EmbeddedValkey
from onhand.ledger.claims import Settlement
from onhand.ledger.mutation import Ledger
from onhand.postgres import Database

# No test asserts a duration, those of Hypothesis neither.
hypothesis.settings.register_profile("onhand", deadline=None, print_blob=True)
hypothesis.settings.load_profile("onhand")

# Begun first, the longest before the others, so that no process is left alone with one of them at the end.
LONG_FILES = (
    "crash/test_matrix_trade.py",
    "simulate/test_faults.py",
    "crash/test_matrix_stock.py",
    "simulate/test_judge.py",
    "test_commands.py",
    "simulate/test_replay.py",
    "crash/test_matrix_stock_work.py",
    "ledger/test_plans.py",
    "test_model.py",
    "machine/test_public_api.py",
    "outages/test_parts.py",
    "bench/test_bench.py",
    "test_repair.py",
    "dev/test_stack.py",
    "crash/test_matrix_bring_back.py",
    "inventory/test_locations.py",
    "reservations/test_machine.py",
    "feeds/test_import.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order in which several processes are given files (`--no-loadscope-reorder`)."""
    if hasattr(config, "workerinput"):
        order = {Path(__file__).parent / name: place for place, name in enumerate(LONG_FILES)}
        items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture
def scratch_dir() -> Iterator[Path]:
    """A folder for a server's data: short, gone afterwards, and open to PostgreSQL's user where tests run as root."""
    with _scratch_dir() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres_dsn_of() -> Iterator[Callable[[str], str]]:
    """The session's PostgreSQL, as a function from a database's name to its DSN."""
    wanted = os.environ.get("ONHAND_TEST_POSTGRES") or "embedded"
    if "://" in wanted:
        yield lambda database: _with_database(wanted, database)
        return
    with _scratch_dir() as folder:
        server = _postgres(wanted, folder / "data")
        server.start()
        try:
            yield server.dsn
        finally:
            server.stop()


@pytest.fixture(scope="session")
def databases(postgres_dsn_of: Callable[[str], str]) -> Iterator[Databases]:
    """Copies of a migrated database."""
    from onhand.ledger.migrate import migrate

    with database(postgres_dsn_of, f"onhand_test_template_{os.getpid()}", template="template0") as dsn:
        in_thread(lambda: migrate(dsn))
        # A template is copied only while nobody is connected to it.
        name = f"onhand_test_template_{os.getpid()}"
        execute(postgres_dsn_of("postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        databases = Databases(postgres_dsn_of, name)
        yield databases
        databases.close()


@pytest.fixture
def empty_database_dsn(postgres_dsn_of: Callable[[str], str]) -> Iterator[str]:
    """A new database without any table."""
    with database(postgres_dsn_of, f"onhand_test_{os.getpid()}_empty", template="template0") as dsn:
        yield dsn


@pytest.fixture
def database_dsn(databases: Databases) -> Iterator[str]:
    """A database at the newest revision, as the migrations leave it, for this test alone."""
    with databases.lent() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def new_database(databases: Databases) -> Callable[[], contextlib.AbstractContextManager[str]]:
    """Makes a database at the newest revision that several tests share; its DSN."""
    return databases.new


@pytest.fixture
async def gateless_ledger(database_dsn: str) -> AsyncIterator[Ledger]:
    """A ledger of this test's own, for what concerns no gate: whatever raised a location's stock would fail."""

    async def settle(settlements: Sequence[Settlement]) -> None:
        raise AssertionError(f"the gate would have to hear of {settlements}")

    database = await Database.open(database_dsn, pool_size=8)
    try:
        yield Ledger(database, settle)
    finally:
        await database.close()


@pytest.fixture(scope="session")
def session_redis_url() -> Iterator[str]:
    """The session's Valkey or Redis; tests take redis_url."""
    wanted = os.environ.get("ONHAND_TEST_REDIS") or "valkey"
    if "://" in wanted:
        yield wanted
        return
    server = EmbeddedValkey(None, binary=_redis_binary(wanted))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def redis_url(session_redis_url: str) -> str:
    """The session's Valkey or Redis without a key. Loaded functions stay."""
    with redis.Redis.from_url(session_redis_url) as client:
        client.flushall()
    return session_redis_url


@pytest.fixture
def private_postgres() -> Iterator[EmbeddedPostgres]:
    """A started PostgreSQL of this test's own to stop, kill and start; create_database() and migrate() as needed."""
    wanted = os.environ.get("ONHAND_TEST_POSTGRES") or "embedded"
    with _scratch_dir() as folder:
        server = _postgres("embedded" if "://" in wanted else wanted, folder / "data")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def private_redis() -> Iterator[EmbeddedValkey]:
    """A started Valkey or Redis of this test's own: to stop, kill and start; its port stays the same over kills."""
    wanted = os.environ.get("ONHAND_TEST_REDIS") or "valkey"
    server = EmbeddedValkey(None, binary=_redis_binary("valkey" if "://" in wanted else wanted))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def tls_postgres_bin() -> Path:
    """The programs of a PostgreSQL that was built with TLS; skips where there is none."""
    folder = _tls_postgres_bin()
    if folder is None:
        pytest.skip("no PostgreSQL with TLS here: the embedded one has none; set ONHAND_TEST_POSTGRES_BIN")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how large the matrix of crash points was, whichever processes ran it."""
    rows = [
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == "crash_matrix" and report.when == "call"
    ]
    if rows:
        workflows = len({row[0] for row in rows})
        points, states, cuts, stalls = (sum(row[n] for row in rows) for n in (1, 2, 3, 4))
        terminalreporter.write_line(
            f"crash matrix: {workflows} workflows in {len(rows)} scenarios, crashed at {points} points into {states} states,"
            f" cut off at {cuts}, stalled {stalls} times"
        )


def _postgres(wanted: str, data_dir: Path) -> EmbeddedPostgres:
    if wanted == "embedded":
        return EmbeddedPostgres(data_dir, fast=True)
    if wanted != "tcp":
        raise pytest.UsageError(f"ONHAND_TEST_POSTGRES is {wanted!r}: give embedded, tcp, or a DSN")
    bin_dir = _tls_postgres_bin()
    if bin_dir is None:
        warnings.warn("no PostgreSQL with TLS here: TCP is tested without it", stacklevel=1)
    return EmbeddedPostgres(data_dir, tcp_port=0, tls=bin_dir is not None, fast=True, bin_dir=bin_dir)


def _tls_postgres_bin() -> Path | None:
    given = os.environ.get("ONHAND_TEST_POSTGRES_BIN")
    if given:
        return Path(given)
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((path for path in installed if (path / "initdb").exists() and has_tls(path)), None)


def _redis_binary(wanted: str) -> Path | None:
    if wanted == "valkey":
        return None
    found = shutil.which(wanted)
    if found is None:
        raise pytest.UsageError(f"ONHAND_TEST_REDIS is {wanted!r}: no such program; install it or give a URL")
    return Path(found)


@contextlib.contextmanager
def _scratch_dir() -> Iterator[Path]:
    # Not tmp_path: pytest closes its folders to other users again and again, and keeps them after the session.
    folder = Path(tempfile.mkdtemp(prefix="onhand-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_database(dsn: str, database: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))
