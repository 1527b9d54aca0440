"""A stand of this folder's tests, and the rule that no task may lose its error."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from reservations.stand import Stand


@pytest.fixture
async def lost_errors() -> AsyncIterator[None]:
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
async def stand(lost_errors: None, database_dsn: str, redis_url: str) -> AsyncIterator[Stand]:
    """Three locations and two skus on the session's servers."""
    stand = Stand(database_dsn, redis_url)
    try:
        await stand.open()
        yield stand
    finally:
        await stand.close()
