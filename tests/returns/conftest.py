"""The shop that every test of returns runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broken import verified
from shop import Shop


@pytest.fixture
def policy() -> str:
    """The policy of the shop, as a file has it; a test module may have its own."""
    return ""


@pytest.fixture
async def shop(
    database_dsn: str,
    redis_url: str,
    policy: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Shop]:
    """Three locations with ten units of milk and of bread each; every rule of verify is checked at the end."""
    if policy:
        path = tmp_path_factory.mktemp("policy") / "returns.toml"
        path.write_text(policy)
        monkeypatch.setenv("ONHAND_RETURN_POLICY", str(path))
    async with verified(database_dsn, redis_url) as shop:
        yield shop
