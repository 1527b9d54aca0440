"""Imports into a real PostgreSQL: what is written, what a repeat does, and that a refusal leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api import eventually
from onhand.feeds.load import ERRORS_SHOWN
from onhand.feeds.records import FeedError
from onhand.feeds.run import run_import

WEEK_1 = "1-1"
SKUS = ("MILK", "RICE", "TEA", "SALT")
FOLDER = {
    "locations.csv": "location_id,kind,name,groups\nberlin-1,STORE,Mitte,all-stores\nhub,WAREHOUSE,Hub,\n",
    "products.csv": "sku,name\nMILK,Milk\nRICE,Rice\n",
    "barcodes.csv": "gtin,sku\n4006381333931,MILK\n",
    "prices.csv": "sku,currency,amount\nMILK,EUR,1.29\n",
    "stock.csv": "location_id,sku,quantity\nberlin-1,MILK,12\nhub,RICE,0\n",
}


@pytest.fixture
async def ledger(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FOLDER.items():
        (tmp_path / name).write_text(text)
    return tmp_path


async def _everything(ledger: Any) -> dict[str, int]:
    tables = (
        "locations", "location_groups", "location_group_members", "products", "barcodes", "prices",
        "stock_levels", "stock_movements", "location_epochs", "location_delta_heads",
    )  # fmt: skip
    return {table: await ledger.fetchval(f"SELECT count(*) FROM {table}") for table in tables}


async def test_week_1_of_the_real_data_comes_in_whole(database_dsn: str, ledger: Any) -> None:
    steps: list[str] = []

    report = await run_import(database_dsn, "completejourney", WEEK_1, lambda step, done, total: steps.append(step))

    read, left_out = report.findings["read"], report.findings["left_out"]
    assert (read["lines"], read["baskets"], read["stores"]) == (3_722, 382, 108)
    # Every store and product of the weeks is stocked, or its lines have a cause.
    assert report.loaded["store_positions"] == read["store_products"] - left_out["store_products"]
    assert await _everything(ledger) == {
        "locations": 459,
        "location_groups": 14,
        "location_group_members": 457 + 2 + 457,
        "products": 92_331 - sum(left_out["catalogue_products"].values()),
        "barcodes": report.loaded["barcodes"]["added"],
        "prices": report.loaded["prices"]["added"],
        "stock_levels": report.loaded["stock_positions"],
        "stock_movements": report.loaded["stock_positions"],
        "location_epochs": 459,
        "location_delta_heads": 459,
    }
    # Conservation: what is available is what the movements brought.
    assert not await ledger.fetch(
        """
        SELECT FROM stock_levels l LEFT JOIN LATERAL (
            SELECT sum(quantity) AS brought FROM stock_movements m
            WHERE (m.location_id, m.sku) = (l.location_id, l.sku)
              AND (from_bucket, to_bucket, reason_code) = ('supplier', 'available', 'OPENING_STOCK')) m ON true
        WHERE (l.available, l.allocated, l.damaged, l.quarantine) IS DISTINCT FROM (m.brought, 0, 0, 0)
        """
    )
    assert steps[0] == "reading"
    assert steps[-1] == "writing"


async def test_the_catalogue_can_be_imported_again_and_opening_stock_cannot(
    database_dsn: str, ledger: Any, folder: Path
) -> None:
    (folder / "stock.csv").write_text(
        "location_id,sku,quantity\n" + "".join(f"{place},{sku},3\n" for place in ("berlin-1", "hub") for sku in SKUS)
    )
    (folder / "products.csv").write_text("sku,name\n" + "".join(f"{sku},{sku}\n" for sku in SKUS))
    await run_import(database_dsn, str(folder))
    before = await _everything(ledger)
    epochs = await ledger.fetchval("SELECT sum(epoch) FROM location_epochs")

    with pytest.raises(FeedError) as refused:
        await run_import(database_dsn, str(folder))
    again = await run_import(database_dsn, str(folder), with_stock=False)

    lines = str(refused.value).splitlines()
    assert lines[0].startswith("stock.csv:2: MILK at berlin-1 has movements already")
    assert "--no-stock" in lines[0]
    assert lines[ERRORS_SHOWN:] == ["and 3 more like these"]
    assert await _everything(ledger) == before
    unchanged = {"added": 0, "changed": 0}
    tables = ("locations", "location_groups", "products", "barcodes", "prices")
    assert {table: again.loaded[table] for table in tables} == dict.fromkeys(tables, unchanged)
    # No stock came in, so no gate has to load anything anew.
    assert await ledger.fetchval("SELECT sum(epoch) FROM location_epochs") == epochs


async def test_a_price_that_somebody_sets_meanwhile_is_not_the_last_that_is_known(
    database_dsn: str, ledger: Any, folder: Path
) -> None:
    await run_import(database_dsn, str(folder))
    somebody = ledger.transaction()
    await somebody.start()
    await ledger.execute("UPDATE prices SET amount_minor = 5")
    await ledger.execute(
        "INSERT INTO price_changes (sku, currency, amount_minor, price_quantity) SELECT sku, currency, 5, 1 FROM prices"
    )
    again = asyncio.create_task(run_import(database_dsn, str(folder), with_stock=False))
    await eventually(lambda: ledger.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"), True)
    await somebody.commit()
    await again
    assert await ledger.fetchval("SELECT amount_minor FROM prices") == 129
    changes = await ledger.fetch("SELECT amount_minor FROM price_changes ORDER BY change_number")
    assert [amount for (amount,) in changes] == [129, 5, 129]


async def test_a_retailers_folder_comes_in_and_its_changes_follow(database_dsn: str, ledger: Any, folder: Path) -> None:
    await run_import(database_dsn, str(folder))
    (folder / "stock.csv").unlink()
    (folder / "prices.csv").write_text("sku,currency,amount\nMILK,EUR,1.39\n")
    (folder / "locations.csv").write_text(
        "location_id,kind,name,groups\nberlin-1,STORE,Mitte,\nhub,WAREHOUSE,Hub 2,all-stores\n"
    )

    report = await run_import(database_dsn, str(folder))

    assert report.loaded["prices"] == {"added": 0, "changed": 1}
    assert report.loaded["locations"] == {"added": 0, "changed": 1}
    assert report.loaded["location_groups_shrunk"] == []
    assert await ledger.fetchval("SELECT amount_minor FROM prices") == 139
    changes = await ledger.fetch("SELECT sku, currency, amount_minor FROM price_changes ORDER BY change_number")
    assert changes[-1] == ("MILK", "EUR", 139)
    await run_import(database_dsn, str(folder), with_stock=False)  # as it is: no change of a price
    assert await ledger.fetchval("SELECT count(*) FROM price_changes") == len(changes) == 2
    assert await ledger.fetchrow("SELECT name, version FROM locations WHERE location_id = 'hub'") == ("Hub 2", 2)
    assert await ledger.fetchval("SELECT location_id FROM location_group_members") == "hub"
    assert await ledger.fetch("SELECT location_id, sku, available FROM stock_levels ORDER BY 1") == [
        ("berlin-1", "MILK", 12),
        ("hub", "RICE", 0),
    ]
    # A position of 0 is known, and nothing moved there.
    assert await ledger.fetchval("SELECT count(*) FROM stock_movements") == 1


async def test_what_a_location_takes_on_comes_in_and_stays_where_a_feed_does_not_say_it(
    database_dsn: str, ledger: Any, folder: Path
) -> None:
    look = """SELECT lead_minutes, cut_off_minute, daily_orders_max, daily_units_max, version FROM locations
               WHERE location_id = 'hub'"""
    header = "location_id,kind,name,lead_minutes,cut_off,daily_orders_max,daily_units_max\n"
    (folder / "locations.csv").write_text(f"{header}hub,WAREHOUSE,Hub,90,16:30,200,5000\nberlin-1,STORE,Mitte,,,,\n")
    await run_import(database_dsn, str(folder))
    assert await ledger.fetchrow(look) == (90, 990, 200, 5000, 1)
    for columns, expected in (("", (90, 990, 200, 5000, 1)), (",,,30,0", (90, 990, 30, 0, 2))):
        (folder / "locations.csv").write_text(
            (f"{header}hub,WAREHOUSE,Hub{columns}\n" if columns else "location_id,kind,name\nhub,WAREHOUSE,Hub\n")
            + ("berlin-1,STORE,Mitte,,,,\n" if columns else "berlin-1,STORE,Mitte\n")
        )
        report = await run_import(database_dsn, str(folder), with_stock=False)
        assert await ledger.fetchrow(look) == expected
        assert report.loaded["locations"] == {"added": 0, "changed": 1 if columns else 0}


async def test_stock_that_comes_in_raises_the_epoch_of_its_location_alone(
    database_dsn: str, ledger: Any, folder: Path
) -> None:
    await run_import(database_dsn, str(folder), with_stock=False)
    (folder / "stock.csv").write_text("location_id,sku,quantity\nhub,RICE,5\n")

    await run_import(database_dsn, str(folder))

    epochs = await ledger.fetch("SELECT location_id, epoch FROM location_epochs ORDER BY 1")
    assert epochs == [("berlin-1", 1), ("hub", 2)]


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("stock.csv", "berlin-2,MILK,1", "stock.csv:4: location 'berlin-2' is neither in this feed nor in the ledger"),
        ("stock.csv", "hub,TEA,1", "stock.csv:4: sku 'TEA' is neither in this feed nor in the catalog"),
        ("prices.csv", "TEA,EUR,1", "prices.csv:3: sku 'TEA' is neither in this feed nor in the catalog"),
        ("barcodes.csv", "96385074,TEA", "barcodes.csv:3: sku 'TEA' is neither in this feed nor in the catalog"),
    ],
)
async def test_a_row_that_names_nothing_known_is_refused_and_nothing_is_written(
    database_dsn: str, ledger: Any, folder: Path, file: str, line: str, message: str
) -> None:
    with (folder / file).open("a") as table:
        table.write(line + "\n")

    with pytest.raises(FeedError) as refused:
        await run_import(database_dsn, str(folder))

    assert str(refused.value) == message
    assert set((await _everything(ledger)).values()) == {0}


async def test_a_deleted_location_does_not_come_back(database_dsn: str, ledger: Any, folder: Path) -> None:
    await run_import(database_dsn, str(folder), with_stock=False)
    await ledger.execute("UPDATE locations SET deleted_time = now() WHERE location_id = 'hub'")

    with pytest.raises(FeedError, match=r"locations.csv:3: location 'hub' was deleted"):
        await run_import(database_dsn, str(folder), with_stock=False)


async def test_the_base_unit_of_a_product_with_stock_stays(database_dsn: str, folder: Path) -> None:
    await run_import(database_dsn, str(folder))
    (folder / "stock.csv").unlink()
    (folder / "products.csv").write_text("sku,name,base_unit\nMILK,Milk,MILLILITER\n")

    with pytest.raises(FeedError, match=r"products.csv:2: sku 'MILK' has stock in another base_unit"):
        await run_import(database_dsn, str(folder))


async def test_a_database_without_a_ledger_and_one_that_is_away_say_what_to_do(
    empty_database_dsn: str, folder: Path
) -> None:
    with pytest.raises(FeedError, match="onhand migrate"):
        await run_import(empty_database_dsn, str(folder))
    with pytest.raises(FeedError, match="does not answer"):
        await run_import("postgresql://nobody@127.0.0.1:1/onhand", str(folder))
    with pytest.raises(FeedError, match="--weeks belongs to completejourney"):
        await run_import(empty_database_dsn, str(folder), WEEK_1)


async def test_a_group_that_a_feed_makes_smaller_is_reported(database_dsn: str, folder: Path) -> None:
    header = "location_id,kind,name,groups\n"
    (folder / "locations.csv").write_text(header + "berlin-1,STORE,Mitte,all-stores\nhub,WAREHOUSE,Hub,all-stores\n")
    first = await run_import(database_dsn, str(folder))
    (folder / "locations.csv").write_text(header + "hub,WAREHOUSE,Hub,all-stores\n")

    second = await run_import(database_dsn, str(folder), with_stock=False)

    assert first.loaded["location_groups_shrunk"] == []
    assert second.loaded["location_groups_shrunk"] == [
        {"location_group_id": "all-stores", "locations_before": 2, "locations": 1}
    ]
