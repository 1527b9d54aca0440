"""The shop that every test of orders runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shop import Shop, open_shop


@pytest.fixture
async def shop(database_dsn: str, redis_url: str) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each; every invariant is checked at the end."""
    async with open_shop(database_dsn, redis_url) as shop:
        yield shop
