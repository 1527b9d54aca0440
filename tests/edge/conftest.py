"""The servers that tests of the edge call."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from api import Api, opened
from web import Web, second_edge


@pytest.fixture
async def api(database_dsn: str, redis_url: str) -> AsyncIterator[Api]:
    """A small retailer over gRPC; every invariant is checked at the end."""
    async with opened(database_dsn, redis_url) as api:
        yield api


@pytest.fixture
async def web(api: Api) -> AsyncIterator[Web]:
    """The same retailer over Connect."""
    async with second_edge(api) as web:
        yield web
