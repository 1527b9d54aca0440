"""The server that every test of sourcing calls."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from api import Api, opened


@pytest.fixture
async def api(database_dsn: str, redis_url: str) -> AsyncIterator[Api]:
    """A small retailer over gRPC; every invariant is checked at the end."""
    async with opened(database_dsn, redis_url) as api:
        yield api
