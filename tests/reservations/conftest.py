"""A stand of this folder's tests, and the rule that no task may lose its error."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from reservations.stand import Stand


@pytest.fixture(scope="session")
def shared_dsn(postgres_dsn_of: Callable[[str], str], template_database: str) -> Iterator[str]:
    """One database for all tests here, emptied by each stand: a new one for each would take longer than the tests."""
    name = f"onhand_test_reservations_{os.getpid()}"
    _execute(postgres_dsn_of("postgres"), f"CREATE DATABASE {name} TEMPLATE {template_database}")
    try:
        yield postgres_dsn_of(name)
    finally:
        _execute(postgres_dsn_of("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


def _execute(dsn: str, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    # In a thread, for asyncio.run takes the loop away that a test has in this one.
    thread = threading.Thread(target=lambda: asyncio.run(execute()))
    thread.start()
    thread.join()


@pytest.fixture(scope="session")
def small_heap() -> Iterator[None]:
    """What is loaded already is left out of the collections that each test makes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def lost_errors(small_heap: None) -> AsyncIterator[None]:
    """Fails a test that leaves a task whose error nobody looked at."""
    lost: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: lost.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert lost == []


@pytest.fixture
async def stand(lost_errors: None, shared_dsn: str, redis_url: str) -> AsyncIterator[Stand]:
    """Three locations and two skus on the session's servers."""
    stand = Stand(shared_dsn, redis_url)
    try:
        await stand.open()
        yield stand
    finally:
        await stand.close()
