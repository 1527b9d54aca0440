"""A database of before shortfalls gets them, with its orders, reservations and shortages in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection

from onhand.app import App
from onhand.domain.stock import Level
from onhand.ledger import migrate as ledger_migrate
from onhand.ledger.invariants import check_rules
from onhand.ledger.migrate import current_revision, head_revision, migrate
from onhand.settings import Unusable
from shop import BREAD, MILK, NORTH, SOUTH, Shop, open_shop


async def aside(work: Callable[[], None]) -> None:
    """Runs what makes an event loop of its own."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    while thread.is_alive():
        await asyncio.to_thread(thread.join)
    if failures:
        raise failures[0]


def downgrade(dsn: str, revision: str) -> None:
    """Back to a revision."""

    def run(connection: Connection) -> None:
        config = ledger_migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    asyncio.run(ledger_migrate._with_connection(dsn, run))


async def broken(shop: Shop) -> list[tuple[str, Any]]:
    """The rules that do not hold, with their evidence."""
    async with shop.database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
        return [(c.name, c.violations) for c in await check_rules(snapshot) if not c.is_ok]


async def test_a_ledger_of_before_with_orders_and_shortages_is_migrated_and_holds_every_rule(
    database_dsn: str, redis_url: str
) -> None:
    async with open_shop(database_dsn, redis_url) as shop:
        # As 0001 left it: reservations that a sale broke, and an order that may be short, which nobody counted since.
        await shop.place({NORTH: {MILK: 4}})
        await shop.reserve({NORTH: {MILK: 5}})
        await shop.sell(NORTH, {MILK: 3}, 597)
        sale = await shop.sell(SOUTH, {BREAD: 12}, 3000)
        await shop.receive(SOUTH, {BREAD: 9})
        await shop.place({SOUTH: {BREAD: 9}})
        await shop.execute("UPDATE count_tasks SET state = 'DONE', closed_time = now() WHERE sku = $1", BREAD)
        await aside(lambda: downgrade(database_dsn, "0001"))
        await shop.execute(
            "INSERT INTO shortages (shortage_id, location_id, sku, quantity, reference_document)"
            " VALUES (gen_random_uuid(), $1, $2, 2, $3)",
            *(SOUTH, BREAD, f"order/{sale.order_id}"),
        )
        assert await asyncio.to_thread(current_revision, database_dsn) == "0001"
        with pytest.raises(Unusable, match=f"0001 of {head_revision()}"):
            await App.open(database_dsn, redis_url)

        await aside(lambda: migrate(database_dsn))

        assert await asyncio.to_thread(current_revision, database_dsn) == head_revision()
        await (await App.open(database_dsn, redis_url)).close()
        assert await broken(shop) == []
        assert await shop.fetch("SELECT location_id, sku FROM stock_levels WHERE overdrawn_time IS NOT NULL") == [
            (NORTH, MILK)
        ]
        # Nothing is guessed of orders: a count is asked for, and says what is missing.
        (task,) = await shop.fetch(
            "SELECT location_id, sku, reason_code FROM count_tasks WHERE sku = $1 AND state = 'OPEN'", BREAD
        )
        assert task == (SOUTH, BREAD, "SHORTAGE_BEFORE_SHORTFALLS")
        assert await shop.fetch("SELECT count(*) FROM shortfalls") == [(0,)]
        await shop.count(SOUTH, {BREAD: 7})
        assert await shop.fetch("SELECT open_quantity, next_step FROM shortfalls") == [(2, "CHOOSE")]
        assert await broken(shop) == []


async def test_who_goes_back_has_all_that_orders_were_promised_allocated(database_dsn: str, redis_url: str) -> None:
    async with open_shop(database_dsn, redis_url) as shop:
        await shop.place({SOUTH: {BREAD: 10}})
        await shop.sell(SOUTH, {BREAD: 2}, 500)
        assert await shop.level(SOUTH, BREAD) == Level(allocated=8)
        await aside(lambda: downgrade(database_dsn, "0001"))
        assert await shop.level(SOUTH, BREAD) == Level(allocated=10)
        assert await shop.fetch(
            "SELECT from_bucket, to_bucket, quantity FROM stock_movements WHERE reason_code = 'SHORTFALLS_WITHDRAWN'"
        ) == [("adjustment", "allocated", 2)]
        await aside(lambda: migrate(database_dsn))
