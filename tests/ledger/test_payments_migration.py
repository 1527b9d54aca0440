"""A ledger of before payments gets them: what went back is taken to have gone where it would go now."""

from __future__ import annotations

from ledger.test_shortfalls_migration import aside, broken, downgrade
from onhand.app import App
from onhand.ledger.migrate import migrate
from purse import back, refunded, sold, tender
from shop import MILK, NORTH, SOUTH, Shop, open_shop

BEFORE = "0003"


async def test_what_was_given_back_before_is_found_with_its_tenders(database_dsn: str, redis_url: str) -> None:
    async with open_shop(database_dsn, redis_url) as shop:
        mixed = await sold(shop, 3, tender("CASH", 297), tender("CARD", 200), tender("GIFT_CARD", 100))
        await shop.take_back(mixed.order_id, SOUTH, back(2))
        kept = await sold(shop, 1, tender("CASH", 199))
        cancelled = (await shop.place({NORTH: {MILK: 2}})).order
        await shop.cancel(cancelled.order_id, {1: 2})
        before = [await refunded(shop, order.order_id) for order in (mixed, kept, cancelled)]
        assert before == [[98, 200, 100], [0], [398]]
    await aside(lambda: downgrade(database_dsn, BEFORE))
    await aside(lambda: migrate(database_dsn))
    app = await App.open(database_dsn, redis_url)
    try:
        shop = Shop(app)
        assert [await refunded(shop, order.order_id) for order in (mixed, kept, cancelled)] == before
        assert await broken(shop) == []
        await shop.take_back(mixed.order_id, NORTH, back(1))
        assert await refunded(shop, mixed.order_id) == [297, 200, 100]
        assert await broken(shop) == []
    finally:
        await app.close()
