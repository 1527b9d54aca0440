"""The shop that every test of money runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broken import verified
from gateway import Gateway
from onhand.domain.payment import Provider
from purse import do_jobs
from shop import Shop


@pytest.fixture
def gateway() -> Gateway:
    """A gateway in memory."""
    return Gateway()


@pytest.fixture
async def shop(database_dsn: str, redis_url: str, gateway: Gateway) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each; at the end every rule of verify is checked, and the gateway."""
    async with verified(database_dsn, redis_url, {Provider.STRIPE: gateway}) as shop:
        yield shop
        await do_jobs(shop)
        assert await gateway.differences(shop.fetch) == []
