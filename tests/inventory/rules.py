"""The rules of `onhand verify`, for tests of stock work."""

from __future__ import annotations

from api import Api
from onhand.ledger.invariants import check_rules


async def kept(api: Api) -> None:
    """No rule of the ledger is broken."""
    async with api.app.database.transaction(isolation="repeatable_read") as snapshot:
        checks = await check_rules(snapshot)
    broken = {check.name: check.violations for check in checks if not check.is_ok}
    assert not broken, broken
