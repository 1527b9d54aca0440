"""A stand of this folder's tests, and the rule that no task may lose its error."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from reservations.stand import Stand


@pytest.fixture(scope="session")
def shared_dsn(new_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """One database for all tests here, emptied by each stand: a new one for each would take longer than the tests."""
    with new_database() as dsn:
        yield dsn


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
