"""A ledger of before returns anywhere gets them, and does not go back once anything of them was used."""

from __future__ import annotations

import asyncpg
import pytest

from bring import blind_line, bring, bring_blind, returnable
from ledger.test_shortfalls_migration import aside, broken, downgrade
from onhand.app import App
from onhand.ledger.migrate import migrate
from onhand.v1 import order_pb2 as pb
from shop import CALLER, MILK, NORTH, Shop, open_shop

BEFORE = "0007"


async def test_returns_of_before_are_found_by_their_customer(database_dsn: str, redis_url: str) -> None:
    async with open_shop(database_dsn, redis_url) as shop:
        order = await shop.sell(NORTH, {MILK: 3}, 597)
        await shop.execute("UPDATE orders SET customer_id = 'ada'")
        returned = await bring(shop, order.order_id)
    await aside(lambda: downgrade(database_dsn, BEFORE))
    await aside(lambda: migrate(database_dsn))
    app = await App.open(database_dsn, redis_url)
    try:
        shop = Shop(app)
        assert await broken(shop) == []
        found = await shop.orders.list_returns(pb.ListReturnsRequest(customer_id="ada"), CALLER)
        assert list(found.returns) == [returned]
        assert [line.returnable_quantity for line in await returnable(shop, customer_id="ada")] == [2]
    finally:
        await app.close()


async def test_what_the_older_code_could_not_read_is_not_taken_away(database_dsn: str, redis_url: str) -> None:
    async with open_shop(database_dsn, redis_url) as shop:
        await bring_blind(shop, blind_line())
    with pytest.raises(asyncpg.CheckViolationError):
        await aside(lambda: downgrade(database_dsn, BEFORE))
