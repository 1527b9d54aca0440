"""The shop that every test of money runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broken import verified
from shop import Shop


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each; every rule of verify is checked at the end."""
    async with verified(database_dsn, redis_url) as shop:
        yield shop
