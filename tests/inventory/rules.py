"""The rules of `onhand verify`, for tests of stock work."""

from __future__ import annotations

import keeper
from api import Api


async def kept(api: Api) -> None:
    """No rule of the ledger is broken."""
    broken = await keeper.broken_rules(api.dsn)
    assert not broken, broken
