"""Server processes of a test's own, on its own database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from load_shop import Servers, write_feed
from onhand.feeds.run import run_import
from onhand.serve import reserve_port, server_processes


@pytest.fixture
def servers(database_dsn: str, redis_url: str, tmp_path: Path) -> Iterator[Servers]:
    """Two server processes for the small retailer."""
    write_feed(tmp_path)
    asyncio.run(run_import(database_dsn, str(tmp_path)))
    with reserve_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        processes = server_processes(
            postgres_dsn=database_dsn, redis_url=redis_url, host="127.0.0.1", port=port, count=2
        )
        try:
            yield Servers(f"127.0.0.1:{port}", database_dsn, redis_url, processes)
        finally:
            processes.stop()
